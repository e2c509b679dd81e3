"""Any bytes in any of the files that tell of an artifact: a history, no history, and nothing else."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.artifacts.history import read_history
from nemotron.artifacts.history.yaml_text import BadYaml, read_yaml
from nemotron.findings import SEVERITIES

FILES = (
    *("config.yaml", "training_info.json", "README.md", "adapter_config.json", "trainer_state.json"),
    *("config.json", "run_config.yaml", "latest_checkpointed_iteration.txt"),
)
WORDS = (
    "policy model_name data train default data_path env nemo_gym base_model grpo datasets model-index",
    "metrics value log_history global_step dataset blend checkpoint load save total_steps checkpointing tags",
    "responses_api_models genrm_model results",
)
KEYS = st.sampled_from([word for line in WORDS for word in line.split()])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["a/b", "/x", "hf://a/b"]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def contents(name: str) -> st.SearchStrategy[bytes]:
    """Bytes for a file: noise, or a tree of keys that the readers look for."""
    if name.endswith(".json"):
        return st.binary(max_size=200) | TREES.map(lambda tree: json.dumps(tree).encode())
    text = TREES.map(lambda tree: yaml.safe_dump(tree).encode("utf-8", "replace"))
    if name == "README.md":
        text = text.map(
            lambda data: b"---\n" + data + b"---\nSee axolotl config</summary>\n```yaml\n" + data + b"\n```\n"
        )
    return st.binary(max_size=200) | text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries({}, optional={name: contents(name) for name in FILES}),
    st.sampled_from(["checkpoint_hf", "checkpoint_lora", "checkpoint_megatron", "training_jsonl", "x"]),
)
def test_any_content_gives_a_history_that_fits_a_record(files: dict[str, bytes], kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        step = Path(directory) / "step_5"
        step.mkdir()
        for name, data in files.items():
            (step / name).write_bytes(data)
        history = read_history(step, kind)
        if history is None:
            return
        kept = history.as_dict()
        assert json.loads(json.dumps(kept, allow_nan=False)) == kept
        assert all(f.severity in SEVERITIES for f in history.findings)
        assert all(p.role and p.reference for p in history.parents)
        assert history.step_of_training is None or history.step_of_training >= 0


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_the_lax_yaml_reader_agrees_with_the_safe_loader(tree: Any) -> None:
    """On what a dumper writes; numbers, words and structure come back, infinities and the like as text."""
    text = yaml.safe_dump({"top": tree})
    assert json.dumps(read_yaml(text).value, default=str) == json.dumps(
        told_plainly({"top": tree}), default=str
    )


def told_plainly(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: told_plainly(v) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [told_plainly(v) for v in value]
    if isinstance(value, float):
        shown = yaml.safe_dump(value).split("\n")[0]
        return shown if "." in (shown[0], shown[1]) and not shown[-1].isdigit() else value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**31:
        return str(value)
    return value


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("utf-8", "replace")))
def test_any_text_is_yaml_or_is_refused_by_name(text: str) -> None:
    try:
        read_yaml(text)
    except BadYaml as problem:
        assert str(problem)


def test_damaged_copies_of_a_real_step_are_never_an_exception(tmp_path: Path) -> None:
    """Bytes flipped and files cut short, as a dying disk leaves them."""
    chance = random.Random(7)
    config = yaml.safe_dump(
        {
            "policy": {"model_name": "a/b"},
            "grpo": {"x": [1, 2]},
            "checkpointing": {},
            "data": {"train": {"data_path": "/d"}},
        }
    ).encode()
    info = json.dumps({"total_steps": 5, "val:accuracy": 0.5}).encode()
    step = tmp_path / "step_5"
    step.mkdir()
    for _ in range(300):
        for name, whole in (("config.yaml", config), ("training_info.json", info)):
            data = bytearray(whole[: chance.randrange(len(whole) + 1)])
            for _ in range(chance.randrange(4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            (step / name).write_bytes(data)
        history = read_history(step, "checkpoint_megatron")
        assert history is None or json.dumps(history.as_dict(), allow_nan=False)
