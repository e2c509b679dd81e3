"""The Slurm backend against a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_until
from slurm_plans import make_plan, make_run, part_of

from nemotron.artifacts.submissions import JobStatus, Submission
from nemotron.errors import SchedulerError, UsageError
from nemotron.launch.backend import After, find_backend
from nemotron.launch.slurm.backend import BACKEND
from nemotron.planning.plan import Plan
from nemotron.profiles.profile import Profile

pytestmark = pytest.mark.slurm

# What the runtime does as far as the script is concerned: saves when asked to, and leaves with its own code.
SAVES = """\
# A worker of the trainer, which SIGUSR1 would end.
sleep 61 & worker=$!
trap 'sleep 0.2; kill "$worker" && echo saved >> saved; exit 130' USR1 TERM
echo $$ > runtime.pid
for n in $(seq 600); do sleep 0.1; done
"""


def submit(
    directory: Path, plan: Plan, after: tuple[After, ...] = (), part: int = 1, parts: int = 1
) -> Submission:
    return BACKEND.submit(directory, plan, part_of(directory, part, parts), after)


def status(job: Submission) -> JobStatus:
    return BACKEND.status([job])[job.job]


def log(directory: Path, job: Submission) -> str:
    return (directory / "logs" / f"slurm-{job.job}.out").read_text()


def until_it_runs(cluster: Cluster, directory: Path, job: Submission, file: str = "runtime.pid") -> None:
    cluster.wait(job.job, ["RUNNING"])
    wait_until((directory / file).exists, f"job {job.job} leaves no {file}")


def test_the_backend_is_found_by_name() -> None:
    assert find_backend("slurm") is BACKEND


def test_a_job_runs_in_the_directory_of_its_run_and_tells_what_it_is(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "env > env; pwd > where; exit 7")
    job = submit(run, make_plan(options={"time": 5}, save_before=60, chain=3), part=2, parts=3)
    assert cluster.wait(job.job) == "FAILED"
    seen = dict(line.split("=", 1) for line in (run / "env").read_text().splitlines() if "=" in line)
    ours = {k: v for k, v in seen.items() if k.startswith("NEMOTRON_")}
    deadline = int(ours.pop("NEMOTRON_DEADLINE"))
    assert 0 < deadline - time.time() < 301
    assert ours == {
        "NEMOTRON_JOB_ID": job.job,
        "NEMOTRON_PART": "2",
        "NEMOTRON_PARTS": "3",
        "NEMOTRON_RESTARTS": "0",
        "NEMOTRON_NODES": "1",
    }
    assert (run / "where").read_text() == f"{run}\n"
    found = status(job)
    assert (found.state, found.exit_code, found.nodes) == ("failed", 7, ("n1",))
    assert found.started is not None and found.ended is not None and found.ended >= found.started
    assert list((run / "logs").iterdir()) == [run / "logs" / f"slurm-{job.job}.out"]


def test_what_the_client_has_in_its_environment_reaches_neither_sbatch_nor_the_job(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretvalue")
    monkeypatch.setenv("SBATCH_PARTITION", "down")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    run = make_run(tmp_path, "env > env")
    job = submit(run, make_plan())
    assert cluster.wait(job.job) == "COMPLETED"
    assert "hf_secretvalue" not in (run / "env").read_text()
    assert status(job).state == "succeeded"
    stored = ""

    def is_stored() -> bool:
        nonlocal stored
        stored = cluster.run(["sacct", "-j", job.job, "--env-vars"]).stdout
        return "HOME=" in stored

    wait_until(is_stored, "no accounting")
    assert "hf_secretvalue" not in stored


def test_every_node_runs_once_and_the_first_ones_exit_code_is_the_jobs(
    cluster: Cluster, tmp_path: Path
) -> None:
    say = 'echo "$NEMOTRON_NODES $CUDA_VISIBLE_DEVICES" > node-$SLURM_NODEID; '
    run = make_run(tmp_path, say + "sleep $SLURM_NODEID; exit $SLURM_NODEID")
    job = submit(run, make_plan(launch="torchrun", nodes=2, gpus_per_node=8))
    assert cluster.wait(job.job) == "COMPLETED"
    assert [(run / f"node-{n}").read_text() for n in range(2)] == ["2 0,1,2,3,4,5,6,7\n"] * 2
    assert status(job).nodes == ("n1", "n2")


def test_a_helper_that_dies_neither_ends_nor_hides_the_first_node(cluster: Cluster, tmp_path: Path) -> None:
    launch = "if [ $SLURM_NODEID = 1 ]; then exit 9; fi; sleep 2; echo done > done; exit 5"
    run = make_run(tmp_path, launch)
    job = submit(run, make_plan(launch="ray", nodes=2))
    cluster.wait(job.job)
    assert (run / "done").exists()
    assert status(job).exit_code == 5


def test_python_starts_once_on_the_first_of_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, "echo $SLURMD_NODENAME $NEMOTRON_NODES $CUDA_VISIBLE_DEVICES >> started")
    job = submit(run, make_plan(nodes=2, gpus_per_node=8))
    assert cluster.wait(job.job) == "COMPLETED"
    assert (run / "started").read_text() == "n1 1 0,1,2,3,4,5,6,7\n"


@pytest.mark.parametrize("image", [None, "nvcr.io/nvidia/nemo-rl:v0.6.0"])
def test_usr1_reaches_the_runtime_of_the_first_node_and_nothing_else(
    cluster: Cluster, tmp_path: Path, image: str | None
) -> None:
    run = make_run(
        tmp_path, "echo $$ > pid-$SLURM_NODEID; if [ $SLURM_NODEID = 1 ]; then sleep 5; exit; fi\n" + SAVES
    )
    job = submit(run, make_plan(launch="torchrun", nodes=2, image=image))
    until_it_runs(cluster, run, job)
    wait_until((run / "pid-1").exists, "the second node does not start")
    cluster.run(["scancel", "--batch", "--signal=USR1", job.job], check=True)
    cluster.wait(job.job)
    assert (run / "saved").read_text() == "saved\n"
    assert status(job).exit_code == 130
    assert "signal" not in log(run, job)


def test_slurm_itself_asks_in_time(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, SAVES)
    job = submit(run, make_plan(options={"time": 1}, save_before=50))
    until_it_runs(cluster, run, job)
    assert cluster.wait(job.job) == "FAILED"
    assert (run / "saved").read_text() == "saved\n"
    assert status(job).exit_code == 130


def test_sigterm_to_the_script_alone_is_passed_on(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, SAVES)
    job = submit(run, make_plan())
    until_it_runs(cluster, run, job)
    cluster.run(["scancel", "--batch", "--signal=TERM", job.job], check=True)
    cluster.wait(job.job)
    assert (run / "saved").read_text() == "saved\n"
    assert status(job).exit_code == 130


def test_a_cancelled_job_is_asked_once(cluster: Cluster, tmp_path: Path) -> None:
    launch = "trap 'echo asked >> asked' TERM; echo $$ > runtime.pid; for n in $(seq 100); do sleep 0.1; done"
    run = make_run(tmp_path, launch)
    job = submit(run, make_plan())
    until_it_runs(cluster, run, job)
    BACKEND.cancel([job])
    assert cluster.wait(job.job) == "CANCELLED"
    assert status(job).state == "cancelled"
    wait_until(lambda: not cluster.run(["squeue", "-h"]).stdout, "it does not end")
    assert (run / "asked").read_text() == "asked\n"


def test_cancelling_what_has_ended_or_is_unknown_is_no_error(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, "true")
    job = submit(run, make_plan())
    cluster.wait(job.job)
    BACKEND.cancel([job, Submission("slurm", "99999", run.name)])


def test_an_id_that_is_anothers_by_now_is_neither_cancelled_nor_reported(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "sleep 60")
    job = submit(run, make_plan())
    cluster.wait(job.job, ["RUNNING"])
    recycled = Submission("slurm", job.job, "sft-20200101-000000-0000")
    BACKEND.cancel([recycled])
    assert status(recycled).state == "unknown"
    assert status(job).state == "running"


def test_a_requeued_job_starts_again_and_knows_it(cluster: Cluster, tmp_path: Path) -> None:
    waits = "echo > runtime.pid; if [ $NEMOTRON_RESTARTS = 0 ]; then sleep 60; fi"
    run = make_run(tmp_path, f"echo $NEMOTRON_RESTARTS >> starts; {waits}")
    job = submit(run, make_plan())
    until_it_runs(cluster, run, job)
    cluster.run(["scontrol", "requeue", job.job], check=True)
    wait_until(lambda: status(job).state == "pending", "not requeued")
    assert cluster.wait(job.job) == "COMPLETED"
    assert (run / "starts").read_text() == "0\n1\n"


def test_dependencies_hold_a_job_back_or_end_it(cluster: Cluster, tmp_path: Path) -> None:
    failing = submit(make_run(tmp_path, "sleep 1; exit 1", "failing-20260101-000000-0000"), make_plan())
    wants_success = make_run(tmp_path, "true", "ok-20260101-000000-0000")
    wants_end = make_run(tmp_path, "date > started", "any-20260101-000000-0000")
    ok = submit(wants_success, make_plan(), (After((failing,)),))
    both = make_plan(options={"sbatch": {"dependency": "singleton"}})
    anyhow = submit(wants_end, both, (After((failing,), "any"),))
    waiting = BACKEND.status([ok, anyhow])
    assert [s.state for s in waiting.values()] == ["pending", "pending"]
    assert waiting[ok.job].reason == "Dependency" and waiting[ok.job].started is None
    assert cluster.wait(anyhow.job) == "COMPLETED"
    assert cluster.wait(ok.job) == "CANCELLED"


def test_parts_that_are_not_needed_any_more_leave_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    run, plan = make_run(tmp_path, "sleep 1; echo $NEMOTRON_PART >> parts"), make_plan(chain=3)
    jobs = [submit(run, plan, part=1, parts=3)]
    for part in (2, 3):
        jobs.append(submit(run, plan, (After((jobs[-1],), "any"),), part, 3))
    assert [cluster.wait(job.job) for job in jobs] == ["COMPLETED", "CANCELLED", "CANCELLED"]
    assert (run / "parts").read_text() == "1\n"


def test_parts_follow_one_another_while_time_runs_out(cluster: Cluster, tmp_path: Path) -> None:
    run, plan = (
        make_run(tmp_path, "echo $NEMOTRON_PART >> parts; [ $NEMOTRON_PART = 2 ] || exit 130"),
        make_plan(chain=2),
    )
    first = submit(run, plan, part=1, parts=2)
    second = submit(run, plan, (After((first,), "any"),), 2, 2)
    assert cluster.wait(second.job) == "COMPLETED"
    assert (run / "parts").read_text() == "1\n2\n"


def test_all_jobs_of_a_run_are_found_by_its_name(cluster: Cluster, tmp_path: Path) -> None:
    run, other = make_run(tmp_path, "exit 130"), make_run(tmp_path, "true", "other-20260101-000000-0000")
    first = submit(run, make_plan(), part=1, parts=2)
    second = submit(run, make_plan(), (After((first,), "any"),), 2, 2)
    submit(other, make_plan())
    found = BACKEND.find([part_of(run), Submission("slurm", "", "never-20260101-000000-0000")])
    assert list(found) == [run.name]
    assert [(j.job, j.part) for j in found[run.name]] == [(first.job, 1), (second.job, 2)]


def test_a_job_that_squeue_has_forgotten_is_found_by_sacct(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, "exit 3")
    job = submit(run, make_plan())
    cluster.wait(job.job)
    forgetful = tmp_path / "bin" / "squeue"
    forgetful.parent.mkdir()
    forgetful.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    forgetful.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{forgetful.parent}:{os.environ['PATH']}")
        wait_until(lambda: status(job).state != "unknown", "sacct does not know it")
        found = status(job)
        named = BACKEND.find([part_of(run)])
    assert (found.state, found.exit_code, found.nodes) == ("failed", 3, ("n1",))
    assert [j.job for j in named[run.name]] == [job.job]
    assert status(Submission("slurm", "98765", run.name)).state == "unknown"


def test_what_sbatch_refuses_is_an_error_in_its_words_with_what_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "true")
    with pytest.raises(SchedulerError, match="invalid partition specified: nope"):
        submit(run, make_plan(options={"partition": "nope"}))
    with pytest.raises(SchedulerError, match="not available"):
        submit(run, make_plan(gpus_per_node=9))
    with pytest.raises(SchedulerError, match="generic resource") as refused:
        submit(run, make_plan(options={"sbatch": {"gres": "tpu:1"}}))
    assert "gres = false" in str(refused.value.next)


def test_a_controller_that_does_not_answer_is_a_scheduler_error(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, "true")
    job = submit(run, make_plan())
    cluster.stop_controller()
    try:
        with pytest.raises(SchedulerError):
            BACKEND.status([job])
    finally:
        cluster.start_controller()
    cluster.wait(job.job)
    assert status(job).state == "succeeded"


def test_a_submission_that_sbatch_never_answered_is_adopted(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch handed the job over, and hung before it said so."""
    run, slow = make_run(tmp_path, "sleep 30"), tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    slow.write_text(f'#!/bin/sh\n{real} "$@" > {tmp_path}/id; sleep 60\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("nemotron.launch.slurm.backend._SUBMIT_SECONDS", 2.0)
    job = submit(run, make_plan(), part=2, parts=2)
    assert (job.job, job.part) == ((tmp_path / "id").read_text().strip(), 2)


def test_a_container_sees_the_run_the_records_and_the_mounts(cluster: Cluster, tmp_path: Path) -> None:
    store, data = tmp_path / "store", tmp_path / "data"
    data.mkdir()
    run = make_run(store / "runs", f"env | grep STUB_ > seen; pwd >> seen; ls {tmp_path}/inside >> seen")
    (data / "rows.jsonl").touch()
    (run / "place.json").write_text(json.dumps({"records_dir": str(store / "records"), "late": {}}))
    plan = make_plan(image="nvcr.io/nvidia/nemo-rl:v0.6.0", mounts=(f"{data}:{tmp_path}/inside",))
    job = submit(run, plan)
    assert cluster.wait(job.job) == "COMPLETED", log(run, job)
    seen = (run / "seen").read_text()
    assert "STUB_CONTAINER_IMAGE=nvcr.io#nvidia/nemo-rl:v0.6.0\n" in seen
    mounts = (
        f"{data}:{tmp_path}/inside",
        f"{run}:{run}",
        *(f"{store / d}:{store / d}" for d in ("records", "runs")),
    )
    assert f"STUB_CONTAINER_MOUNTS={','.join(mounts)}\n" in seen
    assert seen.endswith(f"{run}\nrows.jsonl\n")


def test_an_image_that_cannot_be_pulled_ends_the_job_with_what_was_said(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "true")
    job = submit(run, make_plan(image="missing/image"))
    assert cluster.wait(job.job) == "FAILED"
    assert "failed to import image" in log(run, job)


def test_setup_lines_run_before_the_step_and_reach_it(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path, 'echo "$FROM_SETUP" > seen')
    job = submit(run, make_plan(setup=("value='a b'", 'export FROM_SETUP="$value c"')))
    assert cluster.wait(job.job) == "COMPLETED"
    assert (run / "seen").read_text() == "a b c\n"


def test_ray_sub_runs_the_job_on_its_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """With a stand-in for the framework's ray.sub: it starts COMMAND in the container on the first node."""
    checkout = tmp_path / "RL"
    checkout.mkdir()
    (checkout / "ray.sub").write_text(
        "set -eou pipefail\n"
        'echo "$CONTAINER $MOUNTS $GPUS_PER_NODE $BASE_LOG_DIR $SETUP_COMMAND"\n'
        "srun --container-mounts=$MOUNTS --container-image=$CONTAINER --container-workdir=$SLURM_SUBMIT_DIR "
        '--nodes=1 --ntasks=1 -w $SLURMD_NODENAME bash -c "$COMMAND"\n'
    )
    run = make_run(tmp_path, "echo $NEMOTRON_RAY $NEMOTRON_NODES $SLURMD_NODENAME >> seen; exit 6")
    plan = make_plan(
        launch="ray",
        nodes=2,
        gpus_per_node=8,
        image="nvcr.io/nvidia/nemo-rl:v0.6.0",
        mounts=(f"{checkout}:/opt/nemo-rl",),
        startup=("ulimit -n 4096",),
        options={"ray_sub": True},
    )
    job = submit(run, plan)
    cluster.wait(job.job)
    assert (run / "seen").read_text() == "external 2 n1\n", log(run, job)
    assert status(job).exit_code == 6
    assert f"nvcr.io#nvidia/nemo-rl:v0.6.0 {checkout}:/opt/nemo-rl," in log(run, job)


def test_a_template_of_the_site_is_what_is_submitted(cluster: Cluster, tmp_path: Path) -> None:
    template = tmp_path / "site.sbatch"
    template.write_text("#!/bin/bash\n{{header}}\necho {{run_id}} of the site > {{run_dir}}/site\n{{body}}\n")
    run = make_run(tmp_path, "exit 3")
    job = submit(run, make_plan(options={"template": str(template), "sbatch": {"comment": "a 'b' \"c\" #d"}}))
    cluster.wait(job.job)
    assert (run / "site").read_text() == f"{run.name} of the site\n"
    assert status(job).exit_code == 3
    assert " Comment=a 'b' \"c\" #d" in cluster.describe(job.job)


def test_a_run_directory_behind_a_link_is_submitted_by_its_own_path(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere", "pwd > where")
    link = tmp_path / run.name
    link.symlink_to(run)
    job = submit(link, make_plan())
    assert cluster.wait(job.job) == "COMPLETED"
    assert (run / "where").read_text() == f"{run}\n"


def test_a_run_cannot_be_submitted_from_a_directory_that_slurm_misreads(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="backslash"):
        submit(make_run(tmp_path / "back\\slash", "true"), make_plan())
    with pytest.raises(UsageError, match="cannot name a job"):
        submit(make_run(tmp_path, "true", "two words"), make_plan())


def test_the_cluster_can_be_asked_what_it_has(cluster: Cluster) -> None:
    probe = BACKEND.probe({})
    assert probe is not None
    partitions = probe.partitions()
    assert {n: (p.nodes, p.gpus_per_node) for n, p in partitions.items()} == dict.fromkeys(
        ("batch", "interactive", "down"), (2, 8)
    )
    assert "research" in (probe.accounts() or ())


def test_a_profile_is_told_when_its_job_would_start(cluster: Cluster, tmp_path: Path) -> None:
    fits, does_not = _profile(tmp_path, "8"), _profile(tmp_path, "9")
    probe = BACKEND.probe({})
    assert probe is not None
    assert str(probe.start_time(fits)).startswith("20")
    with pytest.raises(SchedulerError, match="not available"):
        probe.start_time(does_not)


def _profile(directory: Path, gpus: str) -> Profile:
    values = {"partition": "interactive", "nodes": 2, "gpus_per_node": int(gpus), "time": 10}
    return Profile("p", "slurm", directory / "env.toml", (), values, {})


ENROOT = """\
#!/bin/sh
# A stand-in for enroot: an image is the text of its reference.
echo "$@" >> {calls}
sleep 1
case "$4" in *absent*) exit 1;; esac
echo "$4" > "$3"
"""


def test_an_image_is_imported_once_before_the_first_job_that_needs_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    enroot, cache = tmp_path / "bin" / "enroot", tmp_path / "images"
    enroot.parent.mkdir()
    enroot.write_text(ENROOT.format(calls=tmp_path / "calls"))
    enroot.chmod(0o755)
    placement = {
        "image": "nvcr.io/nvidia/nemo-rl:v0.6.0",
        "setup": (f"export PATH={enroot.parent}:$PATH",),
        "options": {"build_cache_dir": str(cache), "build_partition": "interactive"},
    }
    for _ in range(2):
        run = make_run(tmp_path, 'cat "$STUB_CONTAINER_IMAGE" > seen')
        job = submit(run, make_plan(**placement))
        assert cluster.wait(job.job) == "COMPLETED", log(run, job)
        assert (run / "seen").read_text() == "docker://nvcr.io#nvidia/nemo-rl:v0.6.0\n"
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert len(list(cache.glob("*.sqsh"))) == 1
    absent = make_run(tmp_path, "true")
    job = submit(absent, make_plan(**(placement | {"image": "nvcr.io/absent:v1"})))
    assert cluster.wait(job.job) == "CANCELLED"
