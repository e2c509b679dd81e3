"""Which artifact an input port gets, and what is said when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.preflight import blocking
from nemotron.planning.request import Request

ALIAS = "env.nemo_gym.genrm_model.responses_api_models.vllm_model.model"
JUDGE = "env.nemo_gym.genrm_model.responses_api_models.genrm_model.model"
Rows = Callable[..., Path]


def count(*overrides: str, config: str | None = None, engine: str | None = None, **inputs: str) -> Plan:
    return plan_step(Request("use/count", config, overrides, inputs, engine))


def rlhf(*overrides: str, config: str = "tiny", **inputs: str) -> Plan:
    return plan_step(Request("rl/nemo_rl/rlhf", config, overrides, inputs))


def dpo(**inputs: str) -> Plan:
    return plan_step(Request("rl/nemo_rl/dpo", "tiny", (), inputs))


def port(plan: Plan, name: str) -> PlannedInput:
    return next(i for i in plan.inputs if i.port == name)


def user_config(world: Any, name: str, text: str) -> str:
    """A config of the user's own over the step's default."""
    path: Path = world.work / name
    path.write_text(f"defaults: {world.catalog}/use/count/config/default.yaml\n{text}", encoding="utf-8")
    return f"./{name}"


def test_an_input_is_bound_by_port_or_by_key(world: Any, write_rows: Rows) -> None:
    path = write_rows("chat.jsonl", "training_jsonl", 5)
    by_port, by_key = count(rows=str(path)), count(f"rows_path={path}")
    assert by_port.recipe == by_key.recipe
    assert port(by_port, "rows").path == str(path)
    assert port(by_port, "rows").facts["rows"] == 5
    assert by_port.recipe.config["rows_path"] == "in://rows"


def test_giving_port_and_key_is_an_error(world: Any, write_rows: Rows) -> None:
    path = write_rows("chat.jsonl", "training_jsonl")
    for overrides, inputs in (
        ((f"rows_path={path}",), {"rows": str(path)}),
        ((f"rows_path={path}", f"+inputs.rows={path}"), {}),
    ):
        with pytest.raises(UsageError, match="name the same input"):
            count(*overrides, **inputs)


def test_the_command_line_wins_over_the_config(world: Any, write_rows: Rows) -> None:
    path = write_rows("chat.jsonl", "training_jsonl", 7)
    for plan in (
        count(config="built", rows=str(path)),
        count(f"rows_path={path}", config="built"),
        count(f"inputs.rows={path}", config="built"),
    ):
        assert port(plan, "rows").facts["rows"] == 7
        assert plan.builds == ()


def test_of_two_files_the_later_one_names_the_input(world: Any, write_rows: Rows) -> None:
    """`inputs:` and the key are one thing; the file that is read later decides, whichever it uses."""
    early, late = (
        write_rows("early.jsonl", "training_jsonl", 1),
        write_rows("late.jsonl", "training_jsonl", 2),
    )
    first = user_config(world, "first.yaml", f"inputs: {{rows: {early}}}\n")
    (world.work / "second.yaml").write_text(f"defaults: first.yaml\nrows_path: {late}\n")
    (world.work / "third.yaml").write_text(f"defaults: second.yaml\ninputs: {{rows: {early}}}\n")
    assert port(count(config=first), "rows").facts["rows"] == 1
    assert port(count(config="./second.yaml"), "rows").facts["rows"] == 2
    assert port(count(config="./third.yaml"), "rows").facts["rows"] == 1


def test_an_unknown_port_gets_the_nearest(world: Any) -> None:
    with pytest.raises(UsageError) as caught:
        count(rosw="x")
    assert caught.value.nearest == ("rows",)
    assert caught.value.valid == ("rows", "prompts")
    config = user_config(world, "c.yaml", "inputs: {promts: x}\n")
    with pytest.raises(UsageError) as caught:
        count(config=config)
    assert caught.value.nearest[0] == "prompts"
    assert "c.yaml:2" in (caught.value.where or "")


@pytest.mark.parametrize(
    "text", ["inputs: rows.jsonl", "inputs: [rows.jsonl]", "inputs: {rows: 5}", "inputs: {rows: [a]}"]
)
def test_inputs_of_the_wrong_shape_are_refused_not_ignored(world: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        count(config=user_config(world, "c.yaml", text + "\n"))
    assert "c.yaml:2" in (caught.value.where or "")


@pytest.mark.parametrize("text", ["inputs:", "inputs: {}", "inputs: {rows: null}", "rows_path: null"])
def test_a_required_port_that_nothing_names_is_unbound(world: Any, text: str) -> None:
    plan = count(config=user_config(world, "c.yaml", text + "\n"))
    assert port(plan, "rows").state == "unbound"
    (finding,) = plan.findings
    assert (finding.id, finding.severity, finding.where) == ("input.unbound", "warning", "rows_path")
    assert "make/rows" in (finding.valid or "")
    assert "data_prep/scratch" in (finding.valid or "")
    assert finding.fix is not None
    assert "rows=step://make/rows?config=default" in finding.fix, "as one of its configs has it"
    assert blocking(plan) == (finding,)


def test_a_broken_config_beside_the_one_that_is_used_does_no_harm(world: Any) -> None:
    (world.catalog / "use/count/config/a_broken_one.yaml").write_text("a: [\n")
    assert [f.id for f in count().findings] == ["input.unbound"]


def test_an_optional_port_may_stay_unbound(world: Any, write_rows: Rows) -> None:
    rows = str(write_rows("chat.jsonl", "training_jsonl"))
    assert [i.port for i in count(rows=rows).inputs] == ["rows"]
    both = count(rows=rows, prompts=str(write_rows("p.jsonl", "prompt_jsonl")))
    assert [i.port for i in both.inputs] == ["rows", "prompts"]
    assert both.recipe.config["prompts_path"] == "in://prompts"


def test_keys_that_refer_to_an_input_follow_it(world: Any, write_rows: Rows) -> None:
    config = user_config(world, "c.yaml", "name: ${rows_path}\nindex: ${rows_path}.idx\n")
    plan = count(config=config, rows=str(write_rows("chat.jsonl", "training_jsonl")))
    assert plan.recipe.config["name"] == "in://rows"
    assert plan.recipe.config["index"] == "in://rows.idx"


def test_the_documented_name_of_the_judge_is_an_alias(world: Any) -> None:
    judge = "step://rm/nemo_rl?config=tiny_bradley_terry"
    assert rlhf(f"{ALIAS}={judge}").as_dict() == rlhf(f"{JUDGE}={judge}").as_dict()
    assert port(rlhf(f"{ALIAS}={judge}"), "reward_model").reference == f"{judge}"
    for overrides, inputs in (
        ((f"{ALIAS}=a/b", f"{JUDGE}=a/b"), {}),
        ((f"{ALIAS}=a/b",), {"reward_model": "a/b"}),
    ):
        with pytest.raises(UsageError):
            rlhf(*overrides, **inputs)


def test_the_judges_variable_sets_the_judge(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert port(rlhf(config="default"), "reward_model").reference == "hf://meta-llama/Llama-3.2-1B-Instruct"
    monkeypatch.setenv("RL_REWARD_MODEL", "org/judge@v2")
    assert port(rlhf(config="default"), "reward_model").reference == "hf://org/judge@v2"
    given = rlhf(config="default", reward_model="hf://org/other")
    assert port(given, "reward_model").reference == "hf://org/other", "-i wins over the variable"


def test_a_bare_hub_id_is_meant_on_model_ports_only(world: Any, write_rows: Rows) -> None:
    assert port(dpo(policy="org/model"), "policy").reference == "hf://org/model"
    assert port(dpo(policy="org/model"), "policy").state == "late"
    plan = count(rows="org/rows")
    assert port(plan, "rows").reference == str(world.work / "org/rows")
    assert [f.id for f in plan.findings] == ["input.not_found"]


def test_a_directory_of_that_name_wins_over_the_hub(world: Any, write_model: Callable[..., Path]) -> None:
    made = write_model("work/org/model")
    assert port(dpo(policy="org/model"), "policy").path == str(made)


def test_a_step_reference_plans_what_it_needs_once_and_in_order(world: Any) -> None:
    plan = rlhf()
    keys = [key for key, _ in plan.builds]
    assert keys == [
        "step://data_prep/scratch?config=tiny",
        "step://model/scratch?config=tiny",
        "step://sft/nemo_rl?config=tiny",
        port(plan, "policy").build,
        "step://rm/nemo_rl?config=tiny",
    ]
    assert port(plan, "prompts").build == port(plan, "validation").build == keys[0]
    assert (port(plan, "prompts").output, port(plan, "validation").output) == ("prompts", "prompts_held_out")
    assert all(p.builds == () for _, p in plan.builds)


def test_a_step_reference_takes_overrides_and_an_engine(world: Any) -> None:
    plan = count(rows="step://make/rows?rows=5&text=a%26b&engine=script")
    ((key, build),) = plan.builds
    assert (build.recipe.config["rows"], build.recipe.config["text"]) == (5, "a&b")
    assert key == port(plan, "rows").build


def test_an_output_is_chosen_by_type_and_by_name(world: Any) -> None:
    with pytest.raises(UsageError) as several:
        count(rows="step://data_prep/scratch?config=tiny")
    assert several.value.valid == ("chat", "chat_held_out")
    assert "output=" in (several.value.next or "")
    plan = count(rows="step://data_prep/scratch?config=tiny&output=chat_held_out")
    assert port(plan, "rows").output == "chat_held_out"
    with pytest.raises(NotFound) as unknown:
        count(rows="step://data_prep/scratch?config=tiny&output=chats")
    assert unknown.value.nearest[0] == "chat"
    assert "preferences" in unknown.value.valid
    assert "rows" in unknown.value.render(), "the input at fault is named"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"prompts": "step://data_prep/scratch?config=tiny&output=preferences"}, "preference_jsonl"),
        ({"prompts": "step://sft/nemo_rl?config=tiny"}, "makes nothing that input prompts takes"),
        ({"policy": "step://data_prep/scratch?config=tiny"}, "makes nothing that input policy takes"),
    ],
)
def test_an_output_of_the_wrong_type_is_refused(world: Any, inputs: dict[str, str], said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        rlhf(**inputs)


def test_a_reward_model_may_stand_in_for_a_model(world: Any) -> None:
    """reward_model_hf is_a checkpoint_hf, and not the other way round."""
    assert port(dpo(policy="step://rm/nemo_rl?config=tiny"), "policy").type == "reward_model_hf"
    with pytest.raises(CheckFailed, match="makes nothing that input reward_model takes"):
        rlhf(reward_model="step://sft/nemo_rl?config=tiny")


def test_steps_that_build_each_other_are_refused(world: Any) -> None:
    toml = """
        [step]
        id = "{id}"
        description = "Turns."
        [[consumes]]
        name = "rows"
        type = "training_jsonl"
        config = "rows_path"
        [[produces]]
        name = "rows"
        type = "training_jsonl"
        config = "output"
        [run]
        engines = ["script"]
    """
    for here, there in (("turn/a", "turn/b"), ("turn/b", "turn/a"), ("turn/self", "turn/self")):
        text = f"inputs: {{rows: 'step://{there}?config=default'}}\nrows_path: ???\noutput: o\n"
        world.add_step(here, toml, configs={"default": text})
    for step in ("turn/a", "turn/b", "turn/self"):
        with pytest.raises(CheckFailed, match="build each other") as caught:
            plan_step(Request(step))
        assert "default.yaml:1" in (caught.value.where or "")


def test_a_missing_path_is_a_finding_that_stops_a_launch(world: Any) -> None:
    plan = count(rows="nowhere/chat.jsonl")
    assert port(plan, "rows").state == "missing"
    (finding,) = plan.findings
    assert (finding.id, finding.severity) == ("input.not_found", "error")
    assert str(world.work / "nowhere/chat.jsonl") in finding.message
    assert finding.where == "-i rows"


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b'{"messages": [\n', "data.broken_json"),
        (b"", "artifact.empty"),
        (b"\x00\x01\x02\xff" * 200, ""),
        (b'{"text": "no messages"}\n' * 3, ""),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3, ""),
    ],
    ids=["broken", "empty", "binary", "field", "preferences"],
)
def test_a_file_that_is_no_chat_data_is_refused(world: Any, content: bytes, finding: str) -> None:
    path = world.work / "chat.jsonl"
    path.write_bytes(content)
    plan = count(rows=str(path))
    stops = blocking(plan)
    assert stops
    assert all("chat.jsonl" in (f.where or "") for f in stops)
    assert port(plan, "rows").digest is None
    if finding:
        assert finding in {f.id for f in stops}


def test_a_model_without_weights_is_refused(world: Any, write_model: Callable[..., Path]) -> None:
    plan = dpo(policy=str(write_model("bare", weights=False)))
    assert blocking(plan)
    assert port(plan, "policy").state == "missing"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("step:/make/rows", UsageError),
        ("stpe://make/rows", UsageError),
        ("step://make/rosw", NotFound),
        ("step://make/rows?config=nothing", NotFound),
        ("step://make/rows?lr=2&rosw=3", UsageError),
        ("step://make/rows?engine=embedded", UsageError),
        ("run://nothing", NotFound),
        ("art://chat:v3", NotFound),
    ],
)
def test_a_reference_that_leads_nowhere_says_which_input_it_was(
    world: Any, text: str, kind: type[NemotronError]
) -> None:
    with pytest.raises(kind) as caught:
        count(rows=text)
    said = caught.value.render()
    assert "rows" in said
    assert "-i rows" in said or "input rows" in said


def test_waiving_what_a_check_found_lets_the_input_in(world: Any) -> None:
    path = world.work / "chat.jsonl"
    path.write_text('{"messages": [\n', encoding="utf-8")
    ids = {f.id for f in count(rows=str(path)).findings if f.severity == "error"}
    plan = plan_step(Request("use/count", inputs={"rows": str(path)}, waived=tuple(ids)))
    assert blocking(plan) == ()
    assert plan.recipe_digest is not None, "what is let in is pinned as anything else"
    assert {f.id for f in plan.findings if f.message.startswith("waived")} == ids
    with pytest.raises(NotFound, match="nothing to waive"):
        plan_step(Request("use/count", inputs={"rows": str(path)}, waived=("data.brokn",)))


def test_a_file_of_another_type_is_refused_on_its_port(
    world: Any, write_rows: Rows, write_model: Callable[..., Path]
) -> None:
    preferences = str(write_rows("preferences.jsonl", "preference_jsonl"))
    chat = str(write_rows("chat.jsonl", "training_jsonl"))
    for inputs in (
        {"prompts": preferences},
        {"prompts": chat, "validation": preferences},
        {"policy": preferences},
        {"reward_model": chat},
        {"prompts": str(write_model("model"))},
    ):
        assert blocking(rlhf(**inputs)), inputs
    judge = rlhf(reward_model=str(write_model("judge", head=True)))
    assert port(judge, "reward_model").state == "pinned"
    assert port(judge, "reward_model").type == "reward_model_hf"
