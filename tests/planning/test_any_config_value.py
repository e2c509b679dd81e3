"""Whatever a config holds, planning answers with a finding or an error, and never with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from nemotron.catalog.discover import load_catalog
from nemotron.config.compose import compose
from nemotron.config.config import Config, Origin
from nemotron.config.keys import leaves
from nemotron.engines.base import StepFacts, find_engine
from nemotron.errors import NemotronError
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan
from nemotron.planning.preflight import blocking
from nemotron.planning.render import render_plan
from nemotron.planning.request import Request

ODD = (None, "text", "", -1, 0, 1.5, True, [], [None], {})
WRITTEN = (
    *(
        "null",
        "5",
        "1.5",
        "true",
        "''",
        "' '",
        "[]",
        "[a]",
        "{}",
        "{a: 1}",
        "text",
        "'???'",
        "~",
        "2020-01-01",
    ),
    *(
        "${rows}",
        "${rows_path}",
        "${nothing}",
        "${oc.env:HF_TOKEN}",
        "a/b",
        "/abs/x",
        "../x",
        "'~/x'",
        "'~nobody/x'",
    ),
    *(
        "in://rows",
        "out://count",
        "step://make/rows",
        "step://make/rows?config=default",
        "run://x",
        "art://x",
    ),
    *("http://x/y", "'a\\nb'", '"\\u0000"', "!!python/name:os.system", "&a [*a]", "0x10", ".nan"),
)
KEYS = (
    "run",
    "run.engine",
    "inputs",
    "inputs.rows",
    "rows_path",
    "prompts_path",
    "output",
    "text",
    "defaults",
)


@pytest.mark.parametrize("name", ["rl/nemo_rl/rlhf", "sft/nemo_rl"])
@pytest.mark.parametrize("engine_name", ["embedded", "nemo_rl"])
def test_any_value_of_any_key_is_no_traceback_for_an_engine(name: str, engine_name: str) -> None:
    step = load_catalog({}).get(name)
    base = compose(step.configs["tiny"], configs=step.configs).without("run", "inputs")
    data = base.resolve({}).data
    engine = find_engine(engine_name)
    facts = StepFacts(
        name, step.directory, None, None, "ray", 1, 8, step.run.image, {"data": 64, "prompts": 64}, {}
    )
    calls: tuple[Callable[[dict[str, Any]], object], ...] = (
        engine.training_config,
        lambda config: engine.check(config, facts),
        engine.notes,
        lambda config: engine.argv(facts, config, ()),
        engine.environment,
        lambda config: engine.checkpoint_layout(config, "best", "checkpoint_hf"),
    )
    tried = 0
    for key, _ in leaves(data):
        for value in ODD[len(key) % 5 :: 5]:
            config = Config(data).set(key, value, Origin("file")).data
            for call in calls:
                try:
                    call(config)
                except NemotronError as problem:
                    assert problem.exit_code in (2, 4)
            tried += 1
    assert tried > 200


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embedded.threads", "0"),
        ("policy.generation.temperature", "0.0"),
        ("policy.train_micro_batch_size", "0"),
    ],
)
def test_a_value_that_an_engine_cannot_count_with_is_an_error_there(world: Any, key: str, value: str) -> None:
    plan = plan_step(Request("rl/nemo_rl/rlhf", "tiny", (f"{key}={value}",)))
    errors = [f for f in plan.findings if f.severity == "error"]
    assert key in {f.where for f in errors}
    assert blocking(plan)


@pytest.mark.parametrize("key", KEYS)
def test_any_value_a_user_writes_is_planned_or_refused_with_a_word(world: Any, key: str) -> None:
    default = f"{world.catalog}/use/count/config/default.yaml"
    refused = 0
    for value in WRITTEN:
        lines = [] if key == "defaults" else [f"defaults: {default}"]
        parts = key.split(".")
        lines += [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
        (world.work / "c.yaml").write_text("\n".join(lines) + f" {value}\n")
        try:
            plan = plan_step(Request("use/count", "c.yaml"))
        except NemotronError as problem:
            assert problem.render()
            refused += 1
        else:
            assert render_plan(plan)
            assert Plan.from_dict(json.loads(plan.to_json())) == plan
    assert 0 < refused <= len(WRITTEN)
