"""What is to become of what a trainer cannot take, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any

from nemotron.errors import UsageError, nearest


@dataclass(frozen=True)
class ExportOptions:
    """How rollouts become training data. `leave_out` as a value: the row is left out, and counted.

    reward_threshold: rows of a chat have at least this reward; None: any reward, and none.
    format: `openai` for messages and tools, `simple` for input and output.
    reasoning: `keep` it as `reasoning_content`, `inline` it into the content between think tags, `drop` it.
    think_tags: `split` what models wrote between think tags from the answer, or `keep` it in the text.
    tools: definitions `nested` under `function`, or `flat`.
    arguments: of calls, as the JSON `string` that the model wrote, or as an `object`.
    developer: becomes `system`, or is kept (`keep`).
    repeated_roles: messages of one role in a row are joined (`merge`), or kept (`keep`).
    media: parts that are no text: `leave_out`, `drop` the parts, or `keep` them.
    ending: a conversation that does not end in an answer: `trim` it back to the last answer, `leave_out`,
        or `keep` it.
    incomplete: an answer that was cut off. invalid_arguments: of a call. unanswered_calls: calls that the
        conversation goes on from without a result. undeclared_tools: calls of tools without a definition.
        Each `leave_out` or `keep`.
    duplicates: of one prompt and one answer the first row is kept (`exact`), also when answers differ in
        few words (`near`), or all (`keep`). A response id that was seen before is a duplicate too.
    max_per_prompt: at most so many rows of one prompt, the first.
    min_reward_gap: chosen and rejected answers of one prompt differ by more than this.
    validation_share: share of the prompts whose rows go to validation; split_seed draws them.
    provenance: each row carries where it comes from.
    """

    reward_threshold: float | None = 0.95
    format: str = "openai"
    reasoning: str = "keep"
    think_tags: str = "split"
    tools: str = "nested"
    arguments: str = "string"
    developer: str = "system"
    repeated_roles: str = "merge"
    media: str = "leave_out"
    ending: str = "trim"
    incomplete: str = "leave_out"
    invalid_arguments: str = "leave_out"
    unanswered_calls: str = "leave_out"
    undeclared_tools: str = "keep"
    duplicates: str = "exact"
    max_per_prompt: int | None = None
    min_reward_gap: float = 0.0
    validation_share: float = 0.0
    split_seed: int = 0
    provenance: bool = True

    @staticmethod
    def from_config(values: Mapping[str, Any]) -> ExportOptions:
        """The options in a config; `UsageError` names every key and value that is none."""
        known = {option.name: option for option in fields(ExportOptions)}
        wrong = [_unknown(key, known) for key in values if key not in known]
        for key, value in values.items():
            if key in known:
                wrong += _problems(key, value, known[key].default)
        if wrong:
            raise UsageError(
                "; ".join(wrong), valid=tuple(known) if any(k not in known for k in values) else ()
            )
        return ExportOptions(**values)


CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "format": ("openai", "simple"),
        "reasoning": ("keep", "inline", "drop"),
        "think_tags": ("split", "keep"),
        "tools": ("nested", "flat"),
        "arguments": ("string", "object"),
        "developer": ("system", "keep"),
        "repeated_roles": ("merge", "keep"),
        "media": ("leave_out", "drop", "keep"),
        "ending": ("trim", "leave_out", "keep"),
        "incomplete": ("leave_out", "keep"),
        "invalid_arguments": ("leave_out", "keep"),
        "unanswered_calls": ("leave_out", "keep"),
        "undeclared_tools": ("keep", "leave_out"),
        "duplicates": ("exact", "near", "keep"),
    }
)
_WHOLE: Mapping[str, int] = MappingProxyType({"max_per_prompt": 1, "split_seed": 0})
_OPTIONAL = frozenset(("reward_threshold", "max_per_prompt"))


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    near = nearest(key, known, 1)
    return f"{key} is no option of rollouts" + (f", did you mean {near[0]}" if near else "")


def _problems(key: str, value: Any, default: Any) -> list[str]:
    assert default is not MISSING
    if key in CHOICES:
        choices = CHOICES[key]
        return [] if value in choices else [f"{key} is {value!r}, not one of {', '.join(choices)}"]
    if value is None:
        return [] if key in _OPTIONAL else [f"{key} is null"]
    if isinstance(default, bool):
        return [] if isinstance(value, bool) else [f"{key} is {value!r}, not true or false"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [f"{key} is {value!r}, not a number"]
    if key in ("max_per_prompt", "split_seed") and (
        not isinstance(value, int) or value < (key == "max_per_prompt")
    ):
        return [f"{key} is {value!r}, not a whole number that makes sense"]
    if key == "validation_share" and not 0 <= value < 1:
        return [f"{key} is {value!r}, not from 0 to below 1"]
    if key == "min_reward_gap" and value < 0:
        return [f"{key} is {value!r}, below 0"]
    return []
