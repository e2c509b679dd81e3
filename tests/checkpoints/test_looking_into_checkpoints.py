"""Facts, digests and differences of checkpoints."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import LAYERS, Made, Tensors

from nemotron.checkpoints.compare_tensors import compare, tensor_digests
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.dcp_read import TensorFiles, read_iteration
from nemotron.checkpoints.dcp_write import DcpWriter
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.errors import NotFound

Make = Callable[..., Made]


def test_the_facts_of_both_formats_agree(make_model: Make) -> None:
    made = make_model("qwen3")
    hf_to_megatron(made.path, made.path.with_name("megatron"))
    hf, megatron = inspect_checkpoint(made.path), inspect_checkpoint(made.path.with_name("megatron"))
    assert hf.ok and megatron.ok
    assert (hf.format, megatron.format) == ("hf", "megatron")
    assert hf.parameters == megatron.parameters == sum(len(data) // 2 for _, _, data in made.tensors.values())
    assert hf.layers == megatron.layers == LAYERS
    assert dict(hf.dtypes) == dict(megatron.dtypes) == {"BF16": hf.parameters}
    assert hf.tokenizer == megatron.tokenizer == "tokenizer.json"
    assert hf.chat_template and megatron.chat_template
    assert hf.vocabulary == megatron.vocabulary == 300
    assert (megatron.iteration, megatron.optimizer) == (0, False)
    assert megatron.parallel == {"tensor_parallel": 1, "pipeline_parallel": 1}
    # Vectors and matrices once a layer, gate and up twice, what is not of a layer once.
    assert megatron.chunks == {LAYERS: megatron.tensors - 4, 2 * LAYERS: 1, 1: 3}
    assert "tensors by chunks  3 in 1, 7 in 3, 1 in 6" in megatron.text()
    assert megatron.as_dict()["chunks"] == {"1": 3, "3": 7, "6": 1}


def test_what_is_wrong_is_among_the_facts(make_model: Make, tmp_path: Path) -> None:
    made = make_model()
    weights = made.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    facts = inspect_checkpoint(made.path)
    assert not facts.ok and "cut short" in facts.text()
    with pytest.raises(NotFound):
        inspect_checkpoint(tmp_path / "nowhere")


def test_looking_needs_the_standard_library_only(make_model: Make) -> None:
    made = make_model()
    hf_to_megatron(made.path, made.path.with_name("megatron"))
    program = """
import sys
from pathlib import Path
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.checkpoints.select_step import resolve_step
for path in sys.argv[1:]:
    assert inspect_checkpoint(Path(path)).ok
heavy = {"torch", "numpy", "safetensors", "yaml", "omegaconf", "blake3", "fsspec"} & sys.modules.keys()
assert not heavy, heavy
"""
    paths = [made.path, made.path.with_name("megatron")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True, timeout=60)


def test_digests_tell_what_differs(make_model: Make) -> None:
    def change(tensors: Tensors) -> None:
        name = "model.layers.1.mlp.up_proj.weight"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, data[:-1] + bytes([data[-1] ^ 1]))

    first, second = make_model(), make_model(name="other", change=change)
    found = compare(first.path, second.path)
    assert found.numbers == ("model.layers.1.mlp.up_proj.weight",)
    assert found.same == len(first.tensors) - 1 and not found.equal
    for made in (first, second):
        hf_to_megatron(made.path, made.path.with_name(made.path.name + "_megatron"), vocab_pad=128)
    one, two = (made.path.with_name(made.path.name + "_megatron") for made in (first, second))
    assert compare(one, two).numbers == ("decoder.layers.mlp.linear_fc1.weight",)
    # Across formats, in the names of Hugging Face and without the padding.
    assert compare(first.path, one).equal
    assert compare(two, first.path).numbers == ("model.layers.1.mlp.up_proj.weight",)


def test_other_shapes_types_and_names_are_told_apart(make_model: Make) -> None:
    first, second = make_model("qwen2"), make_model("llama", name="other", dtype="F32", tied=True)
    found = compare(first.path, second.path)
    assert "lm_head.weight" in found.only_first and not found.only_second
    assert set(found.dtype) == second.tensors.keys() and not found.numbers and found.same == 0


@st.composite
def split_tensors(draw: st.DrawFn) -> tuple[tuple[int, ...], list[list[int]]]:
    """A shape of up to four dimensions and where each is cut."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    cuts = [sorted(draw(st.sets(st.integers(1, size)))) for size in shape]
    return tuple(shape), [
        [0, *(cut for cut in each if cut < size), size] for each, size in zip(cuts, shape, strict=True)
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split_tensors(), st.booleans(), st.integers(4, 40))
def test_rows_are_the_same_however_a_tensor_was_split(
    tmp_path_factory: pytest.TempPathFactory,
    split: tuple[tuple[int, ...], list[list[int]]],
    vectors: bool,
    size: int,
) -> None:
    shape, cuts = split
    place = tmp_path_factory.mktemp("split")
    numbers = {at: random.Random(hash(at)).randbytes(4) for at in itertools.product(*map(range, shape))}
    with DcpWriter(place, 300) as writer:
        writer.declare("w", "F32", shape)
        for box in itertools.product(*(itertools.pairwise(each) for each in cuts)):
            inside = itertools.product(*(range(low, high) for low, high in box))
            sizes = tuple(high - low for low, high in box)
            writer.chunk(tuple(low for low, _ in box), sizes, [numbers[at] for at in inside])
        writer.finish()
    (place / "metadata.json").write_text("{}")
    metadata = read_iteration(place)
    found = b""
    with TensorFiles(place, metadata) as files:
        rows = files.rows("w", vectors=vectors)
        for lead in itertools.product(*map(range, rows.lead)):
            for band in rows.bands(lead, 0, rows.rows, memoryview(bytearray(size))):
                found += band
    assert found == b"".join(numbers.values())
    assert tensor_digests(place)["w"].shape == shape
