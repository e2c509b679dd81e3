"""Who wins: the recipe owns image and shape, the profile logistics, the command line comes last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.errors import UsageError
from nemotron.planning.build import plan_step
from nemotron.planning.place import Place
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request
from nemotron.planning.walltime import save_before, seconds_of

PROFILES = """
[cluster]
executor = "slurm"
container_image = "registry.example.com/ours:1"
nodes = 5
gpus_per_node = 4
partition = "batch"
run_partition = "interactive"
time = "04:00:00"
mounts = ["/data:/data"]
chain = 3
must_save_before = 10
workspace = "/data/work"
setup_lines = ["module load x"]
startup_commands = ["ulimit -n 1000"]
[cluster.env_vars]
HF_HOME = "/data/hf"
HF_TOKEN = "${oc.env:HF_TOKEN,}"
[cluster.sbatch]
qos = "high"

[here]
executor = "local"
[here.env_vars]
FLAVOUR = "local"
"""
RLHF = "rl/nemo_rl/rlhf"


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    (tmp_path / "env.toml").write_text(PROFILES, encoding="utf-8")

    def plan(step: str, *overrides: str, environ: Mapping[str, str] | None = None, **more: Any) -> Plan:
        place = Place(**more.pop("place", {}))
        more.setdefault("profile", "cluster")
        request = Request(step, overrides=overrides, place=place, **more)
        environ = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), **(environ or {})}
        return plan_step(request, environ=environ, cwd=tmp_path)

    return plan


def ignored(plan: Plan) -> str:
    return "\n".join(f"{what}: {why}" for what, why in plan.placement.ignored)


def test_the_recipe_owns_image_and_shape_and_says_what_lost(planned: Any) -> None:
    place = planned(RLHF, config="default").placement
    assert (place.backend, place.launch) == ("slurm", "ray")
    assert (place.image, place.nodes, place.gpus_per_node) == ("nvcr.io/nvidia/nemo-rl:v0.6.0", 2, 8)
    lost = ignored(planned(RLHF, config="default"))
    assert "container_image = registry.example.com/ours:1 (profile cluster" in lost
    assert "nodes = 5 (profile cluster" in lost and "cluster.num_nodes" in lost
    assert "gpus_per_node = 4" in lost


def test_the_profile_owns_logistics(planned: Any) -> None:
    place = planned(RLHF, config="default").placement
    assert place.options["time"] == "04:00:00"
    assert place.options["sbatch"] == {"qos": "high"}
    assert place.chain == 3
    assert place.save_before == 600
    assert place.mounts[0] == "/data:/data"
    assert place.environment["HF_HOME"] == "/data/hf"
    assert place.environment["NEMOTRON_WORKSPACE"] == "/data/work"
    assert place.setup == ("module load x",)
    assert place.startup == ("ulimit -n 1000",)
    assert place.secrets == ("HF_TOKEN",)
    assert "HF_TOKEN" not in place.environment


def test_the_partition_is_that_of_attached_or_detached_runs(planned: Any) -> None:
    assert planned(RLHF, place={"attached": True}).placement.options["partition"] == "interactive"
    assert planned(RLHF, place={"attached": False}).placement.options["partition"] == "batch"


def test_the_command_line_comes_last(planned: Any) -> None:
    plan = planned(
        RLHF,
        "run.env.container_image=/data/mine.sqsh",
        "run.env.time=30",
        "run.env.env_vars.HF_HOME=/data/other",
        place={"chain": 7},
    )
    place = plan.placement
    assert (place.image, plan.recipe.image) == ("/data/mine.sqsh", "/data/mine.sqsh")
    assert (str(place.options["time"]), place.save_before, place.chain) == ("30", 600, 7)
    assert place.environment["HF_HOME"] == "/data/other"
    assert "time = 04:00:00 (profile cluster" in ignored(plan)


def test_nodes_that_do_not_add_up_are_an_error(planned: Any) -> None:
    found = planned(RLHF, "run.env.nodes=3").findings
    (finding,) = [f for f in found if f.id == "place.nodes"]
    assert finding.severity == "error" and "3 nodes" in finding.message and "2" in str(finding.fix)


def test_a_script_takes_nodes_and_image_of_the_profile(planned: Any) -> None:
    plan = planned("data_prep/scratch", "run.env.nodes=1")
    assert plan.placement.image == "registry.example.com/ours:1"
    assert plan.placement.argv[:2] == ("python3", "{run_dir}/code/nemotron/steps/data_prep/scratch/step.py")
    assert plan.recipe.image == plan.placement.image


def test_the_embedded_engine_is_named_and_needs_one_gpu(planned: Any) -> None:
    plan = planned(RLHF, config="tiny", engine="embedded")
    assert plan.recipe.engine == "embedded"
    assert (plan.placement.launch, plan.placement.nodes, plan.placement.gpus_per_node) == ("python", 1, 1)
    assert {each.recipe.engine for _, each in plan.builds} <= {"embedded", "script"}
    assert {each.placement.backend for _, each in plan.builds} == {"slurm"}


def test_with_a_profile_the_engine_is_the_clusters(planned: Any) -> None:
    assert planned(RLHF).recipe.engine == "nemo_rl"
    assert planned(RLHF, config="tiny", profile=None).recipe.engine == "embedded"
    assert planned(RLHF, config="tiny", profile="here").recipe.engine == "embedded"


def test_a_local_profile_is_here_with_its_environment(planned: Any) -> None:
    place = planned(RLHF, config="tiny", profile="here").placement
    assert (place.backend, place.environment["FLAVOUR"], place.profile) == ("local", "local", "here")


def test_another_partition_is_the_same_recipe(planned: Any) -> None:
    first, second = planned(RLHF), planned(RLHF, "run.env.partition=other")
    assert first.placement.options != second.placement.options
    assert first.recipe == second.recipe


def test_what_sbatch_would_read_is_in_the_plan(planned: Any) -> None:
    environ = {"SBATCH_ACCOUNT": "ours", "SBATCH_RESERVATION": "night", "SBATCH_PARTITION": "lost"}
    options = planned(RLHF, environ=environ, place={"attached": False}).placement.options
    assert (options["account"], options["partition"]) == ("ours", "batch")
    assert options["sbatch"] == {"reservation": "night", "qos": "high"}


def test_time_to_save_reaches_nemo_rl(planned: Any) -> None:
    assert planned(RLHF).placement.config["checkpointing.checkpoint_must_save_by"] == "00:03:35:00"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run.env.nods=2",), "nods"),
        (("+run.env.nods=2",), "run.env.nods is no key of a place"),
        (("run.env.nodes=many",), "run.env.nodes must be a whole number"),
        (("run.env.time=soon",), "no time limit"),
        (("run.env.time=5",), "save 600 s before the end of an allocation of 300 s"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(planned: Any, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(RLHF, *words)


def test_a_secret_in_a_config_is_an_error(planned: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = "defaults: default\nrun:\n  env:\n    env_vars:\n      WANDB_API_KEY: abcdefgh12345678\n"
    file.write_text(text, encoding="utf-8")
    plan = planned(RLHF, config=str(file))
    assert "place.secret_in_config" in {f.id for f in plan.findings}


def test_a_stub_is_another_engine_and_reads_nothing(planned: Any) -> None:
    plan = planned(RLHF, place={"stub": True})
    assert plan.recipe.engine == "stub"
    assert plan.placement.argv == ("python3", "-I", "{run_dir}/runtime/stub.py")
    assert not [f for f in plan.findings if f.severity in ("error", "warning") and f.id == "input.unbound"]
    assert (plan.placement.nodes, plan.placement.gpus_per_node) == (2, 8)


def test_a_plan_of_a_place_is_the_same_after_json(planned: Any) -> None:
    plan = planned(RLHF, place={"stub": True, "attached": False})
    assert Plan.from_dict(plan.as_dict()) == plan


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (30, 1800),
        ("30", 1800),
        ("10:30", 630),
        ("04:00:00", 14400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-00:00:10", 172810),
        ("UNLIMITED", None),
        (None, None),
    ],
)
def test_time_limits_as_slurm_writes_them(time: object, seconds: int | None) -> None:
    assert seconds_of(time) == seconds


@given(st.integers(1, 10_000_000))
def test_time_to_save_leaves_time_to_train(seconds: int) -> None:
    asked = save_before(None, None, seconds)
    assert asked is not None and 0 <= asked <= max(seconds // 2, 0)


def test_the_time_of_a_signal_counts_where_no_minutes_are_given() -> None:
    assert save_before(None, "B:USR1@120", 3600) == 120
    assert save_before(3, "USR1@120", 3600) == 180
    assert save_before(3, None, None) is None
