"""nemo-run's own executor for DGX Cloud, driven by us against a stand-in for Run:ai: a client contract test.

Skipped without nemo-run: pip install --group lepton.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from lepton_plans import make_plan

from nemotron.artifacts.submissions import Submission
from nemotron.errors import UsageError
from nemotron.launch.nemo_run.backend import DGXCLOUD, KUBERAY, SKYPILOT

pytest.importorskip("nemo_run", reason="pip install --group lepton")
pytestmark = pytest.mark.slow  # it takes seconds to import

SECRET = "client-secret-value"


@pytest.fixture
def runai() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A token, one project, and workloads that are running."""
    calls: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            calls.append((self.command, self.path, body))
            said: Any = {"workloadId": "w-1", "actualPhase": "Running"}
            if self.path == "/token":
                said = {"accessToken": "short-lived"}
            elif self.path == "/org-unit/projects":
                said = {"projects": [{"name": "post-training", "id": "p", "clusterId": "c"}]}
            data = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", calls
    server.shutdown()
    server.server_close()


def test_one_fixed_command_and_no_secret_reach_dgx_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runai: tuple[str, list[tuple[str, str, Any]]]
) -> None:
    url, calls = runai
    profile = (
        f'[dgx]\nexecutor = "dgxcloud"\nbase_url = "{url}"\nkube_apiserver_url = "https://k8s"\n'
        'client_id = "nemotron"\nclient_secret = "${oc.env:DGX_CLIENT_SECRET}"\n'
        'project_name = "post-training"\npvc_nemo_run_dir = "/mnt/nemo_run"\n'
    )
    (tmp_path / "env.toml").write_text(profile)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGX_CLIENT_SECRET", SECRET)
    options = {
        "base_url": url,
        "kube_apiserver_url": "https://k8s",
        "client_id": "nemotron",
        "client_secret": "${oc.env:DGX_CLIENT_SECRET}",
        "project_name": "post-training",
        "pvc_nemo_run_dir": "/mnt/nemo_run",
    }
    environment = {"HF_TOKEN": "hf_value", "X": "$(touch canary)"}
    plan = make_plan(backend="dgxcloud", profile="dgx", options=options, nodes=2, environment=environment)
    run = tmp_path / "rl-rlhf-20261121-153742-ab12"
    run.mkdir()
    (run / "plan.json").write_text(plan.to_json())
    job = DGXCLOUD.submit(run, plan, Submission("dgxcloud", "", run.name), ())
    assert job.connection["id"] == "w-1"
    ((_, path, asked),) = [call for call in calls if call[0] == "POST" and call[1] != "/token"]
    assert path == "/workloads/distributed"
    assert asked["spec"]["environmentVariables"] == []
    assert asked["spec"]["command"] == f"/bin/bash {run}/nemo-run/launch_script.sh"
    assert f"\nbash {run}/nemo_run.sh 2>&1" in (run / "nemo-run" / "launch_script.sh").read_text()
    assert DGXCLOUD.status([job])[job.job].state == "running"
    DGXCLOUD.cancel([job])
    with_secret = [call for call in calls if SECRET in json.dumps(call)]
    assert {call[1] for call in with_secret} == {"/token"}
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert kept == []


@pytest.mark.parametrize(("backend", "module"), [(KUBERAY, "kubernetes"), (SKYPILOT, "sky")])
def test_what_is_missing_is_told_in_its_own_words(backend: Any, module: str, tmp_path: Path) -> None:
    try:
        __import__(module)
        pytest.skip(f"{module} is installed")
    except ImportError:
        pass
    run = tmp_path / "rl-rlhf-20261121-153742-ab12"
    run.mkdir()
    with pytest.raises(Exception, match=r"No module named 'kubernetes|Skypilot is not installed") as caught:
        backend.submit(run, make_plan(launch="ray"), Submission(backend.name, "", run.name), ())
    assert isinstance(caught.value, UsageError) or caught.type.__name__ == "SchedulerError"
