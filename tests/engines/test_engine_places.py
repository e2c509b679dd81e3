"""What the engines without a framework of their own need of a place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemotron.engines.base import Engine, StepFacts, find_engine

FACTS = StepFacts(
    step="a/step",
    directory=Path("/s"),
    script=Path("/s/step.py"),
    command=None,
    launch="torchrun",
    nodes=4,
    gpus_per_node=8,
    image="img:1",
    rows={},
    bound={},
)
SFT = {
    "sft": {"max_num_steps": 100, "max_num_epochs": 2},
    "policy": {"train_global_batch_size": 8, "train_micro_batch_size": 8},
}


def ids(engine: Engine, facts: StepFacts, nodes: int, gpus: int) -> list[str]:
    return [f.id for f in engine.check_place(facts, SFT, nodes=nodes, gpus_per_node=gpus)]


class TestEmbedded:
    engine = find_engine("embedded")

    def test_one_process_and_one_gpu_whatever_the_step_could_use(self) -> None:
        shape = self.engine.shape(FACTS, SFT)
        assert (shape.launch, shape.nodes, shape.gpus_per_node, shape.image) == ("python", 1, 1, None)
        assert self.engine.shape(replace(FACTS, gpus_per_node=0), SFT).gpus_per_node == 0

    def test_more_than_one_node_is_refused_and_no_gpu_is_not(self) -> None:
        assert ids(self.engine, FACTS, 2, 8) == ["place.nodes"]
        assert ids(self.engine, FACTS, 1, 0) == []

    @pytest.mark.parametrize(("rows", "steps"), [({"data": 80}, 20), ({"data": 8000}, 100), ({}, 100)])
    def test_steps_are_those_of_the_batches(self, rows: dict[str, int], steps: int) -> None:
        assert self.engine.planned_steps(SFT, rows) == steps

    def test_what_cannot_be_counted_is_not(self) -> None:
        assert self.engine.planned_steps(SFT, {"data": 3}) is None
        assert self.engine.planned_steps({}, {"data": 3}) is None


class TestScript:
    engine = find_engine("script")

    def test_the_manifest_says_it_all(self) -> None:
        shape = self.engine.shape(FACTS, {})
        assert (shape.launch, shape.nodes, shape.gpus_per_node, shape.image) == ("torchrun", 4, 8, "img:1")
        assert set(shape.why.values()) == {"the manifest of a/step"}

    def test_a_launcher_takes_what_it_gets_and_one_process_one_node(self) -> None:
        assert ids(self.engine, FACTS, 1, 2) == []
        once = replace(FACTS, launch="python", nodes=1)
        assert ids(self.engine, once, 2, 8) == ["place.nodes"]
        assert ids(self.engine, once, 1, 0) == []


@pytest.mark.parametrize("name", ["embedded", "script"])
def test_the_place_decides_nothing_in_their_config_and_nothing_is_fetched(name: str) -> None:
    engine = find_engine(name)
    assert engine.placed(SFT, seconds=3600, save_before=60) == {}
    assert engine.prefetch(SFT) == ()
    assert engine.check_arguments(SFT, FACTS, ("x",)) == ()
