"""`art://` through fsspec, as pandas and datasets would open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.core import url_to_fs

from nemotron.artifacts.collection import Artifacts


@pytest.fixture
def named(world: Any, write_rows: Any, write_model: Any) -> Path:
    """chats:v1 is a file, models/small:v1 and :best a directory; returns the directory."""
    artifacts = Artifacts()
    artifacts.add(write_rows("chats.jsonl", "training_jsonl"), name="chats")
    model: Path = write_model("model")
    artifacts.add(model, name="models/small")
    artifacts.alias("models/small", "models/small", "best")
    return model


def test_the_entry_point_is_known_to_fsspec(named: Path) -> None:
    file_system, path = url_to_fs("art://chats:v1")
    assert type(file_system).__name__ == "ArtFileSystem"
    assert path == "chats:v1"


@pytest.mark.parametrize("url", ["art://chats", "art://chats:v1", "art://chats:latest"])
def test_a_file_is_opened_by_its_name(named: Path, url: str) -> None:
    with fsspec.open(url, "rt") as file:
        assert "2+2?" in file.readline()


@pytest.mark.parametrize("version", ["", ":v1", ":best"])
def test_a_file_inside_a_directory_is_opened_and_listed(named: Path, version: str) -> None:
    with fsspec.open(f"art://models/small{version}/config.json") as file:
        assert file.read() == (named / "config.json").read_bytes()
    file_system, path = url_to_fs(f"art://models/small{version}")
    assert file_system.isdir(path)
    assert f"models/small{version}/config.json" in file_system.ls(path, detail=False)
    assert file_system.info(f"{path}/config.json")["size"] == (named / "config.json").stat().st_size
    assert file_system.exists(f"{path}/config.json") and not file_system.exists(f"{path}/nothing")


def test_all_names_are_listed(named: Path) -> None:
    assert fsspec.filesystem("art").ls("", detail=False) == ["chats", "models/small"]


@pytest.mark.parametrize("url", ["art://chast", "art://chats:v9", "art://models/small:best/no", "art://a b"])
def test_what_is_not_there_is_a_missing_file(named: Path, url: str) -> None:
    with pytest.raises(FileNotFoundError), fsspec.open(url) as file:
        file.read()


def test_nothing_is_written_and_nothing_leaves_the_artifact(named: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="never change"), fsspec.open("art://chats", "wb") as file:
        file.write(b"x")
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    for inside in ("../secret", "x/../../secret"):
        with pytest.raises(OSError), fsspec.open(f"art://models/small:v1/{inside}") as file:
            file.read()


def test_a_changed_artifact_is_not_opened(named: Path) -> None:
    (named / "config.json").write_text("{}", encoding="utf-8")
    url = "art://models/small/config.json"
    with pytest.raises(OSError, match="no longer what was recorded"), fsspec.open(url) as file:
        file.read()
