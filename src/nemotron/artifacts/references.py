"""How people and configs name an artifact, parsed; nothing is looked up or resolved here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NoReturn

from nemotron.errors import UsageError, nearest

from .paths import printable

Kind = Literal["path", "url", "step", "run", "art", "hf"]

FORMS = (
    "a path, or DIRECTORY@SELECTION for one of its checkpoints (latest, step:N, best, best:METRIC)",
    "step://STEP?config=NAME[&output=PORT][&engine=NAME][&KEY=VALUE...]",
    "run://RUN[/PORT][@SELECTION]",
    "art://NAME[:vN|:ALIAS|@DIGEST]",
    "hf://ORG/NAME[@REVISION]",
    "a URL (s3://BUCKET/KEY, https://HOST/PATH, ...)",
)
URL_SCHEMES = (
    *("s3", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "swift"),
    *("http", "https", "hdfs", "webhdfs", "ftp", "sftp"),
)

SELECTION = re.compile(r"latest|step:[0-9]{1,18}|best(?::.{1,400})?")
"""Which of the checkpoints in a directory: what may follow an @ after a path or a run's output."""
SELECTIONS = ("latest", "step:N", "best", "best:METRIC", "best:min:METRIC", "best:max:METRIC")

_SELECTED = re.compile(rf"(.+?)@({SELECTION.pattern})", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ONE_SLASH = re.compile(r"(step|run|art|hf|s3|gs|gcs|https?):(?!//)")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_STEP = re.compile(rf"(?:[A-Za-z0-9._-]+:)?{_WORD}(?:/{_WORD})*")
_PART = re.compile(_WORD)
_RUN_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ART_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_DIGEST = re.compile(r"((?:blake3|sampled):)?([0-9a-f]{8,64})")
_HUB_ID = re.compile(rf"{_WORD}/{_WORD}")
_REVISION = re.compile(r"[^\s@?#\x00-\x1f]+")
# What stays readable in a step reference; everything else is percent-encoded.
_SAFE_KEY = "+~./:[]@,-_"
_SAFE_VALUE = _SAFE_KEY + "={}()!*'"


@dataclass(frozen=True)
class Reference:
    """One parsed reference; `parse_reference(str(r)) == r`.

    kind: which of the fields below mean anything.
    name: path (absolute), URL, step id, run id or prefix, artifact name, or hub id.
    port: the output meant; None where there is one only. (run, step)
    config, engine, overrides: how to build it, overrides as `key=value` in their order. (step)
    version: `v3` or an alias (art), a branch, tag or commit (hf).
    digest: `blake3:` or `sampled:` and 8 to 64 hex digits (art).
    selection: which of several checkpoints, as `SELECTION` has it; None for what the path or run says. (path,
    run)
    """

    kind: Kind
    name: str
    port: str | None = None
    config: str | None = None
    engine: str | None = None
    overrides: tuple[str, ...] = ()
    version: str | None = None
    digest: str | None = None
    selection: str | None = None

    @property
    def path(self) -> Path:
        """Where a reference of kind `path` points."""
        assert self.kind == "path", self.kind
        return Path(self.name)

    def __str__(self) -> str:
        if self.kind == "step":
            return _step_text(self)
        if self.kind == "run":
            port = f"/{self.port}" if self.port else ""
            return f"run://{self.name}{port}{self._selected}"
        if self.kind == "art":
            chosen = f":{self.version}" if self.version else f"@{self.digest}" if self.digest else ""
            return f"art://{self.name}{chosen}"
        if self.kind == "hf":
            return f"hf://{self.name}" + (f"@{self.version}" if self.version else "")
        # A name that only looks like a selection: the slash says so, see `_selection`.
        slash = (
            "/" if self.kind == "path" and self.selection is None and _SELECTED.fullmatch(self.name) else ""
        )
        return f"{self.name}{self._selected}{slash}"

    @property
    def _selected(self) -> str:
        return f"@{self.selection}" if self.selection else ""


def parse_reference(text: str, *, cwd: Path | None = None) -> Reference:
    """What `text` names; see `FORMS`.

    `~` in a path is expanded and a relative path is taken from `cwd` (default: the working directory). In
    `step://` everything is percent-decoded (a `+` stays a plus), and what follows `?` besides `config`,
    `output` and `engine` is a config override. Raises `UsageError` that lists the valid forms.
    """
    if not text.strip():
        _refuse("the reference is empty", text)
    if "\0" in text:
        _refuse("a reference cannot hold a NUL", text)
    matched = _SCHEME.fullmatch(text.strip())
    if not matched:
        return _path(text, cwd)
    if text != text.strip():
        _refuse("blanks around the reference", text, next=f"write {printable(text.strip())}")
    scheme, rest = matched.groups()
    if scheme in _PARSERS:
        return _PARSERS[scheme](text, rest)
    if scheme == "file":
        return _file_url(text, rest)
    if scheme in URL_SCHEMES:
        if not rest.strip("/"):
            _refuse(f"nothing after {scheme}://", text)
        return Reference("url", text)
    choices = (*_PARSERS, "file", *URL_SCHEMES)
    near = tuple(f"{choice}://" for choice in nearest(scheme.lower(), choices))
    _refuse(f"{scheme}:// is no known kind of reference", text, near=near)


def bare_hub_id(text: str, *, cwd: Path | None = None) -> Reference | None:
    """`ORG/NAME[@REVISION]` as an `hf://` reference, None when it is no hub id or names an existing path.

    For ports that take models; on any other port `ORG/NAME` is a path.
    """
    name, at, revision = text.partition("@")
    if not _HUB_ID.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        return None
    # What selects a checkpoint always does: a revision of that name is written hf://ORG/NAME@REVISION.
    if SELECTION.fullmatch(revision) or _exists((cwd or Path.cwd()) / text):
        return None
    return Reference("hf", name, version=revision or None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # something is there that we may not look at; it is no hub id


def _path(text: str, cwd: Path | None) -> Reference:
    slip = _ONE_SLASH.match(text)
    if slip:
        meant = f"{slip[1]}://{text[slip.end() :].lstrip('/')}"
        _refuse(
            f"{slip[1]}: needs two slashes",
            text,
            near=(printable(meant),),
            next=f"a file of that name: ./{text}",
        )
    try:
        text.encode("utf-8", "surrogateescape")
        name, selection = _selection(text)
        place = (cwd or Path.cwd()).absolute() / Path(name).expanduser()
        return Reference("path", str(place), selection=selection)
    except UnicodeEncodeError:
        _refuse("no file can have this name", text)
    except RuntimeError:
        _refuse("no home directory for it", text, next="write the path in full")


def _selection(text: str) -> tuple[str, str | None]:
    """What stands before and after the @ of a selection; a path that only looks like it ends with a slash."""
    found = _SELECTED.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def _file_url(text: str, rest: str) -> Reference:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not path.strip("/"):
        _refuse("file:// needs an absolute path, as in file:///data/train.jsonl", text)
    return _path(slash + _decoded(path, text), None)


def _step(text: str, rest: str) -> Reference:
    quoted_step, _, query = rest.partition("?")
    step = _decoded(quoted_step, text)
    if not step:
        _refuse("the step is missing", text)
    if not _STEP.fullmatch(step):
        _refuse(f"{printable(step)} is no step id", text, next="nemotron steps list")
    named: dict[str, str] = {}
    overrides: list[str] = []
    for item in query.split("&") if query else ():
        quoted_key, equals, quoted_value = item.partition("=")
        key, value = _decoded(quoted_key, text), _decoded(quoted_value, text)
        if not key.lstrip("+~") or not equals:
            _refuse(f"{printable(item) or 'an empty item'} in the query is no KEY=VALUE", text)
        if key not in ("config", "output", "engine"):
            if "=" in key:
                _refuse(f"{printable(key)}: a key cannot hold an equals sign", text)
            overrides.append(f"{key}={value}")
        elif key in named:
            _refuse(f"{key} is given twice", text)
        elif not value:
            _refuse(f"{key} is empty", text)
        else:
            named[key] = value
    return Reference(
        "step",
        step,
        port=named.get("output"),
        config=named.get("config"),
        engine=named.get("engine"),
        overrides=tuple(overrides),
    )


def _step_text(reference: Reference) -> str:
    from urllib.parse import quote

    items = [("config", reference.config), ("output", reference.port), ("engine", reference.engine)]
    pairs = [(key, value) for key, value in items if value is not None]
    pairs += [tuple(override.split("=", 1)) for override in reference.overrides]  # type: ignore[misc]
    query = "&".join(f"{quote(k, safe=_SAFE_KEY)}={quote(v, safe=_SAFE_VALUE)}" for k, v in pairs)
    return f"step://{reference.name}" + (f"?{query}" if query else "")


def _run(text: str, rest: str) -> Reference:
    rest, selection = _selection(rest)
    run, slash, port = rest.partition("/")
    if not run:
        _refuse("the run is missing", text, next="nemotron runs list")
    if "@" in rest:
        wrong = rest.partition("@")[2]
        choices = ", ".join(SELECTIONS)
        _refuse(
            f"{printable(wrong) or 'nothing'} after the @ selects no checkpoint",
            text,
            next=f"one of {choices}",
        )
    if not _RUN_PREFIX.fullmatch(run) or (slash and not _PART.fullmatch(port)):
        _refuse("a run reference is a run id and at most one port", text)
    return Reference("run", run, port=port or None, selection=selection)


def _art(text: str, rest: str) -> Reference:
    name, at, digest = rest.partition("@")
    name, colon, version = name.partition(":")
    if not name:
        _refuse("the artifact's name is missing", text, next="nemotron artifacts list")
    if not _ART_NAME.fullmatch(name):
        _refuse(f"{printable(name)} is no artifact name", text)
    if at and colon:
        _refuse("a version and a digest at once", text)
    if colon and not _PART.fullmatch(version):
        _refuse(f"{printable(version) or 'nothing'} after the colon is no version (v3) or alias", text)
    found = _DIGEST.fullmatch(digest)
    if at and not found:
        _refuse(f"{printable(digest) or 'nothing'} after the @ is no digest (8 to 64 hex digits)", text)
    return Reference(
        "art", name, version=version or None, digest=f"{found[1] or 'blake3:'}{found[2]}" if found else None
    )


def _hf(text: str, rest: str) -> Reference:
    name, at, revision = rest.partition("@")
    if not _HUB_ID.fullmatch(name):
        _refuse(f"{printable(name) or 'nothing'} is no hub id of the form ORG/NAME", text)
    if at and not _REVISION.fullmatch(revision):
        _refuse("the revision after the @ is missing or holds a blank", text)
    return Reference("hf", name, version=revision or None)


def _decoded(text: str, whole: str) -> str:
    from urllib.parse import unquote

    if _BAD_PERCENT.search(text):
        _refuse("a percent sign that encodes nothing", whole, next="write a plain percent sign as %25")
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode("utf-8")
    except UnicodeError:
        _refuse("percent-encoded bytes that are not UTF-8", whole)
    if "\0" in decoded:
        _refuse("a reference cannot hold a NUL", whole)
    return decoded


def _refuse(what: str, text: str, *, near: tuple[str, ...] = (), next: str | None = None) -> NoReturn:
    raise UsageError(what, where=printable(text) or "''", nearest=near, valid=FORMS, next=next)


_PARSERS: Mapping[str, Callable[[str, str], Reference]] = MappingProxyType(
    {"step": _step, "run": _run, "art": _art, "hf": _hf}
)
