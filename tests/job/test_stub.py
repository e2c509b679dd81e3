"""A stub run leaves valid artifacts of every type, with nothing installed and nothing read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import pytest

import nemotron
from nemotron.artifacts.checks import check_artifact
from nemotron.artifacts.checks.check import known_types
from nemotron.artifacts.checks.guess import guess_type
from nemotron.catalog.discover import load_catalog
from nemotron.catalog.step import Step
from nemotron.job.outputs import find_outputs
from nemotron.job.stub.mark import MARK, NOTE_FILE
from nemotron.job.stub.run import main
from nemotron.job.stub.types import Content, Wanted, known_stubs, stub_content
from nemotron.launch.bundle import RUNTIME_MODULES

CATALOG = load_catalog({})
GRAPH = CATALOG.types_of(CATALOG.get("data_prep/scratch"))
OWN_STEPS = [step for step in CATALOG.steps if step.root == "nemotron"]
CHECKED = known_types()


def put(path: Path, content: Content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def stub_at(path: Path, type_name: str) -> Path:
    return put(path, stub_content(Wanted(type_name, path)))


def run_directory(place: Path, *outputs: dict[str, Any], inputs: dict[str, Any] | None = None) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "plan.json").write_text(json.dumps({"outputs": outputs}))
    (place / "place.json").write_text(json.dumps({"inputs": inputs or {}}))
    return place


def output(type_name: str, path: str, **changes: Any) -> dict[str, Any]:
    blank = {"port": "out", "type": type_name, "path": path, "select": None, "inside": None, "required": True}
    return blank | changes


def held(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_every_type_of_the_catalog_has_a_stub() -> None:
    assert set(GRAPH.names) == set(known_stubs())


@pytest.mark.parametrize("type_name", GRAPH.names)
def test_a_stub_passes_the_check_of_its_type_and_of_all_it_may_stand_in_for(
    type_name: str, tmp_path: Path
) -> None:
    path = stub_at(tmp_path / "artifact", type_name)
    for name in (type_name, *GRAPH.supertypes(type_name)):
        checked = check_artifact(path, name)
        assert checked.ok, checked.findings
        assert [f for f in checked.findings if name in CHECKED] == [], "not even a warning"


@pytest.mark.parametrize("type_name", [t for t in CHECKED if t != "reward_model_hf"])
def test_a_stub_is_taken_for_what_it_is(type_name: str, tmp_path: Path) -> None:
    """A judge that writes its verdicts cannot be told from any other model."""
    assert guess_type(stub_at(tmp_path / ("a.json" if type_name == "eval_results" else "a"), type_name)) == (
        type_name
    )


@pytest.mark.parametrize("type_name", [*GRAPH.names, "somebody/elses"])
def test_a_stub_says_that_it_is_one(type_name: str, tmp_path: Path) -> None:
    path = stub_at(tmp_path / "artifact", type_name)
    if path.is_dir():
        assert (path / NOTE_FILE).is_file()
        assert sum(MARK.encode() in data for data in held(path).values()) >= 1
    else:
        assert MARK.encode() in path.read_bytes()


def test_the_same_stub_is_the_same_bytes() -> None:
    for name in GRAPH.names:
        wanted = Wanted(name, PurePath("/run/out"))
        assert stub_content(wanted) == stub_content(wanted)


@pytest.mark.parametrize(
    ("step", "engine"),
    [(s, e) for s in OWN_STEPS for e in s.engines],
    ids=lambda each: getattr(each, "id", each),
)
def test_every_step_of_the_catalog_can_be_stubbed(step: Step, engine: str, tmp_path: Path) -> None:
    inside = {"nemo_rl": "policy/weights", "embedded": "policy"}.get(engine)
    planned = [
        output(
            port.type[0],
            f"outputs/{port.name}",
            port=port.name,
            select=port.select,
            inside=inside if port.select else None,
        )
        for port in step.outputs(engine)
    ]
    assert planned
    run = run_directory(tmp_path / "run", *planned)
    assert main([str(run)]) == 0
    found, missing = find_outputs(run, planned)
    assert missing is None
    assert set(found) == {port.name for port in step.outputs(engine)}
    for made in found.values():
        assert check_artifact(Path(made["path"]), made["type"]).ok


@pytest.mark.parametrize("select", ["best", "latest"])
def test_of_several_checkpoints_the_first_step_is_there(select: str, tmp_path: Path) -> None:
    planned = output("checkpoint_megatron", "checkpoints", select=select, inside="policy/weights")
    run = run_directory(tmp_path / "run", planned)
    assert main([str(run)]) == 0
    found, _ = find_outputs(run, [planned])
    assert found["out"]["path"] == str(run / "checkpoints/step_1/policy/weights")
    assert found["out"]["step_of_training"] == 1
    whole = check_artifact(run / "checkpoints", "checkpoint_megatron")
    assert whole.ok
    assert whole.facts["layout"] == "steps"
    assert json.loads((run / "checkpoints/step_1/training_info.json").read_text())[MARK] is True


def test_the_metrics_say_that_it_was_a_stub(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", output("training_jsonl", "rows.jsonl"))
    assert main([str(run)]) == 0
    assert json.loads((run / "metrics.jsonl").read_text()) == {"step": 1, MARK: True}


def test_a_step_without_known_outputs_has_nothing_to_write(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    assert main([str(run)]) == 0
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "place.json", "plan.json"]


@pytest.mark.parametrize(("path", "name"), [("thing", NOTE_FILE), ("thing.bin", ""), ("thing.jsonl", "")])
def test_of_an_unknown_type_there_is_a_note(path: str, name: str, tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", output("somebody/elses", path))
    assert main([str(run)]) == 0
    assert MARK in (run / path / name).read_text()


def test_an_adapter_adapts_the_model_the_run_was_given(tmp_path: Path) -> None:
    base = {"type": "checkpoint_hf", "reference": "x", "path": "/models/base", "digest": None}
    late = {"type": None, "reference": "run://a", "path": None, "digest": None}
    planned = output("checkpoint_lora", "adapter")
    run = run_directory(tmp_path / "run", planned, inputs={"data": late, "model": base})
    assert main([str(run)]) == 0
    assert check_artifact(run / "adapter", "checkpoint_lora").facts["base"] == "/models/base"


@pytest.mark.parametrize("type_name", ["training_jsonl", "checkpoint_hf"])
def test_what_is_no_stub_is_never_replaced(
    type_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "elsewhere" / "model"
    precious.mkdir(parents=True)
    (precious / "weights").write_text("precious")
    run = run_directory(tmp_path / "run", output(type_name, str(precious)))
    assert main([str(run)]) == 5
    assert str(precious) in capsys.readouterr().err
    assert held(precious) == {"weights": b"precious"}
    shutil.rmtree(precious)
    precious.write_text("precious rows")
    assert main([str(run)]) == 5
    assert precious.read_text() == "precious rows"
    assert [p.name for p in precious.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("type_name", ["training_jsonl", "checkpoint_hf", "packed_parquet"])
def test_an_earlier_stub_is_replaced(type_name: str, tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", output(type_name, str(tmp_path / "elsewhere" / "out")))
    assert main([str(run)]) == 0
    first = held(tmp_path / "elsewhere")
    if (tmp_path / "elsewhere/out").is_dir():
        (tmp_path / "elsewhere/out/surplus").write_text("left by nobody")
    assert main([str(run)]) == 0
    assert held(tmp_path / "elsewhere") == first


def test_a_place_that_cannot_be_written_is_an_error_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    run = run_directory(tmp_path / "run", output("training_jsonl", str(tmp_path / "file" / "rows.jsonl")))
    assert main([str(run)]) == 5
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", ""])
def test_a_damaged_plan_is_no_traceback(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_directory(tmp_path / "run")
    (run / "plan.json").write_text(damage)
    assert main([str(run)]) == 4
    assert "plan.json cannot be read" in capsys.readouterr().err


def shipped(run: Path) -> None:
    """The runtime as a bundle holds it."""
    package = Path(nemotron.__file__).parent
    assert {f"job/stub/{p.name}" for p in (package / "job" / "stub").glob("*.py")} <= set(RUNTIME_MODULES)
    for name in RUNTIME_MODULES:
        target = run / "runtime" / "nemotron" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target)
    (run / "runtime/nemotron/__init__.py").write_text("")


def test_it_runs_from_the_run_directory_with_the_standard_library_alone(tmp_path: Path) -> None:
    planned = [output(name, f"outputs/{name}", port=name) for name in GRAPH.names]
    run = run_directory(tmp_path / "a run; $(touch HACKED)", *planned)
    shipped(run)
    start = (
        "import sys; sys.path.insert(0, 'runtime'); "
        "from nemotron.job.stub.run import main; sys.exit(main(['.']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start], cwd=run, env={}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for name in GRAPH.names:
        assert check_artifact(run / "outputs" / name, name).ok
    assert not list(tmp_path.rglob("HACKED"))


def test_transformers_loads_the_model_and_its_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = stub_at(tmp_path / "model", "checkpoint_hf")
    model, told = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    chat = [{"role": "user", "content": "Grüße, 世界 🙂\n"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert int(ids.max()) < model.config.vocab_size == len(tokenizer)
    assert model(input_ids=ids).logits.isfinite().all()


def test_peft_puts_the_adapter_on_the_model(tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    base = stub_at(tmp_path / "model", "checkpoint_hf")
    adapter = put(tmp_path / "adapter", stub_content(Wanted("checkpoint_lora", tmp_path, str(base))))
    model = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), str(adapter)
    )
    assert sum("lora_" in name for name, _ in model.named_parameters()) == 2


def test_torch_loads_the_megatron_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as dcp

    iteration = stub_at(tmp_path / "model", "checkpoint_megatron") / "iter_0000000"
    reader = dcp.FileSystemReader(iteration)
    metadata = reader.read_metadata()
    state = {key: torch.full(tensor.size, 7.0) for key, tensor in metadata.state_dict_metadata.items()}
    assert len(state) == 8
    dcp.load(state, storage_reader=reader, no_dist=True)
    for key, tensor in state.items():
        assert (tensor == float("norm" in key)).all(), key
    common = torch.load(iteration / "common.pt", weights_only=True)
    assert common[MARK] is True


@pytest.mark.parametrize("type_name", [t for t in GRAPH.names if t.endswith("parquet")])
def test_pyarrow_reads_the_parquet_files(type_name: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for path in (tmp_path / "a.parquet", tmp_path / "directory"):
        table = parquet.read_table(stub_at(path, type_name))
        rows = table.to_pylist()
        if type_name == "packed_parquet":
            assert rows == [{"input_ids": [3, 4, 5, 6, 7, 8, 9, 10], "loss_mask": [1, 1, 1, 1, 1, 1, 1, 0]}]
            model = check_artifact(stub_at(tmp_path / f"{path.name}.model", "checkpoint_hf"), "checkpoint_hf")
            packed = check_artifact(path, type_name).facts
            assert packed["tokenizer_digest"] == model.facts["tokenizer_digest"]
            assert packed["chat_template_digest"] == model.facts["chat_template_digest"]
        else:
            assert rows[0]["answer"] == "A stub."
            assert rows[0].get("choices", ["A stub.", "A model."]) == ["A stub.", "A model."]


def test_stubs_are_small() -> None:
    for name in GRAPH.names:
        content = stub_content(Wanted(name, PurePath("out")))
        size = len(content) if isinstance(content, bytes) else sum(map(len, content.values()))
        assert size < 100_000, name


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", output("checkpoint_hf", "model"), output("eval_results", "r.json"))
    assert main([str(run)]) == 0
    assert [n for _, d, f in os.walk(run) for n in (*d, *f) if n.endswith(".tmp")] == []
