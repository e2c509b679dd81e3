"""What of a working tree travels with a run: the step and the modules it names, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.catalog.discover import load_catalog
from nemotron.errors import CheckFailed, Conflict, NemotronError
from nemotron.sources import bundle as module
from nemotron.sources.bundle import CodeBundle, bundle_code, write_code
from nemotron.sources.git import TIME_LIMIT, find_checkout

CATALOG = load_catalog({})
SCRIPTS = ["data_prep/scratch", "model/scratch"]
IDENTITY = ("-c", "user.name=somebody", "-c", "user.email=s@example.com", "-c", "commit.gpgsign=false")
Project = Callable[[Mapping[str, str]], Path]


def git(place: Path, *words: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *IDENTITY, *words], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def lay(place: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def commit(place: Path) -> str:
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", "a state")
    return git(place, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with these files, all committed but for those that it ignores."""

    def make(files: Mapping[str, str]) -> Path:
        place = tmp_path / "project"
        place.mkdir()
        git(place, "init", "-q")
        lay(place, files)
        commit(place)
        return place

    return make


def bundle(place: Path, step: str = "steps/mine") -> CodeBundle:
    script = place / step / "step.py"
    return bundle_code(place / step, script if script.exists() else None, catalog=place / "steps")


STEP = {"steps/mine/step.toml": "[step]\n", "steps/mine/step.py": "print('ran')\n"}


def test_a_step_travels_with_the_modules_it_imports_and_no_others(project: Project) -> None:
    place = project(
        {
            **STEP,
            "steps/mine/step.py": """
import os, json, yaml
import near
from shared.deep import thing
def later():
    import lazily.loaded as loaded
if __name__ == "__main__":
    from packaged import api
try:
    import perhaps
except ImportError:
    perhaps = None
""",
            "steps/mine/near.py": "from shared import other\n",
            "steps/mine/config/default.yaml": "a: 1\n",
            "steps/shared/__init__.py": "",
            "steps/shared/deep.py": "from . import sibling\nfrom ..not_above import x\n",
            "steps/shared/sibling.py": "",
            "steps/shared/other.py": "",
            "steps/shared/unused.py": "",
            "steps/other/step.py": "",
            "lazily/loaded.py": "",
            "lazily/unloaded.py": "",
            "src/packaged/__init__.py": "",
            "src/packaged/api.py": "import json\nfrom packaged.inner import *\n",
            "src/packaged/inner/__init__.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from packaged import types_only\nelse:\n    from packaged import real\n",
            "src/packaged/types_only.py": "",
            "src/packaged/real.py": "",
            "perhaps.py": "",
            "yaml/data.txt": "no module",
            "README.md": "",
            "notes/secret.py": "",
        }
    )
    made = bundle(place)
    assert sorted(made.files) == [
        "lazily/loaded.py",
        "perhaps.py",
        "src/packaged/__init__.py",
        "src/packaged/api.py",
        "src/packaged/inner/__init__.py",
        "src/packaged/real.py",
        "steps/mine/config/default.yaml",
        "steps/mine/near.py",
        "steps/mine/step.py",
        "steps/mine/step.toml",
        "steps/shared/__init__.py",
        "steps/shared/deep.py",
        "steps/shared/other.py",
        "steps/shared/sibling.py",
    ]
    assert made.script == "steps/mine/step.py"
    assert made.search == ("steps", ".", "src")
    assert made.left_out == ()


def test_the_script_runs_from_the_bundle_alone(project: Project, tmp_path: Path) -> None:
    place = project(
        {
            **STEP,
            "steps/mine/step.py": "from pathlib import Path\nfrom kit.words import word\n"
            "print(word, (Path(__file__).parent / 'words.txt').read_text())\n",
            "steps/mine/words.txt": "data",
            "src/kit/words.py": "word = 'module'\n",
        }
    )
    made = bundle(place)
    code = tmp_path / "run" / "code"
    write_code(made, code)
    place.rename(tmp_path / "gone")
    done = subprocess.run(
        [sys.executable, "-P", str(code / str(made.script))],
        env={"PYTHONPATH": os.pathsep.join(str(code / each) for each in made.search)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "module data\n", done.stderr


@pytest.mark.parametrize("step_id", SCRIPTS)
def test_our_own_scripts_run_where_this_package_is_not_installed(step_id: str, tmp_path: Path) -> None:
    step = CATALOG.get(step_id)
    made = bundle_code(step.directory, step.script, catalog=step.root_path)
    assert made.search == (".",)
    code = tmp_path / "code"
    write_code(made, code)
    probe = (
        "import runpy, sys\n"
        f"sys.path[:] = [p for p in sys.path if not p.rstrip('/').endswith('/src')]\n"
        f"sys.path.insert(0, {str(code)!r})\n"
        f"runpy.run_path({str(code / str(made.script))!r}, run_name='imported')\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('nemotron') and m.__file__))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() and all(name.startswith(str(code)) for name in done.stdout.split())


@pytest.mark.parametrize("step", [s for s in CATALOG.steps if s.root == "nemotron"], ids=lambda s: s.id)
def test_every_step_of_the_catalog_can_be_bundled(step: object) -> None:
    made = bundle_code(step.directory, step.script, catalog=step.root_path)  # type: ignore[attr-defined]
    names = list(made.files)
    assert any(name.endswith("/step.toml") for name in names)
    assert len(names) < 90  # of four hundred
    assert not [name for name in names if "/steps/" in name and step.id not in name]  # type: ignore[attr-defined]


def test_what_git_ignores_stays_and_is_named(project: Project) -> None:
    place = project(
        {
            **STEP,
            "steps/mine/step.py": "import local_settings, forced\n",
            ".gitignore": "local_*\n*.log\nforced.py\n__pycache__\n",
            "local_settings.py": "PASSWORD = 'x'\n",
            "steps/mine/local_notes.py": "",
            "steps/mine/run.log": "",
            "forced.py": "",
        }
    )
    git(place, "add", "-f", "forced.py")
    made = bundle(place)
    assert sorted(made.files) == ["forced.py", "steps/mine/step.py", "steps/mine/step.toml"]
    assert made.left_out == (
        "local_settings.py: git ignores it",
        "steps/mine/local_notes.py: git ignores it",
        "steps/mine/run.log: git does not track it",
    )


def test_new_code_travels_and_new_data_does_not(project: Project) -> None:
    place = project(STEP)
    lay(place, {"steps/mine/new.py": "import newer\n", "newer.py": "", "steps/mine/rows.jsonl": "{}\n"})
    made = bundle(place)
    assert {"steps/mine/new.py", "steps/mine/step.py"} <= set(made.files)
    assert made.left_out == ("steps/mine/rows.jsonl: git does not track it",)
    (place / "steps/mine/step.py").write_text("import newer\n")
    assert "newer.py" in bundle(place).files


PRIVATE = [
    "env.toml", "env.cluster.toml", "ENV-mine.toml", ".env", ".env.local", "prod.env", ".netrc", "id_rsa",
    "id_ed25519.pub", "server.pem", "api.key", "credentials.json", ".secrets", ".ssh/config", "secrets.yaml",
]  # fmt: skip


@pytest.mark.parametrize("tracked", [True, False])
def test_files_named_like_secrets_never_travel(tracked: bool, tmp_path: Path) -> None:
    place = lay(tmp_path / "p", {**STEP, **{f"steps/mine/{name}": "TOKEN" for name in PRIVATE}})
    lay(
        place, {"steps/mine/credentials.py": "", "steps/mine/environment.yaml": "", "steps/mine/keys.txt": ""}
    )
    if tracked:
        git(place, "init", "-q")
        commit(place)
    made = bundle(place)
    kept = {Path(name).name for name in made.files}
    assert kept == {"step.py", "step.toml", "credentials.py", "environment.yaml", "keys.txt"}


def test_a_link_that_leads_out_of_the_project_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("")
    place = project(STEP)
    (place / "steps/mine/aside.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(CheckFailed, match="leads out of the project") as caught:
        bundle(place)
    assert str(caught.value.where).endswith("steps/mine/aside.py")


def test_a_module_that_is_reached_through_a_link_out_is_refused(project: Project, tmp_path: Path) -> None:
    lay(tmp_path / "outside", {"__init__.py": "", "x.py": ""})
    place = project({**STEP, "steps/mine/step.py": "import linked.x\n"})
    (place / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckFailed, match="leads out of the project"):
        bundle(place)


def test_a_script_that_is_a_link_out_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("")
    place = project({"steps/mine/step.toml": ""})
    (place / "steps/mine/step.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(CheckFailed, match="leads out of the project"):
        bundle(place)


def test_a_link_inside_the_project_is_followed(project: Project, tmp_path: Path) -> None:
    place = project({**STEP, "common/words.txt": "held"})
    (place / "steps/mine/words.txt").symlink_to("../../common/words.txt")
    commit(place)
    made = bundle(place)
    write_code(made, tmp_path / "code")
    copy = tmp_path / "code/steps/mine/words.txt"
    assert copy.read_text() == "held"
    assert not copy.is_symlink()


@pytest.mark.parametrize("target", ["../../env.toml", "../../ignored/data.txt"])
def test_a_link_does_not_bring_what_may_not_travel(target: str, project: Project) -> None:
    place = project({**STEP, "env.toml": "SECRET", "ignored/data.txt": "SECRET", ".gitignore": "ignored\n"})
    (place / "steps/mine/innocent.txt").symlink_to(target)
    commit(place)
    made = bundle(place)
    assert "steps/mine/innocent.txt" not in made.files
    assert len(made.left_out) == 1 and "innocent.txt" in made.left_out[0]


def test_what_is_no_file_is_left_out_without_waiting_for_it(project: Project) -> None:
    place = project(STEP)
    os.mkfifo(place / "steps/mine/pipe.py")
    (place / "steps/mine/dangling.py").symlink_to("nowhere.py")
    made = bundle(place)
    assert sorted(made.files) == ["steps/mine/step.py", "steps/mine/step.toml"]
    assert all(entry.endswith("it is no regular file") for entry in made.left_out)
    assert len(made.left_out) == 2


def test_steps_below_environments_and_caches_are_not_the_steps_code(tmp_path: Path) -> None:
    place = lay(
        tmp_path / "p",
        {
            **STEP,
            "steps/mine/inner/step.toml": "",
            "steps/mine/inner/step.py": "",
            "steps/mine/__pycache__/step.pyc": "",
            "steps/mine/.hidden/x.py": "",
            "steps/mine/venv/pyvenv.cfg": "",
            "steps/mine/venv/x.py": "",
            "steps/mine/lib/x.py": "",
        },
    )
    assert sorted(bundle(place).files) == ["mine/lib/x.py", "mine/step.py", "mine/step.toml"]


def test_the_digest_tells_content_and_names_and_not_the_place(tmp_path: Path) -> None:
    first = bundle(lay(tmp_path / "one", STEP))
    assert bundle(lay(tmp_path / "two" / "deeper", STEP)).digest == first.digest
    assert first.digest.startswith("blake3:")
    changed = lay(tmp_path / "three", {**STEP, "steps/mine/step.py": "print('ran' )\n"})
    assert bundle(changed).digest != first.digest
    renamed = lay(
        tmp_path / "four", {"steps/mine/step.toml": "[step]\n", "steps/mine/a.py": "print('ran')\n"}
    )
    assert bundle(renamed).digest != first.digest


def test_the_digest_does_not_depend_on_git(tmp_path: Path) -> None:
    plain = bundle_code(lay(tmp_path / "p", STEP) / "steps/mine", None, tmp_path / "p")
    git(tmp_path / "p", "init", "-q")
    fresh = bundle_code(tmp_path / "p/steps/mine", None, tmp_path / "p")
    commit(tmp_path / "p")
    committed = bundle_code(tmp_path / "p/steps/mine", None, tmp_path / "p")
    assert plain.digest == committed.digest
    assert plain.commit is None and fresh.commit is None and committed.commit is not None
    assert fresh.left_out == ("steps/mine/step.toml: git does not track it",)


def test_code_that_changes_before_it_is_written_is_a_conflict(project: Project, tmp_path: Path) -> None:
    place = project(STEP)
    made = bundle(place)
    (place / "steps/mine/step.py").write_text("something else\n")
    with pytest.raises(Conflict, match="changed between planning and launching"):
        write_code(made, tmp_path / "run" / "code")


def test_code_that_is_gone_before_it_is_written_is_an_error(project: Project, tmp_path: Path) -> None:
    place = project(STEP)
    made = bundle(place)
    (place / "steps/mine/step.py").unlink()
    with pytest.raises(NemotronError):
        write_code(made, tmp_path / "run" / "code")


def test_an_executable_stays_one_and_nobody_else_may_write(project: Project, tmp_path: Path) -> None:
    place = project({**STEP, "steps/mine/tool.sh": "#!/bin/sh\n"})
    (place / "steps/mine/tool.sh").chmod(0o777)
    commit(place)
    write_code(bundle(place), tmp_path / "code")
    assert (tmp_path / "code/steps/mine/tool.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "code/steps/mine/step.py").stat().st_mode & 0o777 == 0o644


def test_too_much_code_is_refused_with_the_largest_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = project({**STEP, "steps/mine/weights.bin": "x" * (3 << 20), "steps/mine/small.txt": "x"})
    monkeypatch.setattr(module, "MAX_BYTES", 2 << 20)
    with pytest.raises(CheckFailed, match=r"weights\.bin \(3\.0 MiB\)"):
        bundle(place)


def test_a_script_that_is_no_python_is_refused_with_its_line(project: Project) -> None:
    place = project({**STEP, "steps/mine/step.py": "x = 1\ndef broken(:\n"})
    with pytest.raises(CheckFailed, match="line 2") as caught:
        bundle(place)
    assert str(caught.value.where).endswith("step.py")


def test_a_broken_file_beside_the_script_travels_with_a_word(project: Project) -> None:
    place = project({**STEP, "steps/mine/old.py": "print 'python 2'\n", "steps/mine/nul.py": "a\0b"})
    made = bundle(place)
    assert {"steps/mine/old.py", "steps/mine/nul.py"} <= set(made.files)
    assert [entry.split(":")[0] for entry in made.left_out] == [
        "imports of steps/mine/nul.py",
        "imports of steps/mine/old.py",
    ]


def test_a_script_that_git_ignores_cannot_run_elsewhere(project: Project) -> None:
    place = project({"steps/mine/step.toml": "", "steps/mine/step.py": "", ".gitignore": "step.py\n"})
    with pytest.raises(CheckFailed, match="does not travel"):
        bundle(place)


def test_of_a_step_that_git_ignores_only_the_code_travels(project: Project) -> None:
    place = project({**STEP, "steps/mine/data.txt": "", ".gitignore": "steps\n"})
    made = bundle(place)
    assert sorted(made.files) == ["steps/mine/step.py", "steps/mine/step.toml"]
    assert made.left_out == ("steps/mine/data.txt: git ignores the step",)
    assert made.commit is None


def test_without_the_git_program_only_code_leaves_a_checkout(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = project({**STEP, "steps/mine/data.txt": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    made = bundle(place)
    assert sorted(made.files) == ["steps/mine/step.py", "steps/mine/step.toml"]
    assert made.left_out == ("steps/mine/data.txt: git cannot be asked about it",)
    assert made.commit is None


def test_an_installed_catalog_is_not_part_of_the_checkout_around_it(project: Project) -> None:
    place = project({".gitignore": "venv\n", "helper.py": ""})
    root = lay(place / "venv/lib/python3.11/site-packages/kit/steps", {"mine/step.py": "import helper\n"})
    lay(root, {"mine/template.txt": ""})
    made = bundle_code(root / "mine", root / "mine/step.py", catalog=root)
    assert sorted(made.files) == ["mine/step.py", "mine/template.txt"]
    assert made.commit is None


def test_a_module_of_a_checkout_inside_the_project_travels_with_a_word(project: Project) -> None:
    place = project({**STEP, "steps/mine/step.py": "import vendored.code\n"})
    lay(place / "vendored", {"code.py": ""})
    git(place / "vendored", "init", "-q")
    made = bundle(place)
    assert "vendored/code.py" in made.files
    assert made.left_out == ("commit of vendored/code.py: it is another checkout's, which is not recorded",)


def test_git_is_not_led_astray_by_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = project(STEP)
    head = git(place, "rev-parse", "HEAD")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    git(elsewhere, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(elsewhere))
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    made = bundle(place)
    assert made.commit == head
    assert "steps/mine/step.py" in made.files


def test_a_git_that_does_not_answer_is_an_error_and_no_guess(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = project(STEP)
    lay(tmp_path / "bin", {"git": "#!/bin/sh\nexec sleep 60\n"})
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("nemotron.sources.git.TIME_LIMIT", 0.2)
    assert TIME_LIMIT > 1
    with pytest.raises(NemotronError, match="did not answer"):
        find_checkout(place)


NAMES = [
    "with space.py",
    "qu'ote\".txt",
    "-rf.txt",
    "$(touch HACKED).txt",
    "new\nline.txt",
    ":(top)x.txt",
    "*.txt",
]


def test_any_file_name_travels_unchanged(project: Project, tmp_path: Path) -> None:
    names = [*NAMES, "päth-模型.txt", os.fsdecode(b"not-utf8-\xff.txt")]
    place = project({**STEP, **{f"steps/mine/{name}": name.encode(errors="replace").hex() for name in names}})
    made = bundle(place)
    assert {f"steps/mine/{name}" for name in names} <= set(made.files)
    assert made.dirty is None
    write_code(made, tmp_path / "code")
    for name in names:
        assert (tmp_path / "code/steps/mine" / name).read_bytes() == (
            place / "steps/mine" / name
        ).read_bytes()
    assert not list(tmp_path.rglob("HACKED*"))


PARTS = st.sampled_from(["a", "b", "c"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.tuples(PARTS, PARTS), st.lists(st.tuples(PARTS, PARTS), max_size=3), max_size=9))
def test_the_bundle_holds_all_that_importing_needs(
    tmp_path_factory: pytest.TempPathFactory, modules: dict[tuple[str, str], list[tuple[str, str]]]
) -> None:
    """Whatever the modules import of each other: what Python loads is what travels, no more and no less."""
    place = tmp_path_factory.mktemp("p")
    lay(place, {"pyproject.toml": "", **STEP})
    for (package, name), needs in modules.items():
        lines = [f"import {p}.{n}" for p, n in needs if (p, n) in modules]
        lay(place, {f"{package}/__init__.py": "", f"{package}/{name}.py": "\n".join(lines)})
    first = next(iter(modules), None)
    if first is not None:
        (place / "steps/mine/step.py").write_text(f"from {first[0]} import {first[1]}\n")
    made = bundle(place)
    reached, pending = set(), [first] if first else []
    while pending:
        each = pending.pop()
        if each not in reached:
            reached.add(each)
            pending += [need for need in modules[each] if need in modules]
    wanted = {f"{p}/{n}.py" for p, n in reached} | {f"{p}/__init__.py" for p, _ in reached}
    assert set(made.files) - {"steps/mine/step.py", "steps/mine/step.toml"} == wanted
