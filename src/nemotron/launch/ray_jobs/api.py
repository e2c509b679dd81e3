"""The Jobs API of a Ray cluster, as a client of this package sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from nemotron.errors import SchedulerError, UsageError
from nemotron.launch.backend import Unanswered
from nemotron.launch.ray_jobs.waiter import SECONDS, Unheard, request, said

_NEXT = "nemotron profiles check; a token goes into RAY_AUTH_TOKEN, other headers into RAY_JOB_HEADERS"
_DEFAULT_PORT = 8265


@dataclass(frozen=True)
class Jobs:
    """The API at an address. Errors of all calls: SchedulerError, Unanswered where nothing was heard.

    seconds: how long an answer is waited for.
    """

    address: str
    seconds: float = SECONDS

    def get(self, path: str) -> Any:
        """What it says at a path; None where it knows of nothing there."""
        status, body = self._call("GET", path)
        if status == 404:
            return None
        return self._loaded(status, body)

    def job(self, job: str) -> Mapping[str, Any] | None:
        """What it says of a job; None where it knows none of this id."""
        found = self.get(f"/api/jobs/{quote(job, safe='')}")
        return found if isinstance(found, dict) else None

    def jobs(self) -> list[Mapping[str, Any]]:
        """All jobs that were handed to it."""
        found = self.get("/api/jobs/")
        if not isinstance(found, list):
            raise SchedulerError("what it lists are no jobs", where=self.address)
        return [each for each in found if isinstance(each, dict) and each.get("submission_id")]

    def submit(self, payload: Mapping[str, Any]) -> str:
        """Hand a job over; its id."""
        status, body = self._call("POST", "/api/jobs/", payload)
        if status != 200:
            raise SchedulerError(f"Ray refused the job: {said(body)}", where=self.address)
        return str(self._loaded(status, body).get("submission_id"))

    def stop(self, job: str) -> None:
        """Ask a job to end; one that has ended, or that it does not know, is left alone."""
        status, body = self._call("POST", f"/api/jobs/{quote(job, safe='')}/stop")
        if status not in (200, 404):
            raise SchedulerError(f"job {job} was not stopped: {said(body)}", where=self.address)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        try:
            status, content = request(self.address, method, path, body, self.seconds)
        except Unheard as problem:
            kind = Unanswered if problem.sent else SchedulerError
            raise kind(f"Ray does not answer at {problem}", where=self.address, next=_NEXT) from problem
        except ValueError as problem:
            raise UsageError(f"RAY_JOB_HEADERS: {problem}", where="environment") from problem
        if status in (401, 403):
            raise SchedulerError(
                f"Ray wants to know who asks: {said(content)}", where=self.address, next=_NEXT
            )
        return status, content

    def _loaded(self, status: int, body: bytes) -> Any:
        try:
            if status == 200:
                return json.loads(body)
        except ValueError:
            pass
        what = f"no answer of a Jobs API: HTTP {status}, {said(body)}"
        raise SchedulerError(what, where=self.address, next=_NEXT)


def api_address(given: object) -> str:
    """An address as `Jobs` takes it: http://HOST:PORT. Raises UsageError for what is none."""
    text = str(given or "").strip()
    what = None
    if not text:
        what = "nothing says where the Ray cluster is"
    elif text == "auto" or text.startswith("ray://"):
        what = f"{text} is for programs inside of the cluster"
    elif not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        what = f"{text[:80]!r} is no address"
    if what is None:
        text = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            what = f"{text[:80]!r} is no address"
        elif parts.username or parts.password:
            # It would be in every plan and journal.
            raise UsageError(
                "the address holds a login", where="address", next="put it into RAY_JOB_HEADERS, as JSON"
            )
        elif port is None and parts.scheme == "http":
            text = text.replace(parts.netloc, f"{parts.netloc}:{_DEFAULT_PORT}", 1)
    if what is not None:
        raise UsageError(what, where="address", next='address = "http://HEAD:8265" of the Jobs API')
    return text.rstrip("/")
