"""Inputs that the client could not see: found, checked and pinned by the job before the trainer starts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json, write_text
from nemotron.artifacts.paths import printable
from nemotron.artifacts.records import PENDING, stat_fingerprint
from nemotron.artifacts.run_state import RECORD_FILE, read_object
from nemotron.errors import CheckFailed, NemotronError
from nemotron.findings import Finding, errors_in

PINNED_FILE = "inputs.json"
# A file that another node has just written may take this long to be seen through a network file system.
VISIBLE_SECONDS = 60.0
_SHOWN = 5
# What a double-quoted YAML scalar cannot hold as it is, beyond what JSON escapes.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

Pinned = dict[str, dict[str, Any]]


def pin_late_inputs(
    directory: Path, place: Mapping[str, Any], *, stopped: Callable[[], bool] = lambda: False
) -> Pinned:
    """The late inputs of a run by port, as records hold inputs; the trainer's config is written with them.

    They are pinned once: a later attempt reads what the first one read. stopped: asked while the word of
    a run that should have ended is waited for; True gives up.

    Raises
    ------
    CheckFailed: for all that are not there, not of their type, or not what they were, at once.
    """
    late: Mapping[str, Mapping[str, Any]] = place.get("late") or {}
    if not late:
        return {}
    earlier = read_object(directory / PINNED_FILE)
    pinned: Pinned = {}
    problems: list[Finding] = []
    for port, wanted in late.items():
        known = place["inputs"].get(port) or {}
        try:
            if port in earlier:
                pinned[port] = _unchanged(earlier[port])
            else:
                pinned[port] = {**known, **_pinned(wanted, stopped)}
        except NemotronError as problem:
            what = f"input {port}: {problem.what}"
            shown = Finding(
                "input.late", "error", what, problem.where, ", ".join(problem.valid), problem.next
            )
            problems += [shown, *problem.findings]
    if problems:
        raise _refusal(problems)
    write_json(directory / PINNED_FILE, pinned)
    fill_config(directory, {port: str(each["path"]) for port, each in pinned.items()})
    return pinned


def fill_config(directory: Path, paths: Mapping[str, str]) -> None:
    """Write `config.yaml` from `config.yaml.in`, with `paths` for `@@late:PORT@@`. Errors: CheckFailed."""
    source = directory / "config.yaml.in"
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise CheckFailed(f"{source.name} cannot be read: {problem}", where=printable(source)) from problem
    token = re.compile(f"@@late:({'|'.join(re.escape(port) for port in paths)})@@")
    write_text(directory / "config.yaml", token.sub(lambda found: _escaped(paths[found[1]]), text))


def _escaped(path: str) -> str:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise CheckFailed(
            "a path that is not UTF-8 cannot be in a config", where=printable(path)
        ) from problem
    quoted = json.dumps(path, ensure_ascii=False)[1:-1]
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _pinned(wanted: Mapping[str, Any], stopped: Callable[[], bool]) -> dict[str, Any]:
    if "run" not in wanted:
        path = Path(wanted["path"])
        return {"type": _checked(path, wanted), "path": str(path), **_content(path, {})}
    upstream = Path(wanted["directory"])
    output = _output_of(wanted, upstream, stopped)
    path = Path(output["path"])
    settled = read_object(upstream / "outputs.json").get(wanted["port"]) or {}
    return {
        "type": _checked(path, wanted),
        "path": str(path),
        "made_by": wanted["run"],
        "output": wanted["port"],
        **_content(path, settled if settled.get("path") == str(path) else {}),
    }


def _output_of(wanted: Mapping[str, Any], upstream: Path, stopped: Callable[[], bool]) -> Mapping[str, Any]:
    until = time.monotonic() + VISIBLE_SECONDS
    run, port = wanted["run"], wanted["port"]
    record = read_object(upstream / RECORD_FILE)
    while not record and upstream.is_dir() and time.monotonic() < until and not stopped():
        time.sleep(0.5)
        record = read_object(upstream / RECORD_FILE)
    again = f"nemotron runs show {run}"
    if not record:
        raise CheckFailed(f"run {run} has not ended", where=printable(upstream), next=again)
    if record.get("exit_code") != 0:
        why = record.get("reason") or f"exit code {record.get('exit_code')}"
        raise CheckFailed(f"run {run} did not succeed: {why}", where=printable(upstream), next=again)
    output = (record.get("outputs") or {}).get(port)
    if not output:
        made = tuple(sorted(record.get("outputs") or {}))
        what = f"run {run} left no output {port}"
        raise CheckFailed(what, where=printable(upstream), valid=made, next=again)
    found: Mapping[str, Any] = output
    return found


def _checked(path: Path, wanted: Mapping[str, Any]) -> str:
    """The type of what is at a path, of those that the port accepts."""
    from nemotron.artifacts.checks import check_artifact  # 20 ms that most jobs need at their end alone

    checked = check_artifact(path, wanted["types"])
    errors = errors_in(checked.findings)
    if errors:
        accepted = " or ".join(wanted["types"])
        raise CheckFailed(f"this is no {accepted}", where=printable(path), findings=errors[:_SHOWN])
    return checked.type


def _content(path: Path, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Its identity: the digest where one is known for just these files, else what a client can tell it by."""
    fingerprint = stat_fingerprint(path)
    same = settled.get("fingerprint") == fingerprint
    return {"digest": settled.get("digest", PENDING) if same else PENDING, "fingerprint": fingerprint}


def _unchanged(pinned: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(pinned["path"])
    if stat_fingerprint(path) != pinned["fingerprint"]:
        raise CheckFailed(
            "it has changed since the first attempt read it",
            where=printable(path),
            next="put it back as it was, or start another run with --no-cache",
        )
    return dict(pinned)


def _refusal(problems: list[Finding]) -> CheckFailed:
    late = [each for each in problems if each.id == "input.late"]
    first = late[0]
    more = f", and {len(late) - 1} more inputs" if len(late) > 1 else ""
    return CheckFailed(first.message + more, where=first.where, next=first.fix, findings=problems)
