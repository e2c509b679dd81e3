"""The types of preference data by their names, and what reads and writes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from nemotron.data.fields import RefusedRowError
from nemotron.data.hub import Place
from nemotron.data.stream.rows import Rejected
from nemotron.errors import UsageError, nearest

from .chat_layouts import (
    Binary,
    Conversations,
    JudgedConversation,
    MessagesAndAnswers,
    Ranked,
    TwoResponses,
)
from .pair import Judged, Pair, Row, check, differ
from .text_layouts import PromptAndLists, RankedAnswers, TextJudged, TextPair, UserDefined, UserJudged

METHODS = ("dpo", "ipo", "simpo", "orpo", "kto")


class Layout(Protocol):
    """How the rows of one type are laid out. Both ways raise `RefusedRowError`."""

    def read(self, row: Row, extra: bool) -> tuple[Pair | Judged, ...]: ...

    def write(self, pair: Pair) -> tuple[Row, ...]: ...


_TEXTS: Mapping[str, Layout] = MappingProxyType(
    {
        "argilla": TextPair(("instruction",), ("chosen_response",), ("rejected_response",)),
        "argilla_chat": Conversations(),
        "icr": TextPair(("input",)),
        "intel": TextPair(("question",)),
        "prompt_pairs": TextPair(("prompt",)),
        "ultra": PromptAndLists(),
    }
)
# The bare name takes whichever of the known columns a row has.
_ANY_TEXT = TextPair(
    ("prompt", "input", "question", "instruction"),
    ("chosen", "chosen_response"),
    ("rejected", "rejected_response"),
)
_JUDGED: Mapping[str, Layout] = MappingProxyType(
    {
        "argilla": TextJudged("instruction"),
        "intel": TextJudged("question"),
        "prompt_pairs": TextJudged("prompt"),
        "ultra": TextJudged("prompt"),
    }
)
_TEMPLATES = ("chatml", "llama3")
_OWN: Mapping[str, Layout] = MappingProxyType(
    {
        "PreferenceDataset": Ranked(),
        "BinaryPreferenceDataset": Binary(),
        "HelpSteer3": TwoResponses(),
        "Tulu3Preference": Conversations(
            left_away=(
                "id", "source", "prompt", "chosen_model", "rejected_model", "chosen_rating", "rejected_rating"
            )
        ),
    }
)  # fmt: skip
# Where the hub has the data sets that are types of their own.
_ON_HUB: Mapping[str, Place] = MappingProxyType(
    {
        "HelpSteer3": Place("nvidia/HelpSteer3", "preference", "train"),
        "Tulu3Preference": Place("allenai/llama-3.1-tulu-3-8b-preference-mixture", None, "train"),
    }
)

_PAIRED: Mapping[str, Layout] = MappingProxyType(
    {
        **{f"{template}.{name}": layout for template in _TEMPLATES for name, layout in _TEXTS.items()},
        **dict.fromkeys(_TEMPLATES, _ANY_TEXT),
        "zephyr.nectar": RankedAnswers(),
        "chat_template.argilla_chat": Conversations(),
        "chat_template.default": MessagesAndAnswers(),
        "user_defined.default": UserDefined(),
        **_OWN,
    }
)
_UNPAIRED: Mapping[str, Layout] = MappingProxyType(
    {
        **{f"{template}.{name}": layout for template in _TEMPLATES for name, layout in _JUDGED.items()},
        "chatml.argilla_chat": JudgedConversation(before="chosen"),
        "llama3.argilla_chat": JudgedConversation(),
        "user_defined.default": UserJudged(),
    }
)
_BY_METHOD: Mapping[str, Mapping[str, Layout]] = MappingProxyType(
    {
        "dpo": _PAIRED,
        "ipo": _PAIRED,
        "simpo": _PAIRED,
        "orpo": {"chat_template.argilla": Conversations(alternating=True), **_OWN},
        "kto": _UNPAIRED,
    }
)

# The options of a type, and the fields of its layout they set.
_RENAMED: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "chat_template.default": {
        "field_messages": "messages", "field_chosen": "chosen", "field_rejected": "rejected",
        "field_tools": "tools", "message_property_mappings": "", "roles": "",
    },
    "user_defined.default": {
        "field_prompt": "prompt", "field_system": "system", "field_chosen": "chosen",
        "field_rejected": "rejected", "prompt_format": "prompt_format", "chosen_format": "chosen_format",
        "rejected_format": "rejected_format",
    },
    "kto user_defined.default": {
        "field_prompt": "prompt", "field_system": "system", "field_completion": "completion",
        "field_label": "label", "prompt_format": "prompt_format", "completion_format": "completion_format",
    },
    "BinaryPreferenceDataset": {
        "prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected",
    },
    "zephyr.nectar": {"every_pair": "every"},
})  # fmt: skip


@dataclass(frozen=True)
class Format:
    """One type of preference data. paired: a row has both answers, else one and its label.

    extra: whether columns that the type does not have are left away; else such a row is left out.
    """

    name: str
    paired: bool
    layout: Layout
    extra: bool = False

    @property
    def sound(self) -> bool:
        """Whether pairs of this type are by their making what a trainer can take, if the answers differ."""
        return getattr(self.layout, "sound", False)

    @property
    def on_hub(self) -> Place | None:
        """Where the hub has the data set of this type; None for types that many have."""
        return _ON_HUB.get(self.name)

    def read(self, row: Row) -> tuple[Pair | Judged, ...] | Rejected:
        """What a row says: one pair or several, or one judged answer; or why it is left out."""
        try:
            found = self.layout.read(row, self.extra)
            for item in found:
                if self.sound and type(item) is Pair:
                    differ(item)
                else:
                    check(item)
            return found
        except RefusedRowError as refused:
            return refused.rejected

    def write(self, pair: Pair) -> tuple[Row, ...] | Rejected:
        """The pair as rows of this type: two when each has one answer. Or why this type cannot hold it."""
        try:
            return self.layout.write(pair)
        except RefusedRowError as refused:
            return refused.rejected


def type_names(method: str = "dpo") -> tuple[str, ...]:
    """The names of the types that go with a training method."""
    return tuple(sorted(_of_method(method)))


def option_names() -> set[str]:
    """The options that any type has."""
    return {option for options in _RENAMED.values() for option in options}


def find_format(
    name: str | Mapping[str, Any],
    method: str = "dpo",
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    extra: bool = False,
) -> Format:
    """The type `name` for a training method (`METHODS`).

    name: as in `type:`; a mapping there is `user_defined.default` with these options. options: those that
    the type has (`field_prompt`, `prompt_format`, ...); null is as good as absent. Raises `UsageError`
    for names and options that do not exist.
    """
    layouts = _of_method(method)
    if not isinstance(name, str):
        return find_format("user_defined.default", method, {**name, **options}, extra=extra)
    if name not in layouts:
        raise UsageError(
            f"{method} has no type {name}",
            where="type",
            nearest=nearest(name, layouts),
            valid=sorted(layouts),
        )
    layout = layouts[name]
    renamed = _RENAMED.get(f"{method} {name}", _RENAMED.get(name, {}))
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(given.keys() - renamed.keys())
    if unknown:
        raise UsageError(
            f"the type {name} has no option {unknown[0]}",
            where=f"options.{unknown[0]}",
            nearest=nearest(unknown[0], renamed),
            valid=sorted(renamed),
        )
    changes = {renamed[key]: value for key, value in given.items() if renamed[key]}
    for key, value in changes.items():
        wanted = bool if key == "every" else str
        if not isinstance(value, wanted):
            raise UsageError(f"{key} is {value!r}, not a {wanted.__name__}", where="options")
    changes |= _nested(given)
    if changes:
        layout = replace(layout, **changes)  # type: ignore[type-var]
    return Format(name, method != "kto", layout, extra)


def _of_method(method: str) -> Mapping[str, Layout]:
    if method not in _BY_METHOD:
        near = nearest(method, METHODS)
        raise UsageError(f"no method {method}", where="method", nearest=near, valid=METHODS)
    return _BY_METHOD[method]


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """The two options that are mappings, as fields of the layout."""
    changes: dict[str, Any] = {}
    keys = options.get("message_property_mappings")
    if keys is not None:
        if not isinstance(keys, Mapping) or not keys.keys() <= {"role", "content"}:
            where = "options.message_property_mappings"
            raise UsageError("message_property_mappings names role and content", where=where)
        changes |= {f"{key}_key": value for key, value in keys.items()}
    roles = options.get("roles")
    if roles is not None:
        if not isinstance(roles, Mapping) or not all(isinstance(names, list) for names in roles.values()):
            raise UsageError("roles is not a mapping of roles to lists of names", where="options.roles")
        changes["roles"] = tuple((name, role) for role, names in roles.items() for name in names)
    return changes
