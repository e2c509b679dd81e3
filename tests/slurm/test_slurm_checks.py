"""What is told wrong of a plan before Slurm is asked, and what is read of its answers. No cluster needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_plans import make_plan

from nemotron.errors import SchedulerError
from nemotron.launch.slurm.backend import BACKEND
from nemotron.launch.slurm.call import call
from nemotron.launch.slurm.container import is_below, outermost
from nemotron.launch.slurm.states import expanded, sacct_rows, squeue_rows
from nemotron.planning.plan import PlannedInput, PlannedOutput

IMAGE = "nvcr.io/nvidia/nemo-rl:v0.6.0"
LUSTRE = ("/lustre:/lustre",)


def ids(**plan: Any) -> list[tuple[str, str | None]]:
    return [(f.id, f.where) for f in BACKEND.check(make_plan(**plan))]


def policy(path: str, **more: Any) -> PlannedInput:
    return PlannedInput("policy", ("checkpoint_hf",), "pinned", "policy.model_name", path=path, **more)


def test_a_plan_that_is_all_right_has_no_findings() -> None:
    assert (
        ids(image=IMAGE, mounts=LUSTRE, inputs=(policy("/lustre/models/a"),), config={"x": "/lustre/data"})
        == []
    )
    assert ids(inputs=(policy("/anywhere/a"),), config={"x": "/anywhere/b"}) == []


@pytest.mark.parametrize(
    ("plan", "where"),
    [
        ({"inputs": (policy("/data/models/a"),)}, "policy.model_name"),
        ({"inputs": (policy("/lustre2/a"),)}, "policy.model_name"),
        ({"outputs": (PlannedOutput("policy", "checkpoint_hf", "/results/a", "out"),)}, "out"),
        ({"config": {"data": {"train": [{"path": "/data/set/rows.jsonl"}]}}}, "data.train.0.path"),
        ({"environment": {"HF_HOME": "/cache/huggingface"}}, "env_vars.HF_HOME"),
        ({"environment": {"NEMO_GYM_VENV_DIR": "/cache/venvs"}}, "env_vars.NEMO_GYM_VENV_DIR"),
        ({"config": {}, "placement_config": {"logger.log_dir": "/logs/of/it"}}, "logger.log_dir"),
    ],
)
def test_a_path_that_no_mount_covers_is_an_error_with_the_mount_to_add(
    plan: dict[str, Any], where: str
) -> None:
    made = dict(plan)
    found = BACKEND.check(_with_config(made))
    assert [(f.id, f.severity, f.where) for f in found] == [("mount.uncovered", "error", where)]
    assert 'mounts = ["/' in str(found[0].fix) and found[0].valid == "/lustre"


def _with_config(plan: dict[str, Any]) -> Any:
    from dataclasses import replace

    placed = plan.pop("placement_config", {})
    made = make_plan(image=IMAGE, mounts=LUSTRE, **plan)
    return replace(made, placement=replace(made.placement, config=placed))


@pytest.mark.parametrize(
    "plan",
    [
        {"inputs": (policy("/data/a", made_by="rl-rlhf-20261121-153742-ab12"),)},
        {"inputs": (policy("/data/a"),), "stub": True},
        {
            "config": {
                "venv": "/opt/ray_venvs/x",
                "tmp": "/tmp/x/y",
                "prompt": "/no_think",
                "text": "/a/b is it",
            }
        },
        {"environment": {"HF_HOME": "{run_dir}/cache/hf", "PYTHONPATH": "/a/b:/c/d", "GREETING": "/a/b"}},
        {"run_root": "/shared/runs", "config": {"x": "/shared/runs/earlier"}},
    ],
)
def test_what_a_container_sees_anyway_or_has_of_its_own_is_no_finding(plan: dict[str, Any]) -> None:
    assert ids(image=IMAGE, mounts=LUSTRE, **plan) == []


@pytest.mark.parametrize(
    ("placement", "found"),
    [
        ({"nodes": 0}, "slurm.shape"),
        ({"nodes": 2}, "slurm.idle_nodes"),
        ({"save_before": 70000}, "slurm.signal"),
        ({"options": {"signal": "B:TERM@60"}, "save_before": 60}, "slurm.signal_name"),
        ({"chain": 3}, "slurm.endless_chain"),
        ({"options": {"ntasks_per_node": 8}}, "slurm.tasks"),
        ({"options": {"tunnel": "ssh"}}, "slurm.tunnel"),
        ({"options": {"ray_sub": True}}, "slurm.ray_sub"),
        ({"options": {"force_squash": True}}, "slurm.force_squash"),
    ],
)
def test_shapes_and_options_that_mean_something_else_are_told(placement: dict[str, Any], found: str) -> None:
    assert [each for each, _ in ids(**placement)] == [found]


def test_an_own_run_directory_that_cannot_be_mounted_is_an_error() -> None:
    assert ids(image=IMAGE, mounts=LUSTRE, run_root="/a b") == [("mount.path", "remote_job_dir")]


def test_without_slurm_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert BACKEND.probe({}) is None
    with pytest.raises(SchedulerError, match="sbatch is not on PATH"):
        call(["sbatch"], seconds=1)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1", ("n1",)),
        ("n[1-2]", ("n1", "n2")),
        ("gpu[008-010,12],head", ("gpu008", "gpu009", "gpu010", "gpu12", "head")),
        ("a-[1]-ib,b", ("a-1-ib", "b")),
        ("None assigned", ()),
        ("", ()),
        ("n[1-999999999]", ("n[1-999999999]",)),
    ],
)
def test_lists_of_nodes_are_read(text: str, nodes: tuple[str, ...]) -> None:
    assert expanded(text) == nodes


@given(st.text())
def test_nothing_that_a_scheduler_prints_makes_reading_fail(text: str) -> None:
    expanded(text)
    list(squeue_rows(text))
    list(sacct_rows(text))


@pytest.mark.parametrize(
    ("line", "state", "code"),
    [
        ("COMPLETED|0:0", "succeeded", 0),
        ("FAILED|7:0", "failed", 7),
        ("FAILED|0:9", "failed", 137),
        ("CANCELLED by 1000|0:15", "cancelled", 143),
        ("TIMEOUT|0:0", "timeout", 0),
        ("NODE_FAIL|0:0", "node_fail", 0),
        ("OUT_OF_MEMORY|0:125", "out_of_memory", 253),
        ("PREEMPTED|0:0", "preempted", 0),
        ("RUNNING|0:0", "running", None),
        ("REQUEUED|0:0", "pending", None),
        ("SOMETHING_NEW|0:0", "unknown", None),
    ],
)
def test_states_of_sacct_are_read(line: str, state: str, code: int | None) -> None:
    times = "2026-11-21T16:10:37|Unknown|2026-11-21T16:10:36"
    (row,) = sacct_rows(f"5|rl-1|{line}|None|{times}|n[1-2]|sbatch --chdir=/a b submit.sh 2 8 /x\n")
    assert (row.status.state, row.status.exit_code, row.part, row.name) == (state, code, 2, "rl-1")
    assert row.submitted == "2026-11-21T16:10:36.000Z"


def test_directories_within_others_are_mounted_once() -> None:
    assert outermost(["/a/b/c", "/a/b", "/ab", "/a/b/"]) == ("/a/b", "/ab")


paths = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


@given(st.lists(paths))
def test_every_directory_is_in_exactly_one_of_the_outermost(several: list[str]) -> None:
    kept = outermost(several)
    assert all(sum(is_below(path, place) for place in kept) == 1 for path in several)
