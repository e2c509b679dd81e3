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
import yaml

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

    def config(self) -> dict[str, Any]:
        """The trainer's config."""
        loaded: dict[str, Any] = yaml.safe_load((self.directory / "config.yaml").read_text(encoding="utf-8"))
        return loaded

    def training_times(self) -> tuple[float, float]:
        """When training began, and when its last step ended."""
        lines = (self.directory / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        return (
            next(e["at"] for e in events if e["event"] == "start"),
            max(e["at"] for e in events if e["event"] == "step"),
        )


@dataclass
class Lab:
    """A store and the command line that works on it."""

    root: Path
    ended: dict[str, Ended] = field(default_factory=dict)
    chain_records: list[dict[str, Any]] = field(default_factory=list)

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

    def starts(self, store: str = "store") -> list[int]:
        """The steps that trainers of this store began to train after, oldest run first."""
        paths = sorted((self.root / store / "runs").glob("*/timings.jsonl"))
        return [step for path in paths for step in starts_in(path)]

    def run_and_kill(self, *words: str, kills: int, whole: Ended, seed: int) -> tuple[Ended, int]:
        """Run a command that is killed with SIGKILL `kills` times at random moments, and then once more.

        Every third time before there is anything to resume from in that attempt (planning, importing,
        loading), otherwise in the midst of training. whole: an undisturbed run, whose times the moments
        are drawn from. Returns the end of the last one, and how many kills came before the run had ended.
        """
        draw = random.Random(seed)
        first, last = whole.training_times()
        landed = 0
        for number in range(kills):
            begun = len(self.starts())
            process = self.start(*words)
            if number % 3 == 0:
                wait = draw.uniform(0.05, 0.95) * (whole.seconds - (last - first))
            else:
                while len(self.starts()) == begun and process.poll() is None:
                    time.sleep(0.05)
                wait = draw.uniform(0.05, 0.5) * (last - first)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                landed += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
        return self.run(*words), landed


def starts_in(timings: Path) -> list[int]:
    """The step each attempt of a run that came to train began after."""
    events = [json.loads(line) for line in timings.read_text(encoding="utf-8").splitlines()]
    return [event["step"] for event in events if event["event"] == "start"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """An empty store in which the first command has built the whole chain: data, model, judge, policy."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    made.ended["rlhf"] = made.run("rl/nemo_rl/rlhf", "-c", "tiny")
    made.chain_records += made.records()
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
    """The tiny data by its tables' names, the models `sft` and `judge`, and `policy`: `sft` as Megatron."""
    place = json.loads((lab.ended["rlhf"].directory / "place.json").read_text(encoding="utf-8"))
    bound = {port: Path(each["path"]) for port, each in place["inputs"].items()}
    tables = {path.stem: path for path in bound["prompts"].parent.glob("*.jsonl")}
    (outputs,) = lab.ended["rlhf"].directory.parent.glob("sft-nemo_rl-*/outputs.json")
    sft = Path(json.loads(outputs.read_text(encoding="utf-8"))["model"]["path"])
    return Built({**tables, "sft": sft, "policy": bound["policy"], "judge": bound["reward_model"]})
