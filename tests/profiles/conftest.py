"""Files of profiles in a project of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from nemotron.profiles.load import Profiles, load_profiles

Load = Callable[..., Profiles]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty directory with a project marker."""
    (tmp_path / "nemotron.toml").write_text("")
    return tmp_path


@pytest.fixture
def load(project: Path) -> Load:
    """Writes env.toml and reads it: `load("[a]\\nexecutor = 'local'", NODES="2")`."""

    def read(text: str, **environ: str) -> Profiles:
        (project / "env.toml").write_text(dedent(text), encoding="utf-8")
        return load_profiles(environ, project)

    return read
