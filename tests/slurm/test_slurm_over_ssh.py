"""Slurm from a laptop: a real sshd with a jump host in front of the real scheduler."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster
from ssh_laptop import TOKEN, Laptop, laptop, server, sockets
from ssh_server import SshServer

pytestmark = pytest.mark.slurm
__all__ = ["laptop", "server", "sockets"]


def test_a_run_from_a_laptop_ends_as_one_from_the_login_node(laptop: Laptop, cluster: Cluster) -> None:
    run = laptop.submitted("make/rows", HF_TOKEN=TOKEN)
    here, there = laptop.home / "runs" / run, laptop.there / run
    waited = laptop.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    assert (there / "rows.jsonl").is_file() and not (here / "rows.jsonl").exists()
    # What the cluster has is what is here, but for places.
    for name in ("plan.json", "launch.sh", "submit.sh", "task.sh", "recipe"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    record = json.loads((here / "record.json").read_text())
    assert record["exit_code"] == 0
    assert record["outputs"]["rows"]["path"] == str(there / "rows.jsonl")
    phases = {p.name.split(".")[-2] for p in (laptop.home / "records").rglob(f"attempt-{run}-*.json")}
    assert {"submitted", "started", "ended"} <= phases
    shown = laptop.run("runs", "show", run)
    assert "login" in shown.out and str(there) in shown.out
    assert "written" in laptop.run("runs", "logs", run).out
    (listed,) = laptop.run("runs", "list", "--json").json["runs"]
    assert (listed["state"], listed["run"]) == ("succeeded", run)


def test_the_plan_is_that_of_the_login_node_but_for_its_placement(laptop: Laptop, cluster: Cluster) -> None:
    plans = [
        json.loads(laptop.run("steps", "run", "use/count", "-c", "built", "-b", name, "-d", "--json").out)
        for name in ("cluster", "laptop")
    ]
    for plan in plans:
        for each in (plan, *(b["plan"] for b in plan["builds"])):
            each.pop("placement")
            each.pop("digest", None)
            each.pop("findings")
    assert json.dumps(plans[0], sort_keys=True) == json.dumps(plans[1], sort_keys=True)


def test_a_failing_run_is_told_with_its_own_exit_code(laptop: Laptop) -> None:
    done = laptop.run("steps", "run", "make/rows", "behave=fail", "-r", "laptop")
    assert done.code == 7
    assert "the reason is in this line" in done.out


def test_a_log_is_followed(laptop: Laptop, wait_for: Callable[..., Any]) -> None:
    gate = laptop.work / "open"
    run = laptop.submitted("make/rows", "behave=gate", f"text={gate}")
    follower = laptop.start("runs", "logs", run, "-f")
    log = laptop.home / "runs" / run / "logs" / "attempt-1.log"
    wait_for(lambda: log.is_file() and b"started" in log.read_bytes())
    gate.touch()
    out, err = follower.communicate(timeout=90)
    assert follower.returncode == 0, err
    assert out.startswith("started") and out.endswith("written\n")


def test_cancelled_before_and_while_it_runs(
    laptop: Laptop, cluster: Cluster, wait_for: Callable[..., Any]
) -> None:
    for node in ("n1", "n2"):
        cluster.drain(node)
    waiting = laptop.submitted("make/rows", "rows=1", HF_TOKEN=TOKEN)
    secrets = laptop.there / waiting / ".secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    done = laptop.run("runs", "cancel", waiting)
    assert done.code == 0, done.err
    assert not secrets.exists() and not (laptop.home / "runs" / waiting / ".secrets").exists()
    for node in ("n1", "n2"):
        cluster.resume(node)
    going = laptop.submitted("make/rows", "behave=sleep", "rows=2")
    started = laptop.there / going / "starts"
    wait_for(lambda: started.exists(), seconds=60)
    done = laptop.run("runs", "cancel", going)
    assert done.code == 0, done.err
    assert "interrupted" in done.out


def test_inputs_are_built_where_the_run_is(laptop: Laptop) -> None:
    done = laptop.run("steps", "run", "use/count", "-c", "built", "-b", "laptop", "--json")
    assert done.code == 0, done.err
    (before,) = done.json["before"]
    run = done.json["run"]
    waited = laptop.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    record = json.loads((laptop.home / "runs" / run / "record.json").read_text())
    assert record["inputs"]["rows"]["made_by"] == before
    assert record["inputs"]["rows"]["path"] == str(laptop.there / before / "rows.jsonl")
    assert json.loads((laptop.there / run / "count.json").read_text()) == {"rows": 3}


def test_a_path_of_the_cluster_is_no_error_and_a_file_of_the_laptop_comes_along(
    laptop: Laptop, server: SshServer, write_rows: Callable[..., Path]
) -> None:
    """A file that lies there as it lies here is not carried; one that differs is, whatever lies there."""
    missing = laptop.there / "later.jsonl"
    late = laptop.submitted("use/count", "-i", f"rows={missing}")
    waited = laptop.run("runs", "wait", late)
    assert waited.code == 4
    assert "later.jsonl" in laptop.run("runs", "logs", late).out
    rows = write_rows("here.jsonl", "training_jsonl", 5)
    run = laptop.submitted("use/count", "-i", f"rows={rows}")
    assert laptop.run("runs", "wait", run).code == 0
    place = json.loads((laptop.there / run / "place.json").read_text())
    assert place["inputs"]["rows"]["path"] == str(rows)
    assert not (laptop.there / run / "inputs").exists()
    # Logins that see another file there.
    other = server.bin / "find"
    other.write_text("#!/bin/sh\nprintf '\\0007 1.5\\000'\n")
    other.chmod(0o755)
    more = write_rows("more.jsonl", "training_jsonl", 6)
    run = laptop.submitted("use/count", "-i", f"rows={more}")
    assert laptop.run("runs", "wait", run).code == 0
    carried = laptop.there / run / "inputs" / "rows" / "more.jsonl"
    assert carried.read_bytes() == more.read_bytes()
    record = json.loads((laptop.home / "runs" / run / "record.json").read_text())
    assert record["inputs"]["rows"]["path"] == str(carried)
    assert record["inputs"]["rows"]["digest"].startswith("blake3:")
