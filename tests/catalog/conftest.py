"""Writes small catalogs to try things on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from nemotron.catalog.discover import Catalog, load_catalog

EXISTING = Path(__file__).parent / "existing"

STEP = """
[step]
id = "{id}"
description = "A step."
tags = ["test"]
"""


@pytest.fixture
def existing() -> Path:
    """A catalog in the existing format, which must load as it is."""
    return EXISTING


@pytest.fixture
def write_step() -> Callable[..., Path]:
    """Writes a step directory: `write_step(root, "a/b", toml, configs={...}, script="...")`."""

    def write(
        root: Path,
        step_id: str,
        toml: str | None = None,
        *,
        configs: Mapping[str, str] | None = None,
        script: str | None = None,
        readme: bool = True,
    ) -> Path:
        directory = root / step_id
        directory.mkdir(parents=True)
        text = STEP.format(id=step_id) if toml is None else dedent(toml)
        (directory / "step.toml").write_text(text, encoding="utf-8")
        for name, content in (configs or {}).items():
            (directory / "config").mkdir(exist_ok=True)
            (directory / "config" / name).write_text(dedent(content), encoding="utf-8")
        if script is not None:
            (directory / "step.py").write_text(dedent(script), encoding="utf-8")
        if readme:
            (directory / "README.md").write_text("# A step\n", encoding="utf-8")
        return directory

    return write


@pytest.fixture
def load() -> Callable[..., Catalog]:
    """Loads the catalog of these roots, without a cache."""

    def load(*roots: Path) -> Catalog:
        return load_catalog({"NEMOTRON_CATALOG": ":".join(map(str, roots))})

    return load
