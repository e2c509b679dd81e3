"""Finding steps: one broken file never hides another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemotron.errors import CheckFailed, NotFound


def ids(steps, root):
    return [step.id for step in steps if step.root == root]


def broken_in(catalog, root):
    return {broken.id: broken for broken in catalog.broken if broken.root == root}


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


def test_steps_are_found_at_any_depth_and_below_other_steps(root, write_step, load):
    for step_id in ("b/deep/er/step", "a", "a/inner", "c/step"):
        write_step(root, step_id)
    for hidden in (".git/a", "c/.cache/b", "c/__pycache__/d"):
        write_step(root, hidden)
    assert ids(load(root).steps, "mine") == ["a", "a/inner", "b/deep/er/step", "c/step"]


def test_a_root_may_itself_be_a_step(tmp_path, write_step, load):
    directory = write_step(tmp_path, "family/single", "")
    assert ids(load(directory).steps, "single") == ["family/single"]


def test_each_broken_manifest_is_listed_with_its_reason_and_the_rest_still_loads(root, write_step, load):
    write_step(root, "good/one")
    write_step(root, "bad/syntax", '[step]\nid = "bad/syntax"\nname = \n')
    write_step(root, "bad/value", '[step]\nid = "other/name"\ntags = "x"\n')
    (write_step(root, "bad/bytes") / "step.toml").write_bytes(b'[step]\nname = "caf\xe9"\n')
    (root / "bad" / "directory" / "step.toml").mkdir(parents=True)
    (root / "bad" / "link").mkdir()
    (root / "bad" / "link" / "step.toml").symlink_to(root / "good" / "one" / "step.toml")
    (root / "bad" / "dangling").mkdir()
    (root / "bad" / "dangling" / "step.toml").symlink_to("nowhere")
    (root / "bad" / "pipe").mkdir()
    os.mkfifo(root / "bad" / "pipe" / "step.toml")
    (write_step(root, "bad/huge") / "step.toml").write_text("#" * (1 << 20) + "\n")
    write_step(root, "bad/header", script="# /// script\n# [tool.runspec\n# ///\n")

    catalog = load(root)

    assert ids(catalog.steps, "mine") == ["good/one"]
    reasons = {key: (entry.line, entry.problem) for key, entry in broken_in(catalog, "mine").items()}
    assert reasons == {
        "bad/syntax": (3, "not valid TOML: Invalid value"),
        "other/name": (3, "[step] tags must be a list, not a string"),
        "bad/bytes": (2, "step.toml is not UTF-8: invalid continuation byte"),
        "bad/directory": (None, "step.toml is a directory, not a file"),
        "bad/link": (None, "step.toml is a symbolic link; a catalog holds the file itself"),
        "bad/dangling": (None, "step.toml is a symbolic link; a catalog holds the file itself"),
        "bad/pipe": (None, "step.toml is a pipe, not a file"),
        "bad/huge": (None, "step.toml is larger than 1 MiB"),
        "bad/header": (2, "not valid TOML: Expected ']' at the end of a table declaration"),
    }


def test_a_file_that_may_not_be_read_is_broken(root, write_step, load, monkeypatch):
    secret = write_step(root, "bad/secret") / "step.toml"
    write_step(root, "good/one")
    secret.chmod(0)
    if os.geteuid() == 0:  # root reads everything
        read_bytes = Path.read_bytes

        def refuse(path):
            if path == secret:
                raise PermissionError(13, "Permission denied")
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
    catalog = load(root)
    assert ids(catalog.steps, "mine") == ["good/one"]
    assert broken_in(catalog, "mine")["bad/secret"].problem == "step.toml cannot be read: Permission denied"


def test_a_directory_that_may_not_be_read_is_listed(root, write_step, load, monkeypatch):
    closed = write_step(root, "closed/step").parent
    write_step(root, "good/one")
    closed.chmod(0)
    if os.geteuid() == 0:
        scandir = os.scandir

        def refuse(path):
            if str(path) == str(closed):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    catalog = load(root)
    closed.chmod(0o755)
    assert ids(catalog.steps, "mine") == ["good/one"]
    assert broken_in(catalog, "mine")["closed"].problem == "directory cannot be read: Permission denied"


def test_links_are_entered_once_and_loops_end(root, tmp_path, write_step, load):
    write_step(root, "a/step")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "0-alias").symlink_to(root / "a")
    write_step(tmp_path / "elsewhere", "linked", "")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    catalog = load(root)
    assert ids(catalog.steps, "mine") == ["a/step", "b/linked"]
    assert not broken_in(catalog, "mine")
    assert catalog.get("a/step").directory == root / "a" / "step"


def test_an_id_twice_in_one_root_breaks_both(root, write_step, load):
    one = write_step(root, "a/one", '[step]\n\nid = "same/id"\n')
    two = write_step(root, "a/two", '[step]\nid = "same/id"\n')
    write_step(root, "a/three")
    catalog = load(root)
    assert ids(catalog.steps, "mine") == ["a/three"]
    first, second = (entry for entry in catalog.broken if entry.id == "same/id")
    assert (first.path, first.line) == (one / "step.toml", 3)
    assert str(two / "step.toml") in first.problem
    assert str(one / "step.toml") in second.problem
    with pytest.raises(CheckFailed, match="is also that of"):
        catalog.get("same/id")


def test_the_first_root_wins_a_bare_id_and_the_other_stays_reachable(tmp_path, write_step, load):
    for name in ("first", "second", "third"):
        write_step(tmp_path / name, "a/b")
    write_step(tmp_path / "second", "only/here")
    catalog = load(tmp_path / "first", tmp_path / "second", tmp_path / "third")
    assert catalog.get("a/b").root == "first"
    assert catalog.get("first:a/b") is catalog.get("a/b")
    assert catalog.get("third:a/b").root == "third"
    assert [(step.root, step.id) for step in catalog.shadowed] == [("second", "a/b"), ("third", "a/b")]
    assert catalog.get("only/here").root == catalog.get("second:only/here").root == "second"
    with pytest.raises(NotFound, match="there is no step 'first:only/here'"):
        catalog.get("first:only/here")


def test_a_broken_step_is_not_replaced_by_the_one_it_shadows(tmp_path, write_step, load):
    write_step(tmp_path / "first", "a/b", "[step\n")
    write_step(tmp_path / "second", "a/b")
    catalog = load(tmp_path / "first", tmp_path / "second")
    with pytest.raises(CheckFailed, match="a/b is broken: not valid TOML") as caught:
        catalog.get("a/b")
    assert caught.value.where == f"{tmp_path}/first/a/b/step.toml:1"
    assert catalog.get("second:a/b").root == "second"


def test_an_id_is_exact_and_the_error_names_the_nearest(root, write_step, load):
    write_step(root, "rl/nemo_rl/rlhf")
    write_step(root, "sft/automodel")
    catalog = load(root)
    with pytest.raises(NotFound) as caught:
        catalog.get("rlhf")
    assert caught.value.nearest == ("rl/nemo_rl/rlhf",)
    assert caught.value.exit_code == 3
    with pytest.raises(NotFound) as caught:
        catalog.get("mine:rlhf")
    assert caught.value.nearest == ("mine:rl/nemo_rl/rlhf",)
    with pytest.raises(NotFound, match="no catalog root is named 'mien'") as caught:
        catalog.get("mien:sft/automodel")
    assert caught.value.nearest == ("mine",)
    for odd in ("", ":", "mine:", "rl/nemo_rl", "RL/nemo_rl/rlhf", "rl/nemo_rl/rlhf/"):
        with pytest.raises(NotFound):
            catalog.get(odd)


def test_broken_types_are_listed_and_the_steps_still_load(root, write_step, load):
    write_step(root, "a/b", '[[consumes]]\ntype = "chats"\n')
    (root / "types.toml").write_text('[chats]\nis_a = "rows"\n')
    catalog = load(root)
    entry = broken_in(catalog, "mine")["mine:types.toml"]
    assert (entry.line, entry.problem) == (2, "[chats] is_a must be a list, not a string")
    assert ids(catalog.steps, "mine") == ["a/b"]


def test_the_whole_catalog_shows_in_json(tmp_path, write_step, load):
    write_step(tmp_path / "first", "a/b")
    write_step(tmp_path / "first", "bad", "[")
    write_step(tmp_path / "second", "a/b")
    catalog = load(tmp_path / "first", tmp_path / "second", tmp_path / "gone")
    shown = json.loads(json.dumps(catalog.as_dict(), allow_nan=False))
    assert [root["name"] for root in shown["roots"]] == ["first", "second", "gone", "nemotron"]
    assert shown["roots"][2]["problem"] == "catalog root does not exist"
    assert [step["id"] for step in shown["steps"] if step["root"] == "first"] == ["a/b"]
    assert [step["root"] for step in shown["shadowed"] if step["id"] == "a/b"] == ["second"]
    assert [(entry["id"], entry["line"]) for entry in shown["broken"]] == [("bad", 1), ("gone:*", None)]
    assert shown == json.loads(json.dumps(catalog.as_dict()))
