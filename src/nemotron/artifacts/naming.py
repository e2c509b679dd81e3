"""What people say of artifacts: versions of a name, aliases, taint. Each is one record that never changes."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.index.queries import LATEST, Index
from nemotron.artifacts.index.schema import PENDING_IDENT
from nemotron.artifacts.paths import printable
from nemotron.artifacts.records import Event, EventRecord, timestamp, write_record
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, NotFound, UsageError
from nemotron.findings import Finding

TAINTED = "artifact.tainted"

_NAME = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?(?:/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)*"
)
_ALIAS = re.compile(r"[A-Za-z_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_VERSION = re.compile(r"v\d+")
_LONGEST = 120
_EPOCH = datetime.fromtimestamp(0, UTC)


def name_artifact(store: Store, index: Index, ident: str, name: str) -> int:
    """Make an artifact the next version of a name and return the version's number.

    An artifact that is a version of the name already stays that version. Raises UsageError for a name that
    cannot be one.
    """
    check_name(name)
    versions = index.versions(name)
    known = next((v.version for v in versions if v.subject == ident), None)
    if known is not None:
        return known
    number = _claim(store, name, max((v.version for v in versions), default=0) + 1)
    _say(store, index, "version", ident, name=name, version=number)
    return number


def check_name(name: str) -> None:
    """Raises UsageError for a word that cannot be a name."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{printable(name) or 'nothing'} cannot be a name",
            valid=("letters, digits and . _ - /, as in judges/warm",),
        )


def set_alias(
    store: Store,
    index: Index,
    name: str,
    alias: str,
    version: int | None,
    *,
    reason: str | None = None,
    waived: Mapping[str, str] | None = None,
) -> None:
    """Let `alias` of a name mean a version from now on; None takes the alias away.

    Raises UsageError for a word that cannot be an alias, NotFound for a version that there is not.
    """
    if not _ALIAS.fullmatch(alias) or _VERSION.fullmatch(alias) or alias == LATEST or len(alias) > _LONGEST:
        raise UsageError(
            f"{printable(alias)} cannot be an alias",
            valid=("a word that begins with a letter, as production; v3 and latest are given by us",),
        )
    versions = {v.version: v.subject for v in index.versions(name)}
    aliases = index.aliases(name)
    if version is None and alias not in aliases:
        raise NotFound(f"{name} has no alias {alias}", valid=sorted(aliases))
    subject = aliases[alias] if version is None else versions.get(version)
    if subject is None:
        raise NotFound(f"{name} has no version v{version}", valid=[f"v{v}" for v in versions])
    _say(
        store, index, "alias", subject, name=name, alias=alias, version=version, reason=reason, waived=waived
    )


def taint_artifact(store: Store, index: Index, ident: str, reason: str) -> None:
    """Say that an artifact must not be used; whatever descends from it is blocked with it."""
    if not reason.strip():
        raise UsageError("a taint needs a reason", next="-m 'what is wrong with it'")
    _say(store, index, "taint", ident, reason=reason)


def lift_taint(store: Store, index: Index, ident: str, reason: str | None) -> None:
    """Take a taint back. Raises NotFound when there is none on the artifact itself."""
    if index.taint(ident) is None:
        above = index.tainted_above([ident]).get(ident)
        raise NotFound(
            "nothing was said against this artifact itself",
            where=ident,
            next=f"nemotron artifacts taint {above.subject} --lift" if above else None,
        )
    _say(store, index, "untaint", ident, reason=reason)


def note_digest(store: Store, index: Index, path: Path, digest: str) -> None:
    """Record the content of a checkpoint that was left unread until now, if one lies at `path`."""
    for ident in index.idents_at(str(path)):
        if ident.startswith(PENDING_IDENT):
            _say(store, index, "digest", ident.removeprefix(PENDING_IDENT), digest=digest)


def short_ident(ident: str) -> str:
    """An artifact's id as a command line takes it: of a digest the beginning is enough."""
    return ident[:19] if ident.startswith(("blake3:", "sampled:")) else ident


def taint_findings(index: Index, named: Mapping[str, str]) -> list[Finding]:
    """An error for each artifact that is tainted or descends from a tainted one.

    named: what each is called, by ident.
    """
    found = []
    for ident, taint in index.tainted_above(named).items():
        itself = taint.subject == ident
        what = "is tainted" if itself else f"descends from {short_ident(taint.subject)}, which is tainted"
        found.append(
            Finding(
                TAINTED,
                "error",
                f"{named[ident]} {what}: {printable(taint.reason)}",
                where=taint.subject,
                fix=f"nemotron artifacts lineage {short_ident(ident)} shows how; or --waive {TAINTED}",
            )
        )
    return found


def refuse_tainted(index: Index, ident: str, called: str, waived: bool) -> dict[str, str]:
    """What is set aside by waiving; raises CheckFailed when something is and it is not waived."""
    findings = taint_findings(index, {ident: called})
    if findings and not waived:
        raise CheckFailed(f"{called} cannot be promoted", findings=tuple(findings))
    return {f.id: f.message for f in findings}


def user_name() -> str:
    """Who is doing this, as records say it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextlib.contextmanager
def spoken_of(store: Store, name: str) -> Iterator[None]:
    """Only one process of this machine, or of those that share the lock, gives versions of a name."""
    check_name(name)
    place = _claims(store, name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as problem:
        raise os_error(problem, place) from problem
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _claims(store: Store, name: str) -> Path:
    return store.root / "claims" / "names" / name.replace("/", "+")


def _claim(store: Store, name: str, number: int) -> int:
    """The next free version number: whoever makes its file first has it, on network file systems too."""
    place = _claims(store, name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                os.close(
                    os.open(place / f"v{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o664)
                )
                return number
            number += 1
    except OSError as problem:
        raise os_error(problem, place) from problem


def _say(
    store: Store,
    index: Index,
    event: Event,
    subject: str,
    *,
    name: str | None = None,
    version: int | None = None,
    alias: str | None = None,
    digest: str | None = None,
    reason: str | None = None,
    waived: Mapping[str, str] | None = None,
) -> None:
    # After all that is known, whatever this machine's clock says: what is said last counts.
    last = index.last_said(subject, name)
    now = max(datetime.now(UTC), datetime.fromisoformat(last) + timedelta(milliseconds=1) if last else _EPOCH)
    record = EventRecord(
        id=f"{event}-{now:%Y%m%d-%H%M%S}-{os.urandom(4).hex()}",
        event=event,
        at=timestamp(now),
        subject=subject,
        name=name,
        version=version,
        alias=alias,
        digest=digest,
        reason=reason,
        waived=waived or None,
        user=user_name(),
        host=socket.gethostname(),
    )
    write_record(store.records_dir, record)
