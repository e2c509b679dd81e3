"""The history of an artifact as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nemotron.findings import Finding


@dataclass(frozen=True)
class Parent:
    """One thing an artifact was made from.

    role: `base`, `policy`, `reference`, `reward_model`, `teacher`, `adapter`, `tokenizer`, `data`,
    `validation`.
    reference: `hf://ORG/NAME[@REVISION]`, a path, or the name as the file gives it; without credentials.
    revision: of a hub model or set. path: absolute, when something is there on this machine.
    told_by: the file that names it.
    """

    role: str
    reference: str
    revision: str | None = None
    path: str | None = None
    told_by: str | None = None


@dataclass(frozen=True)
class History:
    """How an artifact was made, as far as its own files tell.

    source: the files that told something, relative to the artifact's root directory or absolute above it.
    tool: what made it: `nemo_rl`, `megatron_bridge`, `axolotl`, `trl`, `peft`, `transformers`, `model_card`.
    step_of_training: optimizer steps taken. at: ISO time in UTC it was saved, where a file says so.
    facts: JSON values; `counters` (samples, tokens, epochs), `metrics`, `algorithm`, and what a card tells.
    config: `digest` of the whole training config, secrets left out, and `keys`, a few telling ones.
    findings: what could not be read or did not agree; never an error.
    """

    source: tuple[str, ...]
    tool: str
    step_of_training: int | None = None
    parents: tuple[Parent, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    at: str | None = None
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The history as a record holds it: JSON values, what is not known left out."""
        found: dict[str, Any] = {
            "source": list(self.source),
            "tool": self.tool,
            "step_of_training": self.step_of_training,
            "parents": [{k: v for k, v in asdict(p).items() if v is not None} for p in self.parents],
            "facts": dict(self.facts),
            "config": dict(self.config),
            "at": self.at,
            "findings": [f.as_dict() for f in self.findings],
        }
        return {name: value for name, value in found.items() if value not in (None, [], {})}
