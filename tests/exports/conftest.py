"""A step that writes metrics and asks for W&B, and readers of what W&B keeps on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TRAIN = """
    [step]
    id = "{id}"
    description = "Trains on chat rows."

    [[consumes]]
    name = "rows"
    type = "training_jsonl"
    config = "rows_path"

    [[produces]]
    name = "scores"
    type = "eval_results"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
TRAIN_CONFIG = """
    inputs:
      rows: step://make/rows?config=default
    behave: write
    steps: 5
    rows_path: ???
    output: scores.json
    logger:
      wandb_enabled: true
      wandb:
        project: chat
        name: null
        api_key: typed-by-hand
"""
# Leaves a metric a step; `fail_once` and `stop_once` end the first attempt after its third.
SCRIPT = """
import json
import os
import sys
import time
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text(encoding="utf-8"))
with Path("starts").open("a", encoding="utf-8") as file:
    file.write("x")
first = Path("starts").read_text(encoding="utf-8") == "x"
behave = config["behave"]
with Path("metrics.jsonl.tmp").open("w", encoding="utf-8") as file:
    for step in range(1, config["steps"] + 1):
        file.write(json.dumps({"step": step, "train/loss": 1 / step, "note": "no number"}) + "\\n")
        file.flush()
        if step == 1:
            os.replace("metrics.jsonl.tmp", "metrics.jsonl")
        if behave == "slow":
            time.sleep(0.4)
        if step == 3 and (behave == "fail" or behave == "fail_once" and first):
            sys.exit(7)
        if step == 3 and behave == "stop_once" and first:
            time.sleep(60)
Path(config["output"]).write_text(json.dumps({"loss": 1 / config["steps"]}), encoding="utf-8")
"""


@pytest.fixture
def training(world: Any) -> Any:
    """The world with a step `train/chat` in it, whose config asks for W&B."""
    world.add_step("train/chat", TRAIN, configs={"default": TRAIN_CONFIG}, script=SCRIPT)
    # W&B has a home of its own, and none of ours has a key in it.
    home = world.root / "home"
    home.mkdir()
    world.environ |= {"HOME": str(home), "WANDB_ERROR_REPORTING": "false"}
    return world


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a header of 7 bytes, then records in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, block, parts = file.read_bytes(), 32768, b""
    at = 7
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


class Kept:
    """What W&B keeps of one run of ours, in all its files."""

    def __init__(self, run: Path) -> None:
        self.files = sorted(run.glob("wandb/*run-*/*.wandb"))
        records = [record for file in self.files for record in wandb_records(file)]
        self.runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        self.artifacts = [a for r in records if (a := _artifact(r)) is not None]
        self.exits = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
        self.rows = [
            (r.history.step.num, {_key(i): json.loads(i.value_json) for i in r.history.item})
            for r in records
            if r.WhichOneof("record_type") == "history"
        ]

    @property
    def metrics(self) -> list[tuple[int, dict[str, Any]]]:
        """Step and what was logged at it."""
        return [(step, {k: v for k, v in row.items() if not k.startswith("_")}) for step, row in self.rows]

    @property
    def config(self) -> dict[str, Any]:
        """The config of its first file."""
        return {u.key: json.loads(u.value_json) for u in self.runs[0].config.update}


def _artifact(record: Any) -> Any:
    kind = record.WhichOneof("record_type")
    if kind == "artifact":
        return record.artifact
    if kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
        return record.request.log_artifact.artifact
    return None


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


@pytest.fixture
def kept() -> type[Kept]:
    """Reads what W&B keeps of a run: `kept(run_directory)`."""
    return Kept
