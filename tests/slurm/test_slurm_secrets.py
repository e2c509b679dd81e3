"""A secret's value is in one file that only its owner can read, for as long as the run needs it."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from slurm_cluster import wait_until
from slurm_site import Site

pytestmark = pytest.mark.slurm

SECRET = "hf_" + "s3cr3t0fTheTest" * 2
# The trainer keeps it in its environment, and starts children that inherit it.
PROFILE = """
[cluster.env_vars]
HF_TOKEN = "${oc.env:HF_TOKEN}"
"""


@pytest.fixture
def keeps_secret(site: Site) -> Site:
    with (site.work / "env.toml").open("a", encoding="utf-8") as file:
        file.write(PROFILE)
    return site


def holding(site: Site) -> list[Path]:
    """Every file of the store, the work directory and the whole cluster that holds the secret."""
    places = (site.world.root, site.cluster.layout.root)
    found = []
    for path in (p for place in places for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            if SECRET.encode() in path.read_bytes():
                found.append(path)
        except FileNotFoundError:
            continue  # a file of the scheduler that is gone by now
    return found


class Watched(threading.Thread):
    """Every argument list that any process of this machine has while it runs, looked through."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.looks = 0
        self.found: set[bytes] = set()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:
                    continue
                if SECRET.encode() in words:
                    self.found.add(words)


def test_a_secret_is_in_no_file_but_its_own_and_in_no_argument_list(keeps_secret: Site) -> None:
    site, watched = keeps_secret, Watched()
    watched.start()
    gate = site.work / "gate"
    run = site.submit("make/rows", "behave=gate", f"text={gate}", HF_TOKEN=SECRET)
    site.until_started(run)
    secrets = site.directory(run) / ".secrets"
    assert holding(site) == [secrets]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "hf_s3" in site.text(run, "logs/attempt-1.log")
    for words in (["show", "job", site.job(run)], ["write", "batch_script", site.job(run), "-"]):
        shown = site.cluster.run(["scontrol", *words], check=True).stdout
        assert shown and SECRET not in shown
    gate.touch()
    assert site.wait(run) == (0, ["succeeded"])
    watched.over.set()
    watched.join()
    assert watched.found == set() and watched.looks > 20
    kept = ["sacct", "--env-vars", "--noheader", "--jobs"]
    wait_until(lambda: "SLURM" in site.cluster.run([*kept, site.job(run)]).stdout, "accounting does not tell")
    assert SECRET not in site.cluster.run([*kept, site.job(run)]).stdout
    assert holding(site) == []


def test_a_secret_goes_with_a_cancelled_and_with_a_refused_run(keeps_secret: Site) -> None:
    site = keeps_secret
    run = site.submit("make/rows", "run.env.sbatch.hold=true", HF_TOKEN=SECRET)
    assert holding(site) == [site.directory(run) / ".secrets"]
    assert site.run("runs", "cancel", run).returncode == 0
    assert holding(site) == []
    words = ("steps", "run", "make/rows", "-b", "cluster", "rows=9", "run.env.sbatch.begin=nonsense")
    refused = site.run(*words, HF_TOKEN=SECRET)
    assert refused.returncode != 0 and "sbatch" in refused.stderr and SECRET not in refused.stderr
    assert holding(site) == []


def test_a_secret_outlives_a_requeue(keeps_secret: Site) -> None:
    site = keeps_secret
    run = site.submit("make/rows", "behave=sleep_once", HF_TOKEN=SECRET)
    site.until_started(run)
    site.cluster.run(["scontrol", "requeue", site.job(run)], check=True)
    assert site.wait(run) == (0, ["succeeded"])
    assert "hf_s3" in site.text(run, "logs/attempt-2.log")
    assert holding(site) == []


def test_a_secret_that_is_not_set_is_refused_by_name(keeps_secret: Site) -> None:
    refused = keeps_secret.run("steps", "run", "make/rows", "-b", "cluster")
    assert refused.returncode == 2 and "HF_TOKEN" in refused.stderr
    assert keeps_secret.queue() == [] and keeps_secret.world.runs() == []
