"""Whatever a person types arrives byte for byte in a job on Lepton, or is refused; none of it is executed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lepton_plans import OPTIONS, make_plan
from lepton_stand_in import TOKEN, WORKSPACE, StandIn, serving
from lepton_worlds import needs_namespaces, node_groups

from nemotron.artifacts.submissions import Submission
from nemotron.errors import UsageError
from nemotron.launch.bundle import launch_script
from nemotron.launch.lepton.backend import BACKEND
from nemotron.launch.lepton.options import lepton_options
from nemotron.launch.lepton.payloads import Asked, job_payload
from nemotron.planning.words import shell_words

# The same texts as on Slurm.
sys.path.append(str(Path(__file__).parents[1] / "slurm"))
from test_slurm_strings import CANARY, DUMP, hostile

pytestmark = needs_namespaces

RUN = "rl-rlhf-20261121-153742-ab12"


@pytest.fixture
def lepton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(tmp_path / "lepton") as made:
        node_groups(made, "h100-a")
        monkeypatch.setenv("LEPTON_WORKSPACE_ID", WORKSPACE)
        monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", TOKEN)
        monkeypatch.setenv("LEPTON_WORKSPACE_URL", made.url)
        yield made
    assert not [p for p in tmp_path.rglob(f"*{CANARY}*") if p.name == CANARY]


def make_run(tmp_path: Path, plan: Any, launch: str) -> Path:
    run = tmp_path / "runs" / RUN
    (run / "code").mkdir(parents=True)
    (run / "code" / "dump.py").write_text(DUMP)
    (run / "plan.json").write_text(plan.to_json())
    (run / "place.json").write_text(json.dumps({"records_dir": str(tmp_path / "records"), "inputs": {}}))
    (run / "recipe").write_text("pending\n")
    (run / "launch.sh").write_text(launch)
    return run


def test_environment_and_arguments_arrive_byte_for_byte(lepton: StandIn, tmp_path: Path) -> None:
    texts = hostile(f"touch {tmp_path}/{CANARY}")
    environment = {f"HOSTILE_{n}": text for n, text in enumerate(texts)}
    plan = make_plan(environment=environment)
    head, _, _ = launch_script(plan).rpartition("exec ")
    # The trainer of this run is started by its launch.sh, which ends with the runtime's command.
    run = make_run(tmp_path, plan, head + "exec " + shell_words(["python3", "code/dump.py", *texts]) + "\n")
    job = BACKEND.submit(run, plan, Submission("lepton", "", RUN), ())
    process = lepton.jobs[job.job]
    (replica,) = process.replicas
    assert process.replicas[replica].wait(60) == 0, process.logs[replica].read_text()
    seen = json.loads((lepton.storage / "nemo_run" / RUN / "seen.json").read_text())
    for number, text in enumerate(texts):
        sent = os.fsencode(text).hex()
        assert seen["env"][f"HOSTILE_{number}"] == sent
        assert seen["argv"][number] == sent
    # What the service was told beside the files holds none of it.
    jobs = [body for method, path, body in lepton.calls if (method, path) == ("POST", "/jobs")]
    assert [b["metadata"]["id"] for b in jobs if CANARY in json.dumps(b)] == []


@pytest.mark.parametrize("key", ["node_group", "resource_shape", "queue_priority", "node_reservation"])
def test_values_of_a_profile_arrive_as_they_are_or_are_refused(key: str) -> None:
    asked = Asked(RUN, RUN, "/mnt/shared/nemo_run/r", "0" * 16, "ng-0")
    refused = arrived = 0
    for text in hostile("touch x"):
        placement = make_plan(options={**OPTIONS, key: text}).placement
        try:
            options = lepton_options(placement)
        except UsageError:
            refused += 1
            continue
        spec = json.loads(json.dumps(job_payload(placement, options, asked)))["spec"]
        if text and key != "node_group":
            assert text in json.dumps(spec, ensure_ascii=False) or json.dumps(text)[1:-1] in json.dumps(spec)
        assert spec["container"]["command"] == ["bash", "/mnt/shared/nemo_run/r/lepton.sh"]
        arrived += 1
    assert refused > 20 and arrived > 20


def test_a_directory_of_runs_needs_no_quotes_or_is_refused() -> None:
    for text in hostile("touch x"):
        try:
            options = lepton_options(make_plan(options={**OPTIONS, "nemo_run_dir": f"/mnt/{text}"}).placement)
        except UsageError:
            continue
        assert shell_words([options.root]) == options.root
