from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nemotron

SHIPPED = [
    "nemotron.artifacts.atomic",
    "nemotron.artifacts.paths",
    "nemotron.artifacts.walk",
    "nemotron.artifacts.records",
    "nemotron.artifacts.checks",
]


def test_what_jobs_carry_needs_python_and_nothing_else(tmp_path: Path) -> None:
    """The files run from a bare copy, in a process that has no other packages."""
    package = Path(nemotron.__file__).parent
    files = [package / name for name in ("__init__.py", "errors.py", "findings.py", "artifacts/__init__.py")]
    files += [package / "artifacts" / f"{name}.py" for name in ("atomic", "paths", "walk", "records")]
    files += sorted((package / "artifacts" / "checks").glob("*.py"))
    for file in files:
        copy = tmp_path / "nemotron" / file.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    code = (
        "import sys, json, importlib\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"for name in {SHIPPED!r}: importlib.import_module(name)\n"
        "import nemotron; assert nemotron.__file__.startswith(sys.path[0])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout)) - {"nemotron", "__main__"}
    assert {name for name in loaded if name not in sys.stdlib_module_names} == set()


def test_no_file_of_the_room_loads_heavy_modules() -> None:
    modules = [
        *SHIPPED,
        *(
            f"nemotron.artifacts.{name}"
            for name in ("store", "digest", "digest_cache", "references", "digest_read")
        ),
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"blake3", "asyncio", "importlib.metadata", "omegaconf", "pydantic", "rich", "torch"}
    assert heavy & set(done.stdout.split()) == set()
