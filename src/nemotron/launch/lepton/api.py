"""The REST interface of Lepton: the few calls that a launch needs, every reply read strictly.

What a reply should hold and does not is an error that says so; no item of a list is passed over in silence.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemotron.errors import SchedulerError
from nemotron.launch.backend import Unanswered
from nemotron.launch.lepton.workspace import Workspace

# A page of the list of jobs.
_PAGE, _MOST_PAGES = 500, 200
# Of a log: what is read at once, and at most. It may be held open for as long as its job runs.
_CHUNK, _LOG_BYTES, _LOG_SECONDS, _QUIET_SECONDS = 1 << 16, 64 << 20, 20.0, 1.5


class Silent(Unanswered):
    """The service did not answer: whether it did what was asked is not known."""


class Absent(SchedulerError):
    """The service knows nothing of this name."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that belong together. nodes: how many are ready; gpus: of each of its nodes, by node id."""

    id: str
    name: str
    nodes: int | None
    gpus: Mapping[str, int | None]


@dataclass(frozen=True)
class Lepton:
    """A workspace that can be spoken to. All methods raise SchedulerError, with what the service said.

    seconds: how long an answer is waited for.
    """

    workspace: Workspace
    seconds: float = 60.0

    def create_job(self, job: Mapping[str, Any]) -> str:
        """Create a job; its id."""
        made = self._object("POST", "/jobs", job)
        return _text(made, "metadata", "id", of="the reply to POST /jobs")

    def job(self, job: str) -> Mapping[str, Any] | None:
        """A job as the service has it; None where it has none of this id."""
        try:
            return self._object("GET", f"/jobs/{_quoted(job)}")
        except Absent:
            return None

    def jobs_like(self, name: str) -> list[Mapping[str, Any]]:
        """All jobs with this in their name, archived ones too."""
        found: list[Mapping[str, Any]] = []
        for page in range(1, _MOST_PAGES):
            query = {"job_query_mode": "alive_and_archive", "q": name, "page": page, "page_size": _PAGE}
            items = self._list("/jobs", "jobs", query)
            if not items:
                return found
            found += items
        raise SchedulerError(f"the list of jobs named {name} has no end", where="GET /jobs")

    def stop_job(self, job: str) -> None:
        """Stop a job: its processes get SIGTERM, and it stays known. One that is gone is no error."""
        try:
            self._call("PATCH", f"/jobs/{_quoted(job)}", {"spec": {"stopped": True}})
        except Absent:
            return

    def delete_job(self, job: str) -> None:
        """Remove a job and its log; one that is gone is no error."""
        try:
            self._call("DELETE", f"/jobs/{_quoted(job)}")
        except Absent:
            return

    def replicas(self, job: str) -> list[str]:
        """Ids of a job's replicas; empty where there are none, or none yet."""
        try:
            items = self._list(f"/jobs/{_quoted(job)}/replicas", "replicas")
        except Absent:
            return []
        of = f"the list of replicas of {job}"
        return [_text(item, "metadata", "id", of=f"{of}, item {n}") for n, item in enumerate(items)]

    def log(self, job: str, replica: str) -> bytes:
        """What a replica has written until now, as far as the service keeps it."""
        return self._stream(f"/jobs/{_quoted(job)}/replicas/{_quoted(replica)}/log")

    def node_groups(self) -> list[NodeGroup]:
        """All node groups of the workspace, without their nodes."""
        found = []
        for number, item in enumerate(self._list("/dedicated-node-groups", "items")):
            of = f"the list of node groups, item {number}"
            status = item.get("status")
            ready = status.get("ready_nodes") if isinstance(status, Mapping) else None
            name = _text(item, "metadata", "name", of=of)
            ready = ready if isinstance(ready, int) else None
            found.append(NodeGroup(_text(item, "metadata", "id", of=of), name, ready, {}))
        return found

    def nodes(self, group: NodeGroup) -> Mapping[str, int | None]:
        """GPUs of each node of a group, by node id; None where the service does not say."""
        found: dict[str, int | None] = {}
        for number, item in enumerate(
            self._list(f"/dedicated-node-groups/{_quoted(group.id)}/nodes", "items")
        ):
            node = _text(item, "metadata", "id", of=f"the list of nodes of {group.name}, item {number}")
            found[node] = _gpus(item)
        return found

    def shapes(self, group: str | None) -> tuple[str, ...] | None:
        """Names of the shapes of nodes; None where the service lists none."""
        query = {"node_groups": group} if group else None
        try:
            items = self._list("/shapes", "items", query)
        except Absent:
            return None
        names = [str(_inside(i, "metadata", "name") or _inside(i, "spec", "name") or "") for i in items]
        return tuple(filter(None, names)) or None

    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the workspace holds; never a value."""
        items = self._list("/usersecrets", "secrets", plain=True)
        named = (item.get("name") if isinstance(item, Mapping) else item for item in items)
        return tuple(str(name) for name in named if name)

    def create_cluster(self, cluster: Mapping[str, Any]) -> None:
        """Create a Ray cluster."""
        self._call("POST", "/rayclusters", cluster)

    def cluster(self, name: str) -> Mapping[str, Any] | None:
        """A Ray cluster; None where there is none of this name."""
        try:
            return self._object("GET", f"/rayclusters/{_quoted(name)}")
        except Absent:
            return None

    def delete_cluster(self, name: str) -> None:
        """Remove a Ray cluster; one that is gone is no error."""
        try:
            self._call("DELETE", f"/rayclusters/{_quoted(name)}")
        except Absent:
            return

    def ray(self, cluster: str, method: str, path: str, body: Any = None) -> Mapping[str, Any] | None:
        """A call of the Jobs API of a Ray cluster; None for what it does not know."""
        try:
            return self._object(method, f"/rayclusters/{_quoted(cluster)}/dashboard/api/jobs/{path}", body)
        except Absent:
            return None

    def _list(
        self, path: str, key: str, query: Mapping[str, Any] | None = None, *, plain: bool = False
    ) -> list[Mapping[str, Any]]:
        """A list, which may be the value of `key`. plain: items may be texts."""
        loaded = self._call("GET", path, query=query)
        items = loaded.get(key) if isinstance(loaded, Mapping) and key in loaded else loaded
        if not isinstance(items, list):
            raise SchedulerError(f"the service answered no list: {_shown(loaded)}", where=f"GET {path}")
        for number, item in enumerate(items):
            if not isinstance(item, Mapping) and not (plain and isinstance(item, str)):
                what = f"item {number} of the list is no object: {_shown(item)}"
                raise SchedulerError(what, where=f"GET {path}")
        return items

    def _object(self, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
        loaded = self._call(method, path, body)
        if not isinstance(loaded, Mapping):
            raise SchedulerError(
                f"the service answered no object: {_shown(loaded)}", where=f"{method} {path}"
            )
        return loaded

    def _call(self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        from urllib.parse import urlencode

        where = f"{method} {path}"
        data = json.dumps(body, allow_nan=False).encode() if body is not None else None
        try:
            with self._open(method, path + (f"?{urlencode(query)}" if query else ""), data) as reply:
                text = reply.read()
        except OSError as problem:
            raise _problem(problem, where, self.workspace) from problem
        if not text.strip():
            return {}
        try:
            return json.loads(text)
        except ValueError as problem:
            raise SchedulerError(f"the service answered no JSON: {_shown(text)}", where=where) from problem

    def _stream(self, path: str) -> bytes:
        """What comes until it ends or pauses."""
        found, began = bytearray(), time.monotonic()
        try:
            with self._open("GET", path, None) as reply:
                _limit(reply, _QUIET_SECONDS)
                while len(found) < _LOG_BYTES and time.monotonic() - began < _LOG_SECONDS:
                    try:
                        chunk = reply.read1(_CHUNK)
                    except TimeoutError:
                        break  # a job that goes on and says nothing just now
                    if not chunk:
                        break
                    found += chunk
        except OSError as problem:
            if isinstance(_problem(problem, path, self.workspace), Absent):
                return b""
            raise _problem(problem, f"GET {path}", self.workspace) from problem
        return bytes(found)

    def _open(self, method: str, path: str, data: bytes | None) -> Any:
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            """A token is sent to the one address that it is for."""

            def redirect_request(self, *_: Any) -> None:
                return None

        headers = {"Authorization": f"Bearer {self.workspace.token}", "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self.workspace.origin:
            headers["origin"] = self.workspace.origin
        request = Request(self.workspace.url + path, data, headers, method=method)
        return build_opener(NoRedirect).open(request, timeout=self.seconds)


def _problem(problem: OSError, where: str, workspace: Workspace) -> SchedulerError:
    """What a failed call means; the token is in none of it."""
    from urllib.error import HTTPError

    if not isinstance(problem, HTTPError):
        reason = getattr(problem, "reason", None) or problem
        return Silent(f"no answer from {workspace.url}: {reason}", where=where)
    try:
        said = _message(problem.read())
    except OSError:
        said = ""
    said = said.replace(workspace.token, "(token)")
    if problem.code == 404:
        return Absent(said or "not found", where=where)
    if problem.code in (401, 403):
        what = f"Lepton does not let us in ({problem.code}): {said or problem.reason}"
        return SchedulerError(what, where=where, next="lep login, or LEPTON_WORKSPACE_TOKEN anew")
    what = f"Lepton refused it ({problem.code}): {said or problem.reason}"
    # A gateway that gave up waiting may have passed it on.
    return Silent(what, where=where) if problem.code >= 502 else SchedulerError(what, where=where)


def _message(text: bytes) -> str:
    """What is said in the body of an error, on one line."""
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = text.decode("utf-8", "replace")
    if isinstance(loaded, Mapping):
        loaded = next((loaded[k] for k in ("message", "detail", "error") if loaded.get(k)), loaded)
    return " ".join(str(loaded).split())[:500]


def _limit(reply: Any, seconds: float) -> None:
    """How long the next bytes of a reply are waited for."""
    raw = getattr(getattr(reply, "fp", None), "raw", None)
    sock = getattr(raw, "_sock", None)
    if sock is not None:
        sock.settimeout(seconds)


def _inside(item: Any, *keys: str) -> Any:
    for key in keys:
        item = item.get(key) if isinstance(item, Mapping) else None
    return item


def _text(item: Mapping[str, Any], *keys: str, of: str) -> str:
    value = _inside(item, *keys)
    if not isinstance(value, str) or not value:
        raise SchedulerError(f"{of}: no {'.'.join(keys)} in it: {_shown(item)}", where="Lepton")
    return value


def _gpus(node: Mapping[str, Any]) -> int | None:
    total = _inside(node, "spec", "resource", "gpu", "total")
    return int(total) if isinstance(total, int | float) else None


def _shown(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def by_name(groups: Sequence[NodeGroup], name: str) -> NodeGroup | None:
    """The group that a profile means: by name, else by id."""
    return next((g for g in groups if g.name == name), None) or next(
        (g for g in groups if g.id == name), None
    )
