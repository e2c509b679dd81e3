"""Waits on a Ray cluster for the jobs that a run is based on, and hands the run over then.

    python -I waiter.py WANTED_FILE

WANTED_FILE is what `backend.py` writes. This is a job of its own that holds no CPU and no GPU: one that
waited with those of its run could keep them from the very job that it waits for. Standard library only: this
file runs by its path, on a node of the cluster.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
WAITING = ".wait"
"""Ends the id of the job that waits for a run to be handed over."""

_HEADERS, _TOKEN, _TOKEN_FILE = "RAY_JOB_HEADERS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
SECONDS = 30.0
"""How long an answer is waited for."""
_POLL_SECONDS, _DEAF_SECONDS = 2.0, 300.0
_MOST_BYTES = 64 << 20
_EXIT_UPSTREAM, _EXIT_NO_API = 3, 4


class Unheard(Exception):
    """The API did not answer. sent: whether it may have got the request."""

    def __init__(self, what: str, *, sent: bool) -> None:
        super().__init__(what)
        self.sent = sent


def request(
    address: str, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = SECONDS
) -> tuple[int, bytes]:
    """One call of the Jobs API at `address`, such as http://127.0.0.1:8265: status and body.

    No proxy is used.
    Raises Unheard, and ValueError for headers in the environment that are none.
    """
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(parts.hostname), parts.port, timeout=seconds)
    content = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json", **_own_headers()}
    if content is not None:
        headers["Content-Type"] = "application/json"
    sent = False
    try:
        connection.connect()
        sent = True
        connection.request(method, parts.path.rstrip("/") + path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as problem:
        # What speaks another protocol is not repeated: it may be any bytes.
        why = str(problem) if isinstance(problem, OSError) else "no HTTP is spoken there"
        raise Unheard(f"{address}: {why or type(problem).__name__}", sent=sent) from problem
    finally:
        connection.close()


def job_info(address: str, job: str) -> dict[str, Any] | None:
    """What the API says of a job; None for one that it does not know. Raises Unheard."""
    status, body = request(address, "GET", f"/api/jobs/{quote(job, safe='')}")
    if status == 404:
        return None
    try:
        found = json.loads(body) if status == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unheard(f"{address}: HTTP {status}: {said(body)}", sent=True)
    return found


def said(body: bytes) -> str:
    """The last line of an error's text: before it stands a traceback."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"


def _own_headers() -> dict[str, str]:
    """What Ray's own client would send: RAY_JOB_HEADERS, and the token of a cluster that asks for one."""
    found = {}
    given = os.environ.get(_HEADERS)
    if given:
        loaded = json.loads(given)
        if not isinstance(loaded, dict):
            raise ValueError(f"{_HEADERS} is no JSON object")
        found = {str(name): str(value) for name, value in loaded.items()}
    token = os.environ.get(_TOKEN)
    if token is None:
        path = os.environ.get(_TOKEN_FILE) or Path("~/.ray/auth_token").expanduser()
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, RuntimeError):
            token = None
    return {**({"Authorization": f"Bearer {token}"} if token else {}), **found}


def _addresses(address: str) -> Iterator[str]:
    """Where the API may be as seen from here: as it was typed, on the head, on this node."""
    yield address
    port = urlsplit(address).port or 8265
    head = os.environ.get("RAY_ADDRESS", "").rpartition(":")[0]
    for host in (head, "127.0.0.1", socket.gethostname()):
        for each in dict.fromkeys((port, 8265)):
            if host:
                yield f"http://{host}:{each}"


def _reached(address: str, own: str) -> str | None:
    """The first address at which an API knows this very job."""
    for each in _addresses(address):
        try:
            if job_info(each, own) is not None:
                return each
        except Unheard:
            continue
    return None


def _ended(api: str, job: str) -> str | None:
    """How a job ended, or the one that waits in its place; None while it is not over."""
    for name in (job, job + WAITING):
        info = job_info(api, name)
        if info is not None:
            status = str(info.get("status"))
            # The one that waited has handed it over this moment.
            is_over = status in ENDED and not (name != job and status == "SUCCEEDED")
            return status if is_over else None
    return "unknown to Ray"


def _wait(api: str, jobs: Sequence[Mapping[str, str]], when: str) -> str | None:
    """Wait until jobs have ended; what is wrong with their end, None when the run may begin."""
    heard = time.monotonic()
    for job in jobs:
        while True:
            try:
                how = _ended(api, job["job"])
                heard = time.monotonic()
            except Unheard as problem:
                if time.monotonic() - heard > _DEAF_SECONDS:
                    return str(problem)
                how = None
            if how is not None:
                break
            time.sleep(_POLL_SECONDS)
        if when == "ok" and how != "SUCCEEDED":
            return f"run {job['name']}, which it waits for, did not succeed: {how}"
    return None


def main(file: str) -> int:
    """Wait, and hand over."""
    wanted = json.loads(Path(file).read_text(encoding="utf-8"))
    api = _reached(wanted["address"], wanted["job"]["submission_id"] + WAITING)
    if api is None:
        print(f"the Jobs API is not at {wanted['address']} as seen from the cluster, nor on its head")
        return _EXIT_NO_API
    for each in wanted["after"]:
        problem = _wait(api, each["jobs"], each["when"])
        if problem is not None:
            print(problem)
            return _EXIT_UPSTREAM
    status, body = request(api, "POST", "/api/jobs/", wanted["job"])
    if status != 200:
        print(f"Ray refused the job: {said(body)}")
        return _EXIT_NO_API
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
