"""Hub models as inputs: from the local cache, identified by commit; without a network an error says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOML = """
    [step]
    id = "use/model"
    description = "Looks at a model."
    [[consumes]]
    name = "model"
    type = "checkpoint_hf"
    config = "model"
    [[consumes]]
    name = "rows"
    type = "training_jsonl"
    config = "rows_path"
    required = false
    [[produces]]
    name = "seen"
    type = "eval_results"
    config = "output"
    [run]
    engines = ["script"]
"""
CONFIG = "behave: write\nrows: 0\ntext: x\nseconds: 1\nmodel: ???\nrows_path: null\noutput: seen.json\n"
SCRIPT = """
import json, sys, yaml
config = yaml.safe_load(open(sys.argv[2]))
json.dump({"model": config["model"]}, open("seen.json", "w"))
"""
Cli = Callable[..., Any]


@pytest.fixture
def hub(world: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    world.add_step("use/model", TOML, configs={"default": CONFIG}, script=SCRIPT)
    place: Path = world.root / "hub home"
    for name, value in (("HF_HOME", str(place)), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
        world.environ[name] = value
    return place / "hub"


@pytest.fixture
def cached(hub: Path, write_model: Callable[..., Path]) -> Path:
    """A model in the cache, as the hub client leaves it."""
    model = hub / "models--org--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    (model / "snapshots").mkdir()
    shutil.move(write_model("made"), model / "snapshots" / COMMIT)
    return model / "snapshots" / COMMIT


def test_without_a_network_a_model_that_is_not_cached_is_exit_6(world: Any, hub: Path) -> None:
    pytest.importorskip("huggingface_hub")
    done = world.run("steps", "run", "use/model", "-i", "model=org/model", "--json")
    assert done.code == 6, done.err
    error = done.json["error"]
    assert error["kind"] == "scheduler"
    assert "org/model" in error["what"]
    assert "HF_HUB_OFFLINE" in error["what"]
    assert "-i" in error["next"]
    assert world.runs() == []


@pytest.mark.parametrize(
    "reference", ["org/model", "hf://org/model", "hf://org/model@main", f"org/model@{COMMIT}"]
)
def test_a_cached_model_is_pinned_to_its_commit(world: Any, cli: Cli, cached: Path, reference: str) -> None:
    done = cli("steps", "run", "use/model", "-i", f"model={reference}", "--json")
    assert done.code == 0, done.err
    assert json.loads(Path(done.json["outputs"]["seen"]["path"]).read_text()) == {"model": str(cached)}
    record = json.loads((Path(done.json["directory"]) / "record.json").read_text())
    assert record["inputs"]["model"]["path"] == str(cached)
    assert record["inputs"]["model"]["digest"].startswith("blake3:")
    again = cli("steps", "run", "use/model", "-i", "model=hf://org/model", "--json")
    assert again.json["outcome"] == "reused", "however it is named, the commit is its identity"


def test_another_commit_is_another_run(cli: Cli, cached: Path) -> None:
    first = cli("steps", "run", "use/model", "-i", "model=org/model", "--json")
    other = COMMIT[::-1]
    shutil.copytree(cached, cached.parent / other)
    (cached.parent.parent / "refs/main").write_text(other)
    second = cli("steps", "run", "use/model", "-i", "model=org/model", "--json")
    assert (first.code, second.code) == (0, 0)
    assert second.json["outcome"] == "ran"


def test_a_cached_model_that_is_no_model_is_exit_4(cli: Cli, cached: Path) -> None:
    (cached / "model.safetensors").write_bytes(b"not weights")
    done = cli("steps", "run", "use/model", "-i", "model=org/model")
    assert done.code == 4
    assert str(cached) in done.err


def test_what_cannot_be_fetched_stops_before_anything_is_built(world: Any, hub: Path) -> None:
    """An hour of building inputs is not spent on a model that is not there."""
    pytest.importorskip("huggingface_hub")
    words = ("-i", "rows=step://make/rows?config=default", "-i", "model=org/model")
    assert world.run("steps", "run", "use/model", *words).code == 6
    assert world.runs() == []


def test_a_url_is_refused_before_anything_is_built(world: Any, cli: Cli, hub: Path) -> None:
    words = ("-i", "rows=step://make/rows?config=default", "-i", "model=swift://bucket/model")
    assert cli("steps", "run", "use/model", *words, "-d").code == 0
    done = cli("steps", "run", "use/model", *words)
    assert done.code == 4
    assert "swift://bucket/model" in done.err
    assert world.runs() == []


def test_a_late_input_of_an_input_is_seen_too(world: Any, cli: Cli, hub: Path) -> None:
    config = "defaults: default\ninputs: {model: 'swift://bucket/model'}\n"
    (world.catalog / "use/model/config/remote.yaml").write_text(config)
    toml = '[step]\nid = "use/seen"\ndescription = "x"\n[[consumes]]\nname = "seen"\ntype = "eval_results"\n'
    toml += 'config = "seen"\n[run]\nengines = ["script"]\n'
    world.add_step("use/seen", toml, configs={"default": "seen: ???\n"}, script="")
    done = cli("steps", "run", "use/seen", "-i", "seen=step://use/model?config=remote")
    assert done.code == 4
    assert "swift://bucket/model" in done.err
    assert world.runs() == []
