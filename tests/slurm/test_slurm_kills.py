"""The client is killed with SIGKILL at every step of submitting: no job is lost or submitted twice."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys

import pytest
from slurm_cluster import wait_until
from slurm_site import Site

pytestmark = pytest.mark.slurm

# In front of the real sbatch: the client is its parent.
SBATCH = """\
#!/usr/bin/env bash
if [ "{when}" = before ]; then kill -KILL "$PPID"; exit 1; fi
if [ "{when}" = during ]; then kill -KILL "$PPID"; fi
out=$({sbatch} "$@"); code=$?
echo "$out"
if [ "{when}" = after ]; then kill -KILL "$PPID"; fi
exit "$code"
"""
# A client that is killed before it writes one of its files, or right after it has.
CLIENT = """\
import os, signal, sys
from pathlib import Path

from nemotron.launch import submit
from nemotron.artifacts import submissions

name, moment, skipped = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]


def killing(function, matches):
    count = iter(range(1000))

    def call(*args, **kwargs):
        mine = matches(args) and next(count) == skipped
        if mine and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if name in ("submitting", "submitted"):
    note = submissions.Journal.note
    submissions.Journal.note = killing(note, lambda args: args[1] == name)
else:
    setattr(submit, name, killing(getattr(submit, name), lambda args: True))
from nemotron.__main__ import main

main()
"""


def killed_client(site: Site, *where: str, words: tuple[str, ...] = ()) -> None:
    """`steps run make/rows -b cluster`, killed where it is said."""
    command = [sys.executable, "-c", CLIENT, *where, "steps", "run", "make/rows", "-b", "cluster", *words]
    done = subprocess.run(
        command, cwd=site.work, env=site.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(
    ("where", "jobs"),
    [
        (("write_bundle", "after", "0"), 0),
        (("submitting", "before", "0"), 0),
        (("submitting", "after", "0"), 0),
        (("submitted", "before", "0"), 1),
        (("submitted", "after", "0"), 1),
        (("write_record", "before", "0"), 1),
        (("write_record", "after", "0"), 1),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_client_that_is_killed_between_two_steps_loses_no_job(
    site: Site, where: tuple[str, ...], jobs: int
) -> None:
    killed_client(site, *where)
    check(site, jobs)


def test_a_client_that_is_killed_before_there_is_a_plan_leaves_an_empty_directory(site: Site) -> None:
    killed_client(site, "write_bundle", "before", "0")
    assert [told["backend"] for told in site.listed().values()] == [None] and site.queue() == []
    run = site.submit("make/rows")
    assert site.wait(run) == (0, ["succeeded"])
    assert site.run("steps", "run", "make/rows", "-b", "cluster").stdout.strip() == run


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("during", 1), ("after", 1)])
def test_a_client_that_is_killed_while_sbatch_works_loses_no_job(site: Site, when: str, jobs: int) -> None:
    directory = site.work / "bin"
    directory.mkdir()
    real = site.cluster.run(["which", "sbatch"]).stdout.strip()
    wrapper = directory / "sbatch"
    wrapper.write_text(SBATCH.format(when=when, sbatch=real))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    path = f"{directory}:{site.environ['PATH']}"
    done = site.run("steps", "run", "make/rows", "-b", "cluster", PATH=path)
    assert done.returncode == -9, done.stderr
    if jobs:  # sbatch goes on without its client
        wait_until(lambda: bool(named_jobs(site)), "sbatch does not submit")
    check(site, jobs)


def test_a_client_that_is_killed_between_two_parts_of_a_chain_leaves_one_run(site: Site) -> None:
    killed_client(site, "submitting", "after", "1", words=("--chain", "3"))
    check(site, 1)


def named_jobs(site: Site) -> list[str]:
    """The jobs that Slurm knows under the names of runs."""
    runs = {directory.name for directory in site.world.runs()}
    known = site.cluster.run(["squeue", "-h", "--states=all", "-o", "%j %A"]).stdout.splitlines()
    return sorted(line.split()[1] for line in known if line.split()[0] in runs)


def check(site: Site, jobs: int) -> None:
    """`runs list` of a new process shows the run once, with its job; the same command submits no second."""
    (directory,) = site.world.runs()
    run, listed = directory.name, site.listed()
    assert list(listed) == [run]
    mine = named_jobs(site)
    assert len(mine) == jobs and mine == [job.job for job in site.jobs(run)]
    again = site.run("steps", "run", "make/rows", "-b", "cluster", "--json")
    if jobs:
        assert listed[run]["state"] in ("queued", "running", "succeeded")
        assert again.returncode == 5 or json.loads(again.stdout)["outcome"] == "reused", again.stderr
        assert site.wait(run) == (0, ["succeeded"])
        assert len(site.jobs(run)) == jobs
        return
    if listed[run]["state"] == "unknown":
        # Its job may be on its way, for all that is known.
        assert again.returncode == 5 and "was being submitted" in again.stderr
        journal = directory / "submissions.jsonl"
        journal.write_text(re.sub(r'"at": "20', '"at": "19', journal.read_text()))
        assert site.listed()[run]["state"] == "prepared"
        again = site.run("steps", "run", "make/rows", "-b", "cluster", "--json")
    assert json.loads(again.stdout)["run"] == run
    assert site.wait(run) == (0, ["succeeded"])
