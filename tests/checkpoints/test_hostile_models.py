"""Models that were made to mislead or to exhaust whoever reads them: each a clear refusal, none a wait."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import Made

from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.errors import CheckFailed

Make = Callable[..., Made]
Header = dict[str, Any]


def refused(model: Path, match: str) -> None:
    before = sorted(model.parent.iterdir())
    with pytest.raises(CheckFailed, match=match) as told:
        hf_to_megatron(model, model.with_name("megatron"))
    assert told.value.where
    assert sorted(model.parent.iterdir()) == before


def rewrite(model: Path, change: Callable[[Header], object], length: int | None = None) -> None:
    """Another header on the same weights; `change` may return the text of one."""
    file = model / "model.safetensors"
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    text = change(header)
    text = text if isinstance(text, str) else json.dumps(header)
    file.write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text.encode() + data[8 + size :]
    )


def first(header: Header) -> Header:
    return header["model.embed_tokens.weight"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("length", [1 << 62, 1 << 30, 0])
def test_a_header_that_lies_about_its_length(make_model: Make, length: int) -> None:
    model = make_model().path
    rewrite(model, lambda header: None, length)
    refused(model, "no safetensors file|not JSON")


LIES: dict[str, tuple[Callable[[Header], object], str]] = {
    "offsets beyond the file": (lambda h: first(h).update(data_offsets=[0, 10**12]), "bytes"),
    "offsets below zero": (lambda h: first(h).update(data_offsets=[-8, 19192]), "no valid data_offsets"),
    "a negative shape": (lambda h: first(h).update(shape=[-300, -32]), "no shape of whole numbers"),
    "a shape of fractions": (lambda h: first(h).update(shape=[300.0, 32.0]), "no shape of whole numbers"),
    "a shape without end": (lambda h: first(h).update(shape=[1 << 40] * 200), "no shape"),
    "two tensors in the same bytes": (
        lambda h: h["model.layers.1.self_attn.q_proj.weight"].update(
            data_offsets=h["model.layers.0.self_attn.q_proj.weight"]["data_offsets"]
        ),
        "overlap or leave a gap",
    ),
    "a tensor named twice": (
        lambda h: f'{json.dumps(h)[:-1]}, "lm_head.weight": {json.dumps(h["lm_head.weight"])}}}',
        "twice",
    ),
    "nesting without end": (lambda h: "[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(make_model: Make, lie: str) -> None:
    model = make_model().path
    change, match = LIES[lie]
    rewrite(model, change)
    refused(model, match)
    assert not inspect_checkpoint(model).ok


@pytest.mark.parametrize("name", ["../out.safetensors", "/dev/zero", "a\0b.safetensors", 3, ["x"]])
def test_an_index_that_names_what_is_no_file_of_the_directory(make_model: Make, name: object) -> None:
    made = make_model()
    shutil.move(made.path / "model.safetensors", made.path.parent / "out.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(made.tensors, name)}
    (made.path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(made.path, "which is no file name of this directory")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_a_link_out_of_the_directory_is_not_followed(make_model: Make, name: str) -> None:
    model = make_model().path
    shutil.move(model / name, model.parent / "secret")
    (model / name).symlink_to(model.parent / "secret")
    refused(model, "leads out of the directory")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pipe_is_not_waited_for(make_model: Make, name: str) -> None:
    model = make_model().path
    (model / name).unlink()
    os.mkfifo(model / name)
    refused(model, "a pipe, socket or device")
    assert not inspect_checkpoint(model).ok


def test_a_config_of_two_billion_layers_is_not_counted_out(make_model: Make) -> None:
    refused(
        make_model(config={"num_hidden_layers": 2_000_000_000}).path,
        "there are tensors for 30 layers at most",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_hidden_layers", value) for value in (10**30, 3.0, True, -3, None)),
        *(("num_attention_heads", value) for value in (2_000_000_000, 0)),
        ("vocab_size", 2_000_000_000),
        ("rope_parameters", {"rope_theta": float("nan")}),
    ],
)
def test_numbers_that_make_no_model(make_model: Make, key: str, value: object) -> None:
    refused(make_model(config={key: value}).path, ".")


@pytest.fixture
def iteration(make_model: Make) -> Path:
    """A whole Megatron checkpoint to break."""
    made = make_model()
    hf_to_megatron(made.path, made.path.with_name("megatron"))
    return made.path.with_name("megatron") / "iter_0000000"


def refused_megatron(iteration: Path, match: str) -> None:
    before = sorted(iteration.parent.parent.iterdir())
    with pytest.raises(CheckFailed, match=match):
        megatron_to_hf(iteration.parent, iteration.parent.with_name("back"))
    assert sorted(iteration.parent.parent.iterdir()) == before


def test_a_megatron_config_of_two_billion_layers_is_not_counted_out(iteration: Path) -> None:
    file = iteration / "hf_config" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 2_000_000_000}))
    refused_megatron(iteration, "there are tensors for")


TORCH = "torch.distributed.checkpoint.metadata"


def with_torch(iteration: Path, change: Callable[[Any], object]) -> None:
    """The metadata changed as objects of torch, as somebody with bad intent would."""
    pytest.importorskip(TORCH)
    held = pickle.loads((iteration / ".metadata").read_bytes())  # noqa: S301 - made by the fixture
    change(held)
    (iteration / ".metadata").write_bytes(pickle.dumps(held))


def piece(metadata: Any) -> Any:
    return next(iter(metadata.storage_data.values()))


def tensor(metadata: Any) -> Any:
    return next(iter(metadata.state_dict_metadata.values()))


METADATA_LIES: dict[str, Callable[[Any], object]] = {
    "a file above": lambda m: setattr(piece(m), "relative_path", "../out.distcp"),
    "a device": lambda m: setattr(piece(m), "relative_path", "/dev/zero"),
    "a number for a file": lambda m: setattr(piece(m), "relative_path", 7),
    "a place below zero": lambda m: setattr(piece(m), "offset", -10),
    "more bytes than there are": lambda m: setattr(piece(m), "length", 1 << 60),
    "a negative shape": lambda m: setattr(tensor(m), "size", (-4, 4)),
    "a shape without end": lambda m: setattr(tensor(m), "size", (1,) * 100_000),
    "no chunks": lambda m: setattr(tensor(m), "chunks", []),
    "chunks that are there twice": lambda m: setattr(tensor(m), "chunks", tensor(m).chunks * 2),
}


@pytest.mark.parametrize("lie", METADATA_LIES)
def test_metadata_that_lie(iteration: Path, lie: str) -> None:
    with_torch(iteration, METADATA_LIES[lie])
    refused_megatron(iteration, "is no whole checkpoint")
    assert not inspect_checkpoint(iteration).ok


def test_tensors_without_numbers_make_no_layers(iteration: Path) -> None:
    def claim(metadata: Any) -> None:
        for key, each in metadata.state_dict_metadata.items():
            if key.startswith("decoder.layers.") and hasattr(each, "size"):
                each.size, each.chunks = (2_000_000_000, 0), []

    with_torch(iteration, claim)
    file = iteration / "hf_config" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 2_000_000_000}))
    refused_megatron(iteration, "there are tensors for")


def bomb(levels: int) -> bytes:
    """Tuples of two of the tuple before: a few bytes, and 2^levels values for who walks or hashes them."""
    made = b"\x80\x04)q\x00"
    for level in range(1, levels):
        made += b"h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"\x86q" + bytes([level])
    return made + b"}h" + bytes([levels - 1]) + b"K\x01s."


BOMBS = {
    "a number of a gigabyte": b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"\xff" * 100 + b".",
    "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "a text without end": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "a memo of four billion": b"\x80\x04Nr" + struct.pack("<I", 0xFFFFFFFF) + b".",
    "values doubled forty times": bomb(40),
    "a million lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a list that holds itself": b"\x80\x04]q\x00h\x00a.",
    "a call": b"\x80\x04cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
    "another class": b"\x80\x04c%b\nMetadata\n)\x81}X\x09\x00\x00\x00__class__K\x01sb." % TORCH.encode(),
    "something outside": b"\x80\x04Pabc\n.",
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_explodes_is_refused(iteration: Path, name: str) -> None:
    (iteration / ".metadata").write_bytes(BOMBS[name])
    refused_megatron(iteration, "is no whole checkpoint")


def test_a_file_of_metadata_larger_than_any_is_not_read(iteration: Path) -> None:
    with (iteration / ".metadata").open("wb") as file:
        file.truncate(5 << 30)
    refused_megatron(iteration, "larger than 32 MiB")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('model: !!python/object/apply:os.system ["true"]\n', "tags"),
        ("model: " + "[" * 50_000, "nested deeper"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            )
            + "model: *i\n",
            "aliases",
        ),
    ],
)
def test_a_run_config_that_explodes_is_refused(iteration: Path, text: str, match: str) -> None:
    shutil.rmtree(iteration / "hf_config")
    (iteration / "run_config.yaml").write_text(text)
    refused_megatron(iteration, match)
