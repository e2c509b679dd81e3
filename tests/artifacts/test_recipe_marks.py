"""A recipe's runs are found without looking at any other run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nemotron.artifacts.runs import Run, mark_recipe, runs_of_recipe
from nemotron.artifacts.store import Store
from nemotron.errors import WorkFailed

ONE, OTHER = "blake3:" + "1" * 64, "blake3:" + "2" * 64


def add_run(store: Store, name: str, digest: str, *, marked: bool = True) -> Run:
    directory = store.runs_dir / name
    directory.mkdir(parents=True)
    (directory / "recipe").write_text(f"{digest}\n")
    if marked:
        mark_recipe(store, name, digest)
    return Run(directory)


def found(store: Store, digest: str) -> list[str]:
    return [run.id for run in runs_of_recipe(store, digest)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_runs_of_a_recipe_come_newest_first(store: Store) -> None:
    for name in ("a-20260101-000000-0000", "z-20250101-000000-0000", "a-20260101-000001-0000"):
        add_run(store, name, ONE)
    add_run(store, "b-20270101-000000-0000", OTHER)
    assert found(store, ONE) == ["a-20260101-000001-0000", "a-20260101-000000-0000", "z-20250101-000000-0000"]
    assert found(store, "blake3:" + "3" * 64) == []
    assert found(Store(store.root / "none"), ONE) == []


def test_other_runs_are_not_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        add_run(store, f"a-20260101-000000-{number:04x}", ONE if number % 10 == 0 else OTHER)
    looked = []
    real = Run.recipe_digest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Run, "recipe_digest", property(lambda run: looked.append(run.id) or real(run)))
    assert len(found(store, ONE)) == len(looked) == 5


def test_a_mark_alone_makes_no_run(store: Store) -> None:
    run = add_run(store, "a-20260101-000000-0000", ONE)
    add_run(store, "a-20260101-000000-0001", OTHER)
    mark_recipe(store, "a-20260101-000000-0001", ONE)
    mark_recipe(store, "a-20260101-000000-0002", ONE)
    assert found(store, ONE) == [run.id]
    shutil.rmtree(run.directory)
    assert found(store, ONE) == []


def test_a_run_whose_bundle_was_never_completed_is_not_found(store: Store) -> None:
    run = add_run(store, "a-20260101-000000-0000", ONE)
    (run.directory / "recipe").unlink()
    assert found(store, ONE) == []


def test_without_any_marks_every_run_is_looked_at_and_the_next_one_marks_them_all(store: Store) -> None:
    old = add_run(store, "a-20260101-000000-0000", ONE, marked=False)
    assert found(store, ONE) == [old.id]
    assert not store.recipes_dir.exists(), "looking writes nothing"
    new = add_run(store, "a-20260101-000001-0000", OTHER)
    assert (found(store, ONE), found(store, OTHER)) == ([old.id], [new.id])
    shutil.rmtree(store.recipes_dir)
    assert (found(store, ONE), found(store, OTHER)) == ([old.id], [new.id])
    assert {p.name for p in store.root.iterdir()} == {"runs"}, "nothing unfinished is left"


def test_of_two_that_mark_all_runs_at_once_both_find_theirs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the directory of marks missing, and there when it is about to put its own."""
    old = add_run(store, "a-20260101-000000-0000", ONE, marked=False)
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        add_run(store, "a-20260101-000001-0000", ONE)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    add_run(store, "a-20260101-000002-0000", ONE)
    assert found(store, ONE) == ["a-20260101-000002-0000", "a-20260101-000001-0000", old.id]
    assert {p.name for p in store.root.iterdir()} == {"runs", "recipes"}


def test_a_store_that_cannot_be_written_says_so(store: Store) -> None:
    add_run(store, "a-20260101-000000-0000", ONE)
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root")
    store.recipes_dir.chmod(0o555)
    with pytest.raises(WorkFailed, match="permission denied"):
        mark_recipe(store, "a-20260101-000000-0001", OTHER)
