"""`nemotron doctor`: what is there, what is missing, and what a profile in reach cannot do without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemotron.doctor.packages import Package, import_error, look_at
from nemotron.doctor.places import LOOKS
from nemotron.launch.backend import find_backend

LOCAL = '[here]\nexecutor = "local"\n'


def write(world: Any, text: str) -> None:
    (world.work / "env.toml").write_text(text, encoding="utf-8")


def executor(report: Any, name: str) -> Any:
    return next(each for each in report["executors"] if each["name"] == name)


@pytest.fixture
def bare(world: Any) -> Any:
    """Nobody is logged in to anything, and no scheduler's command is on PATH."""
    tools = world.root / "bin"
    tools.mkdir()
    world.environ |= {
        "PATH": str(tools),
        "LEPTON_CACHE_DIR": str(world.root / "none"),
        "HOME": str(world.root),
    }
    for name in list(world.environ):
        if name.startswith(("LEPTON_WORKSPACE", "RAY_")):
            del world.environ[name]
    return world


def test_everything_is_listed_and_a_machine_without_profiles_is_fine(bare: Any) -> None:
    done = bare.run("doctor", "--json")
    assert done.code == 0, done.err
    report = done.json
    assert [each["name"] for each in report["executors"]] == list(LOOKS)
    assert [each["name"] for each in report["engines"]] == [
        "embedded",
        "megatron_bridge",
        "nemo_rl",
        "script",
    ]
    assert {each["name"] for each in report["here"]} == {"nemotron", "python", "machine", "store"}
    assert report["broken"] == [] and report["profiles"] == []
    assert executor(report, "local")["state"] == "ok"
    assert executor(report, "slurm")["state"] == "missing"
    text = bare.run("doctor")
    assert text.code == 0 and "none in reach" in text.out
    assert "lep login" in text.out


def test_every_executor_that_has_a_backend_is_looked_at() -> None:
    for name in LOOKS:
        assert find_backend(name).name == name


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ('executor = "slurm"', "not on PATH: sbatch"),
        ('executor = "slurm"\ntunnel = "ssh"\nhost = "login"', "ssh is not on PATH"),
        ('executor = "lepton"\nnemo_run_dir = "/mnt/x"', "no workspace of Lepton is known here"),
        ('executor = "ray"\naddress = "http://127.0.0.1:1"', "127.0.0.1:1: "),
        ('executor = "ray"\naddress = "ftp://x"', "'ftp://x' is no address"),
        ('executor = "local"\npartiton = "x"', "partiton is no key of a local profile"),
        ('executor = "docker"', "nothing can be launched on docker"),
        ('extends = "nobody"', "nobody"),
    ],
)
def test_a_profile_that_cannot_be_used_is_broken_and_the_others_are_not(
    bare: Any, profile: str, said: str
) -> None:
    write(bare, f"{LOCAL}\n[there]\n{profile}\n")
    done = bare.run("doctor", "--json")
    assert done.code == 4
    assert done.json["broken"] == ["there"]
    judged = {each["name"]: each for each in done.json["profiles"]}
    assert judged["here"]["state"] == "ok"
    assert said in judged["there"]["said"]
    assert judged["there"]["next"] or "extends" in profile
    assert "profile there cannot be used" in bare.run("doctor").err


def test_no_password_and_no_token_is_shown(bare: Any) -> None:
    write(bare, '[there]\nexecutor = "ray"\naddress = "http://me:geheim@127.0.0.1:1/"\n')
    bare.environ |= {"LEPTON_WORKSPACE_ID": "w", "LEPTON_WORKSPACE_TOKEN": "lt-geheim"}
    for words in (("doctor",), ("doctor", "--json")):
        done = bare.run(*words)
        assert "geheim" not in done.out + done.err


def test_what_answers_is_told(bare: Any) -> None:
    sinfo = bare.root / "bin" / "sinfo"
    for name in ("sbatch", "squeue", "scancel", "sacct", "sinfo"):
        (bare.root / "bin" / name).write_text(f"#!{sys.executable}\n")
        (bare.root / "bin" / name).chmod(0o755)
    answers = "print('slurm 22.05.8' if '--version' in sys.argv else 'batch\\ncpu')"
    sinfo.write_text(f"#!{sys.executable}\nimport sys\n{answers}\n")
    write(bare, '[there]\nexecutor = "slurm"\n')
    done = bare.run("doctor", "--json")
    assert done.code == 0, done.out
    said = {item["name"]: item["said"] for item in executor(done.json, "slurm")["items"]}
    assert said == {"commands": "slurm 22.05.8", "controller": "partitions batch, cpu"}
    sinfo.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Unable to contact slurm controller')\n")
    broken = bare.run("doctor", "--json")
    assert broken.code == 4
    assert "Unable to contact slurm controller" in json.dumps(executor(broken.json, "slurm"))


def test_a_workspace_that_answers_is_told_with_its_node_groups(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "launch"))
    from lepton_stand_in import TOKEN, WORKSPACE, serving
    from lepton_worlds import node_groups

    with serving(world.root / "lepton") as lepton:
        node_groups(lepton, "h100-a", "h100-b")
        told = {"LEPTON_WORKSPACE_ID": WORKSPACE, "LEPTON_WORKSPACE_URL": lepton.url}
        write(world, '[there]\nexecutor = "lepton"\nnemo_run_dir = "/mnt/x"\n')
        done = world.run("doctor", "--json", LEPTON_WORKSPACE_TOKEN=TOKEN, **told)
        assert done.code == 0, done.out
        assert "node groups: h100-a, h100-b" in executor(done.json, "lepton")["items"][0]["said"]
        wrong = world.run("doctor", "--json", LEPTON_WORKSPACE_TOKEN="lt-other", **told)
        assert wrong.code == 4
        said = executor(wrong.json, "lepton")["items"][0]["said"]
        assert "does not let us in (401)" in said and "lt-other" not in wrong.out


def installed(root: Path, name: str, version: str, module: str) -> None:
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (root / name).mkdir()
    (root / name / "__init__.py").write_text(module)


def test_a_package_that_is_there_and_cannot_be_imported_is_told_in_pythons_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "frail", "1.2", "import no_such_thing_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = Package("frail", "frail", "lepton")
    assert look_at(package, deep=False).state == "ok", "its version is all that a quick look reads"
    deep = look_at(package, deep=True)
    assert deep.state == "broken"
    assert deep.said == "1.2: ModuleNotFoundError: No module named 'no_such_thing_at_all'"
    assert deep.next == "pip install 'nemotron[lepton]'"


def test_the_whole_command_shows_pythons_own_error(bare: Any) -> None:
    """A quick look reads versions only, and says so."""
    broken = bare.root / "broken"
    for name in ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "ray", "leptonai"):
        installed(broken, name, "9.9", f"raise ImportError('libsomething.so: no symbol of {name}')\n")
    bare.environ["PYTHONPATH"] = str(broken)
    write(bare, '[here]\nexecutor = "local"\nengine = "embedded"\n')
    quick = bare.run("doctor")
    assert quick.code == 0 and "no package was imported: --deep" in quick.err
    deep = bare.run("doctor", "--deep")
    assert deep.code == 4 and "profile here cannot be used" in deep.err
    assert "broken: 9.9: ImportError: libsomething.so: no symbol of trl" in deep.out
    told = bare.run("doctor", "--deep", "--json").json
    assert told["imported"] is True and told["broken"] == ["here"]
    (engine,) = [each for each in told["engines"] if each["name"] == "embedded"]
    assert {item["state"] for item in engine["items"]} == {"broken"}
    assert executor(told, "ray")["state"] == "broken"


def test_a_login_node_that_does_not_let_us_in_is_told(world: Any) -> None:
    config = world.root / "ssh config"
    config.write_text("Host gone\n  HostName 127.0.0.1\n  Port 1\n")
    text = 'executor = "slurm"\ntunnel = "ssh"\nhost = "gone"\nremote_job_dir = "/x"\n'
    write(world, f"{LOCAL}\n[there]\n{text}")
    done = world.run("doctor", "--json", NEMOTRON_SSH_CONFIG=str(config))
    assert done.code == 4 and done.json["broken"] == ["there"]
    (item,) = [each for each in executor(done.json, "slurm")["items"] if each["name"] == "login gone"]
    assert item["state"] == "broken" and "Connection refused" in item["said"]
    assert "ssh -o BatchMode=yes gone true" in item["next"]


def test_a_version_without_what_is_needed_of_it_is_found_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """leptonai 0.47.1 is installed by nemo-run itself, and has no leptonai.api.v1."""
    installed(tmp_path, "leptonish", "0.47.1", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = Package("leptonish", "leptonish", "lepton", needs="leptonish/api/v1/__init__.py")
    found = look_at(package, deep=False)
    assert (found.state, found.said) == ("broken", "0.47.1: No module named 'leptonish.api.v1'")
    assert "No module named 'leptonish.api'" in look_at(package, deep=True).said


def test_a_missing_package_is_missing_in_both_looks() -> None:
    package = Package("no-such-package", "no_such_package", "")
    assert look_at(package, deep=False).state == look_at(package, deep=True).state == "missing"
    assert import_error("no_such_package") == "ModuleNotFoundError: No module named 'no_such_package'"
    assert import_error("json") is None


def test_a_quick_look_imports_nothing_heavy(bare: Any) -> None:
    script = (
        "import sys\nfrom nemotron.cli.app import command_line\ncode = command_line(['doctor'])\n"
        "heavy = {'torch', 'ray', 'transformers', 'nemo_run', 'leptonai', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=bare.environ, cwd=bare.work, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_word_too_many_is_refused(bare: Any) -> None:
    done = bare.run("doctor", "list")
    assert done.code == 2
