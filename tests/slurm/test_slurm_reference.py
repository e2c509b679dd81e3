"""The commands of the reference document, as written there, with the shipped profiles on a real Slurm."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from slurm_site import Site

pytestmark = pytest.mark.slurm

PROFILES = Path(__file__).parents[2] / "profiles"
# The document's examples, as they stand there; the one that trains here is in tests/e2e.
TINY = "nemotron steps run rl/nemo_rl/rlhf -c tiny"
DRY_RUN = "nemotron steps run rl/nemo_rl/rlhf -c default --dry-run"
LEPTON = """\
nemotron steps run rl/nemo_rl/rlhf -c default -r lepton_rl_nemo_rl_rlhf \
env.nemo_gym.genrm_model.responses_api_models.vllm_model.model=nvidia/Nemotron-Reward-Model \
grpo.num_generations_per_prompt=16"""
SLURM = """\
nemotron steps run rl/nemo_rl/rlhf -c default -b slurm_rl_nemo_rl_rlhf \
grpo.max_num_steps=1000 \
data.train.data_path=/lustre/rlhf/train.jsonl \
data.validation.data_path=/lustre/rlhf/val.jsonl"""


@pytest.fixture
def shipped(site: Site) -> Site:
    """The working directory has the shipped profiles, the directory of the site's shared storage in them."""
    texts = [(PROFILES / name).read_text(encoding="utf-8") for name in ("slurm.toml", "lepton.toml")]
    shared = site.world.root / "lustre"
    shared.mkdir()
    text = "\n".join(texts).replace("/lustre", str(shared))
    (site.work / "env.toml").write_text(text, encoding="utf-8")
    return site


def words(command: str) -> list[str]:
    return shlex.split(command)[1:]


def test_the_slurm_command_is_submitted_as_a_stub(shipped: Site) -> None:
    done = shipped.run(*words(SLURM), "--stub")
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    first = shipped.cluster.describe(shipped.jobs(run)[0].job)
    assert "NumNodes=2" in first and "gres/gpu=16" in first and "TimeLimit=04:00:00" in first
    code, states = shipped.wait(run)
    assert (code, states) == (0, ["succeeded"]), shipped.run("runs", "logs", run).stdout
    assert len(shipped.jobs(run)) == 8 and shipped.queue() == []
    made = shipped.json(run, "outputs.json")["policy"]
    assert made["type"] == "checkpoint_megatron"
    assert shipped.json(run, "plan.json")["recipe"]["config"]["grpo"]["max_num_steps"] == 1000


def test_shared_storage_that_is_elsewhere_is_named_by_the_run(site: Site) -> None:
    there = str(site.world.root / "nowhere")
    text = (PROFILES / "slurm.toml").read_text(encoding="utf-8").replace("/lustre", there)
    (site.work / "env.toml").write_text(text, encoding="utf-8")
    run = site.run(*words(SLURM), "--stub").stdout.strip()
    code, states = site.wait(run)
    assert code != 0 and states == ["failed"]
    assert f"cannot mount {there}" in site.json(run, "failure.json")["what"]
    assert f"cannot mount {there}" in site.run("runs", "logs", run).stdout


def test_the_slurm_command_asks_for_a_policy_alone(shipped: Site) -> None:
    refused = shipped.run(*words(SLURM.replace("/lustre", str(shipped.world.root / "lustre"))))
    assert refused.returncode == 4
    assert refused.stderr.count("is bound to nothing") == 1 and "-i policy=PATH" in refused.stderr
    assert shipped.queue() == []


def test_the_lepton_command_is_shown(shipped: Site) -> None:
    shown = shipped.run(*words(LEPTON), "-d")
    assert shown.returncode == 0, shown.stderr
    for said in (
        "lepton, profile lepton_rl_nemo_rl_rlhf",
        "grpo.num_generations_per_prompt = 16",
        "reward_model: hf://nvidia/Nemotron-Reward-Model",
        "HF_TOKEN (secret",
    ):
        assert said in shown.stdout


@pytest.mark.parametrize("command", [TINY + " --dry-run", DRY_RUN])
def test_the_commands_for_this_machine_are_shown(shipped: Site, command: str) -> None:
    shown = shipped.run(*words(command))
    assert shown.returncode == 0, shown.stderr
    assert shipped.world.runs() == []


@pytest.mark.slow
def test_rlhf_tiny_is_trained_on_the_cluster_with_all_that_it_builds_on(site: Site) -> None:
    words = ("rl/nemo_rl/rlhf", "-c", "tiny", "--engine", "embedded")
    first = site.run("steps", "run", *words, "-b", "cluster", "--json", timeout=300)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert len(told["before"]) == 5
    code, states = site.wait(*told["before"], told["run"], timeout=900)
    assert code == 0 and set(states) == {"succeeded"}
    lineage = site.run("artifacts", "lineage", told["run"]).stdout
    assert all(run in lineage for run in told["before"])
    again = json.loads(site.run("steps", "run", *words, "-r", "cluster", "--json", timeout=300).stdout)
    assert (again["outcome"], again["run"], again["jobs"]) == ("reused", told["run"], [])
    attached = site.run("steps", "run", *words, "-r", "cluster", "grpo.max_num_steps=1", timeout=600)
    assert attached.returncode == 0, attached.stderr
    # What it is built upon is there.
    assert attached.stderr.count("submitted") == 1 and "'reward'" in attached.stdout
