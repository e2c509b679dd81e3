"""Damaged and hostile Megatron checkpoints are refused, and nothing in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import signal
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import Made

from nemotron.checkpoints.compare_tensors import tensor_digests
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.inspect_checkpoint import inspect_checkpoint
from nemotron.errors import CheckFailed

Make = Callable[..., Made]


@pytest.fixture
def iteration(make_model: Make) -> Path:
    """A whole checkpoint to break."""
    made = make_model()
    hf_to_megatron(made.path, made.path.with_name("megatron"), shard_bytes=30_000)
    return made.path.with_name("megatron") / "iter_0000000"


def refused(iteration: Path, match: str) -> None:
    """Refused by all that reads tensors, and nothing is left."""
    before = sorted(iteration.parent.parent.iterdir())
    with pytest.raises(CheckFailed, match=match):
        megatron_to_hf(iteration, iteration.parent.with_name("back"))
    with pytest.raises(CheckFailed, match=match):
        tensor_digests(iteration)
    assert sorted(iteration.parent.parent.iterdir()) == before


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def test_a_hostile_metadata_is_refused_and_not_run(iteration: Path, tmp_path: Path) -> None:
    (iteration / ".metadata").write_bytes(pickle.dumps(Shell(f"touch {tmp_path}/ran")))
    refused(iteration, "could run code")
    assert not inspect_checkpoint(iteration).ok
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["common.pt", "train_state.pt", "../latest_train_state.pt"])
def test_a_hostile_state_is_found_and_not_run(iteration: Path, tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    mark = tmp_path / "ran"
    assert inspect_checkpoint(iteration).ok
    torch.save({"iteration": 0, "args": Shell(f"touch {mark}")}, iteration / name)
    facts = inspect_checkpoint(iteration)
    assert [f.id for f in facts.findings] == ["checkpoint.hostile_pickle"]
    assert "posix.system" in facts.findings[0].message
    assert not mark.exists()


def test_a_hostile_object_among_the_weights_is_found(iteration: Path) -> None:
    """`_extra_state` of a layer: torch's own reader loads it with everything allowed."""
    harmless, hostile = b"\x80\x02](Ne.", b"\x80\x02ca\n\n."
    shard = next(file for file in sorted(iteration.glob("*.distcp")) if harmless in file.read_bytes())
    shard.write_bytes(shard.read_bytes().replace(harmless, hostile, 1))
    facts = inspect_checkpoint(iteration)
    (finding,) = facts.findings
    assert finding.id == "checkpoint.hostile_pickle"
    assert "_extra_state" in finding.message and shard.name in str(finding.where)


@pytest.mark.parametrize(
    "change", ["a second pickle", "another name", "packed", "a bare pickle", "cut short"]
)
def test_a_state_in_a_disguise_is_found(iteration: Path, change: str) -> None:
    file = iteration / "common.pt"
    data = file.read_bytes()
    with zipfile.ZipFile(file) as held:
        entries = {name: held.read(name) for name in held.namelist()}
    if change == "a bare pickle":
        file.write_bytes(pickle.dumps(Shell("true")))
    elif change == "cut short":
        file.write_bytes(data[: len(data) // 2])
    else:
        names = {"a second pickle": "other/data.pkl", "another name": "archive/DATA.PKL", "packed": ""}
        packing = zipfile.ZIP_DEFLATED if change == "packed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", packing) as made:
            for name, content in entries.items():
                made.writestr(name, content)
            if names[change]:
                made.writestr(names[change], pickle.dumps(Shell("true"), 2))
    facts = inspect_checkpoint(iteration)
    assert not facts.ok and facts.findings[0].id in ("checkpoint.hostile_pickle", "checkpoint.broken_file")


def test_what_trainers_keep_in_their_state_is_let_through(iteration: Path) -> None:
    torch = pytest.importorskip("torch")
    numpy = pytest.importorskip("numpy")
    state = {
        "args": argparse.Namespace(dtype=torch.bfloat16, place=Path("/a"), signal=signal.SIGTERM, some={1}),
        "optimizer": {"param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}], "state": OrderedDict()},
        "rng_state": [
            {"random": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state()}
        ],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bytes": b"abc",
    }
    torch.save(state, iteration / "common.pt")
    assert inspect_checkpoint(iteration).findings == ()


def test_a_hostile_tensor_is_refused_and_not_run(iteration: Path, tmp_path: Path) -> None:
    shard = iteration / "__0_0.distcp"
    data = shard.read_bytes()
    at = data.index(b"ctorch._utils\n_rebuild_tensor_v2\n")
    shard.write_bytes(data[:at] + b"cposix._utils\n_rebuild_tensor_v2\n" + data[at + 33 :])
    refused(iteration, "could run code")


def test_a_truncated_shard_is_refused(iteration: Path) -> None:
    shard = iteration / "__0_1.distcp"
    shard.write_bytes(shard.read_bytes()[:-1000])
    refused(iteration, "cut short")
    assert not inspect_checkpoint(iteration).ok


def test_a_missing_shard_is_refused(iteration: Path) -> None:
    (iteration / "__0_1.distcp").unlink()
    refused(iteration, "a file that holds weights is missing")


def test_a_flipped_bit_is_refused(iteration: Path) -> None:
    shard = iteration / "__0_0.distcp"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    refused(iteration, "checksum")


def test_a_checkpoint_without_metadata_is_none(iteration: Path) -> None:
    (iteration / ".metadata").unlink()
    refused(iteration, "cut off")


def test_any_damage_to_a_frame_is_refused_or_harmless(iteration: Path) -> None:
    """Every byte of the first tensor's frame, one at a time: an answer or a refusal, never a traceback."""
    shard = iteration / "__0_0.distcp"
    data = shard.read_bytes()
    end = data.index(b"PK\x05\x06") + 22
    begin = data.rindex(b"archive/data/0", 0, end)
    digests = tensor_digests(iteration)
    refusals = 0
    for at in [*range(0, 384, 7), *range(begin - 46, end, 3)]:
        shard.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            assert tensor_digests(iteration) == digests
        except CheckFailed:
            refusals += 1
    assert refusals > 10
