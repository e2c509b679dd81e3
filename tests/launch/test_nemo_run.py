"""What nemo-run would quote wrongly, or write in clear, is not handed to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_plans import make_plan

from nemotron.artifacts.submissions import JobStatus, Submission
from nemotron.errors import NemotronError, SchedulerError, UsageError
from nemotron.launch.backend import find_backend
from nemotron.launch.nemo_run import backend as nemo_run
from nemotron.launch.nemo_run.backend import DGXCLOUD, KUBERAY, NemoRunBackend
from nemotron.launch.nemo_run.doors import Door, Handed, handed, nemo_run_errors, plain
from nemotron.planning.plan import Placement

SHELL = re.compile(r"[\s'\"\\$`;&|<>(){}\[\]*?!~^%\x00-\x1f\x7f-\uffff]")


@pytest.mark.parametrize("name", ["dgxcloud", "skypilot", "kuberay"])
def test_every_executor_has_a_backend(name: str) -> None:
    assert find_backend(name).name == name


@given(st.text(max_size=40))
def test_no_value_that_a_shell_reads_anything_into_is_handed_over(text: str) -> None:
    try:
        assert plain({"key": [text]}, "x") == {"key": [text]}
    except UsageError:
        return
    assert not SHELL.search(text) and not text.startswith("-")


@pytest.mark.parametrize(
    "text",
    ["$(touch x)", "`x`", "a;b", "$$", "${head_node_ip_var}", "a b", "a\nb", "'", '"', "{script}", "\\"],
)
def test_hostile_values_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="is not handed to nemo-run") as caught:
        plain({"labels": {"team": text}}, "custom_spec")
    assert caught.value.where == "custom_spec.labels.team" or caught.value.where == "custom_spec.labels"
    (found,) = [
        f
        for f in DGXCLOUD.check(make_plan(options={"project_name": text}, run_root="/x"))
        if f.severity == "error"
    ]
    assert found.where == "project_name"


@given(st.text(max_size=40), st.text(max_size=40))
def test_name_and_script_are_safe_or_refused(name: str, script: str) -> None:
    try:
        made = handed(name, f"/{script}")
    except UsageError:
        return
    assert not SHELL.search(" ".join(made.command).replace(" ", "", 1)) and len(made.name) <= 35


def test_words_of_an_executor_and_of_an_import_reach_the_user() -> None:
    with pytest.raises(SchedulerError, match="AssertionError: Skypilot is not installed"):
        with nemo_run_errors("SkypilotExecutor"):
            raise AssertionError("Skypilot is not installed")
    with pytest.raises(UsageError, match=r"No module named 'leptonai\.api\.v1'"):
        with nemo_run_errors("LeptonExecutor"):
            raise ModuleNotFoundError("No module named 'leptonai.api.v1'")
    with pytest.raises(UsageError, match=r"^mine$"), nemo_run_errors("x"):
        raise UsageError("mine")


class Recorder:
    """Stands where nemo-run would: says what it was handed."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def door(self) -> Mapping[str, Door]:
        def start(placement: Placement, asked: Handed, secret: Any) -> str:
            self.calls.append(("start", asked))
            return "workload-1"

        def status(placement: Placement, job: str, secret: Any) -> JobStatus:
            self.calls.append(("status", job))
            return JobStatus(job, "running")

        def cancel(placement: Placement, job: str, secret: Any) -> None:
            self.calls.append(("cancel", job))

        return {"dgxcloud": Door(start, status, cancel)}


def test_a_run_is_submitted_asked_for_and_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(nemo_run, "DOORS", recorder.door())
    plan = make_plan(backend="dgxcloud", nodes=2, launch="torchrun", environment={"A": "$(touch x)"})
    run = tmp_path / "rl-rlhf-20261121-153742-ab12"
    run.mkdir()
    (run / "plan.json").write_text(plan.to_json())
    job = NemoRunBackend("dgxcloud").submit(run, plan, Submission("dgxcloud", "", run.name), ())
    ((_, asked),) = recorder.calls
    assert asked.command == ["bash", f"{run}/nemo_run.sh"]
    script = (run / "nemo_run.sh").read_text()
    assert f"NEMOTRON_JOB_ID={run.name}" in script and "NEMOTRON_NODES=2" in script
    assert "touch" not in script
    assert job.job == run.name and job.connection["id"] == "workload-1"
    assert NemoRunBackend("dgxcloud").status([job]) == {run.name: JobStatus(run.name, "running")}
    NemoRunBackend("dgxcloud").cancel([job])
    assert recorder.calls[1:] == [("status", "workload-1"), ("cancel", "workload-1")]


def test_a_run_directory_that_would_need_quotes_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "with space" / "rl-rlhf-1"
    run.mkdir(parents=True)
    with pytest.raises(UsageError, match="is not handed to nemo-run"):
        DGXCLOUD.submit(run, make_plan(), Submission("dgxcloud", "", run.name), ())


def test_a_ray_cluster_starts_only_what_is_made_for_ray() -> None:
    found = {f.id for f in KUBERAY.check(make_plan(launch="torchrun", run_root="/x"))}
    assert "nemo_run.launch" in found
    files = KUBERAY.files(make_plan(launch="ray", nodes=4))
    assert "NEMOTRON_RAY=external" in files["nemo_run.sh"] and "NEMOTRON_NODES=1" in files["nemo_run.sh"]


def test_what_a_killed_client_left_is_said_to_be_unknown() -> None:
    with pytest.raises(NemotronError, match="cannot be told"):
        DGXCLOUD.find([Submission("dgxcloud", "", "rl-rlhf-1")])
