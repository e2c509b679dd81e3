"""The files of a run on storage that this machine does not see: carried there by small jobs.

Such a job holds a part of an archive in its argument list, base64 in pieces: the kernel takes no argument
above 128 KiB, and the service no job above about a megabyte. The last one puts the parts together, compares
the digest and unpacks. No secret is in them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.atomic import json_text, os_error
from nemotron.artifacts.runs import PLAN_FILE, RECIPE_FILE
from nemotron.errors import CheckFailed
from nemotron.launch.bundle import config_yaml, input_paths, late_token
from nemotron.launch.lepton.node_script import NODE_SCRIPT
from nemotron.planning.plan import Plan

MOVER_IMAGE, MOVER_SHAPE = "busybox:1.37.0", "cpu.small"
_PIECE, _PIECES = 96_000, 7
_MOST_JOBS = 24
# Named, so that nothing else of a run directory ever goes: the secrets, what earlier attempts left.
_PLAIN = (PLAN_FILE, RECIPE_FILE, "launch.sh", NODE_SCRIPT)
_FOLDERS = ("runtime", "code")

_MOVE = """\
set -eu
umask 077
cd /
dir=$1 number=$2 count=$3 digest=$4
shift 4
mkdir -p "$dir"
cd "$dir"
printf '%s' "$@" | base64 -d > ".part-$digest-$number"
[ "$number" = "$count" ] || exit 0
number=0
: > .bundle
while [ "$number" -lt "$count" ]; do
    number=$((number + 1))
    cat ".part-$digest-$number" >> .bundle
done
echo "$digest  .bundle" | sha256sum -c -
rm -f record.json failure.json
tar -xzf .bundle
rm -f .part-* .bundle
"""


@dataclass(frozen=True)
class Place:
    """Where a run is on the storage: its directory and that of the records, as containers see them."""

    directory: str
    records: str


def archive(directory: Path, plan: Plan, place: Place) -> bytes:
    """The bundle in `directory` as a compressed archive, its paths those of `place`.

    The same for the same bundle. Errors: see `os_error`.
    """
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=9, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content, executable in _files(directory, plan, place):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755 if executable else 0o644
                tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def mover_commands(packed: bytes, directory: str) -> list[list[str]]:
    """The argument list of each job that carries a part of an archive, in order. Raises CheckFailed."""
    text = base64.b64encode(packed).decode("ascii")
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    jobs = [pieces[at : at + _PIECES] for at in range(0, len(pieces), _PIECES)]
    if len(jobs) > _MOST_JOBS:
        most = _MOST_JOBS * _PIECES * _PIECE * 3 // 4 >> 20
        raise CheckFailed(
            f"the files of the run are {len(packed) >> 20} MiB compressed; {most} MiB can be carried",
            where="code",
            next="put the code into the image, or launch from the cluster: launched_from_cluster = true",
        )
    digest = hashlib.sha256(packed).hexdigest()
    head = ["sh", "-c", _MOVE, "sh", directory]
    return [[*head, str(n), str(len(jobs)), digest, *part] for n, part in enumerate(jobs, 1)]


def _files(directory: Path, plan: Plan, place: Place) -> Iterator[tuple[str, bytes, bool]]:
    """Name, content and whether it can be started, of every file of the bundle."""
    for name, text in _anew(directory, plan, place):
        yield name, text.encode("utf-8", "surrogateescape"), False
    try:
        for name in _names(directory):
            path = directory / name
            yield name, path.read_bytes(), bool(path.stat().st_mode & 0o100)
    except OSError as problem:
        raise os_error(problem, directory) from problem


def _names(directory: Path) -> Sequence[str]:
    """Files of the bundle that go as they are; no links."""
    below = [p for folder in _FOLDERS for p in (directory / folder).rglob("*") if p.is_file()]
    kept = (p for p in below if "__pycache__" not in p.parts and not p.is_symlink())
    return [*_PLAIN, *sorted(str(p.relative_to(directory)) for p in kept)]


def _anew(directory: Path, plan: Plan, place: Place) -> Iterator[tuple[str, str]]:
    """The files that name the directory of the run, or the store."""
    loaded = json.loads((directory / "place.json").read_text(encoding="utf-8"))
    late = loaded.get("late") or {}
    yield "place.json", json_text({**loaded, "records_dir": place.records})
    paths = {**input_paths(plan, late), **{port: late_token(port) for port in late}}
    text = config_yaml(plan, paths, Path(place.directory))
    yield "config.yaml", text
    if late:
        yield "config.yaml.in", text
