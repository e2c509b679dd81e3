"""What a run records of code that is not committed, and that asking for it runs nobody's program."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from nemotron.sources import checkout as module
from nemotron.sources.bundle import CodeBundle, bundle_code, write_code
from nemotron.sources.checkout import CheckoutState, checkout_state, without_secrets

IDENTITY = ("-c", "user.name=somebody", "-c", "user.email=s@example.com", "-c", "commit.gpgsign=false")


def git(place: Path, *words: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *words], cwd=place, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(place: Path) -> str:
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "a state")
    return git(place, "rev-parse", "HEAD")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project with one step, committed."""
    place = tmp_path / "project"
    (place / "steps/mine").mkdir(parents=True)
    (place / "steps/mine/step.toml").write_text("[step]\n")
    (place / "steps/mine/step.py").write_text("import helper\nprint('one')\nprint('two')\n")
    (place / "steps/mine/data.bin").write_bytes(b"\0\1")
    (place / "helper.py").write_text("x = 1\n")
    (place / "unrelated.py").write_text("y = 1\n")
    git(place, "init", "-q")
    commit(place)
    return place


def bundle(place: Path) -> CodeBundle:
    return bundle_code(place / "steps/mine", place / "steps/mine/step.py")


def applied(place: Path, text: str, tmp_path: Path) -> Path:
    """A fresh copy of the commit with the differences applied."""
    copy = tmp_path / "copy"
    git(place, "worktree", "add", "-q", "--detach", str(copy), "HEAD")
    subprocess.run(["patch", "-p1", "-s"], cwd=copy, input=text.encode(), check=True)
    return copy


def test_committed_code_has_a_commit_and_no_difference(place: Path, tmp_path: Path) -> None:
    made = bundle(place)
    assert (made.commit, made.dirty, made.diff) == (git(place, "rev-parse", "HEAD"), None, "")
    write_code(made, tmp_path / "run/code")
    assert not (tmp_path / "run/code.diff").exists()


def test_a_touched_file_is_no_difference(place: Path) -> None:
    os.utime(place / "steps/mine/step.py", (1, 1))
    assert bundle(place).dirty is None
    assert checkout_state(place).dirty_digest is None


def test_the_difference_is_that_of_the_files_that_travel(place: Path, tmp_path: Path) -> None:
    (place / "steps/mine/step.py").write_text("import helper\nimport added\nprint('one')\nprint('three')\n")
    (place / "added.py").write_text("no line feed at the end")
    (place / "unrelated.py").write_text("changed\n")
    (place / "also_new.py").write_text("changed\n")
    made = bundle(place)
    assert made.dirty is not None
    assert "unrelated" not in made.diff and "also_new" not in made.diff
    write_code(made, tmp_path / "run/code")
    diff = (tmp_path / "run/code.diff").read_text()
    assert (tmp_path / "run/code.diff").stat().st_mode & 0o022 == 0
    assert diff == made.diff
    if shutil.which("patch"):
        copy = applied(place, diff, tmp_path)
        for name, path in made.files.items():
            assert (copy / name).read_bytes() == path.read_bytes()
        assert (copy / "unrelated.py").read_text() == "y = 1\n"


def test_staged_changes_are_differences_too(place: Path) -> None:
    (place / "helper.py").write_text("x = 2\n")
    before = bundle(place)
    git(place, "add", "helper.py")
    assert bundle(place).dirty == before.dirty is not None
    assert "+x = 2" in before.diff


def test_a_deleted_file_of_the_step_is_a_difference(place: Path) -> None:
    (place / "steps/mine/data.bin").unlink()
    made = bundle(place)
    assert made.dirty is not None
    assert "data.bin" in made.diff


@pytest.mark.parametrize("change", ["content", "mode", "kind"])
def test_every_kind_of_change_changes_the_digest(place: Path, change: str) -> None:
    path = place / "steps/mine/data.bin"
    if change == "content":
        path.write_bytes(b"\0\2")
    elif change == "mode":
        path.chmod(0o755)
    else:
        path.unlink()
        path.symlink_to("step.toml")
    made, whole = bundle(place), checkout_state(place)
    assert made.dirty is not None and made.dirty == whole.dirty_digest
    assert "# steps/mine/data.bin differs" in made.diff


def test_equal_changes_have_equal_digests(place: Path) -> None:
    states = []
    for text in ("x = 2\n", "x = 3\n", "x = 2\n"):
        (place / "helper.py").write_text(text)
        states.append(bundle(place).dirty)
    assert states[0] == states[2] != states[1]


def test_a_checkout_before_its_first_commit(tmp_path: Path) -> None:
    (tmp_path / "p/mine").mkdir(parents=True)
    (tmp_path / "p/mine/step.py").write_text("pass\n")
    git(tmp_path / "p", "init", "-q")
    made = bundle_code(tmp_path / "p/mine", tmp_path / "p/mine/step.py")
    assert made.commit is None
    assert "+pass" in made.diff


def test_no_checkout_has_no_state(tmp_path: Path) -> None:
    assert checkout_state(tmp_path) == CheckoutState()


def test_the_state_of_a_checkout_is_that_of_all_tracked_files_and_new_code(place: Path) -> None:
    head = git(place, "rev-parse", "HEAD")
    assert checkout_state(place) == CheckoutState(head)
    (place / "unrelated.py").write_text("changed\n")
    (place / "new.py").write_text("new\n")
    (place / "logs").mkdir()
    (place / "logs/run.log").write_text("not code\n")
    state = checkout_state(place / "steps")
    assert state.commit == head
    assert state.dirty_digest is not None
    assert "+++ b/unrelated.py" in state.diff_text and "+++ b/new.py" in state.diff_text
    assert "run.log" not in state.diff_text


def test_a_patched_submodule_is_part_of_the_state(place: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "gym.py").write_text("a = 1\n")
    git(inner, "init", "-q")
    commit(inner)
    git(place, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "3rdparty/gym")
    commit(place)
    assert checkout_state(place).dirty_digest is None
    (place / "3rdparty/gym/gym.py").write_text("a = 2\n")
    edited = checkout_state(place)
    assert "+++ b/3rdparty/gym/gym.py" in edited.diff_text
    commit(place / "3rdparty/gym")
    moved = checkout_state(place)
    assert moved.dirty_digest not in (None, edited.dirty_digest)


def test_files_outside_of_a_sparse_checkout_are_no_differences(place: Path) -> None:
    git(place, "sparse-checkout", "set", "--no-cone", "/steps/")
    assert not (place / "unrelated.py").exists()
    assert checkout_state(place).dirty_digest is None


def test_long_differences_are_cut_and_still_counted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 2000)
    for number in range(30):
        (place / f"new{number:02}.py").write_text("x\n" * 100)
    state = checkout_state(place)
    assert len(state.diff_text) < 2200
    assert "more files differ" in state.diff_text.splitlines()[-1]
    (place / "new29.py").write_text("y\n" * 100)
    assert checkout_state(place).dirty_digest != state.dirty_digest


def test_a_huge_changed_file_takes_no_time(place: Path) -> None:
    (place / "helper.py").write_text("".join(f"x{n} = {n}\n" for n in range(400_000)))
    begun = time.process_time()
    assert "helper.py differs" in bundle(place).diff
    assert time.process_time() - begun < 3


SECRETS = {
    "hf": 'token = "hf_abcdefghijklmnopqrstuvwx"',
    "key": 'OPENAI_API_KEY = "0123456789abcdef"',
    "password": "  password: 'hunter22hunter'",
    "nvapi": "use(nvapi-abcdefghijklmnopqrstuvwxyz0123)",
    "aws": "AKIAABCDEFGHIJKLMNOP",
    "json": '{"wandb_api_key": "0123456789abcdef0123"}',
}


@pytest.mark.parametrize("line", SECRETS.values(), ids=SECRETS)
def test_what_looks_like_a_secret_is_not_in_the_difference(place: Path, line: str) -> None:
    (place / "helper.py").write_text(f"x = 1\n{line}\n")
    diff = bundle(place).diff
    assert "***" in diff
    assert not [s for s in ("abcdef", "0123456789", "hunter22", "ABCDEFGH") if s in diff]


@pytest.mark.parametrize(
    "line",
    ['max_tokens = "many words"', "api_key = os.environ['KEY']", 'chat_key = "messages"', "risk-averse"],
)
def test_what_is_no_secret_is_shown(line: str) -> None:
    assert without_secrets(line) == line


def test_private_files_of_a_checkout_are_named_and_not_shown(place: Path) -> None:
    (place / "env.toml").write_text("a = 1\n")
    commit(place)
    (place / "env.toml").write_text("b = 'the value'\n")
    state = checkout_state(place)
    assert state.dirty_digest is not None
    assert "env.toml differs" in state.diff_text
    assert "the value" not in state.diff_text


def test_no_program_that_a_checkout_names_is_run(place: Path, tmp_path: Path) -> None:
    """Drivers, filters, hooks and monitors of somebody else's checkout would run as we do."""
    marker = tmp_path / "RAN"
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho ran >> {marker}\ncat\n")
    trap.chmod(0o755)
    attributes = "* filter=trap diff=trap text\n"
    (place / ".gitattributes").write_text(attributes)
    (place / ".git/info").mkdir(exist_ok=True)
    (place / ".git/info/attributes").write_text(attributes)
    for key in (
        "filter.trap.clean", "filter.trap.smudge", "filter.trap.process", "diff.trap.command",
        "diff.trap.textconv", "diff.external", "core.fsmonitor", "core.pager", "core.sshCommand",
    ):  # fmt: skip
        git(place, "config", key, str(trap))
    for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout", "reference-transaction"):
        (place / ".git/hooks").mkdir(exist_ok=True)
        shutil.copy(trap, place / ".git/hooks" / hook)
    marker.unlink(missing_ok=True)
    (place / "helper.py").write_text("x = 2\n")  # in the second of the commit, too: git would look inside
    made, state = bundle(place), checkout_state(place)
    assert "+x = 2" in made.diff and "+x = 2" in state.diff_text
    assert not marker.exists()
    git(place, "status")
    assert marker.exists(), "the traps do work"


def test_nothing_is_fetched(place: Path, tmp_path: Path) -> None:
    """In a partial clone git fetches what is missing, with a command that the checkout's config names."""
    marker = tmp_path / "RAN"
    digest = git(place, "rev-parse", "HEAD:helper.py")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {marker}\n")
    trap.chmod(0o755)
    git(place, "config", "remote.origin.url", f"ext::{trap}")
    git(place, "config", "remote.origin.promisor", "true")
    git(place, "config", "extensions.partialClone", "origin")
    git(place, "config", "protocol.ext.allow", "always")
    git(place, "config", "core.repositoryformatversion", "1")
    (place / ".git/objects" / digest[:2] / digest[2:]).unlink()
    (place / "helper.py").write_text("x = 2\n")
    made = bundle(place)
    assert made.dirty is not None
    assert "# helper.py differs" in made.diff
    assert not marker.exists()
    subprocess.run(["git", "cat-file", "blob", digest], cwd=place, capture_output=True, check=False)
    assert marker.exists(), "the trap does work"


def test_the_index_is_not_written(place: Path) -> None:
    os.utime(place / "helper.py", (1, 1))
    before = (place / ".git/index").read_bytes(), sorted((place / ".git").iterdir())
    bundle(place)
    checkout_state(place)
    assert ((place / ".git/index").read_bytes(), sorted((place / ".git").iterdir())) == before
