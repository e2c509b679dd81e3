from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import assume, given
from hypothesis import strategies as st

from nemotron.artifacts import digest_read
from nemotron.artifacts.digest import Digest, digest_json, digest_path
from nemotron.artifacts.records import stat_fingerprint
from nemotron.errors import CheckFailed, Conflict, NemotronError, NotFound, UsageError, WorkFailed

Files = Mapping[bytes, bytes]


def written(directory: Path, files: Files) -> Path:
    for name, content in files.items():
        path = directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def by_the_book(files: Files) -> str:
    """The tree digest as the docstring of the module describes it, written a second time."""
    tree = b""
    for name in sorted(files):
        content = files[name]
        tree += len(name).to_bytes(8, "little") + name
        tree += len(content).to_bytes(8, "little") + blake3(content).digest()
    return "blake3:" + blake3(tree, derive_key_context="nemotron 2026 artifact tree v1").hexdigest()


def temporary() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory()


part = st.sampled_from(
    [b"a", b"b", b"ab", b"A", b".a", b"a.b", b"a-b", "\u00fc".encode(), b"\xff", b"a\n", b"tmp"]
)
tree_files = st.dictionaries(
    st.lists(part, min_size=1, max_size=3).map(b"/".join), st.binary(max_size=6), max_size=6
).filter(lambda files: not any(other.startswith(name + b"/") for name in files for other in files))


@given(tree_files)
def test_a_tree_has_the_digest_that_is_documented(files: Files) -> None:
    with temporary() as place:
        found = digest_path(written(Path(place) / "tree", files))
        assert found == Digest(by_the_book(files), len(files), sum(map(len, files.values())))


@given(tree_files, tree_files)
def test_trees_are_the_same_exactly_if_their_digests_are(one: Files, other: Files) -> None:
    with temporary() as place:
        first = digest_path(written(Path(place) / "one", one))
        second = digest_path(written(Path(place) / "other", other))
        assert (first == second) == (one == other)


@given(tree_files, st.data())
def test_any_change_of_one_file_changes_the_digest(files: Files, data: st.DataObject) -> None:
    assume(files)
    with temporary() as place:
        root = written(Path(place) / "tree", files)
        before = digest_path(root).value
        victim = root / os.fsdecode(data.draw(st.sampled_from(sorted(files))))
        change: Callable[[], object] = data.draw(
            st.sampled_from(
                [
                    lambda: victim.write_bytes(victim.read_bytes() + b"\0"),
                    lambda: victim.write_bytes(bytes(b ^ 1 for b in victim.read_bytes()) or b"x"),
                    lambda: victim.rename(victim.with_name("renamed")),
                    victim.unlink,
                    lambda: shutil.copy(victim, victim.with_name("copied")),
                ]
            )
        )
        change()
        assert digest_path(root).value != before


@given(tree_files)
def test_place_times_modes_order_and_empty_directories_do_not_count(files: Files) -> None:
    with temporary() as place:
        first = written(Path(place) / "one", files)
        backwards = written(Path(place) / "deep" / "other", dict(reversed(files.items())))
        for path in backwards.rglob("*"):
            if path.is_file():
                path.chmod(0o755)
                os.utime(path, (1, 1))
        (backwards / "empty" / "er").mkdir(parents=True)
        (backwards / "unfinished.tmp").write_text("half")
        assert digest_path(first) == digest_path(backwards)


@given(st.binary(max_size=40), part, part)
def test_a_file_is_its_content_whatever_its_name(content: bytes, name: bytes, other: bytes) -> None:
    with temporary() as place:
        first = written(Path(place) / "one", {name: content}) / os.fsdecode(name)
        second = written(Path(place) / "two", {other: content}) / os.fsdecode(other)
        assert digest_path(first) == digest_path(second)
        assert digest_path(first).value == "blake3:" + blake3(content).hexdigest()
        assert digest_path(first).value != digest_path(first.parent).value


def test_a_file_larger_than_any_buffer_has_its_plain_digest(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 17 + b"tail"
    (tmp_path / "big").write_bytes(content)
    assert len(content) > digest_read._LONE_THREADS_FROM
    assert digest_path(tmp_path / "big").value == "blake3:" + blake3(content).hexdigest()


def test_a_file_named_like_a_temporary_one_can_be_an_artifact_itself(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"whole")
    assert digest_path(tmp_path / "x.tmp").value == "blake3:" + blake3(b"whole").hexdigest()


def test_links_inside_the_tree_count_as_what_they_point_at(tmp_path: Path) -> None:
    files = {b"data/a": b"1", b"data/b": b"2"}
    linked = written(tmp_path / "linked", files)
    (linked / "again").symlink_to("data")
    (linked / "data" / "c").symlink_to("../data/a")
    (linked / "absolute").symlink_to(linked / "data" / "b")
    copied = {
        **files,
        b"data/c": b"1",
        b"again/a": b"1",
        b"again/b": b"2",
        b"again/c": b"1",
        b"absolute": b"2",
    }
    assert digest_path(linked).value == by_the_book(copied)
    (tmp_path / "way").symlink_to(linked)
    assert digest_path(tmp_path / "way").value == by_the_book(copied)


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "..", "../tree-beside/x", "../missing"])
def test_a_link_that_leaves_the_tree_is_refused(tmp_path: Path, target: str) -> None:
    root = written(tmp_path / "tree", {b"a": b"1"})
    written(tmp_path / "tree-beside", {b"x": b"1"})
    (tmp_path / "secret").write_text("s")
    (root / "link").symlink_to(target)
    for identity in (digest_path, stat_fingerprint):
        with pytest.raises(CheckFailed) as caught:
            identity(root)
        assert "leaves the artifact" in caught.value.what
        assert caught.value.where == str(root / "link")


@pytest.mark.parametrize(
    ("target", "says"), [(".", "holds it"), ("../inner", "holds it"), ("missing", "nothing")]
)
def test_a_link_that_goes_round_or_nowhere_is_refused(tmp_path: Path, target: str, says: str) -> None:
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    (inner / "link").symlink_to(target)
    with pytest.raises(CheckFailed) as caught:
        digest_path(tmp_path / "tree")
    assert says in caught.value.what


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(NemotronError):
        digest_path(tmp_path)
    with pytest.raises(NemotronError):
        digest_path(tmp_path / "self")


def test_pipes_and_sockets_are_refused_without_waiting_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckFailed) as caught:
            digest_path(path)
        assert str(tmp_path / "pipe") == caught.value.where
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(CheckFailed):
            digest_path(tmp_path)


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        digest_path(tmp_path / "missing")


def test_a_file_that_may_not_be_read_is_named(unprivileged: Path) -> None:
    (unprivileged / "a").write_text("1")
    (unprivileged / "a").chmod(0o000)
    with pytest.raises(WorkFailed) as caught:
        digest_path(unprivileged)
    assert (caught.value.what, caught.value.where) == ("permission denied", str(unprivileged / "a"))


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def cut(path: Path) -> None:
    os.truncate(path, 10)


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    ("change", "kind"),
    [(grow, Conflict), (cut, Conflict), (overwrite, Conflict), (replace, Conflict), (Path.unlink, NotFound)],
)
def test_a_file_that_changes_under_the_reader_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], kind: type[NemotronError]
) -> None:
    victim = tmp_path / "tree" / "a"
    victim.parent.mkdir()
    victim.write_bytes(os.urandom(3 << 20))
    os.utime(victim, (1, 1))
    real, reads = os.readv, []

    def meanwhile(descriptor: int, buffers: list[memoryview]) -> int:
        reads.append(descriptor)
        if len(reads) == 2:
            change(victim)
        return real(descriptor, buffers)

    monkeypatch.setattr(digest_read.os, "readv", meanwhile)
    with pytest.raises(kind) as caught:
        digest_path(victim.parent)
    assert caught.value.where == str(victim)
    assert "while it was being read" in caught.value.what


def test_a_read_that_ends_early_is_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")
    monkeypatch.setattr(digest_read.os, "readv", lambda descriptor, buffers: 0)
    with pytest.raises(Conflict):
        digest_path(tmp_path)


def test_the_fingerprint_sees_names_sizes_and_times_only(tmp_path: Path) -> None:
    root = written(tmp_path / "tree", {b"a": b"1", b"d/\xff": b"22"})
    moved = tmp_path / "moved"
    first = stat_fingerprint(root)
    assert first == stat_fingerprint(root)
    shutil.copytree(root, moved, copy_function=shutil.copy2)
    assert stat_fingerprint(moved) == first
    for change in (
        lambda: os.utime(moved / "a", ns=(5, 5)),
        lambda: (moved / "a").write_bytes(b"333"),
        lambda: (moved / "a").rename(moved / "b"),
        lambda: (moved / "b").unlink(),
    ):
        before = stat_fingerprint(moved)
        change()
        assert stat_fingerprint(moved) != before


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


def turned(value: object) -> object:
    """The same value with all keys in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(item) for key, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


@given(json_values)
def test_a_json_digest_does_not_depend_on_key_order(value: object) -> None:
    assert digest_json(value) == digest_json(turned(value))


@given(json_values, json_values)
def test_different_json_values_have_different_digests(one: object, other: object) -> None:
    same = repr(one) == repr(other) or one == other
    assume(same == (repr(turned(one)) == repr(turned(other))))
    assert (digest_json(one) == digest_json(other)) == same


def test_a_json_digest_is_that_of_the_canonical_text() -> None:
    text = '{"a":[1,1.0,true,null,"\u00fc\\n"],"b":{}}'
    value = {"b": {}, "a": [1, 1.0, True, None, "\u00fc\n"]}
    assert digest_json(value) == "blake3:" + blake3(text.encode("utf-8")).hexdigest()
    assert digest_json({"path": os.fsdecode(b"\xff")}) != digest_json({"path": os.fsdecode(b"\xfe")})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused_with_its_key(number: float) -> None:
    with pytest.raises(UsageError) as caught:
        digest_json({"policy": {"lr": [1.0, number]}})
    assert caught.value.where == "policy.lr[1]"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc")
def test_content_of_a_file_that_gives_its_size_as_zero_is_not_taken_for_empty() -> None:
    assert Path("/proc/version").stat().st_size == 0
    with pytest.raises(Conflict):
        digest_path(Path("/proc/version"))
