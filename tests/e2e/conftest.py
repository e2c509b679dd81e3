"""The whole thing for real: a store of its own, built once by the command a newcomer types first."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Slow machines train slowly; what hangs is still found.
PATIENCE = 900.0
OURS = ("NEMOTRON_", "RL_", "HF_", "WANDB_", "SLURM_", "NRL_", "GPUS_PER", "OMP_", "MKL_")


@dataclass(frozen=True)
class Ended:
    """One `steps run --json` that ended well."""

    run: str
    outcome: str
    directory: Path
    outputs: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    seconds: float
    cpu_seconds: float

    def output(self, port: str) -> Path:
        """Where an output lies."""
        return Path(self.outputs[port]["path"])

    def rows(self) -> list[dict[str, Any]]:
        """Its metrics."""
        text = (self.directory / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class Lab:
    """A store and the command line that works on it."""

    root: Path
    ended: dict[str, Ended] = field(default_factory=dict)

    def environ(self, store: str) -> dict[str, str]:
        """The environment of a command: ours alone, and no network."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        place = {"NEMOTRON_HOME": str(self.root / store), "XDG_CACHE_HOME": str(self.root / "cache")}
        return {**kept, **place, "HF_HUB_OFFLINE": "1"}

    def start(self, *words: str, store: str = "store") -> subprocess.Popen[str]:
        """A `steps run` process that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "nemotron", "steps", "run", *words, "--json"],
            cwd=self.root,
            env=self.environ(store),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, store: str = "store") -> Ended:
        """A whole `steps run`; it must end well."""
        begun, used = time.monotonic(), os.times()
        process = self.start(*words, store=store)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err[-3000:]
        told, after = json.loads(out), os.times()
        return Ended(
            told["run"],
            told["outcome"],
            Path(told["directory"]),
            told["outputs"],
            told["summary"],
            time.monotonic() - begun,
            after.children_user + after.children_system - used.children_user - used.children_system,
        )

    def records(self, store: str = "store") -> list[dict[str, Any]]:
        """Every record of a store."""
        paths = sorted((self.root / store / "records").rglob("*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def run_and_kill(self, *words: str, kills: int, seconds: float, seed: int) -> tuple[Ended, int]:
        """Run a command that is killed with SIGKILL `kills` times at random moments, and then once more.

        seconds: what an undisturbed run takes; the moments are drawn from it. Returns the end of the
        last one, and how many kills came before the run had ended.
        """
        draw = random.Random(seed)
        landed = 0
        for _ in range(kills):
            process = self.start(*words)
            try:
                process.wait(draw.uniform(0.1, 0.95) * seconds)
            except subprocess.TimeoutExpired:
                landed += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
        return self.run(*words), landed


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """An empty store in which the first command has built the whole chain: data, model, judge, policy."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    made.ended["rlhf"] = made.run("rl/nemo_rl/rlhf", "-c", "tiny")
    return made


@dataclass(frozen=True)
class Built:
    """What the chain has built, to be bound by path."""

    paths: dict[str, Path]

    def words(self, **ports: str) -> list[str]:
        """`words(policy="sft")`: the `-i` words that bind ports to built things."""
        return [word for port, name in ports.items() for word in ("-i", f"{port}={self.paths[name]}")]


@pytest.fixture(scope="session")
def built(lab: Lab) -> Built:
    """The tiny data by its tables' names, and the models `sft` and `judge`."""
    place = json.loads((lab.ended["rlhf"].directory / "place.json").read_text(encoding="utf-8"))
    bound = {port: Path(each["path"]) for port, each in place["inputs"].items()}
    tables = {path.stem: path for path in bound["prompts"].parent.glob("*.jsonl")}
    return Built({**tables, "sft": bound["policy"], "judge": bound["reward_model"]})
