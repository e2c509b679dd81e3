"""Which workspace of Lepton is meant, and how we are known to it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron.errors import UsageError

_NEXT = "lep login -c WORKSPACE:TOKEN, or export LEPTON_WORKSPACE_ID, _TOKEN and _URL"
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/@%-]*)?", re.ASCII)
# Without encryption a token goes only to this machine.
_HERE = re.compile(r"http://(127(\.\d+){3}|localhost|\[::1\])([:/]|$)", re.ASCII)


@dataclass(frozen=True)
class Workspace:
    """A workspace: its id, where its interface is, and the token, which is never shown.

    origin: what the service wants to hear of where a request comes from; None for nothing.
    """

    name: str
    url: str
    token: str = field(repr=False)
    origin: str | None = None


def find_workspace(environ: Mapping[str, str]) -> Workspace:
    """The workspace of LEPTON_WORKSPACE_*, else of `lep login`. Raises UsageError where there is none."""
    name, token = environ.get("LEPTON_WORKSPACE_ID", ""), environ.get("LEPTON_WORKSPACE_TOKEN", "")
    if ":" in name and not token:
        name, _, token = name.partition(":")
    record = _login_record(environ)
    name = name or str(record.get("current_workspace") or "")
    if not name:
        raise UsageError("no workspace of Lepton is known here", where="LEPTON_WORKSPACE_ID", next=_NEXT)
    workspaces = record.get("workspaces")
    known = workspaces.get(name) if isinstance(workspaces, Mapping) else None
    known = known if isinstance(known, Mapping) else {}
    token = token or str(known.get("auth_token") or "")
    url = environ.get("LEPTON_WORKSPACE_URL") or str(known.get("url") or "")
    if not token:
        raise UsageError(f"no token for the workspace {name}", where="LEPTON_WORKSPACE_TOKEN", next=_NEXT)
    if not token.isascii() or not token.isprintable():
        raise UsageError(
            "the token of Lepton holds characters that no token has", where="LEPTON_WORKSPACE_TOKEN"
        )
    if not url:
        raise UsageError(
            f"where the workspace {name} is reached is not known", where="LEPTON_WORKSPACE_URL", next=_NEXT
        )
    if not _URL.fullmatch(url) or not (url.startswith("https:") or _HERE.match(url)):
        raise UsageError(
            f"{url[:200]!r} is no address that a token can be sent to",
            where="LEPTON_WORKSPACE_URL",
            valid=("https://...",),
        )
    origin = environ.get("LEPTON_WORKSPACE_ORIGIN_URL") or known.get("workspace_origin_url")
    return Workspace(name, url.rstrip("/"), token, str(origin) if origin else url if "dgxc" in url else None)


def login_file(environ: Mapping[str, str]) -> Path:
    """The file in which `lep login` keeps what it was told."""
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return Path(environ.get("LEPTON_CACHE_DIR") or Path(home) / ".cache" / "lepton") / "workspace_info.yaml"


def _login_record(environ: Mapping[str, str]) -> Mapping[str, Any]:
    path = login_file(environ)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot read the login: {problem}", where=str(path), next=_NEXT) from problem
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        # Not its words: they quote the line, and a token may be in it.
        raise UsageError("the login is no YAML", where=str(path), next=_NEXT) from problem
    return loaded if isinstance(loaded, Mapping) else {}
