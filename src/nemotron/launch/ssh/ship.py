"""The bundle of a run goes to the other machine: one archive, streamed, visible there when it is whole."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from nemotron.artifacts.atomic import json_text, os_error, write_json
from nemotron.artifacts.run_state import ELSEWHERE_FILE
from nemotron.artifacts.runs import PLACE_FILE, PLAN_FILE, RECIPE_FILE
from nemotron.artifacts.walk import walk_files
from nemotron.errors import SchedulerError
from nemotron.launch.backend import Unanswered
from nemotron.launch.bundle import SECRETS_FILE, config_yaml, late_token
from nemotron.launch.ssh.place import Inputs, Site, find_inputs, late_there
from nemotron.planning.plan import Plan

_SECONDS, _BYTES_A_SECOND = 120.0, 1 << 20
_FOLDERS = ("runtime", "code")

# Everything is made in a directory of the user alone; what the user's umask allows counts when it is whole.
# A run that goes on keeps what it has: only what is brought takes the place of what was brought before.
_UNPACK = """\
set -eu
root=$1 name=$2
mask=$(umask)
mkdir -p -- "$root"
cd -- "$root"
umask 077
new=.$name.part
rm -rf -- "$new"
trap 'rm -rf -- "$new"' EXIT
mkdir -- "$new"
tar -xpf - -C "$new"
[ -f "$new/recipe" ]
umask "$mask"
if [ -d "$name" ]; then
    rm -rf -- "$name/runtime" "$name/code" "$name/inputs"
    rm -f -- "$name/record.json" "$name/failure.json" "$name/.secrets" "$name/config.yaml.in"
    cp -a -- "$new/." "$name/"
else
    mv -- "$new" "$name"
fi
chmod -- "$(printf %o "$((0777 & ~0$mask))")" "$name"
mkdir -p -- "$name/logs" "$name/records"
"""


def ship(site: Site, directory: Path, plan: Plan, more: Sequence[str]) -> str:
    """Bring the bundle in `directory` over; where it is there. more: names of files beside the usual ones.

    Raises SchedulerError where it did not arrive, CheckFailed for inputs that are too large to carry.
    """
    there = site.directory(directory.name)
    told = json.loads((directory / PLACE_FILE).read_text(encoding="utf-8"))
    late = late_there(site, told.get("late") or {}, directory.parent)
    try:
        inputs = find_inputs(site, there, plan, tuple(late))
        anew = dict(_anew(directory, plan, told, there, late, inputs))

        def feed(stream: IO[bytes]) -> None:
            _write(stream, directory, anew, inputs, more)

        carried = sum(f.stat.st_size for path in inputs.carried.values() for f in walk_files(path))
        words = ["/bin/sh", "-c", _UNPACK, "sh", site.root, directory.name]
        site.login.pipe(words, seconds=_SECONDS + carried / _BYTES_A_SECOND, feed=feed)
    except Unanswered as problem:
        # Nothing was handed to a scheduler yet: there is nothing that would have to be found out.
        what = f"the run did not reach {problem.what}"
        raise SchedulerError(what, where=problem.where, next=problem.next) from problem
    write_json(directory / ELSEWHERE_FILE, {"backend": "slurm", "host": site.login.title, "directory": there})
    return there


def forget_secrets_there(site: Site, directory: str) -> None:
    """Remove the file of secrets of a run that will not begin. Raises SchedulerError."""
    words = ["rm", "-f", "--", f"{directory}/{SECRETS_FILE}"]
    site.login.pipe(words, seconds=_SECONDS)


def _anew(
    directory: Path,
    plan: Plan,
    told: Mapping[str, object],
    there: str,
    late: Mapping[str, Mapping[str, object]],
    inputs: Inputs,
) -> Iterator[tuple[str, str]]:
    """The files that name places, with those of the other machine."""
    given = told.get("inputs")
    named = {
        port: {**each, "path": inputs.paths.get(port, each.get("path"))}
        for port, each in (given.items() if isinstance(given, dict) else ())
    }
    place = {**told, "records_dir": f"{there}/records", "inputs": named, "late": late}
    yield PLACE_FILE, json_text(place)
    paths = {**inputs.paths, **{port: late_token(port) for port in late}}
    text = config_yaml(plan, paths, Path(there))
    yield "config.yaml", text
    if late:
        yield "config.yaml.in", text


def _write(
    stream: IO[bytes], directory: Path, anew: Mapping[str, str], inputs: Inputs, more: Sequence[str]
) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, text in anew.items():
            content = text.encode("utf-8", "surrogateescape")
            _add(tar, name, io.BytesIO(content), len(content), 0o644)
        for name in (PLAN_FILE, "launch.sh", SECRETS_FILE, *more):
            _add_file(tar, name, directory / name, 0o600 if name == SECRETS_FILE else 0o644)
        for folder in _FOLDERS:
            _add_tree(tar, folder, directory / folder)
        for port, path in inputs.carried.items():
            _add_tree(tar, f"inputs/{port}/{path.name}", path)
        # The last one: an archive without it was cut off.
        _add_file(tar, RECIPE_FILE, directory / RECIPE_FILE, 0o644)


def _add_tree(tar: tarfile.TarFile, name: str, path: Path) -> None:
    if not path.exists():
        return
    for file in walk_files(path):
        inner = os.fsdecode(file.relpath)
        if "__pycache__" in inner.split("/"):
            continue
        full = f"{name}/{inner}" if inner else name
        mode = 0o755 if file.stat.st_mode & 0o100 else 0o644
        _add_file(tar, full, Path(os.fsdecode(file.path)), mode)


def _add_file(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> None:
    try:
        with path.open("rb") as file:
            _add(tar, name, file, os.fstat(file.fileno()).st_size, mode, os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return  # no secrets, no image to import
    except OSError as problem:
        raise os_error(problem, path) from problem


def _add(
    tar: tarfile.TarFile, name: str, content: IO[bytes], size: int, mode: int, changed: float = 1.0
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, mode, int(changed)
    tar.addfile(entry, content)
