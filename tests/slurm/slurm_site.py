"""The command line on the cluster: a profile, a store and a small catalog, as on a login node."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_cluster import Cluster, wait_until

from nemotron.artifacts.submissions import Journal, Submission

PROFILE = """\
[cluster]
executor = "slurm"
account = "research"
partition = "batch"
time = 10
"""


@dataclass(frozen=True)
class Site:
    """One user of the cluster."""

    world: Any
    cluster: Cluster

    @property
    def work(self) -> Path:
        """The working directory, where the profiles are."""
        return self.world.work  # type: ignore[no-any-return]

    def run(self, *words: str, timeout: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
        """A whole `nemotron` process."""
        return subprocess.run(
            self.world.command(*words),
            cwd=self.work,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A `nemotron` process that goes on; whatever of it is left is killed after the test."""
        self.world.environ.update(self.environ)
        return self.world.start(*words)  # type: ignore[no-any-return]

    @property
    def environ(self) -> dict[str, str]:
        """That of the user's commands."""
        ours = {name: self.cluster.environ[name] for name in ("SLURM_CONF", "PATH")}
        return self.world.environ | ours  # type: ignore[no-any-return]

    def submit(self, step: str, *words: str, **environ: str) -> str:
        """Submit a step, detached; the run's id."""
        done = self.run("steps", "run", step, "-b", "cluster", *words, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def listed(self) -> dict[str, dict[str, Any]]:
        """`runs list` of a new process, by run."""
        done = self.run("runs", "list", "--json")
        assert done.returncode == 0, done.stderr
        runs = json.loads(done.stdout)["runs"]
        assert len({run["run"] for run in runs}) == len(runs)
        return {run["run"]: run for run in runs}

    def wait(self, *runs: str, timeout: float = 120) -> tuple[int, list[str]]:
        """What `runs wait` says: its exit code, and the state of each run."""
        done = self.run("runs", "wait", *runs, "--json", timeout=timeout)
        return done.returncode, [each["state"] for each in json.loads(done.stdout)["runs"]]

    def directory(self, run: str) -> Path:
        """A run's directory."""
        return self.world.home / "runs" / run  # type: ignore[no-any-return]

    def jobs(self, run: str) -> tuple[Submission, ...]:
        """The jobs that were handed over for a run."""
        return Journal(self.directory(run)).submitted()

    def job(self, run: str) -> str:
        """The id of its only job."""
        (job,) = self.jobs(run)
        return job.job

    def json(self, run: str, name: str) -> dict[str, Any]:
        """A file of a run."""
        return json.loads((self.directory(run) / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def text(self, run: str, name: str) -> str:
        """A file of a run."""
        return (self.directory(run) / name).read_text(encoding="utf-8", errors="replace")

    def until_started(self, run: str, times: int = 1) -> None:
        """Wait until its trainer has been started so many times."""
        starts = self.directory(run) / "starts"
        wait_until(
            lambda: starts.exists() and len(starts.read_text().split()) >= times, f"{run} does not start"
        )

    def queue(self) -> list[str]:
        """The jobs that wait or run."""
        return self.cluster.run(["squeue", "-h", "-o", "%A"]).stdout.split()
