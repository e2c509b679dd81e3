"""Steps on two nodes: one Ray cluster over both, torchrun on both, and a node that is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import wait_until
from slurm_site import Site

pytestmark = pytest.mark.slurm

STEP = """
    [step]
    id = "{id}"
    description = "Tells what it sees of the nodes."

    [[produces]]
    name = "seen"
    type = "eval_results"
    config = "output"

    [run]
    engines = ["script"]
    launch = "LAUNCH"
    nodes = 2
    gpus_per_node = 2
"""
CONFIG = """
    behave: write
    output: seen.json
"""
BEGIN = """
import json, os, sys, time
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text(encoding="utf-8"))
"""
END = """
if config["behave"] == "fail":
    sys.exit(9)
if config["behave"] == "stay":
    with Path("starts").open("a") as file:
        file.write("1\\n")
    time.sleep(600)
Path(config["output"]).write_text(json.dumps(seen))
"""
DRIVER = (
    BEGIN
    + """
import ray

ray.init(address="auto", log_to_driver=False)


@ray.remote(num_gpus=2, num_cpus=1)
def where():
    time.sleep(1)
    return os.environ.get("SLURM_NODEID"), ray.get_gpu_ids()


told = ray.get([where.remote() for _ in range(2)])
alive = [node for node in ray.nodes() if node["Alive"]]
seen = {"nodes": len(alive), "gpus": ray.cluster_resources()["GPU"], "ids": sorted(id for id, _ in told)}
"""
    + END
)
WORKER = (
    BEGIN
    + """
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
nodes = [None] * world
dist.all_gather_object(nodes, os.environ["SLURM_NODEID"])
seen = {"world": world, "total": total.item(), "nodes": sorted(set(nodes))}
if rank:
    sys.exit(0)
"""
    + END
)
# Without torch it starts as soon as its launcher does.
STAYER = BEGIN + "seen = {}\n" + END


@pytest.fixture
def nodes(site: Site) -> Site:
    for name, script in (("ray", DRIVER), ("torchrun", WORKER), ("stay", STAYER)):
        toml = STEP.replace("LAUNCH", "ray" if name == "ray" else "torchrun")
        site.world.add_step(f"on/{name}", toml, configs={"default": CONFIG}, script=script)
    return site


@pytest.mark.ray
def test_the_driver_sees_one_ray_cluster_over_both_nodes(nodes: Site) -> None:
    run = nodes.submit("on/ray")
    code, states = nodes.wait(run, timeout=240)
    assert (code, states) == (0, ["succeeded"]), nodes.run("runs", "show", run).stdout
    seen = json.loads(nodes.text(run, "seen.json"))
    assert seen == {"nodes": 2, "gpus": 4.0, "ids": ["0", "1"]}


@pytest.mark.ray
def test_a_driver_that_fails_ends_the_job_with_its_exit_code(nodes: Site) -> None:
    run = nodes.submit("on/ray", "behave=fail")
    assert nodes.wait(run, timeout=240) == (9, ["failed"])
    assert nodes.cluster.exit_code(nodes.job(run)) == "9:0"
    assert nodes.queue() == []


def test_torchrun_has_the_right_world_on_both_nodes(nodes: Site) -> None:
    run = nodes.submit("on/torchrun")
    code, states = nodes.wait(run, timeout=240)
    assert (code, states) == (0, ["succeeded"]), nodes.run("runs", "show", run).stdout
    seen = json.loads(nodes.text(run, "seen.json"))
    assert seen == {"world": 4, "total": 10.0, "nodes": ["0", "1"]}


def test_a_run_whose_node_is_lost_goes_on_when_there_are_nodes_again(nodes: Site) -> None:
    run = nodes.submit("on/stay", "behave=stay", "run.env.gpus_per_node=1")
    wait_until((nodes.directory(run) / "starts").exists, "it does not start", 180)
    nodes.cluster.fail_node("n2")
    wait_until(lambda: nodes.listed()[run]["state"] == "queued", "the job is not requeued")
    config = nodes.directory(run) / "config.yaml"
    config.write_text(config.read_text().replace("stay", "write"))
    # It may have come back by itself.
    nodes.cluster.run(["scontrol", "update", "NodeName=n2", "State=RESUME"])
    code, states = nodes.wait(run, timeout=240)
    assert (code, states) == (0, ["succeeded"]), nodes.run("runs", "show", run).stdout
    assert nodes.json(run, "record.json")["attempt"] == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_node_that_dies_ends_the_attempt_with_its_name(nodes: Site) -> None:
    run = nodes.submit("on/ray", "behave=stay", "run.env.sbatch.no-requeue=true")
    wait_until((nodes.directory(run) / "starts").exists, "it does not start", 180)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            is_worker = b"SLURM_NODEID=1\0" in (process / "environ").read_bytes()
        except OSError:
            continue
        if is_worker and b"raylet/raylet" in words:
            os.kill(int(process.name), signal.SIGKILL)
    code, states = nodes.wait(run, timeout=240)
    assert states != ["succeeded"] and code != 0
    assert "node 1 (n2)" in nodes.json(run, "failure.json")["what"]
