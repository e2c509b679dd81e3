"""The client that Lepton ships takes what we send, and sends what we send: leptonai 0.26.7, nemo-run 0.11.1.

Skipped without these packages: pip install --group lepton.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lepton_plans import OPTIONS, make_plan
from lepton_stand_in import TOKEN, WORKSPACE, StandIn, namespace_words, serving
from lepton_worlds import node_groups

from nemotron.launch.lepton.api import Lepton
from nemotron.launch.lepton.options import lepton_options
from nemotron.launch.lepton.payloads import (
    Asked,
    cluster_payload,
    job_payload,
    mover_payload,
    ray_job_payload,
)
from nemotron.launch.lepton.ship import mover_commands
from nemotron.launch.lepton.workspace import Workspace

leptonai = pytest.importorskip("leptonai", reason="pip install --group lepton")
pytestmark = [
    pytest.mark.skipif(namespace_words() is None, reason="nobody may mount anything here"),
    pytest.mark.slow,  # these packages take seconds to import
]

ASKED = Asked(
    "rl-rlhf-20261121-153742-ab12", "rl-rlhf-20261121-153742-ab12", "/mnt/shared/r", "0" * 16, "ng-0"
)
EVERYTHING = {
    **OPTIONS,
    "mounts": [
        {"path": "/", "mount_path": "/mnt/shared", "from": "node-nfs:shared", "mount_options": ["ro"]},
    ],
    "node_reservation": "team",
    "head_resource_shape": "cpu.large",
    "ray_version": "2.49.2",
    "shared_memory_size": 65536,
    "image_pull_secrets": ["ngc"],
    "secret_vars": {"HF_TOKEN": "hf-token"},
    "can_preempt": True,
    "can_be_preempted": False,
    "queue_priority": "mid-4000",
    "custom_spec": {
        "ttl_seconds_after_finished": 60,
        "max_failure_retry": 2,
        "max_job_failure_retry": 1,
        "user_security_context": {"privileged": False},
        "metrics": {"disable_pulling_from_replica": True},
        "log": {"save_termination_logs": True},
        "time_schedule": {"start_at": 1900000000},
        "segment_config": {"count_per_segment": 2},
    },
}


def taken(model: Any, payload: dict[str, Any]) -> None:
    """Everything in a payload is a field of the model, of its kind: nothing is lost on the way through."""
    made = model(**payload)
    back = json.loads(made.model_dump_json(exclude_none=True, by_alias=True))
    for path, value in leaves(payload):
        assert at(back, path) == value, path


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("options", [OPTIONS, EVERYTHING], ids=["little", "everything"])
def test_the_models_of_the_client_take_a_job(options: dict[str, Any]) -> None:
    from leptonai.api.v1.types.job import LeptonJob

    placement = make_plan(options=dict(options), nodes=2).placement
    read = lepton_options(placement)
    taken(LeptonJob, job_payload(placement, read, ASKED))
    for command in mover_commands(b"x" * 2_000_000, "/mnt/shared/r"):
        taken(LeptonJob, mover_payload("mover", command, read, "ng-0"))


@pytest.mark.parametrize("head", ["", "cpu.large"])
def test_the_models_of_the_client_take_a_ray_cluster(head: str) -> None:
    from leptonai.api.v1.types.raycluster import LeptonRayCluster

    placement = make_plan(
        options={**EVERYTHING, "head_resource_shape": head}, nodes=3, launch="ray"
    ).placement
    made = cluster_payload(placement, lepton_options(placement), ASKED)
    taken(LeptonRayCluster, made)
    assert made["spec"]["worker_group_specs"][0]["min_replicas"] == (3 if head else 2)
    assert ray_job_payload(ASKED)["entrypoint"] == "bash /mnt/shared/r/lepton.sh"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(tmp_path / "lepton") as made:
        node_groups(made, "h100-a")
        made.secrets["hf-token"] = "at lepton"
        made.shapes = ["cpu.small"]
        monkeypatch.setenv("LEPTON_WORKSPACE_ID", WORKSPACE)
        monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", TOKEN)
        monkeypatch.setenv("LEPTON_WORKSPACE_URL", made.url)
        monkeypatch.setenv("LEPTON_CACHE_DIR", str(tmp_path / "cache"))
        yield made


def test_the_client_makes_the_calls_that_we_make(stand_in: StandIn) -> None:
    """Method, path and body of each; so the stand-in answers what the client's own models read."""
    from leptonai.api.v1.types.job import LeptonJob
    from leptonai.api.v1.types.raycluster import LeptonRayCluster
    from leptonai.api.v2.client import APIClient

    placement = make_plan().placement
    job = job_payload(placement, lepton_options(placement), ASKED)
    job["spec"]["container"]["command"] = ["sh", "-c", "echo hello"]
    cluster = cluster_payload(placement, lepton_options(make_plan(options=EVERYTHING).placement), ASKED)
    ours, theirs = Lepton(Workspace(WORKSPACE, stand_in.url, TOKEN)), APIClient()

    def called(call: Any) -> list[Any]:
        begun = len(stand_in.calls)
        call()
        return stand_in.calls[begun:]

    name = ASKED.job
    pairs = [
        (lambda: ours.node_groups(), lambda: theirs.nodegroup.list_all()),
        (
            lambda: ours.nodes(ours.node_groups()[0]),
            lambda: theirs.nodegroup.list_nodes(theirs.nodegroup.list_all()[0]),
        ),
        (lambda: ours.shapes("ng-0"), lambda: theirs.shapes.list_shapes("ng-0")),
        (lambda: ours.secrets(), lambda: theirs.secret.list_all()),
        (lambda: ours.create_job(job), lambda: theirs.job.create(LeptonJob(**job))),
        (lambda: ours.job(name), lambda: theirs.job.get(name)),
        (lambda: ours.replicas(name), lambda: theirs.job.get_replicas(name)),
        (
            lambda: ours.log(name, ours.replicas(name)[0]),
            lambda: list(theirs.job.get_log(name, theirs.job.get_replicas(name)[0])),
        ),
        (
            lambda: ours.jobs_like(name),
            lambda: theirs.job.list_all(job_query_mode="alive_and_archive", q=name),
        ),
        (lambda: ours.stop_job(name), lambda: theirs.job.update(name, {"spec": {"stopped": True}})),
        (lambda: ours.delete_job(name), lambda: theirs.job.delete(name)),
        (lambda: ours.create_cluster(cluster), lambda: theirs.raycluster.create(LeptonRayCluster(**cluster))),
        (lambda: ours.cluster(name), lambda: theirs.raycluster.get(name)),
        (lambda: ours.delete_cluster(name), lambda: theirs.raycluster.delete(name)),
    ]
    made_by_us = []
    for mine, _ in pairs:
        made_by_us.append(called(mine))
    for (_, other), calls in zip(pairs, made_by_us, strict=True):
        theirs_made = called(other)
        assert [(m, p) for m, p, _ in theirs_made] == [(m, p) for m, p, _ in calls]
        for (_, path, mine_body), (_, _, body) in zip(calls, theirs_made, strict=True):
            for where, value in leaves(mine_body or {}):
                assert at(body, where) == value, (path, where)


def test_the_client_reads_what_the_stand_in_says(stand_in: StandIn) -> None:
    from leptonai.api.v1.types.job import LeptonJob, LeptonJobState
    from leptonai.api.v2.client import APIClient

    placement = make_plan().placement
    job = job_payload(placement, lepton_options(placement), ASKED)
    job["spec"]["container"]["command"] = ["sh", "-c", "echo hello; exit 3"]
    client = APIClient()
    client.job.create(LeptonJob(**job))
    stand_in.jobs[ASKED.job].replicas[f"{ASKED.job}-0-x7k2p"].wait(30)
    assert client.job.get(ASKED.job).status.state == LeptonJobState.Failed
    (replica,) = client.job.get_replicas(ASKED.job)
    assert "".join(client.job.get_log(ASKED.job, replica)) == "hello\n"
    (group,) = client.nodegroup.list_all()
    assert len(client.nodegroup.list_nodes(group)) == 4


def test_nemo_run_submits_the_one_command_to_lepton(stand_in: StandIn, tmp_path: Path) -> None:
    pytest.importorskip("nemo_run", reason="pip install --group lepton")
    from nemotron.launch.nemo_run.backend import submit_lepton

    run = stand_in.storage / "nemo_run" / ASKED.run
    run.mkdir(parents=True)
    (run / "lepton.sh").write_text('echo "$HF_TOKEN $NEMOTRON_JOB_ID" > "$(dirname "$0")/ran"\n')
    options = {**OPTIONS, "secret_vars": {"HF_TOKEN": "hf-token"}, "launcher": "nemo_run"}
    placement = make_plan(options=options).placement
    asked = Asked(ASKED.job, ASKED.run, f"/mnt/shared/nemo_run/{ASKED.run}", "0" * 16, "ng-0")
    assert submit_lepton(placement, lepton_options(placement), asked) == ASKED.job
    mover, job = (body for method, path, body in stand_in.calls if (method, path) == ("POST", "/jobs"))
    assert job["spec"]["container"]["command"][-1] == f"bash {asked.directory}/nemo-run/launch_script.sh"
    launch = (run / "nemo-run" / "launch_script.sh").read_text()
    assert f"\nbash {asked.directory}/lepton.sh\n" in launch
    assert {e["name"]: e.get("value") for e in job["spec"]["envs"]} == {
        "NEMOTRON_JOB_ID": ASKED.job,
        "NEMOTRON_MARK": "0" * 16,
        "HF_TOKEN": None,
    }
    assert mover["metadata"]["id"].startswith("data-mover")
    stand_in.jobs[ASKED.job].replicas[f"{ASKED.job}-0-x7k2p"].wait(60)
    assert (run / "ran").read_text() == f"at lepton {ASKED.job}\n"


def test_an_import_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    """As with leptonai 0.47.1, which has no `leptonai.api.v1`."""
    (tmp_path / "leptonai").mkdir()
    (tmp_path / "leptonai" / "__init__.py").write_text("")
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(__file__).parent)!r}]\n"
        "from lepton_plans import make_plan, OPTIONS\n"
        "from nemotron.launch.lepton.options import lepton_options\n"
        "from nemotron.launch.lepton.payloads import Asked\n"
        "from nemotron.launch.nemo_run.backend import submit_lepton\n"
        "from nemotron.errors import UsageError\n"
        "placement = make_plan().placement\n"
        "try: submit_lepton(placement, lepton_options(placement), Asked('a', 'a', '/mnt/a', '0'))\n"
        "except UsageError as problem: print(problem.render())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "No module named 'leptonai.api'" in done.stdout, done.stdout + done.stderr
    assert "pip install 'nemotron[lepton]'" in done.stdout
