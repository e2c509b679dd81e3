"""Our backends are found without a look at the installed packages, and by others at their entry points."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from nemotron.launch import backend

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
DECLARED: dict[str, str] = PROJECT["project"]["entry-points"][backend.GROUP]


def test_both_lists_of_our_backends_name_the_same_objects() -> None:
    ours = {name: place if ":" in place else f"{place}:BACKEND" for name, place in backend._OURS.items()}
    assert ours == DECLARED


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_each_backend_of_ours_is_where_it_is_said_to_be(name: str) -> None:
    assert backend.find_backend(name).name == name
