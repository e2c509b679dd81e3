"""Parsed manifests are remembered, and never believed of a file that changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemotron.artifacts import file_memory
from nemotron.catalog import cache
from nemotron.catalog.discover import load_catalog


@pytest.fixture
def root(tmp_path, write_step, monkeypatch):
    # Files as old as a catalog's are: what was written a moment ago is not remembered.
    monkeypatch.setattr(file_memory, "SETTLED_NS", 0)
    write_step(
        tmp_path / "mine",
        "a/one",
        '[step]\nname = "first"\n',
        script="# /// script\n# [tool.runspec]\n# ///\n",
    )
    write_step(tmp_path / "mine", "a/two", script="")
    return tmp_path / "mine"


@pytest.fixture
def environ(root, tmp_path):
    return {"NEMOTRON_CATALOG": str(root), "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "nemotron" / "catalog.json"


def name_of(environ, step_id="a/one"):
    return load_catalog(environ).get(step_id).name


def test_a_second_load_parses_nothing(environ, file, monkeypatch):
    before = load_catalog(environ).as_dict()
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(cache, "parse_toml", None)
    monkeypatch.setattr(cache, "read_runspec", None)
    assert load_catalog(environ).as_dict() == before


def test_a_changed_file_is_read_again(environ, root):
    assert name_of(environ) == "first"
    manifest = root / "a" / "one" / "step.toml"
    stat = manifest.stat()
    manifest.write_text('[step]\nname = "other"\n')  # of the same size
    os.utime(manifest, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and the same time
    assert name_of(environ) == "other"


def test_a_replaced_file_is_read_again(environ, root, tmp_path):
    assert name_of(environ) == "first"
    manifest = root / "a" / "one" / "step.toml"
    fresh = tmp_path / "fresh"
    fresh.write_text('[step]\nname = "other"\n')
    os.utime(fresh, ns=(manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns))
    fresh.replace(manifest)
    assert name_of(environ) == "other"


def test_a_changed_header_is_read_again(environ, root):
    assert load_catalog(environ).get("a/one").run.launch == "torchrun"
    (root / "a" / "one" / "step.py").write_text("")
    assert load_catalog(environ).get("a/one").run.launch == "python"


def test_a_file_written_a_moment_ago_is_not_remembered(environ, file, monkeypatch):
    monkeypatch.setattr(file_memory, "SETTLED_NS", 3600 * 10**9)
    load_catalog(environ)
    assert str(environ["NEMOTRON_CATALOG"]) not in (file.read_text() if file.exists() else "")


def test_a_broken_manifest_is_broken_every_time(environ, root):
    (root / "a" / "two" / "step.toml").write_text("[[errors]]\nname = 3\n")
    problems = [[entry.problem for entry in load_catalog(environ).broken] for _ in range(3)]
    assert problems == [["[[errors]] name must be a string, not a number"]] * 3


def test_steps_that_went_are_forgotten(environ, root, file):
    load_catalog(environ)
    (root / "a" / "two" / "step.toml").unlink()
    (root / "a" / "one" / "README.md").unlink()
    (root / "a" / "one" / "step.toml").write_text('[step]\nname = "other"\n')
    load_catalog(environ)
    known = json.loads(file.read_text())["files"]
    assert str(root / "a" / "one" / "step.toml") in known
    assert str(root / "a" / "two" / "step.toml") not in known


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 0, "files": {}}',
        b'{"format": 1, "files": []}',
        b"[" * 100_000,
    ],
)
def test_a_broken_cache_is_no_cache_and_is_replaced(environ, file, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert name_of(environ) == "first"
    assert json.loads(file.read_text())["format"] == 1


def test_a_cache_that_others_may_write_is_not_believed(environ, file, root):
    load_catalog(environ)
    content = json.loads(file.read_text())
    content["files"][str(root / "a" / "one" / "step.toml")]["data"]["step"]["name"] = "forged"
    file.write_text(json.dumps(content))
    assert name_of(environ) == "forged"
    file.chmod(0o666)
    assert name_of(environ) == "first"


@pytest.mark.parametrize("obstacle", ["file in the way", "directory in the way", "no home", "relative"])
def test_without_a_place_for_the_cache_everything_still_loads(environ, tmp_path, monkeypatch, obstacle):
    monkeypatch.chdir(tmp_path)
    if obstacle == "file in the way":
        (tmp_path / "cache").write_text("")
    elif obstacle == "directory in the way":
        (tmp_path / "cache" / "nemotron" / "catalog.json").mkdir(parents=True)
    elif obstacle == "no home":
        del environ["XDG_CACHE_HOME"]
    else:
        environ["XDG_CACHE_HOME"] = "cache"
    assert name_of(environ) == name_of(environ) == "first"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "catalog.json" in path.name]


def test_the_cache_is_below_the_home_directory_without_the_setting(environ, tmp_path):
    environ["HOME"] = str(tmp_path / "home")
    environ["XDG_CACHE_HOME"] = "relative"
    load_catalog(environ)
    assert Path(environ["HOME"], ".cache", "nemotron", "catalog.json").is_file()
