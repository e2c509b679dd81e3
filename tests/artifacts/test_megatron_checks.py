from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks import Checked, check_artifact, guess_type
from nemotron.artifacts.checks.distributed import tiles
from nemotron.artifacts.checks.pickles import Made, read_pickle

torch = pytest.importorskip("torch")

from torch.distributed import checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint import filesystem, metadata  # noqa: E402

LAYERS = 3
SHAPES = {
    "embedding.word_embeddings.weight": (16, 8),
    "decoder.layers.self_attention.linear_qkv.weight": (LAYERS, 24, 8),
    "decoder.layers.mlp.linear_fc1.weight": (LAYERS, 32, 8),
    "decoder.final_layernorm.weight": (8,),
}
RUN_CONFIG = """model:
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 1
  context_parallel_size: 1
  sequence_parallel: true
"""


def state() -> dict[str, Any]:
    """What a run saves: weights in bf16, one optimizer moment, an object."""
    found: dict[str, Any] = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in SHAPES.items()}
    moments = {f"optimizer.state.exp_avg.{key}": torch.zeros(shape) for key, shape in SHAPES.items()}
    return {**found, **moments, "decoder.layers.mlp._extra_state/shard_0_3": {"bytes": [None]}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distributed checkpoint as torch writes it, with what Megatron and its bridge lay beside it."""
    path = tmp_path_factory.mktemp("saved") / "iter_0000010"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state(), checkpoint_id=path, no_dist=True)
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    # Opening these would run code.
    for name in ("common.pt", "train_state.pt"):
        (path / name).write_bytes(b"cos\nabort\n(tR.")
    (path / "run_config.yaml").write_text(RUN_CONFIG)
    (path / "tokenizer").mkdir()
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (path / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "tokenizer" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return path


@pytest.fixture
def iteration(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoint" / saved.name)


def checked(path: Path) -> Checked:
    return check_artifact(path, "checkpoint_megatron")


def ids(result: Checked) -> list[str]:
    return [finding.id for finding in result.findings]


def rewrite(iteration: Path, change: Callable[[Any], object]) -> None:
    """Change the metadata as a writer with a defect would."""
    path = iteration / ".metadata"
    loaded = pickle.loads(path.read_bytes())  # noqa: S301 - the file is this test's own
    change(loaded)
    path.write_bytes(pickle.dumps(loaded))


def test_a_checkpoint_is_inspected_without_torch(iteration: Path) -> None:
    result = checked(iteration)
    assert result.findings == ()
    facts = dict(result.facts)
    for digest in ("tokenizer_digest", "chat_template_digest", "tensors_digest"):
        assert facts.pop(digest).startswith("sha256:")
    shards = list(iteration.glob("*.distcp"))
    assert facts == {
        "layout": "iteration",
        "iteration": 10,
        "format": "torch_dist",
        "has_run_config": True,
        "parallel": {"tensor": 2, "pipeline": 1, "context": 1},
        "shards": len(shards),
        "weight_bytes": sum(shard.stat().st_size for shard in shards),
        "parameters": 16 * 8 + LAYERS * 24 * 8 + LAYERS * 32 * 8 + 8,
        "tensors": 4,
        "dtypes": {"BF16": 16 * 8 + LAYERS * 24 * 8 + LAYERS * 32 * 8 + 8},
        "layers": LAYERS,
        "padded_vocab_size": 16,
        "has_optimizer": True,
        "optimizer_tensors": 4,
        "objects": 1,
        "tokenizer": "tokenizer.json",
        "tokenizer_size": 1,
        "chat_template": True,
        "special_tokens": {},
        "errors": 0,
        "warnings": 0,
        "findings": {},
    }


def test_the_digest_of_the_tensors_is_that_of_their_shapes(iteration: Path, tmp_path: Path) -> None:
    def digest(change: dict[str, Any]) -> Any:
        place = tmp_path / "again"
        shutil.rmtree(place, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(change, checkpoint_id=place, no_dist=True)
        return checked(place).facts["tensors_digest"]

    whole = checked(iteration).facts["tensors_digest"]
    weights = {key: value for key, value in state().items() if key in SHAPES}
    assert digest({key: torch.ones_like(value) for key, value in weights.items()}) == whole
    key = "decoder.final_layernorm.weight"
    assert digest({**weights, key: weights[key].float()}) != whole
    assert digest({**weights, key: torch.zeros(9, dtype=torch.bfloat16)}) != whole
    assert digest({name: value for name, value in weights.items() if name != key}) != whole


@pytest.mark.parametrize("name", [".metadata", "metadata.json"])
def test_a_save_that_was_cut_off_is_an_error(iteration: Path, name: str) -> None:
    (iteration / name).unlink()
    result = checked(iteration)
    assert ids(result) == ["checkpoint.unfinished"]
    assert name in result.findings[0].message
    assert not result.ok


def test_files_that_could_run_code_are_not_needed(iteration: Path) -> None:
    (iteration / "common.pt").unlink()
    (iteration / "train_state.pt").unlink()
    assert checked(iteration).findings == ()


def test_a_missing_file_of_weights_is_named(iteration: Path) -> None:
    (shard,) = iteration.glob("*.distcp")
    shard.rename(iteration / "__9_9.distcp")
    (finding,) = checked(iteration).findings
    assert (finding.id, finding.where) == ("artifact.missing_file", str(shard))
    (iteration / "__9_9.distcp").unlink()
    assert set(ids(checked(iteration))) == {"checkpoint.no_weights", "artifact.missing_file"}


def test_a_file_of_weights_that_was_cut_short_is_named(iteration: Path) -> None:
    (shard,) = iteration.glob("*.distcp")
    os.truncate(shard, shard.stat().st_size - 1)
    (finding,) = checked(iteration).findings
    assert (finding.id, finding.where) == ("checkpoint.broken_weights", str(shard))
    assert "cut short" in finding.message


def chunks_of(loaded: Any) -> list[Any]:
    found: list[Any] = loaded.state_dict_metadata["decoder.layers.mlp.linear_fc1.weight"].chunks
    return found


def resize(chunk: Any) -> None:
    chunk.sizes = torch.Size((LAYERS, 31, 8))


def stretch(loaded: Any) -> None:
    loaded.state_dict_metadata["decoder.final_layernorm.weight"].size = torch.Size((10**9,))


def forget(loaded: Any) -> None:
    for index in [i for i in loaded.storage_data if i.fqn == "embedding.word_embeddings.weight"]:
        del loaded.storage_data[index]


def forget_object(loaded: Any) -> None:
    for index in [i for i in loaded.storage_data if "_extra_state" in i.fqn]:
        del loaded.storage_data[index]


def shorten(loaded: Any) -> None:
    for index, info in loaded.storage_data.items():
        if index.fqn == "embedding.word_embeddings.weight":
            info.length = 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda loaded: chunks_of(loaded).clear(), "0 chunks"),
        (lambda loaded: chunks_of(loaded).append(chunks_of(loaded)[0]), "2 chunks"),
        (lambda loaded: resize(chunks_of(loaded)[0]), "do not make up its shape [3, 32, 8]"),
        (stretch, "do not make up its shape"),
        (forget, "no place in any file"),
        (forget_object, "_extra_state"),
        (shorten, "too short a place"),
    ],
)
def test_chunks_that_do_not_make_up_a_tensor_are_an_error(
    iteration: Path, change: Callable[[Any], None], says: str
) -> None:
    rewrite(iteration, change)
    (finding,) = checked(iteration).findings
    assert (finding.id, finding.severity) == ("checkpoint.chunks", "error")
    assert finding.where == str(iteration / ".metadata")
    assert says in finding.message


@pytest.mark.parametrize("name", ["../other.distcp", "/etc/passwd", "a/b", "..", "a\nb"])
def test_weights_are_never_looked_for_elsewhere(iteration: Path, name: str) -> None:
    def lead_out(loaded: Any) -> None:
        for info in loaded.storage_data.values():
            info.relative_path = name

    rewrite(iteration, lead_out)
    assert ids(checked(iteration)) == ["checkpoint.foreign_shard"]


class Shell:
    """Pickled, it is an order to run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_a_pickle_with_code_is_refused_and_not_run(iteration: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    for protocol in range(2, 6):
        hidden = metadata.Metadata({}, planner_data=[Shell(f"touch {witness}")])
        (iteration / ".metadata").write_bytes(pickle.dumps(hidden, protocol))
        (finding,) = checked(iteration).findings
        assert (finding.id, finding.severity) == ("checkpoint.hostile_pickle", "error")
        assert "posix.system" in finding.message
        assert not witness.exists()
    filesystem.FileSystemReader(iteration).read_metadata()
    assert witness.exists(), "the same file does run code where it is loaded"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(Vls\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"\x80\x04ctorch\nSize\n\x8c\x04eval\x85R\x8c\x011\x85R.",
        b"(icos\nsystem\n.",
        b"\x80\x02U\x02idQ.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02ctorch\nSize\n}(X\x01\x00\x00\x00aK\x01ub.",
        b"\x80\x02ctorch\nSize\nctorch\nSize\n\x81.",
    ],
)
def test_what_data_never_do_is_refused(program: bytes) -> None:
    found = read_pickle(program, frozenset(("torch.Size",)))
    assert getattr(found, "id", None) == "checkpoint.hostile_pickle", found


def test_names_of_allowed_things_build_descriptions_only() -> None:
    found = read_pickle(pickle.dumps(torch.float32), frozenset(("torch.float32",)))
    assert found.path == "torch.float32"
    made = read_pickle(pickle.dumps(metadata.StorageMeta("x")), frozenset(
        ("torch.distributed.checkpoint.metadata.StorageMeta",)
    ))  # fmt: skip
    assert isinstance(made, Made)
    assert made.get("checkpoint_id") == "x"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_byte_of_the_metadata_can_make_the_check_raise(
    saved: Path, iteration: Path, data: st.DataObject
) -> None:
    whole = (saved / ".metadata").read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (iteration / ".metadata").write_bytes(bytes(content[: data.draw(st.integers(0, len(whole)))]))
    result = checked(iteration)
    json.dumps(dict(result.facts), allow_nan=False)
    for finding in result.findings:
        finding.render().encode("utf-8")


leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
plain = st.recursive(
    leaves | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(plain, st.integers(3, 5))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), frozenset()) == value


def boxes(shape: tuple[int, ...], cuts: list[tuple[int, int]]) -> Iterator[Any]:
    """Boxes that tile the shape: it is cut again and again, always the box at a position of the list."""
    held = [(tuple(0 for _ in shape), shape)]
    for which, where in cuts:
        offsets, sizes = held.pop(which % len(held))
        dimension = max(range(len(shape)), key=lambda d: sizes[d])
        cut = 1 + where % max(1, sizes[dimension] - 1)
        if sizes[dimension] < 2:
            held.append((offsets, sizes))
            continue
        low = tuple(cut if d == dimension else size for d, size in enumerate(sizes))
        high = tuple(size - cut if d == dimension else size for d, size in enumerate(sizes))
        start = tuple(at + (cut if d == dimension else 0) for d, at in enumerate(offsets))
        held += [(offsets, low), (start, high)]
    yield from held


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8),
    st.integers(0, 20),
)
def test_tiling_is_every_element_exactly_once(
    shape: tuple[int, ...], cuts: list[tuple[int, int]], which: int
) -> None:
    whole = tuple(boxes(shape, cuts))
    assert tiles(shape, whole)
    rest = list(whole)
    dropped = rest.pop(which % len(rest))
    assert not tiles(shape, tuple(rest))
    assert not tiles(shape, (*whole, dropped))
    offsets, sizes = dropped
    moved = (tuple(at + 1 for at in offsets), sizes)
    assert not tiles(shape, (*rest, moved))


@pytest.mark.parametrize(
    ("inner", "layout", "facts"),
    [
        ("iter_0000010", "iterations", {"iterations": [10], "iteration": 10}),
        ("step_10/policy/weights/iter_0000010", "steps", {"steps": [10], "iterations": [10]}),
        ("step_10/policy/weights", "steps", {"steps": [10]}),
    ],
)
def test_the_newest_checkpoint_inside_is_inspected(
    iteration: Path, tmp_path: Path, inner: str, layout: str, facts: dict[str, Any]
) -> None:
    root = tmp_path / "root"
    (root / inner).parent.mkdir(parents=True)
    iteration.rename(root / inner)
    if layout == "steps":
        (root / "step_10" / "training_info.json").touch()
    result = checked(root)
    assert result.findings == ()
    assert {**facts, "layout": layout, "layers": LAYERS}.items() <= result.facts.items()
    assert guess_type(root) == "checkpoint_megatron"
    (root / inner / ".metadata").write_bytes(b"cos\nsystem\n(tR.")
    (finding,) = checked(root).findings
    assert finding.where == str(root / inner / ".metadata")


def test_a_tokenizer_beside_the_weights_of_a_step_is_found(iteration: Path, tmp_path: Path) -> None:
    policy = tmp_path / "step_3" / "policy"
    (policy / "weights").mkdir(parents=True)
    (policy.parent / "training_info.json").touch()
    shutil.move(iteration / "tokenizer", policy / "tokenizer")
    iteration.rename(policy / "weights" / "iter_0000000")
    result = checked(policy.parent)
    assert result.findings == ()
    assert result.facts["tokenizer_digest"].startswith("sha256:")
    (policy / "tokenizer" / "tokenizer.json").write_text("{")
    assert checked(policy.parent).findings[0].where == str(policy / "tokenizer" / "tokenizer.json")


def test_of_several_steps_the_last_finished_one_counts(iteration: Path, tmp_path: Path) -> None:
    root = tmp_path / "steps"
    for step in ("step_2", "step_10", "tmp_step_12"):
        shutil.copytree(iteration, root / step / "policy" / "weights" / "iter_0000000")
        (root / step / "training_info.json").touch()
    (root / "step_10" / "policy" / "weights" / "iter_0000000" / "run_config.yaml").unlink()
    facts = checked(root).facts
    assert (facts["steps"], facts["has_run_config"]) == ([2, 10], False)
    assert checked(root / "step_2").facts["layout"] == "step"


@pytest.mark.parametrize(
    ("text", "severity"),
    [("10", None), ("release\n", None), ("5", "warning"), ("20", "error"), ("x", "error")],
)
def test_the_file_that_names_the_newest_iteration_has_to_agree(
    iteration: Path, text: str, severity: str | None
) -> None:
    (iteration.parent / "iter_0000005").mkdir()
    tracker = iteration.parent / "latest_checkpointed_iteration.txt"
    tracker.write_text(text)
    found = [(f.id, f.severity, f.where) for f in checked(iteration.parent).findings]
    assert found == ([("checkpoint.tracker", severity, str(tracker))] if severity else [])


def test_a_checkpoint_that_was_never_finished_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tmp_step_5").mkdir()
    assert ids(checked(tmp_path)) == ["checkpoint.unfinished"]


@pytest.mark.parametrize("name", ["other", "policy/x"])
def test_another_directory_is_no_megatron_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    assert ids(checked(tmp_path)) == ["checkpoint.not_megatron"]
    assert guess_type(tmp_path) is None


def test_a_layout_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "training_info.json").touch()
    (tmp_path / "policy" / "weights").symlink_to(tmp_path)
    assert ids(checked(tmp_path)) == ["checkpoint.not_megatron"]


def test_a_link_out_of_the_checkpoint_is_not_followed(iteration: Path, tmp_path: Path) -> None:
    (shard,) = iteration.glob("*.distcp")
    shard.rename(tmp_path / shard.name)
    shard.symlink_to(tmp_path / shard.name)
    assert "artifact.link_outside" in ids(checked(iteration))
