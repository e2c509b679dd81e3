"""Clusters that are not there, die, or do not answer: told clearly, and no job is lost or submitted twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray_server import ADDRESS, PROFILES, RayServer, Unavailable, ray_server

from nemotron.artifacts.submissions import Journal
from nemotron.launch.ray_jobs.api import Jobs

pytestmark = pytest.mark.ray
STEP = ("steps", "run", "make/rows", "-b", "ray")
TOKEN = "hf_verySecret1234567890"


class Proxy(BaseHTTPRequestHandler):
    """Stands before the Jobs API. drop: `before` or `after` the next submission reached Ray it is cut off."""

    drop: str | None = None
    # Hears no call after the next submission.
    deaf: bool = False

    def _serve(self) -> None:
        kind = type(self)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else None
        drop = kind.drop if self.command == "POST" and self.path == "/api/jobs/" else None
        if drop is not None:
            kind.drop = None
        if drop == "before" or (kind.deaf and kind.drop is None and drop is None):
            self.close_connection = True
            return
        there = http.client.HTTPConnection("127.0.0.1", 8265, timeout=30)
        there.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = there.getresponse()
        content = answer.read()
        there.close()
        if drop == "after":
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(place: Any) -> Iterator[type[Proxy]]:
    """The profile's address is that of a proxy, which does what the test says."""
    kind = type("OneProxy", (Proxy,), {})
    with serving(kind) as address:
        (place.work / "env.toml").write_text(PROFILES.replace(ADDRESS, address), encoding="utf-8")
        yield kind


def ids_of(run: str) -> list[str]:
    return [str(j["submission_id"]) for j in Jobs(ADDRESS).jobs() if str(j["submission_id"]).startswith(run)]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        (
            "http://no-such-host.invalid:8265",
            "Ray does not answer at http://no-such-host.invalid:8265",
        ),
        ("https://127.0.0.1:8265", "SSL"),
        ("http://127.0.0.1:6379", "http://127.0.0.1:6379: no HTTP is spoken there"),
    ],
    ids=["port", "name", "tls", "gcs"],
)
def test_a_wrong_address_is_told_and_the_same_command_goes_on_later(
    place: Any, address: str, said: str
) -> None:
    (place.work / "env.toml").write_text(PROFILES.replace(ADDRESS, address), encoding="utf-8")
    done = place.run(*STEP, HF_TOKEN=TOKEN)
    assert done.code == 6, done.err
    assert said in done.err and "Traceback" not in done.err
    assert address in done.err and "nemotron profiles check" in done.err
    checked = place.run("profiles", "check", "ray")
    assert address in checked.out and "was not asked" in checked.out
    (run,) = place.runs()
    assert not Journal(run).unanswered() and not (run / ".secrets").exists()
    (place.work / "env.toml").write_text(PROFILES, encoding="utf-8")
    again = place.run(*STEP, HF_TOKEN=TOKEN)
    assert again.code == 0 and again.out.strip() == run.name, again.err


def test_something_else_at_the_address_is_no_cluster(place: Any) -> None:
    class Page(Proxy):
        def _serve(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>it works</html>")

        do_GET = do_POST = _serve

    with serving(Page) as address:
        (place.work / "env.toml").write_text(PROFILES.replace(ADDRESS, address), encoding="utf-8")
        done = place.run(*STEP)
        assert done.code == 6 and "no answer of a Jobs API: HTTP 200, <html>it works</html>" in done.err


def test_an_answer_that_is_lost_counts_where_ray_has_the_job(place: Any, proxy: type[Proxy]) -> None:
    proxy.drop = "after"
    done = place.run(*STEP)
    assert done.code == 0, done.err
    run = done.out.strip()
    assert ids_of(run) == [run]
    assert place.run("runs", "wait", run).code == 0


def test_a_submission_of_which_nothing_is_known_is_found_later(place: Any, proxy: type[Proxy]) -> None:
    proxy.drop, proxy.deaf = "after", True
    done = place.run(*STEP, HF_TOKEN=TOKEN)
    assert done.code == 6 and "is not known" in done.err
    (run,) = place.runs()
    assert ids_of(run.name) == [run.name] and Journal(run).unanswered()
    assert place.run(*STEP, HF_TOKEN=TOKEN).code == 5
    proxy.deaf = False
    waited = place.run("runs", "wait", run.name)
    assert waited.code == 0, waited.err
    assert ids_of(run.name) == [run.name] and len(Journal(run).submitted()) == 1


def test_one_that_never_arrived_is_not_submitted_twice(place: Any, proxy: type[Proxy]) -> None:
    proxy.drop = "before"
    done = place.run(*STEP, HF_TOKEN=TOKEN)
    assert done.code == 6 and "is not known" in done.err
    (run,) = place.runs()
    assert ids_of(run.name) == []
    assert place.run(*STEP, HF_TOKEN=TOKEN).code == 5, "it may still arrive"
    journal = run / "submissions.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps({**x, "at": "2020-01-01T00:00:00.000Z"}) + "\n" for x in lines))
    again = place.run(*STEP, HF_TOKEN=TOKEN)
    assert again.code == 0, again.err
    assert again.out.strip() == run.name and ids_of(run.name) == [run.name]


@pytest.fixture
def mortal(world: Any) -> Iterator[tuple[Any, RayServer]]:
    """A cluster of the test's own, to be killed."""
    (world.work / "env.toml").write_text(PROFILES, encoding="utf-8")
    try:
        with ray_server() as made, made.inside():
            yield world, made
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_a_cluster_that_dies_takes_no_run_with_it(
    mortal: tuple[Any, RayServer], wait_for: Callable[..., Any]
) -> None:
    """What went on there is cut off, and goes on with the same command when the cluster is back."""
    world, server = mortal
    words = ("steps", "run", "make/rows", "behave=sleep_once", "-b", "ray")
    done = world.run(*words)
    assert done.code == 0, done.err
    run = done.out.strip()
    starts = world.home / "runs" / run / "starts"
    wait_for(lambda: starts.exists())
    server.stop()
    listed = world.run("runs", "list")
    assert listed.code == 0 and run in listed.out
    assert "ray does not answer" in listed.err and ADDRESS in listed.err
    assert world.run("runs", "cancel", run).code == 6
    server.start()

    def over() -> bool:
        state = world.run("runs", "list", "--json").json["runs"][0]["state"]
        return state not in ("queued", "running", "unknown")

    wait_for(over, "until it is known to be over", 120)
    again = world.run(*words, "--json")
    assert (again.code, again.json["run"], again.json["outcome"]) == (0, run, "resumed"), again.err
    assert world.run("runs", "wait", run).code == 0
    assert len(starts.read_text().split()) == 2


RAY_TOKEN = "0123456789abcdef0123456789abcdef"


def test_a_cluster_that_asks_for_a_token_gets_it_and_nobody_else_does(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The waiting job has it from the cluster."""
    (world.work / "env.toml").write_text(PROFILES, encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    world.environ["HOME"] = str(tmp_path)
    words = ("steps", "run", "use/count", "-c", "built", "-b", "ray")
    try:
        with ray_server(token=RAY_TOKEN) as made, made.inside():
            refused = world.run(*words)
            assert refused.code == 6 and "Ray wants to know who asks" in refused.err
            assert "RAY_AUTH_TOKEN" in refused.err
            wrong = world.run(*words, RAY_AUTH_TOKEN="wrong")
            assert wrong.code == 6 and "Ray wants to know who asks" in wrong.err
            done = world.run(*words, RAY_AUTH_TOKEN=RAY_TOKEN)
            assert done.code == 0, done.err
            waited = world.run("runs", "wait", done.out.strip(), RAY_AUTH_TOKEN=RAY_TOKEN)
            assert waited.code == 0, waited.err
    except Unavailable as reason:
        pytest.skip(str(reason))
    held = [p for p in world.root.rglob("*") if p.is_file() and RAY_TOKEN.encode() in p.read_bytes()]
    assert held == []
