"""Scalars and checkpoints that NeMo-RL leaves, taken over while it writes them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard_writer import EventWriter, record

from nemotron.artifacts.records import ArtifactRecord, read_records
from nemotron.job.following.nemo_rl import NemoRlFollower
from nemotron.job.following.tensorboard_events import EventFile, shortest
from nemotron.job.outputs import find_outputs

# Written by torch 2's SummaryWriter: a hyperparameter record, plain and tensor scalars, pictures, a text.
REAL = Path(__file__).parent / "data" / "torch_scalars.tfevents"


def all_of(path: Path) -> list[Any]:
    file, found = EventFile(path), []
    while new := file.read():
        found += new
    assert file.offset == path.stat().st_size
    return found


class TestEventFiles:
    def test_a_file_that_torch_wrote_is_read(self) -> None:
        found = {(s.tag, s.step): s.value for s in all_of(REAL)}
        assert found[("validation/accuracy", 0)] == 0.25
        assert [found[("train/reward", step)] for step in (1, 2, 3)] == [0.1, 0.2, 0.3]
        assert [found[("timing/train/total_step_time", step)] for step in (1, 2, 3)] == [12.5] * 3
        assert found[("train/kl", 1)] == 1e-5, "a tensor of one double"
        assert math.isnan(found[("train/loss", 2)])
        assert not any(tag in ("train/plot", "note/text/text_summary") for tag, _ in found)

    def test_every_cut_gives_the_same_in_the_end_and_nothing_twice(self, tmp_path: Path) -> None:
        data, growing = REAL.read_bytes(), tmp_path / "events"
        whole = [(s.tag, s.step) for s in all_of(REAL)]
        growing.write_bytes(b"")
        file, found = EventFile(growing), []
        for end in range(0, len(data) + 1, 7):
            growing.write_bytes(data[:end])
            found += [(s.tag, s.step) for s in file.read()]
        growing.write_bytes(data)
        found += [(s.tag, s.step) for s in file.read()]
        assert found == whole

    def test_zeros_that_a_crash_left_are_waited_at(self, tmp_path: Path) -> None:
        writer = EventWriter(tmp_path, 1.0)
        writer.scalar("train/loss", 1.0, 1, 2.0)
        size = writer.path.stat().st_size
        with writer.path.open("ab") as handle:
            handle.write(bytes(4096))
        file = EventFile(writer.path)
        assert [s.step for s in file.read()] == [1]
        assert file.offset == size
        assert file.read() == []

    def test_a_record_with_a_wrong_checksum_is_stepped_over(self, tmp_path: Path) -> None:
        writer = EventWriter(tmp_path, 1.0)
        start = writer.path.stat().st_size
        for step in (1, 2):
            writer.scalar("train/loss", 1.0, step, 2.0)
        data = bytearray(writer.path.read_bytes())
        data[start + 20] ^= 0xFF
        writer.path.write_bytes(data)
        assert [s.step for s in all_of(writer.path)] == [2]

    def test_a_large_picture_is_not_kept_waiting_for(self, tmp_path: Path) -> None:
        writer = EventWriter(tmp_path, 1.0)
        writer.blob(9 << 20, 1, 2.0)
        writer.scalar("train/loss", 1.0, 1, 2.0)
        file = EventFile(writer.path)
        assert file.read() == []
        assert [s.step for s in file.read()] == [1]

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=200))
    def test_no_message_stops_the_reader(self, tmp_path_factory: Any, message: bytes) -> None:
        path = tmp_path_factory.mktemp("events") / "e"
        path.write_bytes(
            record(message) + record(b"\x10\x05*\x0a\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 2))
        )
        assert [(s.tag, s.step, s.value) for s in EventFile(path).read()][-1] == ("a", 5, 2.0)

    @given(st.floats(width=32))
    def test_the_shortest_decimal_is_the_same_float(self, value: float) -> None:
        assert struct.pack("<f", shortest(value)) == struct.pack("<f", value)


class World:
    """A run directory of a NeMo-RL step."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.run = root / "run-1"
        self.run.mkdir()
        (self.run / "logs").mkdir()
        self.records = root / "records"
        self.checkpoints = self.run / "checkpoints"
        place = {"records_dir": str(self.records), "planned_steps": 4}
        (self.run / "place.json").write_text(json.dumps(place), encoding="utf-8")
        checkpointing = {"metric_name": "val:val_loss", "higher_is_better": False}
        self.plan: dict[str, Any] = {
            "recipe": {"engine": "nemo_rl", "config": {"checkpointing": checkpointing, "logger": config}},
            "placement": {"config": {"logger.log_dir": "{run_dir}/logs"}},
            "outputs": [
                {
                    "port": "model",
                    "type": "checkpoint_hf",
                    "path": "checkpoints",
                    "select": "best",
                    "inside": "policy/weights",
                    "required": True,
                }
            ],
        }

    def follower(self) -> NemoRlFollower:
        return NemoRlFollower(self.run, self.plan)

    def writer(self, start: int = 1) -> EventWriter:
        return EventWriter(self.run / "logs" / f"exp_{start:03d}" / "tensorboard" / "tb", 1000.0 + start)

    def save(self, step: int, **info: float) -> Path:
        weights = self.checkpoints / f"tmp_step_{step}" / "policy" / "weights"
        weights.mkdir(parents=True)
        (weights / "config.json").write_text("{}", encoding="utf-8")
        told = json.dumps({"step": step, **{f"val:{k}": v for k, v in info.items()}})
        (self.checkpoints / f"tmp_step_{step}" / "training_info.json").write_text(told, encoding="utf-8")
        (self.checkpoints / f"tmp_step_{step}").rename(self.checkpoints / f"step_{step}")
        return self.checkpoints / f"step_{step}"

    def rows(self, name: str = "metrics") -> list[dict[str, Any]]:
        path = self.run / f"{name}.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def recorded(self) -> dict[str, ArtifactRecord]:
        return {r.id: r for r in read_records(self.records) if isinstance(r, ArtifactRecord)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestMetrics:
    def test_a_step_is_one_line_as_soon_as_the_next_begins(self, world: World) -> None:
        follower, writer = world.follower(), world.writer()
        writer.scalar("train/loss", 0.5, 1, 1010.0)
        writer.scalar("train/reward", 0.1, 1, 1010.5)
        follower.poll()
        assert world.rows() == [], "the step may have more to say"
        writer.scalar("train/loss", 0.25, 2, 1020.0)
        follower.poll()
        assert world.rows() == [{"step": 1, "time": 1010.5, "train/loss": 0.5, "train/reward": 0.1}]

    def test_a_step_that_is_silent_is_written_at_the_next_look_or_at_the_end(self, world: World) -> None:
        follower, writer = world.follower(), world.writer()
        writer.scalar("train/loss", 0.5, 1, 1010.0)
        follower.poll()
        follower.poll()
        assert [row["step"] for row in world.rows()] == [1]
        writer.scalar("validation/val_loss", 0.75, 1, 1011.0)
        follower.close()
        assert world.rows()[1:] == [{"step": 1, "time": 1011.0, "validation/val_loss": 0.75}]

    def test_what_is_no_number_has_no_value_and_every_line_is_json(self, world: World) -> None:
        writer = world.writer()
        writer.scalar("train/loss", math.nan, 1, 1010.0)
        writer.scalar("train/grad_norm", math.inf, 1, 1010.0)
        world.follower().close()
        assert world.rows() == [{"step": 1, "time": 1010.0, "train/loss": None, "train/grad_norm": None}]

    def test_the_gpu_monitor_does_not_count_steps(self, world: World) -> None:
        writer = world.writer()
        writer.scalar("ray/node.0.gpu.0.util", 50.0, 940, 1010.0)
        writer.scalar("train/loss", 0.5, 1, 1010.0)
        world.follower().close()
        assert [row["step"] for row in world.rows()] == [1]

    def test_a_restart_joins_by_step_and_the_later_line_counts(self, world: World) -> None:
        first = world.writer(1)
        for step, loss in ((1, 0.5), (2, 0.25), (3, 99.0)):
            first.scalar("train/loss", loss, step, 1000.0 + step)
        world.follower().close()
        second = world.writer(2)
        for step, loss in ((3, 0.125), (4, 0.0625)):
            second.scalar("train/loss", loss, step, 2000.0 + step)
        world.follower().close()
        last = {row["step"]: row["train/loss"] for row in world.rows()}
        assert last == {1: 0.5, 2: 0.25, 3: 0.125, 4: 0.0625}
        assert len(world.rows()) == 5, "no line twice"

    def test_what_a_killed_attempt_did_not_take_in_is_not_lost(self, world: World) -> None:
        first = world.writer(1)
        follower = world.follower()
        first.scalar("train/loss", 0.5, 1, 1001.0)
        first.scalar("train/loss", 0.25, 2, 1002.0)
        follower.poll()  # and no close: killed
        first.scalar("train/loss", 0.125, 3, 1003.0)
        world.follower().close()
        assert [(row["step"], row["train/loss"]) for row in world.rows()] == [(1, 0.5), (2, 0.25), (3, 0.125)]

    def test_starts_are_read_in_their_order(self, world: World) -> None:
        for number, loss in ((999, 1.0), (1000, 2.0)):
            world.writer(number).scalar("train/loss", loss, 7, 1000.0 + number)
        world.follower().close()
        assert [row["train/loss"] for row in world.rows()] == [1.0, 2.0]

    def test_what_others_left_in_a_log_directory_of_the_config_is_not_ours(
        self, world: World, tmp_path: Path
    ) -> None:
        shared = tmp_path / "shared"
        world.plan["placement"]["config"] = {}
        world.plan["recipe"]["config"]["logger"]["log_dir"] = str(shared)
        EventWriter(shared / "exp_001" / "tensorboard", 1.0).scalar("train/loss", 9.0, 1, 1.0)
        follower = world.follower()
        EventWriter(shared / "exp_002" / "tensorboard", 2.0).scalar("train/loss", 1.0, 1, 2.0)
        follower.close()
        again = world.follower()
        EventWriter(shared / "exp_003" / "tensorboard", 3.0).scalar("train/loss", 2.0, 2, 3.0)
        again.close()
        assert [row["train/loss"] for row in world.rows()] == [1.0, 2.0]

    def test_timings_say_how_many_steps_there_are_and_how_long_one_took(self, world: World) -> None:
        follower, writer = world.follower(), world.writer()
        for step in (1, 2, 3):
            writer.scalar("train/loss", 0.5, step, 1000.0 + 20 * step)
        follower.close()
        start, *steps = world.rows("timings")
        assert start == {"event": "start", "step": 0, "total_steps": 4}
        assert [(row["step"], row["seconds"]) for row in steps] == [(2, 20.0), (3, 20.0)]

    def test_nothing_there_yet_is_nothing_to_say(self, world: World) -> None:
        follower = world.follower()
        follower.poll()
        follower.close()
        assert world.rows() == []

    def test_a_directory_in_place_of_an_event_file_stops_nothing(self, world: World) -> None:
        writer = world.writer()
        writer.path.with_name("events.out.tfevents.0.host").mkdir()
        writer.scalar("train/loss", 0.5, 1, 1001.0)
        world.follower().close()
        assert [row["step"] for row in world.rows()] == [1]


class TestTime:
    def left(self, world: World, must: str | None, seconds: float, *times: float) -> bool:
        world.plan["placement"]["config"]["checkpointing.checkpoint_must_save_by"] = must
        writer = world.writer()
        for step, time in enumerate(times, 1):
            writer.scalar("train/loss", 0.5, step, time)
        follower = world.follower()
        follower.close()
        return follower.left_in_time(seconds)

    def test_a_trainer_that_had_no_time_for_another_step_left_in_time(self, world: World) -> None:
        assert self.left(world, "00:00:10:00", 541.0, 1000.0, 1060.0)

    def test_one_that_had_was_done(self, world: World) -> None:
        assert not self.left(world, "00:00:10:00", 400.0, 1000.0, 1060.0)

    @pytest.mark.parametrize("must", [None, "soon"])
    def test_without_a_limit_nobody_leaves(self, world: World, must: str | None) -> None:
        assert not self.left(world, must, 1e9)


class TestCheckpoints:
    def test_each_whole_one_is_recorded_once(self, world: World) -> None:
        follower = world.follower()
        follower.poll()
        first = world.save(2, val_loss=0.5)
        (world.checkpoints / "tmp_step_4" / "policy" / "weights").mkdir(parents=True)
        follower.poll()
        follower.poll()
        [record] = world.recorded().values()
        assert record.id == "run-1.model.step_2"
        assert (record.type, record.digest) == ("checkpoint_hf", "pending")
        assert record.path == str(first / "policy" / "weights")
        assert record.made_by == {"run_id": "run-1", "port": "model/step_2", "step_of_training": 2}
        assert (record.fingerprint or "").startswith("stat:")

    def test_another_attempt_records_what_is_new_and_nothing_again(self, world: World) -> None:
        world.follower().close()
        world.save(2)
        world.follower().close()
        before = world.recorded()
        world.save(4)
        world.follower().close()
        (world.run / "logs" / "followed.json").unlink()
        world.follower().close()
        assert set(world.recorded()) == {"run-1.model.step_2", "run-1.model.step_4"}
        assert world.recorded()["run-1.model.step_2"] == before["run-1.model.step_2"]

    def test_one_of_somebody_else_is_not_recorded(self, world: World, tmp_path: Path) -> None:
        world.checkpoints = tmp_path / "shared"
        world.plan["outputs"][0]["path"] = str(world.checkpoints)
        world.save(2)
        follower = world.follower()
        world.save(4)
        follower.close()
        assert set(world.recorded()) == {"run-1.model.step_4"}

    def test_the_tokenizer_that_lies_apart_is_put_beside_the_weights(self, world: World) -> None:
        follower = world.follower()
        weights = world.save(2) / "policy" / "weights"
        apart = weights.parent / "tokenizer"
        apart.mkdir()
        for name in ("tokenizer.json", "config.json"):
            (apart / name).write_text(f"of {name}", encoding="utf-8")
        follower.close()
        assert (weights / "tokenizer.json").read_text(encoding="utf-8") == "of tokenizer.json"
        assert (weights / "config.json").read_text(encoding="utf-8") == "{}", "what is there stays"

    def test_the_best_is_told_by_the_config_s_metric(self, world: World) -> None:
        follower = world.follower()
        for step, loss in ((2, 0.5), (4, 0.25), (6, 0.75)):
            world.save(step, val_loss=loss)
        found, _ = find_outputs(world.run, world.plan["outputs"])
        assert found["model"]["step_of_training"] == 6, "nobody has said by which metric"
        follower.close()
        found, missing = find_outputs(world.run, world.plan["outputs"])
        assert (found["model"]["step_of_training"], missing) == (4, None)

    def test_without_a_metric_the_latest_counts(self, world: World) -> None:
        world.plan["recipe"]["config"]["checkpointing"] = {"metric_name": None, "higher_is_better": True}
        follower = world.follower()
        for step in (2, 4):
            world.save(step, val_loss=1 / step)
        follower.close()
        assert find_outputs(world.run, world.plan["outputs"])[0]["model"]["step_of_training"] == 4

    def test_one_that_cannot_be_recorded_is_told_of_and_stops_nothing(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        follower = world.follower()
        weights = world.save(2) / "policy" / "weights"
        (weights / "leads_out").symlink_to("/etc/hostname")
        world.save(4)
        follower.close()
        assert set(world.recorded()) == {"run-1.model.step_4"}
        assert "step_2" in capsys.readouterr().err
