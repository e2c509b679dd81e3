"""The real torchrun over two nodes of a job, in a network namespace that has nothing but loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
told = {"world": dist.get_world_size(), "sum": total.item(), "node": os.environ["GROUP_RANK"]}
json.dump(told, open(f"rank-{dist.get_rank()}.json", "w"))
dist.barrier()
dist.destroy_process_group()
"""
JOB = """
import json, os, pathlib, subprocess, sys
from nemotron.job.nodes.leader import bring_up
run = pathlib.Path(sys.argv[1])
os.environ.update(NEMOTRON_JOB_ID="7", NEMOTRON_NODES="2", NEMOTRON_NODE_RANK="0", SLURMD_NODENAME="n1")
helper = "import sys, pathlib; from nemotron.job.nodes.leader import serve_node; "
helper += "sys.exit(serve_node(pathlib.Path(sys.argv[1])))"
other = subprocess.Popen(
    [sys.executable, "-c", helper, str(run)],
    env={**os.environ, "NEMOTRON_NODE_RANK": "1", "SLURMD_NODENAME": "n2"},
)
plan = json.loads((run / "plan.json").read_text())
nodes = bring_up(run, plan, 1, 2)
argv = nodes.argv(plan["placement"]["argv"])
code = subprocess.call(argv, env={**os.environ, **nodes.environment()}, cwd=run)
nodes.close(code)
sys.exit(code or other.wait(30))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="needs a network namespace")
def test_torchrun_makes_one_world_of_two_nodes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    placement = {
        "launch": "torchrun",
        "argv": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "train.py"],
        "gpus_per_node": 0,
        "environment": {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    }
    (tmp_path / "plan.json").write_text(json.dumps({"placement": placement, "outputs": []}), encoding="utf-8")
    inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    done = subprocess.run(
        [*inside, sys.executable, str(tmp_path / "job.py"), str(tmp_path)],
        env={**os.environ, **placement["environment"]},  # type: ignore[dict-item]
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(4)]
    assert [each["world"] for each in told] == [4] * 4
    assert [each["sum"] for each in told] == [10.0] * 4
    assert sorted(each["node"] for each in told) == ["0", "0", "1", "1"]
