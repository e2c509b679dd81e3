"""Hugging Face to Megatron and back: what is kept, what is refused, and that torch reads what is written."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import FFN, GROUPS, HEADS, HIDDEN, LAYERS, SIZE, VOCABULARY, Made, Tensors, read_tensors

from nemotron.artifacts.checks import check_artifact
from nemotron.checkpoints import convert_hf_to_megatron, weaving
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.weaving import Weave
from nemotron.errors import CheckFailed, Conflict, NotFound, UsageError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
Make = Callable[..., Made]


def there_and_back(made: Made, *, vocab_pad: int | None = None, shard_bytes: int = 20_000) -> Path:
    """The model after both conversions."""
    megatron, back = made.path.with_name("megatron"), made.path.with_name("back")
    hf_to_megatron(made.path, megatron, vocab_pad=vocab_pad, shard_bytes=shard_bytes)
    megatron_to_hf(megatron, back, shard_bytes=shard_bytes)
    return back


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_bit_exact(make_model: Make, family: str, tied: bool) -> None:
    made = make_model(family, tied=tied)
    back = there_and_back(made, vocab_pad=128)
    assert read_tensors(back) == made.tensors
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (back / name).read_bytes() == (made.path / name).read_bytes()
    assert len(list(back.glob("model-*-of-*.safetensors"))) > 1
    assert check_artifact(back, "checkpoint_hf").ok


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_the_type_is_kept(make_model: Make, dtype: str) -> None:
    made = make_model("qwen3", dtype=dtype)
    assert read_tensors(there_and_back(made)) == made.tensors


def test_norms_may_be_of_another_type(make_model: Make) -> None:
    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if "norm" in n]:
            _, shape, data = tensors[name]
            tensors[name] = ("F32", shape, data * 2)

    made = make_model(change=change)
    assert read_tensors(there_and_back(made)) == made.tensors


def test_what_is_written_passes_the_check_of_its_type(make_model: Make) -> None:
    made = make_model("qwen3")
    done = hf_to_megatron(made.path, made.path.with_name("megatron"), vocab_pad=128)
    checked = check_artifact(done.path, "checkpoint_megatron")
    assert checked.ok, checked.findings
    assert checked.facts["layers"] == LAYERS
    assert checked.facts["padded_vocab_size"] == 384
    assert checked.facts["tokenizer"] == "tokenizer.json"
    assert checked.facts["chat_template"]
    assert done.notes == ("vocabulary padded from 300 to 384 rows with zeros",)


def reference(tensors: Any) -> dict[str, Any]:
    """The stacked tensors that Megatron wants of a llama model, said once more with torch's own words."""
    import torch

    def stack(make: Callable[[str], Any]) -> Any:
        return torch.stack([make(f"model.layers.{layer}.") for layer in range(LAYERS)])

    def woven(kind: str, *rest: int) -> Callable[[str], Any]:
        def one(here: str) -> Any:
            q, k, v = (tensors[f"{here}self_attn.{name}_proj.{kind}"] for name in "qkv")
            split = (q.view(GROUPS, HEADS // GROUPS * SIZE, *rest), k.view(GROUPS, SIZE, *rest))
            return torch.cat((*split, v.view(GROUPS, SIZE, *rest)), 1).reshape(-1, *rest)

        return one

    def gated(here: str) -> Any:
        return torch.cat([tensors[f"{here}mlp.{name}_proj.weight"] for name in ("gate", "up")])

    return {
        "embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "output_layer.weight": tensors["lm_head.weight"],
        "decoder.final_layernorm.weight": tensors["model.norm.weight"],
        "decoder.layers.self_attention.linear_qkv.weight": stack(woven("weight", HIDDEN)),
        "decoder.layers.self_attention.linear_qkv.bias": stack(woven("bias")),
        "decoder.layers.self_attention.linear_proj.weight": stack(
            lambda h: tensors[f"{h}self_attn.o_proj.weight"]
        ),
        "decoder.layers.mlp.linear_fc1.weight": stack(gated),
        "decoder.layers.mlp.linear_fc2.weight": stack(lambda h: tensors[f"{h}mlp.down_proj.weight"]),
    }


def read_with_torch(iteration: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """Whole tensors by torch's own reader of distributed checkpoints."""
    import torch
    from torch.distributed import checkpoint as dcp

    state = {key: torch.empty_like(value) for key, value in keys.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=iteration, no_dist=True)
    return state


def differing(made: Made, target: Path) -> set[str]:
    """Keys whose tensors are not what the reference says."""
    import torch
    from safetensors.torch import load_file

    wanted = reference(load_file(made.path / "model.safetensors"))
    found = read_with_torch(target / "iter_0000000", wanted)
    return {
        key for key in wanted if not torch.equal(wanted[key].view(torch.int16), found[key].view(torch.int16))
    }


def test_torch_reads_the_tensors_that_megatron_wants(make_model: Make) -> None:
    made = make_model("qwen2")
    hf_to_megatron(made.path, made.path.with_name("megatron"), shard_bytes=30_000)
    assert differing(made, made.path.with_name("megatron")) == set()


@pytest.mark.parametrize("broken", ["gate and up swapped", "no interleave"])
def test_a_broken_weave_is_noticed(make_model: Make, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def woven(model: Any) -> tuple[Weave, ...]:
        return tuple(break_weave(weave, broken) for weave in weaving.weaves_of(model))

    monkeypatch.setattr(convert_hf_to_megatron, "weaves_of", woven)
    made = make_model("qwen2")
    hf_to_megatron(made.path, made.path.with_name("megatron"))
    changed = differing(made, made.path.with_name("megatron"))
    wanted = "linear_fc1.weight" if broken == "gate and up swapped" else "linear_qkv.weight"
    assert {key.partition(".self_attention.")[2] or key.partition(".mlp.")[2] for key in changed} >= {wanted}


def break_weave(weave: Weave, how: str) -> Weave:
    """What a converter would do that forgot something."""
    if how == "gate and up swapped" and weave.pieces == 2:
        return Weave(weave.key, weave.parts[::-1], weave.columns, weave.layers, pieces=2)
    if how == "no interleave" and weave.groups > 1:
        parts = tuple((name, rows * weave.groups) for name, rows in weave.parts)
        return Weave(weave.key, parts, weave.columns, weave.layers)
    return weave


def test_torch_loads_the_small_files_without_running_anything(make_model: Make) -> None:
    import torch

    made = make_model()
    root = made.path.with_name("megatron")
    hf_to_megatron(made.path, root)
    common = torch.load(root / "iter_0000000" / "common.pt", weights_only=True)
    assert common["checkpoint_version"] == 3.0 and common["iteration"] == 0
    state = torch.load(root / "latest_train_state.pt", weights_only=True)
    assert {key: (value.item(), value.dtype) for key, value in state.items()} == {
        "step": (0, torch.int32),
        "consumed_train_samples": (0, torch.int32),
        "skipped_train_samples": (0, torch.int32),
        "consumed_valid_samples": (0, torch.int32),
        "floating_point_operations_so_far": (0.0, torch.float64),
        "do_train": (False, torch.bool),
        "do_valid": (False, torch.bool),
        "do_test": (False, torch.bool),
    }
    assert (root / "latest_checkpointed_iteration.txt").read_text() == "0"


@pytest.mark.parametrize("layout", ["iteration", "root", "step", "steps"])
def test_any_layout_is_a_source(make_model: Make, layout: str) -> None:
    made = make_model()
    top = made.path.with_name("run")
    weights = top / "step_7" / "policy" / "weights"
    weights.parent.mkdir(parents=True)
    hf_to_megatron(made.path, weights)
    (top / "step_7" / "training_info.json").write_text("{}")
    (weights / "iter_0000000" / "tokenizer").rename(weights.parent / "tokenizer")
    source = {"iteration": weights / "iter_0000000", "root": weights, "step": top / "step_7", "steps": top}
    megatron_to_hf(source[layout], made.path.with_name("back"))
    assert read_tensors(made.path.with_name("back")) == made.tensors
    assert (made.path.with_name("back") / "tokenizer.json").exists()


def test_the_tracker_tells_which_iteration(make_model: Make) -> None:
    first, second = make_model(), make_model(name="other", seed=1)
    root = first.path.with_name("megatron")
    hf_to_megatron(first.path, root)
    hf_to_megatron(second.path, root.with_name("more"))
    shutil.move(root.with_name("more") / "iter_0000000", root / "iter_0000005")
    megatron_to_hf(root, root.with_name("tracked"))
    (root / "latest_checkpointed_iteration.txt").write_text("5\n")
    megatron_to_hf(root, root.with_name("newest"))
    assert read_tensors(root.with_name("tracked")) == first.tensors
    assert read_tensors(root.with_name("newest")) == second.tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_comes_from_the_run_config_where_ours_is_gone(make_model: Make, family: str) -> None:
    rope = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    made = make_model(family, config={"rope_parameters": rope} if family == "llama" else {})
    root = made.path.with_name("megatron")
    hf_to_megatron(made.path, root, vocab_pad=64)
    shutil.rmtree(root / "iter_0000000" / "hf_config")
    done = megatron_to_hf(root, made.path.with_name("back"))
    assert read_tensors(done.path) == made.tensors
    told = json.loads((done.path / "config.json").read_text())
    given = json.loads((made.path / "config.json").read_text())
    ours = ("rope_parameters", "dtype", "transformers_version")
    assert {k: told[k] for k in given if k not in ours} == {k: v for k, v in given.items() if k not in ours}
    assert told["rope_theta"] == given["rope_parameters"]["rope_theta"]
    assert told["torch_dtype"] == "bfloat16"
    if family == "llama":
        assert told["rope_scaling"] == {k: v for k, v in rope.items() if k != "rope_theta"}
    assert "config.json made from run_config.yaml" in done.notes


def test_an_optimizer_is_left_out_and_said(make_model: Make) -> None:
    import torch
    from torch.distributed import checkpoint as dcp

    made = make_model("qwen2")
    root = made.path.with_name("megatron")
    hf_to_megatron(made.path, root)
    tensors = _stored(root / "iter_0000000")
    moments = {f"optimizer.state.exp_avg.{key}": torch.zeros(value.shape) for key, value in tensors.items()}
    saved = root.with_name("saved") / "iter_0000003"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({**tensors, **moments}, checkpoint_id=saved, no_dist=True)
    (saved / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    done = megatron_to_hf(saved, made.path.with_name("back"), config=made.path)
    assert read_tensors(done.path) == made.tensors
    assert f"optimizer state left out, {len(moments)} tensors" in done.notes


def _stored(iteration: Path) -> dict[str, Any]:
    import torch
    from torch.distributed.checkpoint import FileSystemReader

    held = FileSystemReader(iteration).read_metadata().state_dict_metadata
    empty = {k: torch.empty(v.size, dtype=v.properties.dtype) for k, v in held.items() if hasattr(v, "size")}
    return read_with_torch(iteration, empty)


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.pop(name) and None


def add(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: ("BF16", (2,), bytes(4))})


def retype(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] = ("F32", (FFN, HIDDEN), bytes(FFN * HIDDEN * 4))


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a surplus tensor": ({"change": add("model.layers.0.self_attn.q_proj.bias")}, "q_proj.bias"),
    "a classifier's head": ({"change": add("score.weight")}, "score.weight"),
    "a missing tensor": ({"change": drop("model.layers.2.mlp.up_proj.weight")}, "layers.2.mlp.up_proj"),
    "another type in one layer": ({"change": retype}, "is BF16, model.layers.1.mlp.up_proj.weight is F32"),
    "another shape": ({"config": {"intermediate_size": FFN + 1}}, r"by the config \[49, 32\]"),
    "another architecture": (
        {"config": {"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"]}},
        "Gemma3ForCausalLM cannot be converted",
    ),
    "two architectures": ({"config": {"model_type": "qwen3"}}, "'qwen3' and architecture Llama.* disagree"),
    "scaling in the old place alone": (
        {"config": {"rope_scaling": {"type": "linear", "factor": 4.0}}},
        "rope scaling of type 'linear'",
    ),
    "scaling in one place of two": (
        {"config": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}},
        "without scaling, rope_scaling theta 10000 scaled by 8",
    ),
    "two bases": ({"config": {"rope_theta": 5e5}}, "rope_parameters.rope_theta is 10000.0 and rope_theta 5"),
    "a base in one place of two": (
        {"config": {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"type": "default"}}},
        "described twice, and not alike: rope_parameters theta 500000 .*, rope_scaling theta 10000",
    ),
    "two types": (
        {"config": {"rope_parameters": {"rope_type": "default", "type": "linear"}}},
        "rope_parameters.rope_type is default and type linear",
    ),
    "scaling by layer": (
        {"config": {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}},
        "rope_parameters is no table of numbers for all layers",
    ),
    "a part of each head": ({"config": {"partial_rotary_factor": 0.5}}, "a part of each head"),
    "a classifier": ({"config": {"architectures": ["LlamaForSequenceClassification"]}}, "SequenceClass"),
    "yarn": ({"config": {"rope_scaling": {"rope_type": "yarn", "factor": 4}}}, "yarn"),
    "another activation": ({"config": {"hidden_act": "gelu"}}, "gelu"),
    "biases": ({"config": {"attention_bias": True}}, "biases of the attention"),
    "no number of layers": ({"config": {"num_hidden_layers": None}}, "num_hidden_layers is missing"),
    "llama3 of another kind": (
        {"config": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}}},
        "low_freq_factor",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_model_that_cannot_be_converted_is_refused_by_name(make_model: Make, why: str) -> None:
    given, word = REFUSALS[why]
    made = make_model(**given)
    with pytest.raises(CheckFailed, match=word):
        hf_to_megatron(made.path, made.path.with_name("megatron"))
    assert [path.name for path in made.path.parent.iterdir()] == ["model"]


def test_a_tied_model_with_a_head_of_its_own_is_refused(make_model: Make) -> None:
    def head(data: bytes | None) -> Callable[[Tensors], None]:
        def change(tensors: Tensors) -> None:
            dtype, shape, held = tensors["model.embed_tokens.weight"]
            tensors["lm_head.weight"] = (dtype, shape, data or held)

        return change

    other = make_model(tied=True, change=head(bytes(VOCABULARY * HIDDEN * 2)))
    with pytest.raises(CheckFailed, match=r"lm_head.weight is not model.embed_tokens"):
        hf_to_megatron(other.path, other.path.with_name("megatron"))
    same = make_model(name="same", tied=True, change=head(None))
    done = hf_to_megatron(same.path, same.path.with_name("megatron"))
    assert done.notes == ("lm_head.weight left out: it is model.embed_tokens.weight",)


def test_wrong_places_and_numbers_are_refused(make_model: Make, tmp_path: Path) -> None:
    made = make_model()
    with pytest.raises(NotFound):
        hf_to_megatron(tmp_path / "nowhere", tmp_path / "megatron")
    with pytest.raises(UsageError, match="vocab_pad"):
        hf_to_megatron(made.path, tmp_path / "megatron", vocab_pad=0)
    with pytest.raises(Conflict):
        hf_to_megatron(made.path, made.path)
    with pytest.raises(CheckFailed, match="not the layout"):
        megatron_to_hf(made.path, tmp_path / "back")
    (tmp_path / "megatron").mkdir()
    hf_to_megatron(made.path, tmp_path / "megatron")  # an empty directory may be there
    with pytest.raises(Conflict):
        hf_to_megatron(made.path, tmp_path / "megatron")


def test_progress_reaches_the_end(make_model: Make) -> None:
    told: list[tuple[int, int]] = []
    made = make_model()
    done = hf_to_megatron(made.path, made.path.with_name("m"), progress=lambda *at: told.append(at))
    assert told[-1] == (done.bytes, done.bytes)
    assert [at for at, _ in told] == sorted(at for at, _ in told)
