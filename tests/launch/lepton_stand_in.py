"""A stand-in for the REST interface of Lepton, on this machine: a client contract test, nothing more.

What it answers is what the client `leptonai` 0.26.7 reads and sends; of the real service it says nothing.
Jobs are processes. Each sees the storage at the mount path that its job names, in a mount namespace of its
own, and the client does not: as a laptop does not see a cluster's file system.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "lepton-token-0123456789abcdef"
WORKSPACE = "workspace1"
# A directory for mounts, and everything of the storage below it.
_INSIDE = """
mount -t tmpfs none /mnt && mkdir -p "$2" && mount --bind "$1" "$2" || exit 99
shift 2
exec "$@"
"""


def namespace_words() -> list[str] | None:
    """How a process with mounts of its own is started; None where this machine allows nobody to."""
    for words in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if (
            shutil.which("unshare")
            and not subprocess.run(
                [*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
            ).returncode
        ):
            return words
    return None


@dataclass
class Process:
    """A job that was created, or a Ray job. stopped: asked to."""

    spec: dict[str, Any]
    replicas: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)
    stopped: bool = False
    held: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def state(self) -> str:
        """In Lepton's words."""
        if self.held:
            return "Stopped" if self.stopped else "Queueing"
        codes = [each.poll() for each in self.replicas.values()]
        if None in codes:
            return "Stopping" if self.stopped else "Running"
        return "Stopped" if self.stopped else "Failed" if any(codes) else "Completed"


@dataclass
class StandIn:
    """The service. storage: what every mount shows. calls: method and path of each request, and its body."""

    root: Path
    secrets: dict[str, str] = field(default_factory=dict)
    groups: list[Any] = field(default_factory=list)
    nodes: dict[str, list[Any]] = field(default_factory=dict)
    shapes: list[str] | None = None
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    jobs: dict[str, Process] = field(default_factory=dict)
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)
    ray_jobs: dict[str, dict[str, Process]] = field(default_factory=dict)
    odd_jobs: list[Any] = field(default_factory=list)
    refuse: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    hold: bool = False
    url: str = ""

    @property
    def storage(self) -> Path:
        """The shared storage, where nobody but a job sees it under its mount path."""
        return self.root / "storage"

    def start(self, spec: dict[str, Any], name: str) -> Process:
        """Start the replicas of a job."""
        made = Process(spec, held=self.hold)
        if self.hold:
            return made
        count = spec.get("parallelism", 1)
        for index in range(count):
            told = {
                "LEPTON_JOB_NAME": name,
                "LEPTON_JOB_WORKER_INDEX": str(index),
                "LEPTON_JOB_TOTAL_WORKERS": str(count),
                "LEPTON_JOB_FAILURE_COUNT": "0",
            }
            variables = {e["name"]: self._value(e) for e in spec.get("envs", [])}
            command = spec["container"]["command"]
            self.replica(made, f"{name}-{index}-x7k2p", command, {**told, **variables}, spec["mounts"][0])
        return made

    def replica(
        self, made: Process, name: str, command: list[str], variables: dict[str, str], mount: dict[str, Any]
    ) -> None:
        """Start a process as in a container: with the storage mounted, and nothing of our environment."""
        self.storage.mkdir(exist_ok=True)
        log = self.root / f"{name}.log"
        words = namespace_words()
        assert words is not None
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with log.open("wb") as file:
            made.replicas[name] = subprocess.Popen(
                [*words, "sh", "-c", _INSIDE, "sh", str(self.storage), mount["mount_path"], *command],
                env={"PATH": path, "HOME": str(self.root), **variables},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        made.logs[name] = log

    def _value(self, variable: dict[str, Any]) -> str:
        if "value_from" in variable:
            return self.secrets[variable["value_from"]["secret_name_ref"]]
        return str(variable["value"])

    def shown(self, name: str) -> dict[str, Any]:
        """A job as the service tells of it."""
        made = self.jobs[name]
        return {
            "metadata": {"id": name, "name": name, "created_at": made.created, "unheard_of": 1},
            "spec": made.spec,
            "status": {
                "state": made.state(),
                "creation_time": made.created,
                "completion_time": made.created + 1,
            },
        }

    def close(self) -> None:
        """End what still runs."""
        every = [*self.jobs.values(), *(j for jobs in self.ray_jobs.values() for j in jobs.values())]
        for made in every:
            for process in made.replicas.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: StandIn

    def _serve(self) -> None:
        split = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        path = unquote(split.path)
        self.world.calls.append((self.command, path, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, {"message": f"who is {self.headers.get('Authorization')}"})
            return
        if (self.command, path) in self.world.refuse:
            code, said = self.world.refuse[(self.command, path)]
            self._say(code, said)
            return
        words = [unquote(word) for word in split.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        try:
            code, said = self._answer(self.command, words, query, body)
        except KeyError as problem:
            code, said = 404, {"message": f"{problem} not found"}
        self._say(code, said)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _answer(self, method: str, words: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        world = self.world
        match (method, *words):
            case ("GET", "dedicated-node-groups"):
                return 200, world.groups
            case ("GET", "dedicated-node-groups", group, "nodes"):
                return 200, world.nodes[group]
            case ("GET", "shapes"):
                if world.shapes is None:
                    return 404, {"message": "no shapes here"}
                return 200, [{"metadata": {"id": s, "name": s}, "spec": {"name": s}} for s in world.shapes]
            case ("GET", "usersecrets"):
                return 200, [{"name": name} for name in world.secrets]
            case ("POST", "jobs"):
                name = body["metadata"]["id"]
                if name in world.jobs:
                    return 409, {"message": f"job {name} exists"}
                world.jobs[name] = world.start(body["spec"], name)
                return 201, world.shown(name)
            case ("GET", "jobs"):
                wanted = [world.shown(name) for name in world.jobs if query.get("q", "") in name]
                first = query.get("page", "1") == "1"
                return 200, {"jobs": [*wanted, *world.odd_jobs] if first else [], "total": len(wanted)}
            case ("GET", "jobs", name):
                return 200, world.shown(name)
            case ("PATCH", "jobs", name):
                made = world.jobs[name]
                assert body == {"spec": {"stopped": True}}
                made.stopped = True
                for process in made.replicas.values():
                    if process.poll() is None:
                        process.terminate()
                return 200, {}
            case ("DELETE", "jobs", name):
                del world.jobs[name]
                return 200, {}
            case ("GET", "jobs", name, "replicas"):
                return 200, [{"metadata": {"id": r}, "id": r} for r in world.jobs[name].replicas]
            case ("GET", "jobs", name, "replicas", replica, "log"):
                return 200, world.jobs[name].logs[replica].read_bytes()
            case ("POST", "rayclusters"):
                world.clusters[body["metadata"]["id"]] = {**body, "status": {"state": "Ready"}}
                world.ray_jobs[body["metadata"]["id"]] = {}
                return 201, {}
            case ("GET", "rayclusters", name):
                return 200, world.clusters[name]
            case ("DELETE", "rayclusters", name):
                del world.clusters[name]
                return 200, {}
            case (_, "rayclusters", name, "dashboard", "api", "jobs", *rest):
                world.clusters[name]
                return self._ray(method, name, [word for word in rest if word], body)
        raise KeyError("/".join(words))

    def _ray(self, method: str, cluster: str, words: list[str], body: Any) -> tuple[int, Any]:
        jobs, head = self.world.ray_jobs[cluster], self.world.clusters[cluster]["spec"]["head_group_spec"]
        if not words:
            made = Process({})
            variables = {e["name"]: self.world._value(e) for e in head.get("envs", [])}
            variables |= body["runtime_env"]["env_vars"] | {"RAY_ADDRESS": "10.0.0.1:6379"}
            name = body["submission_id"]
            command = ["sh", "-c", body["entrypoint"]]
            self.world.replica(made, name, command, variables, head["mounts"][0])
            jobs[name] = made
            return 200, {"submission_id": name}
        made = jobs[words[0]]
        if words[1:] == ["logs"]:
            return 200, {"logs": made.logs[words[0]].read_text()}
        if words[1:] == ["stop"]:
            made.stopped = True
            made.replicas[words[0]].terminate()
            return 200, {"stopped": True}
        code = made.replicas[words[0]].poll()
        ended = "STOPPED" if made.stopped else "FAILED" if code else "SUCCEEDED"
        return 200, {
            "submission_id": words[0],
            "status": "RUNNING" if code is None else ended,
            "message": "",
            "driver_exit_code": code,
            "start_time": made.created * 1000,
            "end_time": None if code is None else made.created * 1000 + 500,
        }

    def _say(self, code: int, said: Any) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[StandIn]:
    """A stand-in that answers on a port of this machine."""
    world = StandIn(root)
    root.mkdir(parents=True, exist_ok=True)
    handler = type("Handler", (_Handler,), {"world": world})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    world.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        world.close()
