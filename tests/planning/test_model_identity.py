"""Inputs that share tokens, a template or weights are of one model, or the launch is refused with the fix."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact
from nemotron.findings import Finding
from nemotron.planning.build import plan_step
from nemotron.planning.model_identity import identity_findings
from nemotron.planning.plan import Edge, Plan, PlannedInput
from nemotron.planning.request import Request

Cli = Callable[..., Any]
Models = Callable[..., Path]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# A step whose program copies a directory: it makes a model as any training would leave it.
COPY = """
import shutil, sys, yaml
config = yaml.safe_load(open(sys.argv[2]))
shutil.copytree(config["source"], config["output"])
"""
SEEN = """
open("seen.json", "w").write("{}")
"""
RUN = """
    [[produces]]
    name = "seen"
    type = "eval_results"
    config = "output"
    [run]
    engines = ["script"]
"""


def consumes(name: str, kind: str, more: str = "") -> str:
    return f'    [[consumes]]\n    name = "{name}"\n    type = "{kind}"\n    config = "{name}"\n    {more}\n'


def manifest(*ports: str) -> str:
    return '\n    [step]\n    id = "{id}"\n' + "".join(ports) + RUN


PAIR = manifest(
    consumes("policy", "checkpoint_hf"),
    consumes("reference", "checkpoint_hf", 'same_tokens_as = "policy"'),
)
# These two say nothing of their inputs, as catalogs in the existing format.
PACKED = manifest(consumes("model", "checkpoint_hf"), consumes("data", "packed_parquet"))
MERGE = manifest(consumes("base", "checkpoint_hf"), consumes("adapter", "checkpoint_lora"))
MAKE = """
    [step]
    id = "{id}"
    [[produces]]
    name = "model"
    type = "checkpoint_hf"
    config = "output"
    [run]
    engines = ["script"]
"""


@pytest.fixture
def steps(world: Any) -> Any:
    """Steps that take models, and one that makes them."""
    for name, toml, ports in (
        ("use/pair", PAIR, ("policy", "reference")),
        ("use/packed", PACKED, ("model", "data")),
        ("use/merge", MERGE, ("base", "adapter")),
    ):
        config = "output: seen.json\n" + "".join(f"{port}: ???\n" for port in ports)
        world.add_step(name, toml, configs={"default": config}, script=SEEN)
    world.add_step("make/model", MAKE, configs={"default": "source: ???\noutput: model\n"}, script=COPY)
    return world


@pytest.fixture
def model(write_model: Models) -> Models:
    """A model directory: `model("policy", tokens=("a", "b"), template="...", eos="</s>", vocabulary=8)`."""

    def make(
        name: str,
        *,
        tokens: tuple[str, ...] = ("a", "b"),
        template: str = "{{ messages }}",
        eos: str = "b",
        vocabulary: int = 8,
        weights: int = 0,
    ) -> Path:
        path = write_model(name)
        tokenizer = json.loads((path / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
        about = {"chat_template": template, "eos_token": eos, "pad_token": tokens[0]}
        (path / "tokenizer_config.json").write_text(json.dumps(about))
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-1] = weights
        (path / "model.safetensors").write_bytes(content)
        return path

    return make


@pytest.fixture
def adapter(tmp_path: Path) -> Models:
    """A LoRA adapter of a base: `adapter("/models/base")`."""

    def make(base: object) -> Path:
        path = tmp_path / "adapter"
        path.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": base}
        (path / "adapter_config.json").write_text(json.dumps(config))
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        return path

    return make


@pytest.fixture
def packed(tmp_path: Path) -> Models:
    """Packed data that says which tokenizer and template of a model it was made with."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def make(of: Path | None) -> Path:
        facts = check_artifact(of, "checkpoint_hf").facts if of else {}
        said = {f"nemotron.{k}": facts[k] for k in ("tokenizer_digest", "chat_template_digest") if k in facts}
        rows = pyarrow.table({"input_ids": [[1, 2], [3, 4]], "loss_mask": [[0, 1], [0, 1]]})
        path = tmp_path / "packed"
        path.mkdir()
        parquet.write_table(rows.replace_schema_metadata(said), path / "part-0.parquet")
        return path

    return make


def digest_in(path: Path, fact: str) -> str:
    """The beginning of a digest among the facts of a model."""
    return str(check_artifact(path, "checkpoint_hf").facts[fact]).partition(":")[2][:12]


def findings(step: str, *waived: str, **inputs: object) -> dict[str, Finding]:
    bound = {port: str(reference) for port, reference in inputs.items()}
    found = plan_step(Request(step, inputs=bound, waived=waived)).findings
    return {f.id: f for f in found if f.id.startswith("model.")}


def refused(cli: Cli, world: Any, step: str, *more: str, **inputs: object) -> Any:
    """What a launch says that ends before anything has run."""
    words = [w for port, reference in inputs.items() for w in ("-i", f"{port}={reference}")]
    done = cli("steps", "run", step, *more, *words)
    assert done.code == 4, done.err
    assert world.runs() == []
    return done


def test_a_reference_of_another_tokenizer_is_refused(steps: Any, cli: Cli, model: Models) -> None:
    policy, reference = model("policy"), model("reference", tokens=("b", "a"))
    done = refused(cli, steps, "use/pair", policy=policy, reference=reference)
    assert "[model.tokenizer_differs]" in done.err
    for path in (policy, reference):
        assert digest_in(path, "tokenizer_digest") in done.err
    assert f"fix: -i reference={policy}" in done.err
    mended = cli("steps", "run", "use/pair", "-i", f"policy={policy}", "-i", f"reference={policy}")
    assert mended.code == 0, mended.err


def test_the_dpo_step_refuses_such_a_reference(world: Any, cli: Cli, model: Models) -> None:
    policy, reference = model("policy"), model("reference", tokens=("b", "a"))
    done = refused(cli, world, "rl/nemo_rl/dpo", "-c", "tiny", policy=policy, reference=reference)
    assert "[model.tokenizer_differs]" in done.err
    found = plan_step(Request("rl/nemo_rl/dpo", "tiny", inputs={"policy": str(policy)}))
    assert found.edges == ()
    assert found.recipe.config["embedded"]["reference_model"] is None


def test_vocabulary_and_special_tokens_are_compared(steps: Any, model: Models) -> None:
    policy = model("policy")
    found = findings("use/pair", policy=policy, reference=model("larger", vocabulary=16))
    assert "of 16 tokens" in found["model.vocabulary_differs"].message
    assert "of 8" in found["model.vocabulary_differs"].message
    assert [*found] == ["model.vocabulary_differs"]
    found = findings("use/pair", policy=policy, reference=model("ending", eos="a"))
    assert "eos_token 'a' against 'b'" in found["model.special_tokens_differ"].message
    assert [*found] == ["model.special_tokens_differ"]
    assert {f.severity for f in found.values()} == {"error"}


def test_another_chat_template_or_padding_is_no_other_tokenizer(steps: Any, model: Models) -> None:
    other = model("other", template="{{ messages[0] }}", weights=1)
    about = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**about, "pad_token": "b"}))
    assert findings("use/pair", policy=model("policy"), reference=other) == {}


def test_one_tokenizer_saved_by_two_versions_of_its_library_is_one(steps: Any, write_model: Models) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["<end>"])
    trained.train_from_iterator(["the cat sat on the mat", "the mat sat on the cat"] * 9, trainer)
    new, old = write_model("new"), write_model("old")
    trained.save(str(new / "tokenizer.json"))
    trained.enable_truncation(8)
    trained.enable_padding(length=16)
    saved = json.loads(trained.to_str())
    assert saved["model"]["merges"]
    # As before 0.20: merges are text. And another order of keys.
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
    (old / "tokenizer.json").write_text(json.dumps(dict(reversed(saved.items())), indent=2))
    (old / "README.md").write_text("an older copy")
    assert findings("use/pair", policy=new, reference=old) == {}
    saved["model"]["merges"].reverse()
    (old / "tokenizer.json").write_text(json.dumps(saved))
    assert [*findings("use/pair", policy=new, reference=old)] == ["model.tokenizer_differs"]


def test_what_is_waived_is_launched_and_kept_in_the_plan(steps: Any, cli: Cli, model: Models) -> None:
    words = ("-i", f"policy={model('policy')}", "-i", f"reference={model('reference', tokens=('b', 'a'))}")
    done = cli("steps", "run", "use/pair", *words, "--waive", "model.tokenizer_differs")
    assert done.code == 0, done.err
    plan = Plan.from_dict(json.loads((steps.runs()[0] / "plan.json").read_text()))
    assert plan.waived == ("model.tokenizer_differs",)
    note = next(f for f in plan.findings if f.id == "model.tokenizer_differs")
    assert (note.severity, note.message[:7]) == ("note", "waived:")


def test_a_model_that_does_not_tell_its_tokenizer_is_a_warning(steps: Any, model: Models) -> None:
    silent = model("silent")
    (silent / "tokenizer.json").unlink()
    policy = model("policy")
    found = findings("use/pair", policy=policy, reference=silent)
    assert found["model.tokenizer_unknown"].severity == "warning"
    assert "input reference does not tell" in found["model.tokenizer_unknown"].message
    (silent / "tokenizer.model").write_bytes(b"pieces")
    found = findings("use/pair", policy=policy, reference=silent)
    assert "tokenizer.model" in found["model.tokenizer_unknown"].message


def test_packed_data_of_another_chat_template_is_refused(
    steps: Any, cli: Cli, model: Models, packed: Models
) -> None:
    mine, theirs = model("mine"), model("theirs", template="{{ messages[0] }}")
    done = refused(cli, steps, "use/packed", model=mine, data=packed(theirs))
    assert "[model.chat_template_differs]" in done.err
    assert "[model.tokenizer_differs]" not in done.err
    for path in (mine, theirs):
        assert digest_in(path, "chat_template_digest") in done.err
    assert f"nemotron steps run data_prep/sft_packing -i model={mine}" in done.err


def test_the_fix_for_packed_data_is_the_step_that_packs(steps: Any, model: Models, packed: Models) -> None:
    mine = model("my model")
    found = findings("use/packed", model=mine, data=packed(model("theirs", tokens=("b", "a"))))
    assert [*found] == ["model.tokenizer_differs"]
    fix = found["model.tokenizer_differs"].fix
    assert fix == f"nemotron steps run data_prep/sft_packing -i 'model={mine}', then: -i data=run://RUN"


def test_packed_data_of_the_same_model_is_taken(steps: Any, model: Models, packed: Models) -> None:
    mine = model("mine")
    assert findings("use/packed", model=mine, data=packed(model("a copy", weights=1))) == {}


def test_packed_data_that_tells_nothing_is_one_warning(steps: Any, model: Models, packed: Models) -> None:
    found = findings("use/packed", model=model("mine"), data=packed(None))
    assert [(f.id, f.severity) for f in found.values()] == [("model.tokenizer_unknown", "warning")]


def test_packed_data_beside_two_models_is_left_to_the_manifest(
    steps: Any, model: Models, packed: Models
) -> None:
    ports = [consumes(name, "checkpoint_hf") for name in ("teacher", "student")]
    toml = manifest(*ports, consumes("data", "packed_parquet"))
    config = "output: x.json\nteacher: ???\nstudent: ???\ndata: ???\n"
    steps.add_step("use/two", toml, configs={"default": config})
    named = toml.replace('config = "data"', 'config = "data"\n    same_template_as = "student"')
    steps.add_step("use/named", named, configs={"default": config})
    teacher, student = model("teacher", template="other"), model("student")
    inputs = {"teacher": teacher, "student": student, "data": packed(teacher)}
    assert findings("use/two", **inputs) == {}
    assert [*findings("use/named", **inputs)] == ["model.chat_template_differs"]


def test_an_adapter_on_another_base_is_refused(steps: Any, cli: Cli, model: Models, adapter: Models) -> None:
    base, other = model("the base"), model("other", weights=1)
    made = adapter(str(base))
    done = refused(cli, steps, "use/merge", base=other, adapter=made)
    line = next(line for line in done.err.splitlines() if "[model.base_differs]" in line)
    assert line.count("weights ") == 2
    first, second = (words[:12] for words in line.split("weights ")[1:])
    assert first != second
    assert f"fix: -i 'base={base}'" in done.err
    mended = cli("steps", "run", "use/merge", "-i", f"base={base}", "-i", f"adapter={made}")
    assert mended.code == 0, mended.err


def test_a_copy_of_the_base_is_the_base(steps: Any, model: Models, adapter: Models) -> None:
    base, made = model("base"), adapter(str(model("named")))
    (base / "README.md").write_text("a copy with a page more")
    assert findings("use/merge", base=base, adapter=made) == {}
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    assert [*findings("use/merge", base=base, adapter=made)] == ["model.base_differs"]


@pytest.mark.parametrize(
    "base", ["/gone/base", "org/base", None, "/", "a\0b", "x" * 5000, "~nobody-here/base"]
)
def test_a_base_that_cannot_be_seen_is_a_warning(
    steps: Any, model: Models, adapter: Models, base: str | None
) -> None:
    found = findings("use/merge", base=model("base"), adapter=adapter(base))
    assert [(f.id, f.severity) for f in found.values()] == [("model.base_unknown", "warning")]
    assert found["model.base_unknown"].message.isprintable()
    assert len(found["model.base_unknown"].message) < 400


@pytest.mark.parametrize(
    ("base", "reference", "expected"),
    [
        ("org/base", "hf://org/base@main", []),
        ("Org/Base", "hf://org/base", []),
        ("org/other", "hf://org/base", ["model.base_differs"]),
        ("/hub/models--org--base/snapshots/abc", "hf://org/base", []),
        ("/hub/models--org--other/snapshots/abc", "hf://org/base", ["model.base_differs"]),
    ],
)
def test_hub_ids_are_compared_where_the_base_is_not_here(
    base: str, reference: str, expected: list[str]
) -> None:
    found = on_the_hub(base, reference)
    assert [f.id for f in found] == expected
    assert all("hf://org/other" in f.message and reference in str(f.valid) for f in found)


def on_the_hub(base: str, reference: str, **facts: object) -> list[Finding]:
    edge = Edge("adapts", "adapter", "base")
    put = PlannedInput("adapter", ("checkpoint_lora",), "pinned", digest="blake3:1", facts={"base": base})
    on = PlannedInput(
        "base", ("checkpoint_hf",), "pinned", reference=reference, path="/x", digest="blake3:2", facts=facts
    )
    return identity_findings([edge], [put, on], {})


def test_a_model_that_comes_from_the_base_is_not_proven_to_be_it() -> None:
    (found,) = on_the_hub("org/base", "/models/tuned", base_model="org/base")
    assert (found.id, found.severity) == ("model.base_unknown", "warning")
    assert "base comes from it" in found.message


def test_a_reference_that_is_built_is_compared_before_it_is_used(steps: Any, cli: Cli, model: Models) -> None:
    policy, source = model("policy"), model("source", tokens=("b", "a"))
    words = ("-i", f"policy={policy}", "-i", f"reference=step://make/model?source={source}")
    dry = cli("steps", "run", "use/pair", "-d", "--json", *words)
    assert dry.code == 0, dry.err
    edge = {"relation": "same_tokens_as", "port": "reference", "other": "policy"}
    assert dry.json["edges"] == [{**edge, "fix": f"-i reference={policy}"}]
    done = cli("steps", "run", "use/pair", *words)
    assert done.code == 4, done.err
    assert digest_in(policy, "tokenizer_digest") in done.err
    assert digest_in(source, "tokenizer_digest") in done.err
    assert f"fix: -i reference={policy}" in done.err
    assert [p.name[:10] for p in steps.runs()] == ["make-model"]


def test_a_built_reference_can_be_waived_beforehand(steps: Any, cli: Cli, model: Models) -> None:
    built = f"reference=step://make/model?source={model('source', tokens=('b', 'a'))}"
    words = ("-i", f"policy={model('policy')}", "-i", built)
    done = cli("steps", "run", "use/pair", *words, "--waive", "model.tokenizer_differs")
    assert done.code == 0, done.err
    plan = json.loads((steps.runs()[-1] / "plan.json").read_text())
    notes = [(f["id"], f["severity"]) for f in plan["findings"] if f["id"].startswith("model.")]
    assert notes == [("model.tokenizer_differs", "note")]
    assert cli("steps", "run", "use/pair", *words, "--waive", "model.base_differs").code == 3


def test_a_hub_model_is_compared_before_anything_is_built(
    steps: Any, cli: Cli, model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = steps.root / "hub/models--org--model/snapshots" / COMMIT
    place.parent.mkdir(parents=True)
    shutil.move(model("made", tokens=("b", "a")), place)
    monkeypatch.setenv("HF_HUB_CACHE", str(steps.root / "hub"))
    built = f"policy=step://make/model?source={model('source')}"
    done = cli("steps", "run", "use/pair", "-i", built, "-i", f"reference=org/model@{COMMIT}")
    assert done.code == 4, done.err  # the policy was not here: compared when it was built
    assert [p.name[:10] for p in steps.runs()] == ["make-model"]
    pinned = f"policy={model('policy')}"
    refused_at_once = cli("steps", "run", "use/pair", "-i", pinned, "-i", f"reference=org/model@{COMMIT}")
    assert refused_at_once.code == 4
    assert "[model.tokenizer_differs]" in refused_at_once.err
    assert len(steps.runs()) == 1


def test_a_digest_in_packed_data_cannot_break_a_line() -> None:
    """Whoever packed the data wrote what it says."""
    hostile = "sha256:" + "x\n\x1b[2J" * 900
    facts = {"tokenizer_digest": hostile, "chat_template_digest": hashlib.sha256(b"").hexdigest()}
    data = PlannedInput(
        "data", ("packed_parquet",), "pinned", "data", "packed_parquet", facts=facts, digest="1"
    )
    model = PlannedInput(
        "model", ("checkpoint_hf",), "pinned", facts={"tokenizer_digest": "sha256:ab"}, digest="2"
    )
    edge = Edge("same_template_as", "data", "model")
    found = identity_findings([edge], [data, model], {})
    assert [f.id for f in found] == ["model.tokenizer_differs", "model.chat_template_unknown"]
    assert all(f.message.isprintable() and len(f.message) < 300 for f in found)
