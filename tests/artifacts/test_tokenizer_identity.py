"""A tokenizer keeps its digest through the libraries that save it, and another one has another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact
from nemotron.artifacts.checks.tokenizer_json import TokenizerJson, read_tokenizer_json

tokenizers = pytest.importorskip("tokenizers")

# As tokenizers 0.13 wrote it: merges as one text, options of later versions absent.
OLD: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 5, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True},
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
        "end_of_word_suffix": "", "fuse_unk": False, "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
        "merges": ["a b", "ab c"],
    },
}  # fmt: skip


def digest_of(path: Path) -> str:
    found = read_tokenizer_json(path)
    assert isinstance(found, TokenizerJson), found
    return found.digest


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_an_old_library_has_the_digest_of_what_a_new_one_makes_of_it(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", OLD)
    loaded = tokenizers.Tokenizer.from_file(str(old))
    loaded.enable_truncation(max_length=7)
    loaded.enable_padding(pad_id=5, pad_token="<|end|>")
    loaded.save(str(tmp_path / "new.json"))
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "new.json"))
    new = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    assert new["model"].keys() > OLD["model"].keys()
    assert digest_of(tmp_path / "new.json") == digest_of(old)
    assert again.encode("abcab", add_special_tokens=False).ids[:1] == [4]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("unk_token", "a"),
        ("fuse_unk", True),
        ("ignore_merges", True),
        ("merges", ["ab c", "a b"]),
        ("dropout", 0.1),
    ],
)
def test_an_option_that_matters_makes_another_tokenizer(tmp_path: Path, member: str, value: object) -> None:
    changed = {**OLD, "model": {**OLD["model"], member: value}}
    assert digest_of(written(tmp_path / "b.json", changed)) != digest_of(written(tmp_path / "a.json", OLD))


def test_a_pipeline_that_splits_otherwise_is_another_tokenizer(tmp_path: Path) -> None:
    changed = {**OLD, "pre_tokenizer": {**OLD["pre_tokenizer"], "use_regex": False}}
    assert digest_of(written(tmp_path / "b.json", changed)) != digest_of(written(tmp_path / "a.json", OLD))


def test_the_check_of_a_model_tells_this_digest(tmp_path: Path, write_model: Any) -> None:
    model: Path = write_model("model")
    place = written(model / "tokenizer.json", OLD)
    assert check_artifact(model, "checkpoint_hf").facts["tokenizer_digest"] == digest_of(place)
