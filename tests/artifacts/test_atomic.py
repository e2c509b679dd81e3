from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.artifacts import atomic
from nemotron.artifacts.atomic import json_text, os_error, write_bytes, write_json, write_new, write_text
from nemotron.errors import Conflict, NotFound, UsageError, WorkFailed


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "one")
    write_text(path, "zwei \u00fc")
    assert path.read_bytes() == b"zwei \xc3\xbc"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on device"),
        (errno.EDQUOT, "disk quota exceeded"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "input/output error"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    with pytest.raises(WorkFailed) as caught:
        write_text(path, "new")
    assert caught.value.what == words
    assert caught.value.where == str(path)
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "plan.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_synced_does_not_fail_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def only_files(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "no directories here")
        real(fd)

    monkeypatch.setattr(atomic.os, "fsync", only_files)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u00fc" * 127)
    write_text(path, "x")
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("missing/a", NotFound), ("file/a", UsageError), ("directory", UsageError), ("n" * 300, UsageError)],
)
def test_a_place_that_cannot_hold_the_file_is_a_clear_error(
    tmp_path: Path, name: str, kind: type[Exception]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "full").touch()
    with pytest.raises(kind):
        write_text(tmp_path / name, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory", "file"]


def test_a_read_only_directory_is_named(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    with pytest.raises(WorkFailed) as caught:
        write_text(unprivileged / "a", "x")
    assert caught.value.what == "permission denied"


def test_where_is_printable_for_every_file_name(tmp_path: Path) -> None:
    error = os_error(OSError(errno.ENOSPC, "x"), Path(os.fsdecode(b"/d/\xff\n\x1b[2J")))
    assert error.where == "/d/\\xff\\n\\x1b[2J"
    error.render().encode("ascii")


def test_of_many_that_claim_a_name_exactly_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "name"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: write_new(path, b"%d" % n), range(32)))
    assert made.count(True) == 1
    assert path.read_bytes() == b"%d" % made.index(True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_claim_works_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert write_new(tmp_path / "a", b"1") is True
    assert write_new(tmp_path / "a", b"2") is False
    assert (tmp_path / "a").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_json_that_no_parser_would_take_is_never_written(tmp_path: Path) -> None:
    value = {"loss": float("nan"), "deep": [{"up": float("inf")}, (float("-inf"), 1.5)]}
    write_json(tmp_path / "m.json", value)
    text = (tmp_path / "m.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "loss": "NaN",
        "deep": [{"up": "Infinity"}, ["-Infinity", 1.5]],
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: object) -> None:
    assert json.loads(json_text(value).encode("utf-8")) == value


def test_a_path_that_is_not_utf8_survives_json() -> None:
    path = os.fsdecode(b"/data/\xff.jsonl")
    assert json.loads(json_text({"path": path}).encode("utf-8")) == {"path": path}


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"\r\n\xff")
    assert (tmp_path / "b").read_bytes() == b"\r\n\xff"


def test_something_that_exists_is_a_conflict() -> None:
    assert isinstance(os_error(FileExistsError(errno.EEXIST, "x"), "/a"), Conflict)
