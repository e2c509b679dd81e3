from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks import Checked, check_artifact, guess_type, safetensors
from nemotron.findings import errors_in

CAUSAL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "bos_token_id": 1}
JUDGE = {
    "model_type": "llama",
    "architectures": ["LlamaForSequenceClassification"],
    "vocab_size": 8,
    "id2label": {"0": "LABEL_0"},
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 5, "content": "</s>"}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
Tensors = dict[str, tuple[str, list[int]]]
TENSORS: Tensors = {"embed.weight": ("BF16", [8, 4]), "norm.weight": ("F32", [4]), "step": ("I64", [])}
BITS = {"BF16": 16, "F32": 32, "I64": 64, "F4": 4}


def packed(tensors: Tensors) -> bytes:
    """A safetensors file with zeros for values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = BITS[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size // 8]}
        end += size // 8
    return with_header(header, end)


def with_header(header: object, data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def put(path: Path, value: object) -> None:
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model directory in one weight file."""
    path = tmp_path / "model"
    path.mkdir()
    put(path / "config.json", CAUSAL)
    put(path / "model.safetensors", packed(TENSORS))
    put(path / "tokenizer.json", TOKENIZER)
    put(
        path / "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "chat_template": TEMPLATE},
    )
    return path


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same model in two weight files with an index."""
    (model / "model.safetensors").unlink()
    parts: dict[str, Tensors] = {
        "model-00001-of-00002.safetensors": {"embed.weight": TENSORS["embed.weight"]},
        "model-00002-of-00002.safetensors": {k: v for k, v in TENSORS.items() if k != "embed.weight"},
    }
    for name, tensors in parts.items():
        put(model / name, packed(tensors))
    weight_map = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    put(model / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return model


def ids(result: Checked) -> list[str]:
    return [finding.id for finding in result.findings]


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    put(path, {key: item for key, item in value.items() if item is not None})


def test_a_whole_model_passes_with_its_facts(model: Path) -> None:
    result = check_artifact(model, "checkpoint_hf")
    assert result.findings == ()
    facts = dict(result.facts)
    assert facts.pop("tokenizer_digest").startswith("sha256:")
    assert facts.pop("architecture_digest").startswith("sha256:")
    assert facts.pop("chat_template_digest").startswith("sha256:")
    assert facts == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "token_ids": {"bos_token_id": 1},
        "parameters": 37,
        "dtypes": {"BF16": 32, "F32": 4, "I64": 1},
        "shards": 1,
        "tensors": 3,
        "weight_bytes": (model / "model.safetensors").stat().st_size,
        "tokenizer": "tokenizer.json",
        "tokenizer_size": 6,
        "chat_template": True,
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        "errors": 0,
        "warnings": 0,
        "findings": {},
    }


def test_shards_are_one_model(sharded: Path) -> None:
    result = check_artifact(sharded, "checkpoint_hf")
    assert result.findings == ()
    assert (result.facts["shards"], result.facts["parameters"]) == (2, 37)


def test_files_that_are_links_into_a_download_cache_are_read(model: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../blobs/{number}")
    assert check_artifact(model, "checkpoint_hf").findings == ()


def test_the_model_it_was_made_from_is_a_fact(model: Path) -> None:
    assert "base_model" not in check_artifact(model, "checkpoint_hf").facts
    edit(model / "config.json", _name_or_path="org/base")
    assert check_artifact(model, "checkpoint_hf").facts["base_model"] == "org/base"


def test_a_link_out_of_the_directory_is_an_error_and_is_not_followed(model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).rename(tmp_path / name)
        (model / name).symlink_to(tmp_path / name)
        result = check_artifact(model, "checkpoint_hf")
        found = next(f for f in result.findings if f.id == "artifact.link_outside")
        assert (found.severity, found.where) == ("error", str(model / name))
        (model / name).unlink()
        (tmp_path / name).rename(model / name)
    assert check_artifact(model, "checkpoint_hf").ok


def test_a_link_inside_the_directory_is_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    assert check_artifact(model, "checkpoint_hf").findings == ()


def test_a_config_with_infinity_is_read(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({**CAUSAL, "time_step_limit": [0.0, float("inf")]}))
    assert check_artifact(model, "checkpoint_hf").ok


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "checkpoint.no_config"),
        (b"", "artifact.empty"),
        (b"{", "data.broken_json"),
        (b"[]", "data.not_an_object"),
        (b"[" * 100_000, "data.too_deep"),
        (b"\xff\xfe{", "artifact.not_utf8"),
        ({**CAUSAL, "model_type": None}, "checkpoint.no_model_type"),
        ({**CAUSAL, "architectures": "LlamaForCausalLM"}, "data.wrong_type"),
        ({**CAUSAL, "architectures": [1]}, "data.wrong_type"),
        ({**CAUSAL, "vocab_size": "8"}, "data.wrong_type"),
        ({**CAUSAL, "vocab_size": True}, "data.wrong_type"),
    ],
)
def test_a_broken_config_is_an_error(model: Path, content: object, problem: str) -> None:
    (model / "config.json").unlink()
    if content is not None:
        put(model / "config.json", content)
    result = check_artifact(model, "checkpoint_hf")
    assert [finding.id for finding in errors_in(result.findings)] == [problem]


def test_a_config_without_architectures_is_a_warning(model: Path) -> None:
    edit(model / "config.json", architectures=None)
    assert [(f.id, f.severity) for f in check_artifact(model, "checkpoint_hf").findings] == [
        ("checkpoint.no_architectures", "warning")
    ]


def test_a_directory_without_weights_is_an_error(model: Path) -> None:
    (model / "model.safetensors").unlink()
    result = check_artifact(model, "checkpoint_hf")
    assert ids(result) == ["checkpoint.no_weights"]
    assert result.findings[0].message == "a model directory without weights"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_weights_that_could_run_code_are_not_loaded(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(b"\x80\x02cos\nsystem\n")
    result = check_artifact(model, "checkpoint_hf")
    assert ids(result) == ["checkpoint.not_safetensors"]
    assert name in result.findings[0].message


def test_old_weights_beside_safetensors_do_not_matter(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert check_artifact(model, "checkpoint_hf").ok


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN_WEIGHTS = {
    "empty": (b"", "no safetensors"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "no safetensors"),
    "cut in the header": (packed(TENSORS)[:40], "cut short"),
    "cut in the data": (packed(TENSORS)[:-1], "cut short"),
    "longer than it says": (packed(TENSORS) + b"x", "after the last tensor"),
    "header length beyond the limit": (struct.pack("<Q", 100_000_001) + bytes(100_000_001), "more than the"),
    "header not JSON": (with_header(b"{", 0), "not JSON"),
    "header not UTF-8": (with_header(b"\xff", 0), "not UTF-8"),
    "header too deep": (with_header(b"[" * 100_000, 0), "deeply"),
    "header a list": (with_header([], 0), "not an object"),
    "the same tensor twice": (with_header(b'{"a": {}, "a": {}}', 0), "twice"),
    "entry a string": (with_header({"a": "x"}, 0), "not an object"),
    "no dtype": (with_header({"a": {**ENTRY, "dtype": 1}}, 8), "dtype"),
    "negative shape": (with_header({"a": {**ENTRY, "shape": [-2]}}, 8), "shape"),
    "shape with a boolean": (
        with_header({"a": {**ENTRY, "shape": [True], "data_offsets": [0, 4]}}, 4),
        "no shape",
    ),
    "shape with a fraction": (with_header({"a": {**ENTRY, "shape": [2.0]}}, 8), "no shape"),
    "a shape without end": (with_header({"a": {**ENTRY, "shape": [1] * 65}}, 8), "shape"),
    "offsets backwards": (with_header({"a": {**ENTRY, "data_offsets": [8, 0]}}, 8), "data_offsets"),
    "three offsets": (with_header({"a": {**ENTRY, "data_offsets": [0, 4, 8]}}, 8), "data_offsets"),
    "offsets beyond the file": (
        with_header({"a": {**ENTRY, "shape": [4], "data_offsets": [0, 16]}}, 8),
        "cut short",
    ),
    "size unlike the shape": (with_header({"a": {**ENTRY, "shape": [3]}}, 8), "has 8 bytes"),
    "overlapping tensors": (
        with_header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, 12),
        "overlap",
    ),
    "a gap": (with_header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}}, 20), "gap"),
}


@pytest.mark.parametrize("name", BROKEN_WEIGHTS)
def test_broken_weights_are_an_error_at_the_file(model: Path, name: str) -> None:
    content, says = BROKEN_WEIGHTS[name]
    put(model / "model.safetensors", content)
    result = check_artifact(model, "checkpoint_hf")
    (finding,) = result.findings
    assert (finding.id, finding.where) == ("checkpoint.broken_weights", str(model / "model.safetensors"))
    assert says in finding.message


def test_a_type_of_number_from_the_future_is_counted_by_its_name(model: Path) -> None:
    put(model / "model.safetensors", with_header({"a": {**ENTRY, "dtype": "F1"}}, 8))
    result = check_artifact(model, "checkpoint_hf")
    assert (result.ok, result.facts["dtypes"]) == (True, {"F1": 2})


def test_numbers_smaller_than_a_byte_are_measured_in_bits(model: Path) -> None:
    put(model / "model.safetensors", packed({"a": ("F4", [3, 2])}))
    assert check_artifact(model, "checkpoint_hf").ok


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(packed(TENSORS)) - 1), st.integers(0, 255))
def test_no_byte_of_a_weight_file_can_make_the_reader_raise(tmp_path: Path, place: int, value: int) -> None:
    content = bytearray(packed(TENSORS))
    content[place] = value
    put(tmp_path / "x.safetensors", bytes(content))
    header = safetensors.read_header(tmp_path / "x.safetensors")
    if isinstance(header, safetensors.Header):
        assert len(header.tensors) in (3, 4)  # 4: a hit turned `__metadata__` into a tensor's name


INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        "",
        ".",
        "a\\b",
        "a\nb",
        7,
        None,
        "\ud800",
    ],
)
def test_an_index_never_leads_out_of_the_directory(sharded: Path, name: object) -> None:
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit(sharded / INDEX, weight_map={**weight_map, "evil": name})
    result = check_artifact(sharded, "checkpoint_hf")
    assert ids(result) == ["checkpoint.foreign_shard"]
    assert result.findings[0].where == str(sharded / INDEX)


@pytest.mark.parametrize(
    ("weight_map", "problems"),
    [
        (None, ["checkpoint.broken_index"]),
        ({}, ["checkpoint.broken_index"]),
        ([FIRST], ["checkpoint.broken_index"]),
        ({"other": FIRST}, ["checkpoint.index_disagrees", "checkpoint.index_disagrees"]),
        ({"embed.weight": FIRST, "other": FIRST}, ["checkpoint.index_disagrees"]),
        ({"embed.weight": FIRST, "other": "gone.safetensors"}, ["artifact.missing_file"]),
    ],
)
def test_an_index_that_disagrees_with_its_files_is_an_error(
    sharded: Path, weight_map: object, problems: list[str]
) -> None:
    edit(sharded / INDEX, weight_map=weight_map)
    assert ids(check_artifact(sharded, "checkpoint_hf")) == problems


def test_a_shard_that_was_cut_short_is_named(sharded: Path) -> None:
    os.truncate(sharded / FIRST, (sharded / FIRST).stat().st_size - 1)
    (finding,) = check_artifact(sharded, "checkpoint_hf").findings
    assert (finding.id, finding.where) == ("checkpoint.broken_weights", str(sharded / FIRST))


def test_numbered_files_without_an_index_are_an_error(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert ids(check_artifact(sharded, "checkpoint_hf")) == ["checkpoint.no_index"]


def test_one_tensor_in_two_files_is_an_error(model: Path) -> None:
    (model / "model.safetensors").rename(model / "one.safetensors")
    shutil.copy(model / "one.safetensors", model / "two.safetensors")
    assert ids(check_artifact(model, "checkpoint_hf")) == ["checkpoint.tensor_twice"]


def test_a_pipe_in_the_place_of_weights_is_refused_without_waiting(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    assert ids(check_artifact(model, "checkpoint_hf")) == ["artifact.special_file"]


def test_a_model_without_a_tokenizer_is_a_warning(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    result = check_artifact(model, "checkpoint_hf")
    assert [(f.id, f.severity) for f in result.findings] == [("checkpoint.no_tokenizer", "warning")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", b"{", "data.broken_json"),
        ("tokenizer.json", {"model": []}, "checkpoint.broken_tokenizer"),
        ("tokenizer_config.json", b"[]", "data.not_an_object"),
        ("tokenizer_config.json", {"chat_template": 1}, "data.wrong_type"),
        ("chat_template.jinja", b"\xff", "artifact.not_utf8"),
    ],
)
def test_a_broken_tokenizer_file_is_an_error_at_that_file(
    model: Path, name: str, content: object, problem: str
) -> None:
    put(model / name, content)
    (finding,) = check_artifact(model, "checkpoint_hf").findings
    assert (finding.id, finding.where) == (problem, str(model / name))


def test_a_tokenizer_larger_than_the_embeddings_is_a_warning(model: Path) -> None:
    edit(model / "config.json", vocab_size=5)
    assert ids(check_artifact(model, "checkpoint_hf")) == ["checkpoint.vocabulary"]


def tokenizer_digest(model: Path) -> Any:
    return check_artifact(model, "checkpoint_hf").facts["tokenizer_digest"]


def test_the_tokenizer_digest_ignores_notation_and_last_use(model: Path) -> None:
    before = tokenizer_digest(model)
    used = {"truncation": {"max_length": 8}, "padding": {"strategy": "Fixed"}}
    merges = {**TOKENIZER["model"], "merges": [["a", "b"]]}
    (model / "tokenizer.json").write_text(
        json.dumps({**TOKENIZER, **used, "model": merges}, indent=2, sort_keys=True)
    )
    assert tokenizer_digest(model) == before


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": []},
        {"model": {**TOKENIZER["model"], "merges": []}},
        {"model": {**TOKENIZER["model"], "vocab": {"a": 1, "b": 0, "ab": 2}}},
        {"normalizer": {"type": "NFC"}},
    ],
)
def test_the_tokenizer_digest_sees_what_changes_the_ids(model: Path, change: dict[str, Any]) -> None:
    before = tokenizer_digest(model)
    edit(model / "tokenizer.json", **change)
    assert tokenizer_digest(model) != before


def test_a_tokenizer_that_can_just_be_read_cannot_break_its_digest(model: Path) -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 120, limit):
        text = json.dumps({**TOKENIZER, "x": 0}).replace('"x": 0', f'"x": {"[" * depth}{"]" * depth}')
        (model / "tokenizer.json").write_text(text)
        result = check_artifact(model, "checkpoint_hf")
        assert set(ids(result)) <= {"data.too_deep"}


def test_tokenizers_that_are_no_json_have_digests_too(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    found = set()
    for content in (b"one", b"two"):
        (model / "tokenizer.model").write_bytes(content)
        found.add(tokenizer_digest(model))
    assert len(found) == 2
    (model / "tokenizer.model").unlink()
    (model / "vocab.json").write_text("{}")
    (model / "merges.txt").write_text("a b")
    found.add(tokenizer_digest(model))
    assert len(found) == 3


def test_a_chat_template_is_known_by_its_text_wherever_it_stands(model: Path) -> None:
    def digest() -> Any:
        return check_artifact(model, "checkpoint_hf").facts.get("chat_template_digest")

    in_config = digest()
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    edit(model / "tokenizer_config.json", chat_template=named)
    assert digest() == in_config
    edit(model / "tokenizer_config.json", chat_template="other")
    assert digest() not in (in_config, None)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    assert digest() == in_config, "the file of its own wins, as in the loaders"


def test_a_classifier_with_one_label_is_a_reward_model(model: Path) -> None:
    put(model / "config.json", JUDGE)
    result = check_artifact(model, "reward_model_hf")
    assert result.findings == ()
    assert (result.facts["kind"], result.facts["num_labels"]) == ("classifier", 1)
    assert guess_type(model) == "reward_model_hf"


@pytest.mark.parametrize(
    "labels", [{"id2label": {"0": "a", "1": "b"}}, {"id2label": None}, {"num_labels": 2}]
)
def test_a_classifier_with_more_labels_is_none(model: Path, labels: dict[str, Any]) -> None:
    put(
        model / "config.json", {key: value for key, value in {**JUDGE, **labels}.items() if value is not None}
    )
    assert ids(check_artifact(model, "reward_model_hf")) == ["checkpoint.not_a_reward_model"]
    assert guess_type(model) == "checkpoint_hf"


def test_a_causal_model_judges_only_with_a_chat_template(model: Path) -> None:
    result = check_artifact(model, "reward_model_hf")
    assert (result.ok, result.facts["kind"]) == (True, "generative")
    edit(model / "tokenizer_config.json", chat_template=None)
    assert ids(check_artifact(model, "reward_model_hf")) == ["checkpoint.no_chat_template"]


@pytest.mark.parametrize("architectures", [["BertModel"], None])
def test_another_model_is_no_judge(model: Path, architectures: object) -> None:
    edit(model / "config.json", architectures=architectures)
    result = check_artifact(model, "reward_model_hf")
    assert [f.id for f in errors_in(result.findings)] == ["checkpoint.not_a_reward_model"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4, "lora_alpha": 8}
    config["revision"] = "abc123"
    put(path / "adapter_config.json", {**config, "target_modules": ["v_proj", "q_proj"]})
    put(path / "adapter_model.safetensors", packed({"a.lora_A.weight": ("F32", [4, 8])}))
    return path


def test_an_adapter_passes_with_its_facts(adapter: Path) -> None:
    result = check_artifact(adapter, "checkpoint_lora")
    assert result.findings == ()
    shown = ("base", "base_revision", "rank", "alpha", "target_modules", "parameters")
    assert {key: result.facts[key] for key in shown} == {
        "base": "org/base",
        "base_revision": "abc123",
        "rank": 4,
        "alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "parameters": 32,
    }
    assert guess_type(adapter) == "checkpoint_lora"


@pytest.mark.parametrize(
    ("change", "problem", "severity"),
    [
        ({"base_model_name_or_path": None}, "checkpoint.no_base", "warning"),
        ({"r": None}, "checkpoint.rank", "error"),
        ({"r": 0}, "checkpoint.rank", "error"),
    ],
)
def test_an_adapter_config_that_lacks_something_says_so(
    adapter: Path, change: dict[str, Any], problem: str, severity: str
) -> None:
    edit(adapter / "adapter_config.json", **change)
    assert [(f.id, f.severity) for f in check_artifact(adapter, "checkpoint_lora").findings] == [
        (problem, severity)
    ]


def test_adapter_weights_have_to_be_safetensors_of_their_own(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "model.safetensors")
    assert ids(check_artifact(adapter, "checkpoint_lora")) == ["checkpoint.no_weights"]
    (adapter / "adapter_model.bin").touch()
    assert ids(check_artifact(adapter, "checkpoint_lora")) == ["checkpoint.not_safetensors"]
    (adapter / "adapter_config.json").unlink()
    assert "checkpoint.no_config" in ids(check_artifact(adapter, "checkpoint_lora"))


def test_an_adapter_is_no_model_and_the_fix_says_what_it_is(adapter: Path) -> None:
    found = {finding.id: finding for finding in check_artifact(adapter, "checkpoint_hf").findings}
    assert "checkpoint_lora" in (found["checkpoint.no_config"].fix or "")


@pytest.mark.parametrize(
    "name", ["checkpoint_hf", "reward_model_hf", "checkpoint_lora", "checkpoint_megatron"]
)
def test_a_file_in_the_place_of_a_model_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").write_text("x")
    assert ids(check_artifact(tmp_path / "model", name)) == ["artifact.not_a_directory"]


def test_of_several_model_types_the_one_it_looks_like_explains(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", r=0)
    result = check_artifact(adapter, ["checkpoint_hf", "checkpoint_megatron", "checkpoint_lora"])
    assert (result.type, ids(result)) == ("checkpoint_lora", ["checkpoint.rank"])
