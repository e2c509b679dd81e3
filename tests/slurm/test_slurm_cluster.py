"""What the tests of this directory rely on: the cluster does what a cluster does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Cluster

pytestmark = pytest.mark.slurm


def submit(cluster: Cluster, *words: str, cwd: Path) -> str:
    return cluster.run(["sbatch", "--parsable", *words], cwd=cwd, check=True).stdout.strip()


def test_a_job_on_two_nodes_sees_sixteen_gpus(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    print_gpus = "srun sh -c 'echo $SLURM_NODEID $CUDA_VISIBLE_DEVICES'"
    job = submit(cluster, "-N2", "--gpus-per-node=8", f"--output={out}", "--wrap", print_gpus, cwd=tmp_path)
    assert cluster.wait(job) == "COMPLETED"
    assert sorted(out.read_text().splitlines()) == [f"{n} 0,1,2,3,4,5,6,7" for n in range(2)]


def test_more_gpus_than_a_node_has_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run(["sbatch", "--gpus-per-node=9", "--wrap", "true"], cwd=tmp_path)
    assert done.returncode != 0 and "not available" in done.stderr


def test_an_exit_code_arrives(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, "--output=/dev/null", "--wrap", "exit 7", cwd=tmp_path)
    assert (cluster.wait(job), cluster.exit_code(job)) == ("FAILED", "7:0")


def test_a_drained_node_gets_no_job_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    cluster.drain("n1")
    job = submit(cluster, "-N2", "--output=/dev/null", "--wrap", "true", cwd=tmp_path)
    with pytest.raises(AssertionError, match="PENDING"):
        cluster.wait(job, seconds=2)
    cluster.resume("n1")
    assert cluster.wait(job) == "COMPLETED"


def test_jobs_outlive_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, "--output=/dev/null", "--wrap", "sleep 3", cwd=tmp_path)
    cluster.wait(job, ["RUNNING"])
    cluster.restart_controller()
    assert cluster.wait(job) == "COMPLETED"


def test_container_options_mount_and_change_directory(cluster: Cluster, tmp_path: Path) -> None:
    source, target, out = tmp_path / "source", tmp_path / "inside", tmp_path / "out"
    source.mkdir()
    (source / "there").touch()
    container = f"--container-image=i --container-mounts={source}:{target} --container-workdir={target}"
    job = submit(cluster, f"--output={out}", "--wrap", f"srun {container} sh -c 'pwd; ls'", cwd=tmp_path)
    assert cluster.wait(job) == "COMPLETED"
    assert out.read_text().split() == [str(target), "there"]
    assert not (target / "there").exists()


def test_an_image_that_cannot_be_pulled_fails_the_job(cluster: Cluster, tmp_path: Path) -> None:
    wrapped = "srun --container-image=missing:v1 true"
    job = submit(cluster, "--output=/dev/null", "--wrap", wrapped, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"


def test_a_test_is_inside_the_namespace(cluster: Cluster) -> None:
    shown = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, timeout=20)
    assert "batch*" in shown.stdout
