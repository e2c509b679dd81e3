"""Where a value came from, for `--explain KEY`."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron.config.compose import compose
from nemotron.config.config import Origin
from nemotron.config.explain import explain
from nemotron.errors import NotFound


def test_every_source_in_order_with_the_winner_marked(
    chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain["base"].parent)
    config = compose(Path("config/tiny.yaml"), ["grpo.num_prompts_per_step=4"])
    expected = """\
grpo.num_prompts_per_step = 4
    base.yaml:32        16
    config/tiny.yaml:9  2
  * command line        grpo.num_prompts_per_step=4"""
    assert explain(config, "grpo.num_prompts_per_step").render() == expected


def test_an_input_names_its_port(chain: dict[str, Path]) -> None:
    config = compose(chain["tiny"]).set("policy.model_name", "/m", Origin("input", text="policy=art://m:v2"))
    found = explain(config, "policy.model_name")
    assert [source.place for source in found.sources][-1] == "-i policy"
    assert found.render().splitlines()[-1].split() == ["*", "-i", "policy", "policy=art://m:v2"]


def test_a_section_lists_the_winner_of_each_value(chain: dict[str, Path]) -> None:
    found = explain(compose(chain["tiny"], ["cluster.num_nodes=2"]), "cluster")
    assert found.value == {"gpus_per_node": 1, "num_nodes": 2}
    assert [(key, value) for key, value, _ in found.keys] == [
        ("cluster.gpus_per_node", 1),
        ("cluster.num_nodes", 2),
    ]
    assert found.keys[0][2].endswith("tiny.yaml:10")
    assert found.keys[1][2] == "command line"
    assert found.render().splitlines()[0] == "cluster: 2 values"


def test_as_json(chain: dict[str, Path]) -> None:
    found = explain(compose(chain["default"]), "cluster.num_nodes").as_dict()
    assert found["value"] == 4
    assert [source["winner"] for source in found["sources"]] == [False, True]
    assert found["sources"][1]["line"] == 5


def test_empty_sections_and_list_items_have_sources(chain: dict[str, Path]) -> None:
    config = compose(chain["tiny"])
    assert (
        explain(config, "policy.generation.vllm_kwargs")
        .render()
        .startswith("policy.generation.vllm_kwargs = {}")
    )
    assert explain(config, "policy.optimizer.kwargs.betas.-1").key == "policy.optimizer.kwargs.betas.0"


def test_an_unknown_key_names_the_nearest(chain: dict[str, Path]) -> None:
    with pytest.raises(NotFound) as caught:
        explain(compose(chain["tiny"]), "grpo.num_promts_per_step")
    assert caught.value.nearest[0] == "grpo.num_prompts_per_step"
