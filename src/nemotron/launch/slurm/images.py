"""Container images as files, imported once: named after their content, found by the name that was asked for.

    CACHE/NAME@sha256-DIGEST.sqsh    DIGEST: SHA-256 of the file, or the image's own where its name has one
    CACHE/tags/REFERENCE.json        which of these files a name with a tag meant when it was imported

A tag moves, a digest does not: `--force-squash` asks again what a tag means now. The file it meant before
stays, for jobs that use it. Importing is a job of its own; what waits for it finds the image as `image.sqsh`
in the directory of the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron.errors import UsageError
from nemotron.launch.slurm.container import image_reference
from nemotron.launch.slurm.options import header, sbatch_line
from nemotron.planning.words import shell_words

LINK = "image.sqsh"
"""In the directory of a run: the image that was imported for it."""

_SUFFIXES = (".sqsh", ".squashfs")
_PINNED = re.compile(r"@sha256:([0-9a-f]{64})$")
_FILE = re.compile(r"[A-Za-z0-9._-]+@sha256-([0-9a-f]{64})\.sqsh")
_LONGEST = 150

# The lock is for two runs that need one image at once; a file system without locks imports it twice.
_BODY = """\
set +x -euo pipefail
mkdir -p -- "$cache/tags"
exec 9> "$lock"
flock 9 || echo "no locks on this file system" >&2
file=$pinned
if [ -z "$file" ] && [ -r "$tag" ]; then file=$(sed -n 's/.*"file": "\\([^"/]*\\)".*/\\1/p' "$tag"); fi
if [ -n "$force" ] || [ -z "$file" ] || [ ! -s "$cache/$file" ]; then
    new=$cache/.$name.${SLURM_JOB_ID:-$$}.tmp.sqsh
    trap 'rm -f -- "$new" "$tag.new"' EXIT
    rm -f -- "$new"
    enroot import --output "$new" "$reference"
    digest=$(sha256sum < "$new")
    digest=${digest%% *}
    file=${pinned:-$name@sha256-$digest.sqsh}
    mv -f -- "$new" "$cache/$file"
    printf '{"at": "%s", "digest": "sha256:%s", "file": "%s", "reference": %s}\\n' \\
        "$(date --utc +%Y-%m-%dT%H:%M:%SZ)" "$digest" "$file" "$shown" > "$tag.new"
    mv -f -- "$tag.new" "$tag"
fi
ln -sfn -- "$cache/$file" "$link"
echo "$reference is $cache/$file"
"""


@dataclass(frozen=True)
class Image:
    """What a job starts its container from.

    place: a path, or a reference that pyxis imports itself. `{run_dir}` in it is the directory of the run.
    digest: `sha256:...`, of the image where its name says it, else of the file; None while it is not known.
    needs_import: whether the job of `import_script` has to end first.
    """

    place: str
    digest: str | None
    needs_import: bool = False


def resolve(image: str, options: Mapping[str, Any], *, force: bool = False) -> Image:
    """The image of a job. `options` are those of the profile; force: ask again what a tag means.

    Without `build_cache_dir` nothing is imported ahead. Raises UsageError for a name that no image can have.
    """
    reference = image_reference(image)
    if _is_file(reference):
        held = _FILE.fullmatch(Path(reference).name)
        return Image(reference, f"sha256:{held[1]}" if held else None)
    pinned = _PINNED.search(reference)
    digest = f"sha256:{pinned[1]}" if pinned else None
    cache = _cache(options)
    if cache is None:
        return Image(reference, digest)
    if pinned:
        place = cache / _pinned_file(reference)
        return Image(str(place), digest, force or not _is_there(place))
    known = None if force else _known(cache, reference)
    return known or Image(f"{{run_dir}}/{LINK}", None, True)


def import_script(
    image: str, options: Mapping[str, Any], run_dir: Path, *, force: bool = False, setup: Sequence[str] = ()
) -> str:
    """The script of the job that imports an image for the run in `run_dir`, for sbatch.

    setup: the profile's shell lines. Raises UsageError where there is no `build_cache_dir` to import to.
    """
    reference, cache = image_reference(image), _cache(options)
    if cache is None:
        raise UsageError("nothing says where to import images to", where="build_cache_dir")
    asked = {
        "account": options.get("account"),
        "partition": options.get("build_partition") or options.get("partition"),
        "time": options.get("build_time"),
    }
    values = {
        "cache": str(cache),
        "name": _name(reference),
        "reference": f"docker://{reference}",
        "shown": json.dumps(reference),
        "pinned": _pinned_file(reference) if _PINNED.search(reference) else "",
        "tag": str(_tag(cache, reference)),
        "lock": str(_tag(cache, reference).with_suffix(".lock")),
        "link": str(run_dir / LINK),
        "force": "yes" if force else "",
    }
    return (
        "#!/usr/bin/env bash\n"
        + "".join(f"{sbatch_line(option)}\n" for option in header(asked, 1, 0, None))
        + "# Imports the image of a run.\n"
        + "".join(f"{line}\n" for line in setup)
        + "".join(f"{name}={shell_words([value])}\n" for name, value in values.items())
        + _BODY
    )


def _is_file(reference: str) -> bool:
    return reference.startswith(("/", "./")) or reference.endswith(_SUFFIXES)


def _cache(options: Mapping[str, Any]) -> Path | None:
    given = options.get("build_cache_dir")
    if not given:
        return None
    if not Path(str(given)).is_absolute():
        raise UsageError(f"{given!r} is not an absolute path", where="build_cache_dir")
    return Path(str(given))


def _known(cache: Path, reference: str) -> Image | None:
    """The file that a tag meant when it was imported; None where that is not known, or the file is gone."""
    try:
        told = json.loads(_tag(cache, reference).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    file = told.get("file") if isinstance(told, dict) else None
    held = _FILE.fullmatch(file) if isinstance(file, str) else None
    if held is None or not _is_there(cache / held[0]):
        return None
    return Image(str(cache / held[0]), f"sha256:{held[1]}")


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _pinned_file(reference: str) -> str:
    found = _PINNED.search(reference)
    assert found
    return f"{_name(reference[: found.start()])}@sha256-{found[1]}.sqsh"


def _name(reference: str) -> str:
    """What people know the image by, as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", reference).strip("._-")[:_LONGEST] or "image"


def _tag(cache: Path, reference: str) -> Path:
    """Where it is written what a reference means; different ones never share a file."""
    digest = hashlib.sha256(reference.encode()).hexdigest()[:16]
    return cache / "tags" / f"{_name(reference)}-{digest}.json"
