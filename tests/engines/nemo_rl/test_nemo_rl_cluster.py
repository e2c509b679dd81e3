"""From a shipped NeMo-RL config to what a cluster's job runs.

NeMo-RL cannot run here: `stand_in.py` takes its place, and says what it stands in for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_in
import yaml

from nemotron.artifacts.records import ArtifactRecord, read_records
from nemotron.artifacts.runs import Run
from nemotron.artifacts.settle import settle
from nemotron.artifacts.store import find_store
from nemotron.findings import errors_in
from nemotron.job.stub.types import Wanted, stub_content
from nemotron.launch.bundle import write_bundle
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request

STEPS = {
    "sft/nemo_rl": {"data": "training_jsonl", "validation": "training_jsonl", "model": "checkpoint_hf"},
    "rm/nemo_rl": {"data": "preference_jsonl", "validation": "preference_jsonl", "model": "checkpoint_hf"},
    "rl/nemo_rl/dpo": {
        "data": "preference_jsonl",
        "validation": "preference_jsonl",
        "policy": "checkpoint_hf",
    },
    "rl/nemo_rl/rlhf": {
        "prompts": "prompt_jsonl",
        "validation": "prompt_jsonl",
        "policy": "checkpoint_hf",
        "reward_model": "reward_model_hf",
    },
}
SECTION = {"sft/nemo_rl": "sft", "rm/nemo_rl": "rm", "rl/nemo_rl/dpo": "dpo", "rl/nemo_rl/rlhf": "grpo"}
JUDGE = "env.nemo_gym.genrm_model.responses_api_models.genrm_model.model"
ROWS = 1280
USER = {"role": "user", "content": "What is 2+2?"}


class Cluster:
    """A project with a Slurm profile, inputs for every step, and a `uv` that is the stand-in."""

    def __init__(self, root: Path, time_limit: str = "04:00:00") -> None:
        self.root = root
        (root / "env.toml").write_text(
            f'[c]\nexecutor = "slurm"\naccount = "a"\npartition = "p"\ntime = "{time_limit}"\n',
            encoding="utf-8",
        )
        (root / "bin").mkdir()
        uv = root / "bin" / "uv"
        uv.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in.__file__} "$@"\n', encoding="utf-8")
        uv.chmod(0o755)
        self.environ = {
            "HOME": str(root),
            "NEMOTRON_ENV_FILE": str(root / "env.toml"),
            "NEMOTRON_HOME": str(root / "home"),
            "XDG_CACHE_HOME": str(root / "cache"),
        }

    def inputs(self, step: str) -> dict[str, str]:
        """A path for each port of a step."""
        return {port: str(self._made(port, kind)) for port, kind in STEPS[step].items()}

    def _made(self, port: str, kind: str) -> Path:
        path = self.root / f"{port}-{kind}"
        content = stub_content(Wanted(kind, path))
        if isinstance(content, bytes):
            row = json.loads(content.splitlines()[0])
            path.write_text(
                "".join(json.dumps({**row, "n": n}) + "\n" for n in range(ROWS)), encoding="utf-8"
            )
            return path
        for name, data in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def plan(self, step: str, *overrides: str, **more: Any) -> Plan:
        """The plan of a step's default config on the profile."""
        # Its inputs are stubs: the stand-in trains on nothing.
        more = {"waived": ("input.stub",), **more}
        request = Request(step, "default", overrides, self.inputs(step), profile="c", **more)
        return plan_step(request, environ=self.environ, cwd=self.root)

    def bundle(self, plan: Plan, name: str = "run-1") -> Path:
        """The run directory of a plan. Its image is left out: there is no container here."""
        directory = self.root / "runs" / name
        directory.mkdir(parents=True)
        placement = replace(plan.placement, image=None, mounts=())
        write_bundle(directory, replace(plan, placement=placement), find_store(self.environ, self.root))
        return directory

    def start(self, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """What a job of one node runs, on a cluster that Ray runs on already."""
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environ = {"PATH": path, "HOME": str(self.root), "NEMOTRON_NODES": "1", "NEMOTRON_RAY": "external"}
        return subprocess.run(
            ["bash", str(directory / "launch.sh")],
            env={**environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def records(self) -> dict[str, ArtifactRecord]:
        """The artifacts that are recorded, by id."""
        found = read_records(find_store(self.environ, self.root).records_dir)
        return {r.id: r for r in found if isinstance(r, ArtifactRecord)}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def short(step: str, steps: int = 6) -> list[str]:
    """A shipped config, only shorter."""
    section = SECTION[step]
    return [f"{section}.max_num_steps={steps}", f"{section}.val_period=2", "checkpointing.save_period=2"]


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def config_of(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("step", STEPS)
def test_a_shipped_config_compiles_to_what_the_framework_accepts(cluster: Cluster, step: str) -> None:
    plan = cluster.plan(step, *short(step))
    assert [f.render() for f in errors_in(plan.findings)] == []
    directory = cluster.bundle(plan)
    config = config_of(directory)
    assert config["checkpointing"]["checkpoint_dir"] == str(directory / "checkpoints")
    assert config["logger"]["log_dir"] == str(directory / "logs")
    assert "${" not in (directory / "config.yaml").read_text(encoding="utf-8")
    ended = cluster.start(directory)
    log = (directory / "logs" / "attempt-1.log").read_text(encoding="utf-8")
    assert ended.returncode == 0, ended.stderr + log
    assert [row["train/reward"] for row in rows_of(directory) if row.get("train/reward")] == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6,
    ]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_the_best_checkpoint_becomes_the_output_and_all_are_recorded(cluster: Cluster, step: str) -> None:
    directory = cluster.bundle(cluster.plan(step, *short(step)))
    assert cluster.start(directory).returncode == 0
    run = Run(directory)
    [(port, output)] = run.record["outputs"].items()
    assert output["step_of_training"] == 4, "the stand-in is best in the middle"
    saved = {f"run-1.{port}.step_{number}" for number in (2, 4, 6)}
    assert set(cluster.records()) == saved
    store = find_store(cluster.environ, cluster.root)
    assert errors_in(settle(store, run, cluster.environ)) == ()
    [chosen] = set(cluster.records()) - saved
    assert cluster.records()[chosen].digest.startswith("blake3:")


def test_an_allocation_that_is_too_short_is_gone_on_from(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, time_limit="00:10")
    plan = cluster.plan("sft/nemo_rl", *short("sft/nemo_rl", 14), place=replace(Request("").place, chain=3))
    assert plan.placement.config["checkpointing.checkpoint_must_save_by"] == "00:00:00:04"
    assert plan.planned_steps == 10, "the rows of one epoch"
    directory = cluster.bundle(plan)
    reasons = []
    for part in ("1", "2", "3"):
        allocation = {"NEMOTRON_PART": part, "NEMOTRON_PARTS": "3", "NEMOTRON_JOB_ID": part}
        deadline = str(int(time.time()) + 10)
        cluster.start(directory, STAND_IN_STEP_SECONDS="0.5", NEMOTRON_DEADLINE=deadline, **allocation)
        reasons.append(Run(directory).record.get("reason"))
    assert reasons == ["walltime", None, None]
    assert sorted(path.name for path in (directory / "logs").glob("exp_*")) == ["exp_001", "exp_002"]
    trained = [row["step"] for row in rows_of(directory) if "train/loss" in row]
    assert trained == list(range(1, 11)), "each step once, whichever allocation it was in"


def test_a_trainer_that_fails_is_resumed_where_it_saved(cluster: Cluster) -> None:
    directory = cluster.bundle(cluster.plan("sft/nemo_rl", *short("sft/nemo_rl")))
    assert cluster.start(directory, STAND_IN_FAIL_AT="4").returncode == 3
    assert cluster.start(directory).returncode == 0
    steps = [row["step"] for row in rows_of(directory) if "train/loss" in row]
    assert steps == [1, 2, 3, 3, 4, 5, 6]


class TestJudge:
    def test_the_bound_judge_is_the_one_that_is_asked(self, cluster: Cluster) -> None:
        plan = cluster.plan("rl/nemo_rl/rlhf", "grpo.num_generations_per_prompt=16")
        config = config_of(cluster.bundle(plan))
        told = stand_in.judge(config)
        assert told == {
            "server": "genrm_model",
            "model": cluster.inputs("rl/nemo_rl/rlhf")["reward_model"],
        }
        assert config["env"]["nemo_gym"]["genrm_model_name"] == told["model"]
        assert config["data"]["validation"]["repeat"] == 16

    def test_a_compare_server_that_calls_another_is_refused(self, cluster: Cluster) -> None:
        compare = "env.nemo_gym.genrm_compare_resources_server.resources_servers.genrm_compare"
        other = {"genrm_model": {"entrypoint": "app.py", "model": "/other", "vllm_serve_kwargs": {}}}
        plan = cluster.plan(
            "rl/nemo_rl/rlhf",
            f"{compare}.genrm_model_server.name=other",
            f"+env.nemo_gym.other={json.dumps({'responses_api_models': other})}",
        )
        [found] = [f for f in errors_in(plan.findings) if f.id == "nemo_rl.judge_input"]
        assert "calls other, which serves /other" in found.message
        assert found.fix == f"{compare}.genrm_model_server.name=genrm_model"


def test_the_shape_of_a_plan_is_the_config_s(cluster: Cluster) -> None:
    plan = cluster.plan("rl/nemo_rl/rlhf", "cluster.num_nodes=2")
    assert (plan.placement.nodes, plan.placement.launch) == (3, "ray")
    assert [f for f in errors_in(plan.findings) if "node" in f.id] == []


@pytest.mark.parametrize("step", STEPS)
def test_the_output_lies_where_the_framework_saves_it(cluster: Cluster, step: str) -> None:
    [output] = cluster.plan(step).outputs
    consolidated: Mapping[str, str] = {"rm/nemo_rl": "policy/weights/model/consolidated"}
    assert output.inside == consolidated.get(step, "policy/weights")
