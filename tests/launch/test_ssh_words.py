"""What a remote login shell is handed means the same to every kind of shell, whatever the words are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.errors import UsageError
from nemotron.launch.ssh.login import login_of
from nemotron.launch.ssh.place import site_of
from nemotron.launch.ssh.words import MARK, remote_command

# The same texts as on Slurm.
sys.path.append(str(Path(__file__).parents[1] / "slurm"))
from test_slurm_strings import CANARY, WANTED, hostile

SHELLS = [name for name in ("sh", "bash", "dash", "zsh", "tcsh", "fish", "ksh") if shutil.which(name)]
DUMP = "import json, os, sys; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"
SHARP = (
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "'",
    '"',
    "\\",
    "\n",
    "!!",
    "$$",
    "~",
    "*",
    "-x",
    "é",
    "",
    " ",
)
TEXTS = st.lists(
    st.one_of(st.sampled_from(SHARP), st.text(st.characters(exclude_characters="\0"), max_size=6)), max_size=5
).map("".join)


def ran(shell: str, words: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([shell, "-c", remote_command(words, cwd=str(cwd))], capture_output=True, timeout=60)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
def test_words_arrive_byte_for_byte(shell: str, texts: list[str], tmp_path: Path) -> None:
    texts = [t for t in texts if not any("\ud800" <= c <= "\udfff" for c in t)]
    place = tmp_path / "it's $(touch x)"
    place.mkdir(exist_ok=True)
    done = ran(shell, [sys.executable, "-c", DUMP, *texts], place)
    greeting, _, said = done.stdout.partition(f"{MARK}\n".encode())
    assert greeting == b"" and done.returncode == 0, done.stderr
    assert json.loads(said) == [os.fsencode(text).hex() for text in texts]
    assert list(place.iterdir()) == []


def test_a_command_sees_no_variable_that_changes_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/somewhere else")
    out = ran("sh", ["env"], tmp_path).stdout.decode()
    assert "SBATCH" not in out and "SLURM_CONF=/somewhere else\n" in out


def test_what_no_command_line_holds_is_refused() -> None:
    for word in ("\0", "x" * 100_000):
        with pytest.raises(UsageError):
            remote_command(["true", word])


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({}, "host"),
        ({"host": "-oProxyCommand=touch x"}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "h", "user": "-x"}, "user"),
        ({"host": "h", "user": "$(touch x)"}, "user"),
        ({"host": "h", "identity": "${HOME}"}, "identity"),
    ],
)
def test_what_ssh_would_read_as_something_else_is_refused(values: dict[str, str], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        login_of({"tunnel": "ssh", **values})
    assert caught.value.where == where


@pytest.mark.parametrize("root", [None, "runs", "~/runs", "/a/../b", "/a\nb", "/a\\b"])
def test_a_directory_of_runs_is_an_absolute_path(root: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        site_of({"tunnel": "ssh", "host": "h", "remote_job_dir": root})
    assert caught.value.where == "remote_job_dir"


def test_hostile_directories_are_made_as_they_are_or_refused(tmp_path: Path) -> None:
    made = refused = 0
    for number, text in enumerate(hostile(f"touch {tmp_path}/{CANARY}")):
        name = text.replace("/", "_").encode("utf-8", "surrogateescape")[:180].decode(errors="ignore")
        root = f"{tmp_path}/{number}/{name}."
        try:
            site = site_of({"tunnel": "ssh", "host": "h", "remote_job_dir": root})
        except UsageError as problem:
            refused += problem.where == "remote_job_dir"
            continue
        assert site is not None and site.root == root
        words = ["/bin/sh", "-c", 'mkdir -p -- "$1" && cd -- "$1" && touch here', "sh", site.root]
        done = subprocess.run(["bash", "-c", remote_command(words)], capture_output=True, cwd=tmp_path)
        assert done.returncode == 0 and (Path(root) / "here").is_file(), done.stderr
        made += 1
    assert made + refused == WANTED and made > refused > 0
    assert not [path for path in tmp_path.rglob(CANARY) if path.name == CANARY]


def test_hostile_hosts_users_and_keys_are_words_or_refused() -> None:
    for text in hostile("touch x"):
        for name in ("host", "user", "identity"):
            try:
                login = login_of({"tunnel": "ssh", "host": "h", name: text})
            except UsageError as problem:
                assert problem.where == name
                continue
            assert login is not None
            if text:
                assert getattr(login, name) == text and not (name != "identity" and text.startswith("-"))


def test_without_a_tunnel_there_is_no_other_machine() -> None:
    assert login_of({"host": "h"}) is None and site_of({"host": "h"}) is None
