from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_rows import CHAT, CHOSEN_CHATS, RANKED, REQUEST, ROLLOUT, changed, jsonl

from nemotron.artifacts.checks import Checked, check_artifact

ARGUMENTS = "messages.2.tool_calls.0.function.arguments"
NAME = "messages.2.tool_calls.0.function.name"


def checked(directory: Path, rows: list[Any], kind: str = "training_jsonl") -> Checked:
    path = directory / "rows.jsonl"
    path.write_bytes(jsonl(*rows))
    return check_artifact(path, kind)


def found(result: Checked) -> list[tuple[str, str, int]]:
    return [(f.id, f.severity, int((f.where or "0").rpartition(":")[2])) for f in result.findings]


def nested(name: str = "add", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def flat(name: str = "add", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": parameters}


def calling(tools: Any, arguments: Any = "{}", name: str = "add") -> dict[str, Any]:
    return changed(changed(changed(CHAT, "tools", tools), ARGUMENTS, arguments), NAME, name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{'a': 2}", "not JSON"),
        ('{"a": 2', "not JSON"),
        ("", "is empty"),
        (" ", "is empty"),
        ("[2, 2]", "a list in a string"),
        ('"a"', "a string in a string"),
        ('{"a": 2} {}', "something follows"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_arguments_that_are_no_json_object_are_an_error(tmp_path: Path, arguments: str, says: str) -> None:
    result = checked(tmp_path, [CHAT, changed(CHAT, ARGUMENTS, arguments), CHAT])
    assert found(result) == [("data.tool_arguments", "error", 2)]
    assert says in result.findings[0].message
    assert "messages[2].tool_calls[0].function.arguments" in result.findings[0].message


@pytest.mark.parametrize("arguments", ["{}", ' {"a": {"b": [1]}}\n', {"a": 2}, None])
def test_arguments_that_are_an_object_are_fine(tmp_path: Path, arguments: Any) -> None:
    rows = [calling([nested()], arguments)] if arguments is not None else [changed(CHAT, ARGUMENTS)]
    assert found(checked(tmp_path, rows)) == []


def test_the_arguments_that_a_model_generated_are_its_own_mistake(tmp_path: Path) -> None:
    call = {"type": "function_call", "name": "add", "arguments": "{", "call_id": "c"}
    row = changed(changed(ROLLOUT, "response.output.0", call), "responses_create_params.tools", [flat()])
    assert found(checked(tmp_path, [row], "rollout_jsonl")) == [("data.tool_arguments", "warning", 1)]
    prompt = changed(REQUEST, "responses_create_params.input.2.arguments", "{")
    assert found(checked(tmp_path, [prompt], "prompt_jsonl")) == [("data.tool_arguments", "error", 1)]


def test_calls_of_tools_that_rows_do_not_declare_are_one_warning(tmp_path: Path) -> None:
    rows = [calling([nested("sub"), nested("mul")]), changed(CHAT, "tools"), calling([flat()], name="sub")]
    result = checked(tmp_path, rows)
    (finding,) = [f for f in result.findings if f.id == "data.undeclared_tool"]
    assert (finding.severity, finding.where) == ("warning", f"{tmp_path / 'rows.jsonl'}:1")
    assert finding.message.startswith("3 calls in 3 rows are of tools without a definition; the first: ")
    assert "'add', which the row does not declare" in finding.message
    assert finding.valid == "'mul', 'sub'"
    (finding,) = checked(tmp_path, [changed(CHAT, "tools")]).findings
    assert finding.message.startswith("messages[2].tool_calls[0].function calls 'add'")
    assert "declares no tools" in finding.message


def test_tools_that_only_the_response_tells_are_declared(tmp_path: Path) -> None:
    call = {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c"}
    row = changed(changed(ROLLOUT, "response.output.0", call), "response.tools", [flat()])
    assert found(checked(tmp_path, [row], "rollout_jsonl")) == []
    asked = changed(row, "responses_create_params.tools", [])
    assert found(checked(tmp_path, [asked], "rollout_jsonl")) == []
    other = changed(row, "responses_create_params.tools", [flat("sub")])
    assert found(checked(tmp_path, [other], "rollout_jsonl")) == [("data.undeclared_tool", "warning", 1)]


def test_a_prompt_among_rollouts_is_a_warning(tmp_path: Path) -> None:
    prompt = changed(changed(ROLLOUT, "response"), "reward")
    result = checked(tmp_path, [ROLLOUT, prompt], "rollout_jsonl")
    assert found(result) == [("data.no_response", "warning", 2)]
    assert result.ok


def test_calls_in_every_kind_of_row_are_seen(tmp_path: Path) -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "gone", "arguments": "{"}}],
    }
    both = {"data.tool_arguments": 1, "data.undeclared_tool": 1}
    for kind, row in (
        ("preference_jsonl", changed(RANKED, "completions.0.completion.0", message)),
        ("preference_jsonl", changed(CHOSEN_CHATS, "chosen.0", message)),
        ("prompt_jsonl", {"messages": [CHAT["messages"][1], message, CHAT["messages"][1]]}),
    ):
        assert checked(tmp_path, [row], kind).facts["findings"] == both
    call = {"type": "function_call", "name": "gone", "arguments": "{"}
    lists = {"response": {"output": [[call], [call, call]]}, "reward": 1}
    twice = {"data.tool_arguments": 2, "data.undeclared_tool": 1}
    assert checked(tmp_path, [lists], "rollout_jsonl").facts["findings"] == twice


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        (["add"], "data.wrong_type"),
        ([{"type": "function", "function": "add"}], "data.wrong_type"),
        ([{"type": "function", "function": {}}], "data.missing_field"),
        ([{"type": "function", "name": 1}], "data.missing_field"),
    ],
)
def test_a_tool_definition_without_a_name_is_an_error(tmp_path: Path, tools: Any, problem: str) -> None:
    row = {**changed(CHAT, "tools", tools), "messages": [CHAT["messages"][1], CHAT["messages"][4]]}
    assert found(checked(tmp_path, [row, row])) == [(problem, "error", 1), (problem, "error", 2)]


def test_a_tool_of_the_server_needs_no_name(tmp_path: Path) -> None:
    row = {"messages": [CHAT["messages"][1], CHAT["messages"][4]], "tools": [{"type": "web_search"}]}
    assert found(checked(tmp_path, [row])) == []


def test_one_tool_with_several_schemas_is_a_warning_in_every_row_that_differs(tmp_path: Path) -> None:
    one, other = nested(required=["a"]), nested(required=["b"])
    rows = [calling([one]), calling([nested("mul"), one]), calling([other]), calling([one]), calling([other])]
    result = checked(tmp_path, rows)
    assert found(result) == [("data.tool_schemas", "warning", 3), ("data.tool_schemas", "warning", 5)]
    assert "'add' are not those it has in line 1" in result.findings[0].message
    assert result.facts["findings"] == {"data.tool_schemas": 2}


def test_the_order_of_keys_is_no_difference(tmp_path: Path) -> None:
    one = calling([nested(type="object", required=["a"])])
    other = calling([nested(required=["a"], type="object")])
    assert found(checked(tmp_path, [one, other])) == []


def test_flat_and_nested_definitions_in_one_file_are_a_warning(tmp_path: Path) -> None:
    result = checked(tmp_path, [calling([nested()]), calling([flat()]), calling([nested(), flat("sub")])])
    assert found(result) == [
        ("data.mixed_tool_styles", "warning", 2),
        ("data.mixed_tool_styles", "warning", 3),
    ]
    assert "tools[0] is flat, those in line 1 are nested" in result.findings[0].message


def test_values_of_several_json_types_are_a_warning(tmp_path: Path) -> None:
    def row(default: Any) -> dict[str, Any]:
        return calling([nested(f"f{json.dumps(default)}", properties={"a": {"default": default}})], "{}")

    rows = [row(1), row(2.5), row(None), row("1"), row([1])]
    names = [calling(r["tools"], "{}", r["tools"][0]["function"]["name"]) for r in rows]
    result = checked(tmp_path, names)
    assert found(result) == [
        ("data.mixed_value_types", "warning", 4),
        ("data.mixed_value_types", "warning", 5),
    ]
    assert "parameters.properties.a.default is a string, a number in line 1" in result.findings[0].message


def test_arguments_of_several_json_types_are_a_warning(tmp_path: Path) -> None:
    tools = [nested()]
    rows = [calling(tools, {"a": 1}), calling(tools, {"a": "1"}), calling(tools, '{"a": 1}')]
    result = checked(tmp_path, rows)
    assert found(result) == [("data.mixed_value_types", "warning", line) for line in (2, 3)]
    assert "arguments of add.a is a string, a number in line 1" in result.findings[0].message
    assert "arguments of add is a string, an object in line 1" in result.findings[1].message


ASK, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM, RESULT = {"role": "system", "content": "Be brief."}, {"role": "tool", "content": "4"}


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([ASK, ASK, ANSWER], 1),
        ([ASK, ANSWER, ANSWER], 2),
        ([ANSWER], 0),
        ([SYSTEM, ANSWER], 1),
        ([SYSTEM, SYSTEM, ASK, ANSWER], 1),
        ([ASK, SYSTEM, ANSWER], 1),
        ([ASK, RESULT, ANSWER], 1),
    ],
)
def test_roles_that_do_not_alternate_are_a_warning(
    tmp_path: Path, messages: list[dict[str, str]], place: int
) -> None:
    result = checked(tmp_path, [{"messages": [ASK, ANSWER]}, {"messages": messages}])
    assert ("data.roles", "warning", 2) in found(result)
    assert f"messages[{place}] has the role" in result.findings[0].message
    assert result.ok


def test_roles_in_turn_are_fine(tmp_path: Path) -> None:
    chat = [SYSTEM, ASK, ANSWER, ASK, {**ANSWER, "tool_calls": []}, RESULT, RESULT, ANSWER]
    assert found(checked(tmp_path, [{"messages": chat}])) == []
    assert found(checked(tmp_path, [RANKED, CHOSEN_CHATS], "preference_jsonl"))[0][0] == "data.mixed_shapes"


def test_a_prompt_with_two_questions_in_a_row_is_a_warning(tmp_path: Path) -> None:
    row = {"responses_create_params": {"input": [ASK, ASK]}}
    assert found(checked(tmp_path, [row], "prompt_jsonl")) == [("data.roles", "warning", 1)]


@pytest.mark.parametrize(
    "answer",
    [
        {"content": ""},
        {"content": " \n"},
        {"content": [{"type": "text", "text": " "}]},
        {"content": []},
    ],
)
def test_an_empty_answer_is_a_warning_wherever_it_stands(tmp_path: Path, answer: dict[str, Any]) -> None:
    empty = {"role": "assistant", **answer}
    for messages in ([ASK, empty], [ASK, empty, ASK, ANSWER]):
        assert found(checked(tmp_path, [{"messages": messages}])) == [("data.empty_answer", "warning", 1)]
    thought = {**empty, "reasoning_content": "2+2 is 4"}
    assert found(checked(tmp_path, [{"messages": [ASK, thought]}])) == []
    row = changed(RANKED, "completions.1.completion.0", empty)
    assert found(checked(tmp_path, [row], "preference_jsonl")) == [("data.empty_answer", "warning", 1)]


@pytest.mark.parametrize(
    "output",
    [
        [],
        [{"type": "reasoning", "summary": []}],
        [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": " "}]}],
        [{"type": "message", "role": "user", "content": "2+2?"}],
        [[{"role": "assistant", "content": "4"}], []],
    ],
)
def test_a_rollout_without_an_answer_is_a_warning(tmp_path: Path, output: list[Any]) -> None:
    row = changed(ROLLOUT, "response.output", output)
    assert found(checked(tmp_path, [row], "rollout_jsonl")) == [("data.empty_answer", "warning", 1)]
