"""Prompt rows for NeMo-Gym out of chats, preferences, questions, and rows that are such already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact
from nemotron.data.prompts import PromptRows, prompt_work
from nemotron.data.rowwise import Split, convert_files

Row = dict[str, Any]
SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "2+2?"}
SAY = {"role": "assistant", "content": "4"}


def converted(tmp_path: Path, rows: list[Row], share: float = 0.0, **options: Any) -> tuple[list[Row], Row]:
    """The prompt rows that rows in a file become, and the report."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {"rows": tmp_path / "prompts.jsonl"} | ({"validation": tmp_path / "v.jsonl"} if share else {})
    split = Split(share, 0, one_per_prompt=True)
    report = convert_files(str(path), prompt_work(PromptRows(**options)), places, split=split, workers=1)
    assert check_artifact(places["rows"], "prompt_jsonl").ok
    return [json.loads(line) for line in places["rows"].read_text().splitlines()], report


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, SAY]},
        {"messages": [ASK]},
        {"prompt": "2+2?"},
        {"prompt": [ASK]},
        {"question": "2+2?"},
        {"problem": "2+2?"},
        {"input": "2+2?", "output": "4"},
        {"context": [ASK], "completions": [{"rank": 0, "completion": [SAY]}]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    ],
    ids=lambda row: "-".join(row),
)
def test_whatever_asks_becomes_a_request_and_answers_are_left_behind(tmp_path: Path, row: Row) -> None:
    found, _ = converted(tmp_path, [row], agent="math_simple_agent")
    agent = {"type": "responses_api_agents", "name": "math_simple_agent"}
    assert found == [{"responses_create_params": {"input": [ASK]}, "agent_ref": agent}]


def test_a_chat_is_asked_up_to_its_last_question(tmp_path: Path) -> None:
    row = {
        "messages": [
            SYSTEM,
            ASK,
            SAY,
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes"},
        ]
    }
    found, _ = converted(tmp_path, [row], answer_from_chat=True)
    assert found[0]["responses_create_params"]["input"] == row["messages"][:4]
    assert found[0]["expected_answer"] == "Yes"


def test_calls_and_results_in_the_history_become_items_with_their_ids(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2.50}'}}
    tool = {"type": "function", "function": {"name": "add", "description": "Adds."}}
    messages = [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]},
        SAY,
    ]
    found, _ = converted(tmp_path, [{"messages": messages, "tools": [tool]}])
    params = found[0]["responses_create_params"]
    assert params["input"] == [
        ASK,
        {"type": "function_call", "name": "add", "arguments": '{"a": 2.50}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "4"},
        {"role": "user", "content": "And now?"},
    ]
    assert params["tools"] == [
        {
            "type": "function",
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        }
    ]
    loose = {"messages": [*messages[:1], {"role": "tool", "content": "4"}, *messages[3:]]}
    _, report = converted(tmp_path, [loose, {"prompt": "q"}])
    assert list(report["left_out"]) == ["no_call_id"]


def test_images_are_asked_in_the_notation_of_requests(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]}
    found, _ = converted(tmp_path, [row])
    assert found[0]["responses_create_params"]["input"][0]["content"] == [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
    ]


def test_a_row_that_is_one_already_keeps_everything_but_nulls_that_are_refused(tmp_path: Path) -> None:
    params = {"input": "2+2?", "temperature": 0.60, "tool_choice": None, "instructions": "x"}
    row = {"responses_create_params": params, "agent_ref": {"name": "mine"}, "expected_answer": 4, "n": 1.0}
    found, report = converted(tmp_path, [row], agent="other")
    del params["tool_choice"]
    assert json.dumps(found[0], sort_keys=True) == json.dumps(row, sort_keys=True)
    assert report["notes"] == {"tool_choice taken out, as null": 1}


def test_a_parameter_that_the_environment_refuses_leaves_the_row_out(tmp_path: Path) -> None:
    bad = {"responses_create_params": {"input": "q", "max_tokens": 5}}
    found, report = converted(tmp_path, [bad, {"prompt": "q"}])
    assert len(found) == 1
    left = report["left_out"]["unknown_parameter"]
    assert left["rows"] == 1 and "max_tokens" in left["examples"][0]["what"]


def test_answers_systems_and_columns_are_those_of_the_config(tmp_path: Path) -> None:
    rows = [
        {"q": "2+2?", "a": 4, "level": 1, "junk": "x"},
        {"q": "3+3?", "level": 2},
        {"q": [SYSTEM, {"role": "user", "content": "5?"}], "a": 5},
    ]
    options = {"prompt_key": "q", "answer_key": "a", "system_prompt": "Count.", "keep": ("level",)}
    found, report = converted(tmp_path, rows, **options)
    asked = [{"role": "system", "content": "Count."}, ASK]
    assert found[0] == {"responses_create_params": {"input": asked}, "level": 1, "expected_answer": 4}
    assert found[1]["responses_create_params"]["input"][0] == SYSTEM
    assert list(report["left_out"]) == ["missing_field"]


def test_a_system_column_becomes_the_first_message(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2+2?", "sys": "Be kind."},
        {"prompt": [SYSTEM, ASK], "sys": "Else."},
        {"prompt": "q", "sys": ""},
    ]
    found, report = converted(tmp_path, rows, system_key="sys", system_prompt="Count.")
    assert [row["responses_create_params"]["input"][0] for row in found] == [
        SYSTEM,
        {"role": "system", "content": "Count."},
    ]
    assert found[0].keys() == {"responses_create_params"}
    assert list(report["left_out"]) == ["two_systems"]


def test_a_judge_sees_no_prompt_twice_unless_by_another_principle(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q"},
        {"prompt": "q", "id": 2},
        {"prompt": "q", "principle": "be brief"},
        {"question": "q"},
    ]
    found, report = converted(tmp_path, rows)
    assert [row.get("principle") for row in found] == [None, "be brief"]
    assert report["left_out"]["duplicate_prompt"]["rows"] == 2


def test_a_share_is_held_out(tmp_path: Path) -> None:
    _, report = converted(tmp_path, [{"prompt": f"{n}?"} for n in range(300)], share=0.2)
    assert report["outputs"]["rows"] + report["outputs"]["validation"] == 300
    assert 30 < report["outputs"]["validation"] < 90


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [SYSTEM, SAY]}, "no_prompt"),
        ({"messages": "x"}, "missing_field"),
        ({"answer": "x"}, "missing_field"),
        ({"prompt": "  "}, "empty_text"),
        ({"responses_create_params": []}, "wrong_type"),
        ({"responses_create_params": {}}, "missing_field"),
        ({"messages": [{"role": "narrator", "content": "x"}, ASK]}, "role"),
        ({"messages": [{"content": "x"}, ASK]}, "malformed_message"),
    ],
    ids=str,
)
def test_a_row_that_asks_nothing_is_left_out_with_its_reason(tmp_path: Path, row: Row, reason: str) -> None:
    _, report = converted(tmp_path, [row, {"prompt": "q"}])
    assert list(report["left_out"]) == [reason]
