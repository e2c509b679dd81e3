"""A run that asks for W&B is told there as it goes on, and no trouble with W&B is trouble for the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="of the test group: make test")

DONE = [(step, {"train/loss": 1 / step}) for step in range(1, 6)]


def latest(world: Any) -> Path:
    """The directory of the newest run of the training step."""
    return max((d for d in world.runs() if d.name.startswith("train")), key=lambda d: d.name)


def has_rows(world: Any, count: int) -> bool:
    """Whether the training run has written so many metrics."""
    files = (world.home / "runs").glob("train-*/metrics.jsonl")
    return any(len(file.read_text(encoding="utf-8").splitlines()) == count for file in files)


def mirrors(world: Any) -> list[int]:
    """The processes that tell W&B of this world's runs."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = cmdline.read_bytes()
            if b"nemotron.exports.mirror" in words and bytes(world.home) in words:
                found.append(int(cmdline.parent.name))
    return found


def fake(world: Any, code: str) -> dict[str, str]:
    """The environment of a command that finds another `wandb`."""
    place = world.root / "fake"
    place.mkdir()
    (place / "wandb.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(place), world.environ.get("PYTHONPATH", "")])}


def test_metrics_config_and_lineage_of_a_run_without_a_key(training: Any, kept: Any) -> None:
    done = training.run("steps", "run", "train/chat")
    assert done.code == 0, done.err
    run = latest(training)
    told = kept(run)
    assert told.metrics == DONE
    assert told.exits == [0]
    (opened,) = told.runs
    assert (opened.project, opened.run_id, opened.display_name) == ("chat", run.name, run.name)
    assert opened.job_type == "train/chat"
    assert told.config["behave"] == "write"
    assert told.config["logger"]["wandb"]["api_key"] == "..."
    assert told.config["nemotron"]["run"] == run.name

    used, made = told.artifacts
    assert (used.type, used.use_after_commit) == ("training_jsonl", True)
    assert (made.type, made.use_after_commit) == ("eval_results", False)
    place = json.loads((run / "place.json").read_text(encoding="utf-8"))["inputs"]["rows"]
    assert used.name == "training_jsonl-" + place["digest"].partition(":")[2][:12]
    assert json.loads(used.metadata)["digest"] == place["digest"]
    assert json.loads(used.metadata)["facts"]["rows"] == 3
    (entry,) = used.manifest.contents
    assert entry.ref == Path(place["path"]).as_uri()
    outputs = json.loads((run / "outputs.json").read_text(encoding="utf-8"))
    assert json.loads(made.metadata)["digest"] == outputs["scores"]["digest"]
    assert set(made.aliases) == {"latest", f"{run.name}.scores"}


def test_nothing_of_an_artifact_is_copied_and_no_secret_is_kept(training: Any) -> None:
    assert training.run("steps", "run", "train/chat", WANDB_API_KEY="k" * 40, WANDB_MODE="offline").code == 0
    run = latest(training)
    text = next(run.glob("../make-rows-*/rows.jsonl")).read_bytes().splitlines()[0]
    kept = [path for path in (training.root / "home").rglob("*") if path.is_file()]
    kept += [path for path in (run / "wandb").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        assert text not in path.read_bytes(), path
        assert b"k" * 40 not in path.read_bytes(), path
        assert b"typed-by-hand" not in path.read_bytes(), path


def test_what_one_run_makes_and_another_uses_is_one_node(training: Any, kept: Any) -> None:
    training.add_step(
        "make/logged",
        configs={
            "default": "{behave: write, rows: 2, text: ok, seconds: 1.0, output: rows.jsonl,"
            " logger: {wandb_enabled: true}}"
        },
    )
    done = training.run("steps", "run", "train/chat", "-i", "rows=step://make/logged")
    assert done.code == 0, done.err
    maker = kept(next((training.home / "runs").glob("make-logged-*")))
    user = kept(latest(training))
    (made,), used = maker.artifacts, user.artifacts[0]
    assert (made.name, made.type, made.digest) == (used.name, used.type, used.digest)
    assert maker.runs[0].project == "nemotron"


def test_the_summary_and_stderr_say_once_where_it_is(training: Any) -> None:
    done = training.run("steps", "run", "train/chat")
    where = next((latest(training) / "wandb").glob("offline-run-*"))
    assert done.err.count(f"wandb sync {where}") == 1
    assert done.out.count(f"wandb sync {where}") == 1


def test_rows_are_told_while_the_run_goes_on(training: Any, wait_for: Any) -> None:
    note = training.root / "rows"
    log = f"open({str(note)!r}, 'a').write(str(step) + chr(10))"
    training.environ |= fake(training, OPENS.format(init="pass", log=log, finish="pass"))
    process = training.start("steps", "run", "train/chat", "behave=slow", "steps=6")
    wait_for(lambda: note.exists() and process.poll() is None)
    assert process.wait(40) == 0
    assert len(note.read_text(encoding="utf-8").splitlines()) == 6


def test_a_run_without_the_key_starts_nothing(training: Any) -> None:
    done = training.run("steps", "run", "train/chat", "logger.wandb_enabled=false")
    assert done.code == 0
    assert "W&B" not in done.err + done.out
    assert not (latest(training) / "wandb").exists()


def test_a_failed_run_is_failed_there_too(training: Any, kept: Any) -> None:
    done = training.run("steps", "run", "train/chat", "behave=fail")
    assert done.code == 1
    told = kept(latest(training))
    assert told.exits == [1]
    assert told.metrics == DONE[:3]
    assert [a.type for a in told.artifacts] == ["training_jsonl"]


def test_a_resumed_run_goes_on_there_where_it_stopped(training: Any, kept: Any, wait_for: Any) -> None:
    process = training.start("steps", "run", "train/chat", "behave=stop_once")
    wait_for(lambda: has_rows(training, 3) and mirrors(training))
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    first = kept(latest(training))
    assert first.exits == [130]
    assert training.run("steps", "run", "train/chat", "behave=stop_once").code == 0
    both = kept(latest(training))
    assert len(both.files) == 2
    assert both.metrics == DONE
    assert {run.run_id for run in both.runs} == {latest(training).name}
    assert both.exits == [130, 0]


OPENS = """
class Run:
    class settings:
        sync_dir = "/nowhere"
    url = None
    def log(self, *_, step): {log}
    def log_artifact(self, *_, **__): pass
    def _log_artifact(self, *_, **__): pass
    def finish(self, **__): {finish}
class Settings:
    base_url = "https://api.wandb.ai"
    def __init__(self, **_): pass
class setup:
    settings = Settings()
class Artifact:
    def __init__(self, *_, **__): pass
    def add_reference(self, *_, **__): pass
def init(**_):
    {init}
    return Run()
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no module for this Python')", "ImportError: no module for this Python"),
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("import sys; sys.exit(3)", "ended with exit code 3"),
        (OPENS.format(init="raise OSError('no network')", log="pass", finish="pass"), "OSError: no network"),
        (OPENS.format(init="pass", log="raise KeyError('x')", finish="pass"), "KeyError: 'x'"),
        (OPENS.format(init="pass", log="pass", finish="raise ValueError('late')"), "ValueError: late"),
        (OPENS.format(init="import os; os.abort()", log="pass", finish="pass"), "exit code -6"),
    ],
    ids=["import", "import-other", "exit", "init", "log", "finish", "abort"],
)
def test_whatever_wandb_raises_the_run_is_done(training: Any, code: str, said: str) -> None:
    done = training.run("steps", "run", "train/chat", **fake(training, code))
    assert done.code == 0, done.err
    assert done.err.count("changes nothing for the run") == 1
    assert said in done.err
    assert said in done.out
    assert "Traceback" not in done.err + done.out
    assert (latest(training) / "outputs.json").is_file()
    log = (latest(training) / "logs" / "wandb.log").read_text(encoding="utf-8")
    assert ("Traceback" in log) is ("exit code" not in said)


def test_without_the_package_the_run_is_done_and_the_extra_named(training: Any) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')"
    done = training.run("steps", "run", "train/chat", **fake(training, code))
    assert done.code == 0
    assert "pip install 'nemotron[wandb]'" in done.err


ONLINE = """
import json
def note(what, **more):
    with open({note!r}, "a") as file:
        file.write(json.dumps([what, more]) + chr(10))
class Run:
    url = "https://wandb.example/chat/runs/x"
    def log(self, row, step): note("log", row=row, step=step)
    def use_artifact(self, artifact): note("use", name=artifact.name, references=artifact.references)
    def log_artifact(self, artifact, aliases): note("made", name=artifact.name)
    def finish(self, exit_code): note("finish", exit_code=exit_code)
class Settings:
    base_url = "https://wandb.example"
    def __init__(self, **_): pass
class setup:
    settings = Settings()
class Artifact:
    def __init__(self, name, type, metadata): self.name, self.references = name, []
    def add_reference(self, uri, checksum): self.references.append([uri, checksum])
def init(mode, resume, id, dir, **_):
    note("init", mode=mode, resume=resume, id=id, dir=str(dir))
    return Run()
"""


@pytest.mark.parametrize("where", ["variable", "netrc"])
def test_with_a_key_it_is_told_at_once(training: Any, where: str) -> None:
    notes = training.root / "notes"
    environ = fake(training, ONLINE.format(note=str(notes)))
    if where == "variable":
        environ["WANDB_API_KEY"] = "k" * 40
    else:
        netrc = Path(training.environ["HOME"]) / ".netrc"
        netrc.write_text(f"machine wandb.example login user password {'k' * 40}\n", encoding="utf-8")
        netrc.chmod(0o600)
    done = training.run("steps", "run", "train/chat", **environ)
    assert done.code == 0
    assert done.err.count("W&B: https://wandb.example/chat/runs/x") == 1
    assert done.out.count("W&B: https://wandb.example/chat/runs/x") == 1
    told = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    assert [what for what, _ in told] == ["init", *["log"] * 5, "use", "made", "finish"]
    run = latest(training)
    assert told[0][1] == {"mode": "online", "resume": "allow", "id": run.name, "dir": str(run)}
    assert told[1][1] == {"row": {"train/loss": 1.0}, "step": 1}
    ((uri, checksum),) = told[6][1]["references"]
    assert uri.startswith("file:///")
    assert checksum is False
    assert told[-1][1] == {"exit_code": 0}


@pytest.mark.parametrize(
    ("init", "finish"), [("import time; time.sleep(600)", "pass"), ("pass", "import time; time.sleep(600)")]
)
def test_a_wandb_that_hangs_is_left_behind(
    training: Any, init: str, finish: str, alive: Any, wait_for: Any
) -> None:
    noted = training.root / "pid"
    note = f"import os, pathlib; pathlib.Path({str(noted)!r}).write_text(str(os.getpid()))\n"
    environ = fake(training, note + OPENS.format(init=init, log="pass", finish=finish))
    begun = time.monotonic()
    done = training.run("steps", "run", "train/chat", NEMOTRON_WANDB_SECONDS="2", **environ)
    assert done.code == 0
    assert "NEMOTRON_WANDB_SECONDS" in done.err
    assert time.monotonic() - begun < 20
    assert not alive(int(noted.read_text(encoding="utf-8")))


def test_a_server_that_is_not_there_costs_the_run_nothing(training: Any) -> None:
    done = training.run(
        *("steps", "run", "train/chat"),
        NEMOTRON_WANDB_SECONDS="3",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="k" * 40,
    )
    assert done.code == 0
    assert "changes nothing for the run" in done.err
    assert "k" * 40 not in done.err + done.out


def test_a_chain_tells_once_of_a_wandb_that_is_broken(training: Any) -> None:
    training.add_step(
        "make/logged",
        configs={
            "default": "{behave: write, rows: 2, text: ok, seconds: 1.0, output: rows.jsonl,"
            " logger: {wandb_enabled: true}}"
        },
    )
    words = ("steps", "run", "train/chat", "-i", "rows=step://make/logged")
    done = training.run(*words, **fake(training, "raise RuntimeError('broken')"))
    assert done.code == 0
    assert done.err.count("broken") == 1


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "1e9"])
def test_a_patience_that_is_none_is_refused(training: Any, given: str) -> None:
    done = training.run("steps", "run", "train/chat", NEMOTRON_WANDB_SECONDS=given)
    assert done.code == 2
    assert "NEMOTRON_WANDB_SECONDS" in done.err


def test_a_killed_command_leaves_no_process_behind(
    training: Any, kept: Any, wait_for: Any, alive: Any
) -> None:
    process = training.start("steps", "run", "train/chat", "behave=stop_once")
    wait_for(lambda: has_rows(training, 3) and mirrors(training))
    (mirror,) = mirrors(training)
    process.kill()
    wait_for(lambda: not alive(mirror))
    assert kept(latest(training)).exits == [130]
