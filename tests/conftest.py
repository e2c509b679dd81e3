"""A world of its own for each test: a small catalog of scripts, a store, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

# Set before any test imports torch: two threads on two busy cores take six times the CPU time of one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MAIN = ("-m", "nemotron")
# Long, for busy machines; nothing waits so long where all is well.
PATIENCE = 40.0

# One program for every step of the small catalog. What it does is its config's `behave`.
SCRIPT = '''
"""Writes its output, or misbehaves as its config says."""

import json
import os
import sys
import time
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text(encoding="utf-8"))
behave, place = config["behave"], Path(config["output"])
with Path("starts").open("a", encoding="utf-8") as file:
    file.write(f"{os.getpid()}\\n")
Path("argv.json").write_text(json.dumps(sys.argv[3:]), encoding="utf-8")
print("started", os.environ.get("HF_TOKEN", "without a token")[:5], flush=True)
starts = len(Path("starts").read_text(encoding="utf-8").split())
if behave == "fail" or (behave == "fail_once" and starts == 1):
    print("the reason is in this line", flush=True)
    sys.exit(7)
if behave == "sleep" or (behave == "sleep_once" and starts == 1):
    time.sleep(config["seconds"])
while behave == "gate" and not Path(config["text"]).exists():
    time.sleep(0.02)
if behave == "polite":
    import signal

    def leave(*_):
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    place.write_text("half of it", encoding="utf-8")
    time.sleep(config["seconds"])
rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": config["text"]}]}
        for n in range(config["rows"])]
if "rows_path" in config:
    given = Path(config["rows_path"]).read_text(encoding="utf-8")
    place.write_text(json.dumps({"rows": len(given.splitlines())}), encoding="utf-8")
elif behave == "broken":
    place.write_text('{"messages": [\\n', encoding="utf-8")
elif behave != "nothing":
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(row) + "\\n" for row in rows), encoding="utf-8")
print("written", flush=True)
'''

MAKE = """
    [step]
    id = "{id}"
    description = "Writes chat rows."

    [[produces]]
    name = "rows"
    type = "training_jsonl"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
MAKE_CONFIG = """
    behave: write
    rows: 3
    text: yes sir
    seconds: 60.0
    lr: 0.5
    layers: [1, 2, 3]
    output: rows.jsonl
"""
COUNT = """
    [step]
    id = "use/count"
    description = "Counts chat rows."

    [[consumes]]
    name = "rows"
    type = "training_jsonl"
    config = "rows_path"

    [[consumes]]
    name = "prompts"
    type = "prompt_jsonl"
    required = false
    config = "prompts_path"

    [[produces]]
    name = "count"
    type = "eval_results"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
COUNT_CONFIG = """
    behave: write
    rows: 0
    text: none
    seconds: 60.0
    rows_path: ???
    prompts_path: null
    output: count.json
"""
BUILT_CONFIG = """
    defaults: default
    inputs:
      rows: step://make/rows?config=default
"""


def heed_interrupts() -> None:
    """What SIGINT does in a foreground process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Done:
    """One finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed on stdout."""
        return json.loads(self.out)


@dataclass
class World:
    """Where a test's catalog, store and cache are."""

    root: Path
    environ: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def catalog(self) -> Path:
        """The root of the small catalog."""
        return self.root / "small"

    @property
    def home(self) -> Path:
        """The store."""
        return Path(self.environ["NEMOTRON_HOME"])

    @property
    def work(self) -> Path:
        """The working directory."""
        return self.root / "work"

    def add_step(
        self,
        step_id: str,
        toml: str = MAKE,
        *,
        configs: Mapping[str, str] | None = None,
        script: str = SCRIPT,
    ) -> Path:
        """One more step for the small catalog."""
        directory = self.catalog / step_id
        (directory / "config").mkdir(parents=True)
        (directory / "step.toml").write_text(dedent(toml).replace("{id}", step_id), encoding="utf-8")
        (directory / "step.py").write_text(script, encoding="utf-8")
        for name, text in (configs or {"default": MAKE_CONFIG}).items():
            (directory / "config" / f"{name}.yaml").write_text(dedent(text), encoding="utf-8")
        return directory

    def command(self, *words: str | bytes) -> list[str | bytes]:
        """The argument list of a `nemotron` process."""
        return [sys.executable, *MAIN, *words]

    def start(self, *words: str | bytes) -> subprocess.Popen[str]:
        """A `nemotron` process that goes on; whatever of it is left is killed after the test."""
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.work,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit it.
            preexec_fn=heed_interrupts,
        )
        self.running.append(process)
        return process

    def run(self, *words: str | bytes, **environ: str) -> Done:
        """A whole `nemotron` process."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.work,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def runs(self) -> list[Path]:
        """The run directories, oldest first."""
        found = (self.home / "runs").glob("*/plan.json")
        return [p.parent for p in sorted(found, key=lambda p: p.stat().st_mtime_ns)]

    def records(self) -> list[dict[str, Any]]:
        """Every record, by file name."""
        return [
            json.loads(p.read_text(encoding="utf-8")) for p in sorted((self.home / "records").rglob("*.json"))
        ]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A small catalog (make/rows, use/count) in front of ours, and an empty store."""
    for name in list(os.environ):
        if name.startswith(("NEMOTRON_", "RL_", "HF_", "WANDB_", "SLURM_", "NRL_", "GPUS_PER")):
            monkeypatch.delenv(name)
    ours = {
        "NEMOTRON_HOME": str(tmp_path / "store"),
        "NEMOTRON_CATALOG": str(tmp_path / "small"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    made = World(tmp_path, dict(os.environ))
    made.work.mkdir()
    monkeypatch.chdir(made.work)
    made.add_step("make/rows")
    made.add_step("use/count", COUNT, configs={"default": COUNT_CONFIG, "built": BUILT_CONFIG})
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def cli(world: World) -> Iterator[Callable[..., Done]]:
    """Runs a command in this process: `cli("steps", "run", "make/rows")`."""
    from nemotron.cli.app import run, split_arguments

    def call(*words: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(*split_arguments(list(words)))
        return Done(code, out.getvalue(), err.getvalue())

    # A launch takes SIGTERM over, as a process of its own may.
    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """`wait_for(function)`: what it returns as soon as that is true."""

    def wait(condition: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.03)
        raise AssertionError(f"waited {seconds} s in vain {what}")

    return wait


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON lines: `write_rows("chat.jsonl", "training_jsonl")`."""
    rows: dict[str, dict[str, Any]] = {
        "training_jsonl": {"messages": [_says("user", "2+2?"), _says("assistant", "4")]},
        "prompt_jsonl": {"prompt": "2+2?"},
        "preference_jsonl": {
            "context": [_says("user", "2+2?")],
            "completions": [
                {"rank": rank, "completion": [_says("assistant", answer)]} for rank, answer in enumerate("45")
            ],
        },
    }

    def write(name: str, kind: str, count: int = 64) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((json.dumps(rows[kind]) + "\n") * count, encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes the smallest whole model directory: `write_model("judge", head=True)`."""

    def write(name: str, *, head: bool = False, weights: bool = True) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        kind = "LlamaForSequenceClassification" if head else "LlamaForCausalLM"
        config = {"model_type": "llama", "architectures": [kind], "vocab_size": 8, "id2label": {"0": "score"}}
        (path / "config.json").write_text(json.dumps(config))
        tokenizer = {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        }
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
        (path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
        if weights:
            header = json.dumps({"w": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}).encode()
            (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
        return path

    return write


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the golden plans anew; look at their diff."""
    parser.addoption("--update-golden", action="store_true", help="write tests/planning/golden anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written, not compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process runs (a zombie does not)."""

    def look(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    return look
