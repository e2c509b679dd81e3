"""Images are imported once, named after their content, and found by the name that was asked for.

enroot is not installed here: the program of these tests stands in for it, and says what it was called with.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.errors import UsageError
from nemotron.launch.slurm.images import LINK, import_script, resolve

STAND_IN = """#!/usr/bin/env bash
# A stand-in for enroot: writes the words it was called with, and what the registry is said to hold.
printf '%s\\0' "$@" >> "$(dirname "$0")/calls"
if [ -e "$(dirname "$0")/fails" ]; then printf half > "$3"; echo "no such image" >&2; exit 1; fi
cat "$(dirname "$0")/registry" > "$3"
"""
TAGGED, PINNED = "nvcr.io/nvidia/nemo-rl:v0.6.0", "nvcr.io/nvidia/nemo-rl@sha256:" + "ab" * 32
Import = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "build_cache_dir": str(tmp_path / "cache dir"),
        "build_partition": "cpu",
        "build_time": "01:00:00",
    }


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """What the stand-in imports, whatever it is asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "enroot").write_text(STAND_IN)
    (programs / "enroot").chmod(0o755)
    (programs / "registry").write_text("first content")
    return programs / "registry"


@pytest.fixture
def imported(tmp_path: Path, options: dict[str, Any], registry: Path) -> Import:
    """Runs the import job of an image for a run of this name."""

    def run(image: str, name: str = "run", **more: Any) -> subprocess.CompletedProcess[str]:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        script = directory / "import.sh"
        script.write_text(import_script(image, options, directory, **more))
        environment = {"PATH": f"{registry.parent}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(script)], cwd=directory, env=environment, capture_output=True, text=True
        )

    return run


def calls(registry: Path) -> list[str]:
    path = registry.with_name("calls")
    return path.read_text().split("\0")[3::4] if path.exists() else []


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_without_a_cache_pyxis_imports_the_image_itself() -> None:
    found = resolve(TAGGED, {})
    assert (found.place, found.digest, found.needs_import) == (
        "nvcr.io#nvidia/nemo-rl:v0.6.0", None, False,
    )  # fmt: skip
    assert resolve(PINNED, {}).digest == "sha256:" + "ab" * 32


@pytest.mark.parametrize("path", ["/images/rl.sqsh", "./rl.squashfs", "/images/plain"])
def test_a_file_is_taken_as_it_is(path: str, options: dict[str, Any]) -> None:
    found = resolve(path, options, force=True)
    assert (found.place, found.digest, found.needs_import) == (path, None, False)


def test_an_imported_image_is_named_after_its_content(
    imported: Import, options: dict[str, Any], registry: Path, tmp_path: Path
) -> None:
    before = resolve(TAGGED, options)
    assert (before.place, before.digest, before.needs_import) == (f"{{run_dir}}/{LINK}", None, True)
    done = imported(TAGGED)
    assert done.returncode == 0, done.stderr
    digest = sha256("first content")
    after = resolve(TAGGED, options)
    assert after.place == f"{options['build_cache_dir']}/nvcr.io_nvidia_nemo-rl_v0.6.0@sha256-{digest}.sqsh"
    assert (after.digest, after.needs_import) == (f"sha256:{digest}", False)
    assert (tmp_path / "run" / LINK).resolve() == Path(after.place)
    assert Path(after.place).read_text() == "first content"
    assert calls(registry) == ["docker://nvcr.io#nvidia/nemo-rl:v0.6.0"]


def test_the_tag_tells_what_was_meant_and_when(imported: Import, options: dict[str, Any]) -> None:
    imported(TAGGED)
    (tag,) = Path(options["build_cache_dir"], "tags").glob("*.json")
    told = json.loads(tag.read_text())
    assert told["reference"] == "nvcr.io#nvidia/nemo-rl:v0.6.0"
    assert told["digest"] == f"sha256:{sha256('first content')}"
    assert set(told) == {"at", "digest", "file", "reference"}


def test_a_second_run_imports_nothing(imported: Import, registry: Path, tmp_path: Path) -> None:
    imported(TAGGED)
    done = imported(TAGGED, "another")
    assert done.returncode == 0, done.stderr
    assert len(calls(registry)) == 1
    assert (tmp_path / "another" / LINK).resolve() == (tmp_path / "run" / LINK).resolve()


def test_a_tag_that_moved_is_seen_when_asked_for_and_the_old_file_stays(
    imported: Import, options: dict[str, Any], registry: Path
) -> None:
    imported(TAGGED)
    old = resolve(TAGGED, options)
    registry.write_text("second content")
    assert resolve(TAGGED, options) == old, "nobody asked"
    assert resolve(TAGGED, options, force=True).needs_import
    assert imported(TAGGED, force=True).returncode == 0
    new = resolve(TAGGED, options)
    assert new.digest == f"sha256:{sha256('second content')}"
    assert Path(old.place).read_text() == "first content"


def test_an_image_that_is_named_by_its_digest_is_found_by_it(
    imported: Import, options: dict[str, Any], registry: Path
) -> None:
    before = resolve(PINNED, options)
    assert before.place.endswith("nvcr.io_nvidia_nemo-rl@sha256-" + "ab" * 32 + ".sqsh")
    assert before.digest == "sha256:" + "ab" * 32
    assert before.needs_import
    assert imported(PINNED).returncode == 0
    after = resolve(PINNED, options)
    assert (after.place, after.digest, after.needs_import) == (before.place, before.digest, False)
    assert imported(PINNED, "another").returncode == 0
    assert len(calls(registry)) == 1


def test_an_import_that_fails_leaves_nothing_behind(
    imported: Import, options: dict[str, Any], registry: Path, tmp_path: Path
) -> None:
    registry.with_name("fails").write_text("")
    done = imported(TAGGED)
    assert done.returncode == 1
    assert "no such image" in done.stderr
    assert resolve(TAGGED, options).needs_import
    assert not (tmp_path / "run" / LINK).exists()
    assert [p.name for p in Path(options["build_cache_dir"]).iterdir()] == ["tags"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"file": 3}', '{"file": "../../etc/passwd"}', '{"file": "gone.sqsh"}']
)
def test_a_damaged_tag_is_as_good_as_none(damage: str, imported: Import, options: dict[str, Any]) -> None:
    imported(TAGGED)
    (tag,) = Path(options["build_cache_dir"], "tags").glob("*.json")
    tag.write_text(damage)
    assert resolve(TAGGED, options).needs_import
    assert imported(TAGGED).returncode == 0
    assert not resolve(TAGGED, options).needs_import


def test_a_file_that_was_removed_is_imported_again(imported: Import, options: dict[str, Any]) -> None:
    imported(TAGGED)
    Path(resolve(TAGGED, options).place).unlink()
    assert resolve(TAGGED, options).needs_import
    assert imported(TAGGED).returncode == 0
    assert not resolve(TAGGED, options).needs_import


HOSTILE = [
    "a/$(touch${IFS}HACKED):v1",
    "a/`touch${IFS}HACKED`",
    "a/b;touch${IFS}HACKED",
    "a/'b\"c",
    "a/%s%n\\n",
]


@pytest.mark.parametrize("image", HOSTILE)
def test_no_name_is_ever_executed(
    image: str, imported: Import, options: dict[str, Any], registry: Path, tmp_path: Path
) -> None:
    assert imported(image).returncode == 0
    assert calls(registry) == [f"docker://{image}"]
    assert not list(tmp_path.rglob("HACKED*"))
    assert not resolve(image, options).needs_import


def test_different_names_never_share_a_tag(imported: Import, options: dict[str, Any], registry: Path) -> None:
    imported("a/b:c")
    registry.write_text("another")
    imported("a/b_c")
    imported("a/b/c")
    assert len(calls(registry)) == 3
    assert resolve("a/b:c", options).digest != resolve("a/b_c", options).digest


def test_the_job_asks_for_the_build_partition(options: dict[str, Any], tmp_path: Path) -> None:
    script = import_script(
        TAGGED,
        {**options, "account": "me", "partition": "gpu"},
        tmp_path,
        setup=["module load enroot"],
    )
    lines = script.splitlines()
    assert {"#SBATCH --account=me", "#SBATCH --partition=cpu", "#SBATCH --time=01:00:00"} <= set(lines)
    assert "#SBATCH --nodes=1" in lines
    assert not [line for line in lines if "gres" in line]
    assert lines.index("module load enroot") < lines.index("set +x -euo pipefail")
    del options["build_partition"]
    assert "--partition=gpu" in import_script(TAGGED, {**options, "partition": "gpu"}, tmp_path)


def test_without_a_place_there_is_nothing_to_import_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="where to import"):
        import_script(TAGGED, {}, tmp_path)
    with pytest.raises(UsageError, match="not an absolute path"):
        resolve(TAGGED, {"build_cache_dir": "images"})
