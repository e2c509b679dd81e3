from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nemotron.artifacts import store as store_module
from nemotron.artifacts.store import PROJECT_MARKERS, Store, find_store
from nemotron.errors import Conflict, NemotronError, NotFound, UsageError, WorkFailed

NOON = datetime(2026, 11, 21, 12, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize("marker", PROJECT_MARKERS)
def test_the_store_is_beside_the_nearest_project_marker(tmp_path: Path, marker: str) -> None:
    (tmp_path / ".git").mkdir()
    project = tmp_path / "team" / "project"
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    (project / marker).touch()
    assert find_store({}, deep) == Store(project / ".nemotron")
    assert find_store({}, tmp_path / "team") == Store(tmp_path / ".nemotron")
    assert not (project / ".nemotron").exists()


def test_without_a_marker_the_store_is_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PROJECT_MARKERS", ("no-such-marker",))
    assert find_store({}, tmp_path) == Store(tmp_path / ".nemotron")


def test_nemotron_home_wins_over_a_project(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert find_store({"NEMOTRON_HOME": "/data/store"}, tmp_path) == Store(Path("/data/store"))
    assert find_store({"NEMOTRON_HOME": "own"}, tmp_path) == Store(tmp_path / "own")
    assert find_store({"NEMOTRON_HOME": "~/own"}, tmp_path) == Store(Path.home() / "own")
    assert find_store({"NEMOTRON_HOME": ""}, tmp_path) == Store(tmp_path / ".nemotron")


@pytest.mark.parametrize("home", ["https://host/store", "~no-such-user-at-all/store"])
def test_a_home_that_is_no_directory_name_is_refused(tmp_path: Path, home: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_store({"NEMOTRON_HOME": home}, tmp_path)
    assert caught.value.where == "NEMOTRON_HOME"


@pytest.mark.parametrize(
    ("step", "stem"),
    [
        ("rl/nemo_rl/rlhf", "rl-rlhf"),
        ("rm/nemo_rl", "rm-nemo_rl"),
        ("theirs:sft", "theirs-sft"),
        ("sft/", "sft"),
        ("a/b c\n;rm -rf", "a-b-c-rm-rf"),
        ("a/..", "a"),
        ("..", "run"),
        ("x" * 300, "x" * 64),
    ],
)
def test_a_run_id_says_step_and_time_and_is_a_safe_file_name(tmp_path: Path, step: str, stem: str) -> None:
    made = Store(tmp_path / "store").new_run_dir(step, NOON)
    assert re.fullmatch(re.escape(stem) + r"-20261121-123005-[0-9a-f]{4}", made.name)
    assert made.is_dir()
    assert made.parent == tmp_path / "store" / "runs"


def test_run_ids_are_in_utc_whatever_zone_the_clock_has(tmp_path: Path) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    assert "-20261121-123005-" in Store(tmp_path).new_run_dir("s", tokyo).name


def test_two_runs_in_one_second_get_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\x00\x01", b"\x00\x01", b"\x00\x02"])
    monkeypatch.setattr(store_module.os, "urandom", lambda _: next(drawn))
    store = Store(tmp_path)
    first, second = store.new_run_dir("s", NOON), store.new_run_dir("s", NOON)
    assert (first.name[-4:], second.name[-4:]) == ("0001", "0002")


def test_a_second_with_no_free_id_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.os, "urandom", lambda _: b"\x00\x01")
    store = Store(tmp_path)
    store.new_run_dir("s", NOON)
    with pytest.raises(Conflict):
        store.new_run_dir("s", NOON)


def test_runs_are_listed_newest_first_and_strangers_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.run_ids() == ()
    made = [
        store.new_run_dir(step, NOON + timedelta(seconds=s)).name
        for step, s in [("z", 0), ("a", 2), ("m", 1)]
    ]
    (store.runs_dir / "mine").mkdir()
    (store.runs_dir / ".hidden").mkdir()
    (store.runs_dir / "notes.txt").touch()
    assert store.run_ids() == (made[1], made[2], made[0], "mine")


def test_a_run_is_found_by_any_unambiguous_prefix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("rlhf-20261121-120000-aaaa", "rlhf-20261121-120000-aabb", "sft-20261121-120000-aaaa", "sft"):
        (store.runs_dir / name).mkdir(parents=True)
    assert store.run_dir("rlhf-20261121-120000-aab").name == "rlhf-20261121-120000-aabb"
    assert store.run_dir("sft").name == "sft", "a whole id wins over being a prefix of another"
    with pytest.raises(UsageError) as ambiguous:
        store.run_dir("rlhf")
    assert set(ambiguous.value.valid) == {"rlhf-20261121-120000-aaaa", "rlhf-20261121-120000-aabb"}
    with pytest.raises(NotFound) as missing:
        store.run_dir("rlfh-20261121-120000-aaaa")
    assert missing.value.nearest[0] == "rlhf-20261121-120000-aaaa"
    assert missing.value.next


@pytest.mark.parametrize("prefix", ["..", ".", "/", "/etc", "../runs", "a/b", "\ud800", "\0"])
def test_a_prefix_never_leads_out_of_the_store(tmp_path: Path, prefix: str) -> None:
    store = Store(tmp_path)
    store.new_run_dir("sft", NOON)
    with pytest.raises(NotFound):
        store.run_dir(prefix)


def test_an_empty_prefix_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Store(tmp_path).run_dir("")


@pytest.mark.parametrize("place", ["", "runs"])
def test_a_file_in_the_place_of_the_store_is_an_error_that_says_so(tmp_path: Path, place: str) -> None:
    root = tmp_path / "store"
    if place:
        root.mkdir()
    (root / place).write_text("in the way") if place else root.write_text("in the way")
    with pytest.raises(NemotronError) as caught:
        Store(root).new_run_dir("sft", NOON)
    assert "file stands where" in caught.value.what
    assert str(root) in (caught.value.where or "")
    assert caught.value.next


def test_a_store_in_a_read_only_directory_says_what_to_do(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    with pytest.raises(WorkFailed) as caught:
        Store(unprivileged / "store").new_run_dir("sft", NOON)
    assert caught.value.what == "permission denied"
    assert "NEMOTRON_HOME" in (caught.value.next or "")


def test_runs_that_may_not_be_listed_are_an_error_not_an_empty_list(unprivileged: Path) -> None:
    store = Store(unprivileged)
    store.new_run_dir("sft", NOON)
    store.runs_dir.chmod(0o000)
    with pytest.raises(WorkFailed):
        store.run_ids()
