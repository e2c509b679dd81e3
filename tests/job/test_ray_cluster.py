"""Ray over several nodes. Ray itself runs in a network namespace that has nothing but loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemotron.errors import SchedulerError
from nemotron.job.nodes import ray_cluster
from nemotron.job.nodes.ray_cluster import free_ports, gpu_words, keep_logs, make_temporary, nodes_alive

# Runs as root of a namespace: node 0 in this process, the others beside it, and a driver on the cluster.
JOB = """
import json, os, pathlib, subprocess, sys, time
from nemotron.job.nodes.leader import bring_up
run, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
os.environ.update(NEMOTRON_JOB_ID="7", NEMOTRON_NODES=str(count), NEMOTRON_NODE_RANK="0")
os.environ["SLURMD_NODENAME"] = "n1"
os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2,3,4,5,6,7"
helper = "import sys, pathlib; from nemotron.job.nodes.leader import serve_node; "
helper += "sys.exit(serve_node(pathlib.Path(sys.argv[1])))"
others = [
    subprocess.Popen(
        [sys.executable, "-c", helper, str(run)],
        env={**os.environ, "NEMOTRON_NODE_RANK": str(rank), "SLURMD_NODENAME": f"n{rank + 1}"},
    )
    for rank in range(1, count)
]
plan = json.loads((run / "plan.json").read_text())
begun = time.monotonic()
nodes = bring_up(run, plan, 1, count)
ready = time.monotonic() - begun
code = subprocess.call(
    nodes.argv(plan["placement"]["argv"]), env={**os.environ, **nodes.environment()}, cwd=run
)
lost = nodes.lost()
if sys.argv[3:] == ["kill"]:
    others[0].kill()
    while not (lost := nodes.lost()):
        time.sleep(0.1)
silent = nodes.dump()
logs = [str(log) for log in nodes.logs()]
begun = time.monotonic()
nodes.close(code)
closed = time.monotonic() - begun
print(json.dumps({"code": code, "lost": lost, "ready": ready, "closed": closed, "logs": logs,
                  "silent": silent, "others": [p.wait(30) for p in others]}))
"""
DRIVER = """
import json, os, ray, sys
ray.init(address="auto", logging_level="ERROR")
@ray.remote(num_gpus=8)
class Actor:
    def node(self):
        return ray.get_runtime_context().get_node_id(), os.environ.get("GIVEN")
actors = [Actor.remote() for _ in range(int(sys.argv[1]))]
seen = ray.get([actor.node.remote() for actor in actors])
alive = [node for node in ray.nodes() if node["Alive"]]
json.dump({"seen": seen, "resources": ray.cluster_resources(), "alive": len(alive)}, open("driver.json", "w"))
sys.exit(int(sys.argv[2]))
"""


def _can_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ray") is None:
        return False
    tried = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True)
    return tried.returncode == 0


needs_ray = pytest.mark.skipif(
    not _can_unshare(), reason="needs ray, and root for a network namespace: Ray would listen to everybody"
)


def run_job(directory: Path, count: int, code: int, *more: str) -> dict[str, Any]:
    """What a job on `count` nodes said of itself."""
    (directory / "driver.py").write_text(DRIVER, encoding="utf-8")
    (directory / "job.py").write_text(JOB, encoding="utf-8")
    placement = {
        "launch": "ray",
        "argv": [sys.executable, "driver.py", str(count), str(code)],
        "gpus_per_node": 8,
        "environment": {"GIVEN": "by the plan"},
    }
    (directory / "plan.json").write_text(
        json.dumps({"placement": placement, "outputs": []}), encoding="utf-8"
    )
    inside = 'ip link set lo up && exec "$@"'
    words = [sys.executable, str(directory / "job.py"), str(directory), str(count), *more]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", inside, "sh", *words],
        env={k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "NEMOTRON_", "SLURM"))},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ray_processes(temporary: str) -> list[str]:
    """What still runs with this directory in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if temporary in command:
            found.append(command)
    return found


def temporary_of(directory: Path) -> str:
    text = (directory / "logs" / "nodes" / "attempt-1.node-0.log").read_text(encoding="utf-8")
    return next(word for word in text.split() if word.startswith("--temp-dir=")).partition("=")[2]


@pytest.mark.ray
@needs_ray
def test_a_driver_sees_all_nodes_and_nothing_is_left(tmp_path: Path) -> None:
    said = run_job(tmp_path, 2, 3)
    driver = json.loads((tmp_path / "driver.json").read_text(encoding="utf-8"))
    assert said["code"] == 3
    assert said["lost"] is None
    assert said["silent"] is None
    assert said["others"] == [0]
    assert driver["alive"] == 2
    assert len({node for node, _ in driver["seen"]}) == 2
    assert {given for _, given in driver["seen"]} == {"by the plan"}
    assert driver["resources"]["GPU"] == 16
    # What NeMo-RL looks for in a cluster that it did not make.
    assert driver["resources"]["slurm_managed_ray_cluster"] == 2
    assert driver["resources"]["worker_units"] == 16
    temporary = temporary_of(tmp_path)
    assert ray_processes(temporary) == []
    assert not Path(temporary).exists()
    assert [Path(log).name for log in said["logs"]] == ["attempt-1.node-0.log", "attempt-1.node-1.log"]
    kept = tmp_path / "logs" / "nodes" / "attempt-1.node-0.ray"
    assert (kept / "gcs_server.out").stat().st_size > 0
    assert "where the processes stand" in Path(said["logs"][1]).read_text(encoding="utf-8")


@pytest.mark.ray
@needs_ray
def test_a_node_that_dies_is_told_and_its_ray_ends_with_it(tmp_path: Path) -> None:
    said = run_job(tmp_path, 2, 0, "kill")
    assert "node 1 (n2) is gone" in said["lost"]
    assert said["others"] == [-9]
    assert ray_processes(temporary_of(tmp_path)) == []


@pytest.mark.ray
@needs_ray
def test_one_node_is_a_cluster_too(tmp_path: Path) -> None:
    said = run_job(tmp_path, 1, 0)
    driver = json.loads((tmp_path / "driver.json").read_text(encoding="utf-8"))
    assert (said["code"], driver["alive"], driver["resources"]["GPU"]) == (0, 1, 8)
    assert ray_processes(temporary_of(tmp_path)) == []


def fake_ray(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "bin" / "ray"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


# A Ray that is nothing but its words: the head listens, each worker counts, the first worker's start fails.
FAKE = """#!{python}
import os, pathlib, socket, sys, time
place = pathlib.Path({place!r})
option = lambda name: [w.partition("=")[2] for w in sys.argv if w.startswith(name + "=")][0]
if sys.argv[1] == "status":
    print("Total Usage:\\n 0.0/%d.0 slurm_managed_ray_cluster" % len(list(place.glob("node-*"))))
    sys.exit()
if "--head" in sys.argv:
    listener = socket.create_server((option("--node-ip-address"), int(option("--port"))))
elif not (place / "failed").exists():
    (place / "failed").touch()
    sys.exit("this node timed out during startup")
(place / ("node-%d" % os.getpid())).touch()
print("Ray runtime started.", flush=True)
time.sleep(600)
"""


def test_a_worker_that_does_not_start_at_first_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemotron.job.nodes.leader import bring_up

    fake_ray(tmp_path, "", monkeypatch)
    program = tmp_path / "bin" / "ray"
    program.write_text(FAKE.format(python=sys.executable, place=str(tmp_path)), encoding="utf-8")
    for name, value in {"JOB_ID": "7", "NODES": "2", "NODE_RANK": "0", "JOIN_LIMIT": "30"}.items():
        monkeypatch.setenv(f"NEMOTRON_{name}", value)
    helper = subprocess.Popen(
        [sys.executable, "-c", HELPER, str(tmp_path)], env={**os.environ, "NEMOTRON_NODE_RANK": "1"}
    )
    plan = make_plan(tmp_path)
    up = bring_up(tmp_path, plan, 1, 2)
    try:
        assert len(list(tmp_path.glob("node-*"))) == 2
        assert up.environment()["RAY_ADDRESS"] in up.logs()[1].read_text(encoding="utf-8")
        assert up.argv(["train"]) == ["train"]
        assert "once more" in up.logs()[1].read_text(encoding="utf-8")
    finally:
        up.close(0)
    assert helper.wait(20) == 0


HELPER = "import sys; from pathlib import Path; from nemotron.job.nodes.leader import serve_node\n"
HELPER += "sys.exit(serve_node(Path(sys.argv[1])))"


def make_plan(directory: Path) -> dict[str, Any]:
    placement = {"launch": "ray", "argv": ["x"], "gpus_per_node": 0, "environment": {}}
    plan = {"placement": placement, "outputs": []}
    (directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return plan


def test_a_ray_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemotron.job.nodes.leader import bring_up

    fake_ray(tmp_path, "echo there is no such option >&2; exit 2", monkeypatch)
    with pytest.raises(SchedulerError, match="Ray did not come up on node 0") as raised:
        bring_up(tmp_path, make_plan(tmp_path), 1, 1)
    log = Path(str(raised.value.where))
    assert log.read_text(encoding="utf-8").count("there is no such option") == 3


def test_a_job_without_ray_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemotron.job.nodes.leader import bring_up

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = set(Path("/tmp").glob("nr-*"))
    with pytest.raises(SchedulerError, match="there is no `ray` on PATH"):
        bring_up(tmp_path, make_plan(tmp_path), 1, 1)
    assert set(Path("/tmp").glob("nr-*")) <= before


@pytest.mark.parametrize(
    ("text", "alive"),
    [
        ("Total Usage:\n 0.0/4.0 CPU\n 0.0/2.0 slurm_managed_ray_cluster\n 0.0/16.0 worker_units", 2),
        ("Total Usage:\n 0.0/4.0 CPU\n 1.0/12.0 slurm_managed_ray_cluster", 12),
        ("No cluster status.", 0),
    ],
)
def test_the_number_of_nodes_is_read_off_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, alive: int
) -> None:
    (tmp_path / "status").write_text(text, encoding="utf-8")
    fake_ray(tmp_path, f'[ "$1 $2" = "status --address=h:1" ] && cat {tmp_path}/status', monkeypatch)
    assert nodes_alive("h:1", os.environ) == alive


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ["--num-gpus=4"]),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "8"}, ["--num-gpus=4"]),
        ({"SLURM_GPUS_ON_NODE": "8"}, ["--num-gpus=4"]),
    ],
)
def test_ray_is_told_of_the_gpus_that_the_plan_counts_on(environ: dict[str, str], words: list[str]) -> None:
    assert gpu_words(4, environ) == words
    assert gpu_words(0, environ) == []


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has GPUs")
def test_ray_looks_itself_where_nothing_tells_of_gpus() -> None:
    assert gpu_words(8, {}) == []


def test_a_node_with_a_gpu_missing_is_refused() -> None:
    with pytest.raises(SchedulerError, match="7 of 8 GPUs are visible"):
        gpu_words(8, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6"})


def test_ports_differ_and_leave_the_judges_theirs() -> None:
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert all(1200 <= port < 5000 for port in ports)


def test_a_temporary_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_temporary(str(tmp_path / "nr"))
    make_temporary(str(tmp_path / "nr"))
    assert (tmp_path / "nr").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(ray_cluster.os, "getuid", lambda: 4242)
    with pytest.raises(SchedulerError, match="somebody else's directory"):
        make_temporary(str(tmp_path / "nr"))


def test_of_long_logs_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / "nr" / "r" / "session_latest" / "logs"
    (logs / "old").mkdir(parents=True)
    (logs / "old" / "raylet.out").write_text("short", encoding="utf-8")
    (logs / "worker.out").write_text("begin" + "x" * 100 + "end", encoding="utf-8")
    (logs / "link.out").symlink_to("/etc/passwd")
    monkeypatch.setattr(ray_cluster, "_KEPT_OF_FILE", 10)
    keep_logs(str(tmp_path / "nr"), tmp_path / "kept")
    assert (tmp_path / "kept" / "old" / "raylet.out").read_text(encoding="utf-8") == "short"
    assert (tmp_path / "kept" / "worker.out").read_text(encoding="utf-8") == "xxxxxxxend"
    assert not (tmp_path / "kept" / "link.out").exists()
