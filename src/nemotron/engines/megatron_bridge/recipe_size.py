"""Whether a recipe's model can be the one in the checkpoint: told by size, before any GPU is allocated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.engines.base import StepFacts
from nemotron.engines.megatron_bridge.contract import RECIPE
from nemotron.engines.megatron_bridge.values import Values
from nemotron.findings import Finding

# As recipes are named: qwen3_8b, qwen2_1p5b, qwen3_600m, qwen3_30b_a3b, glm45_air_106b.
_SIZE = re.compile(r"_(\d+(?:p\d+)?)([mb])_")
_UNITS = {"m": 1_000_000, "b": 1_000_000_000}
# Names are rounded, and some leave the embedding out.
_FACTOR = 2.0


def named_parameters(recipe: str) -> int | None:
    """Parameters of the model that a recipe is for, as its name says; None where it does not."""
    found = _SIZE.search(recipe.rpartition(".")[2])
    return int(float(found[1].replace("p", ".")) * _UNITS[found[2]]) if found else None


def size_findings(config: Mapping[str, Any], step: StepFacts) -> Iterator[Finding]:
    """An error where the checkpoint is known to be of another size than the recipe's model.

    Where it is not known yet, a config with a section for the embedded engine is taken for one of a model
    that is small enough for that.
    """
    recipe = Values(config).text(RECIPE) or ""
    named = named_parameters(recipe)
    if named is None:
        return
    short = recipe.rpartition(".")[2]
    held = step.facts.get("model", {}).get("parameters")
    if isinstance(held, int):
        if not named / _FACTOR < held < named * _FACTOR:
            what = (
                f"{short} is for a model of {_words(named)} parameters, and the checkpoint has {_words(held)}"
            )
            yield _error(what, f"{RECIPE}=... of the checkpoint's own model")
    elif isinstance(config.get("embedded"), Mapping):
        what = f"the config is for the embedded engine, and {short} for a model of {_words(named)} parameters"
        yield _error(what, "--engine embedded, or a config without the section embedded")


def _error(what: str, fix: str) -> Finding:
    what = f"{what}: the job would end at its start"
    return Finding("megatron_bridge.recipe_size", "error", what, where=RECIPE, fix=fix)


def _words(count: int) -> str:
    for unit, size in (("B", 1_000_000_000), ("M", 1_000_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:,}"
