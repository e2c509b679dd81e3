"""Rollouts into the canonical conversation and back: nothing is lost, whatever a row holds."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from rollout_samples import (
    REAL_FILES,
    Row,
    call,
    real_rows,
    result,
    rollout,
    rollouts,
    said,
    user,
)

from nemotron.data.conversation import NOTHING, Item, Message, Part, Reasoning, ToolCall, ToolResult
from nemotron.data.rollouts.items import items_from, responses_items
from nemotron.data.rollouts.rollout import Rollout, read_rollout, rollout_row
from nemotron.data.stream.rows import Rejected


def read(row: Row) -> Rollout:
    found = read_rollout(row)
    assert isinstance(found, Rollout), found
    return found


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_row_comes_back_byte_by_byte(name: str) -> None:
    for row in real_rows(name):
        assert json.dumps(rollout_row(read(row))) == json.dumps(row)


@settings(max_examples=300, deadline=None)
@given(rollouts)
def test_any_rollout_comes_back_as_it_was(row: Row) -> None:
    assert json.dumps(rollout_row(read(row))) == json.dumps(row)


def bare(item: Item) -> Item:
    """An item without what it was read from: what its typed fields say has to be enough."""
    if isinstance(item, Message):
        return item._replace(origin=NOTHING, content=bare_content(item.content))
    if isinstance(item, ToolResult):
        return item._replace(origin=NOTHING, output=bare_content(item.output))
    return item._replace(origin=NOTHING)


def bare_content(content: Any) -> Any:
    if not isinstance(content, tuple):
        return content
    return tuple(
        part._replace(origin=NOTHING) if part.text is not None and part.kind != "json" else part
        for part in content
    )


def says(item: Item) -> tuple[Any, ...]:
    """All that an item says, where it comes from aside."""

    def plain(content: Any) -> Any:
        return [part[:2] for part in content] if isinstance(content, tuple) else content

    if isinstance(item, Message):
        return ("message", item.role, plain(item.content))
    if isinstance(item, ToolCall):
        return ("call", item.name, item.arguments, item.call_id)
    if isinstance(item, ToolResult):
        return ("result", item.call_id, plain(item.output))
    assert isinstance(item, Reasoning)
    return ("reasoning", item.content, item.summary)


@settings(max_examples=300, deadline=None)
@given(rollouts)
def test_the_typed_fields_alone_say_the_same(row: Row) -> None:
    """Calls, ids, arguments, texts and roles do not hide in what an item was read from."""
    items = [item for item in read(row).conversation.items if type(item).__name__ != "Other"]
    again = items_from(responses_items([bare(item) for item in items]), "items", generated=True)
    assert not isinstance(again, Rejected), again
    assert [says(item) for item in again] == [says(item) for item in items]


def of_kind(items: list[Row], kind: str) -> list[Row]:
    return [item for item in items if item.get("type", "message") == kind]


@pytest.mark.parametrize("name", REAL_FILES)
def test_what_real_rows_say_is_in_the_typed_fields(name: str) -> None:
    for row in real_rows(name):
        request, response = row["responses_create_params"], row.get("response") or {"output": []}
        raw = response["output"]
        raw = raw[-1] if raw and isinstance(raw[0], list) else raw
        given = [] if isinstance(request["input"], str) else request["input"]
        items = read(row).conversation.items
        calls = [(i.name, i.arguments, i.call_id) for i in items if isinstance(i, ToolCall)]
        results = [(i.call_id, i.output) for i in items if isinstance(i, ToolResult)]
        thoughts = [i.summary for i in items if isinstance(i, Reasoning)]
        roles = [i.role for i in items if isinstance(i, Message)]
        of = partial(of_kind, [*given, *raw])
        assert calls == [(i["name"], i["arguments"], i["call_id"]) for i in of("function_call")]
        assert results == [(i["call_id"], i["output"]) for i in of("function_call_output")]
        assert thoughts == [tuple(p["text"] for p in i["summary"]) for i in of("reasoning")]
        assert roles[-len(of("message")) :] == [i["role"] for i in of("message")]
        tools = request.get("tools") or response.get("tools") or []
        assert [tool.as_flat() for tool in read(row).conversation.tools] == tools


def test_the_last_of_several_lists_is_the_whole_conversation() -> None:
    first, second = [user("2+2?"), call("a")], [user("2+2?"), call("a"), result("a"), said("4")]
    row = rollout(first, second, prompt=[])
    found = read(row)
    assert [type(item).__name__ for item in found.conversation.items] == [
        "Message",
        "ToolCall",
        "ToolResult",
        "Message",
    ]
    assert [item.role for item in found.prompt if isinstance(item, Message)] == ["user"]
    assert rollout_row(found) == row


def test_lists_that_do_not_go_on_from_each_other_are_refused() -> None:
    refused = read_rollout(rollout([said("3")], [user("2+2?"), said("4")]))
    assert isinstance(refused, Rejected)
    assert refused.reason == "broken_transitions"


def test_the_documented_shape_with_the_output_at_the_top_is_read_too() -> None:
    row = rollout()
    row["output"] = row.pop("response")["output"] + [said("4")]
    assert [item.content for item in read(row).conversation.items if isinstance(item, Message)][1][
        0
    ].text == "4"  # type: ignore[index]
    assert rollout_row(read(row)) == row


def test_messages_of_chat_completions_inside_the_output_become_items() -> None:
    row = rollout(
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Add.",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "4"},
    )
    items = read(row).conversation.items
    assert [says(item) for item in items[1:]] == [
        ("reasoning", ("Add.",), ()),
        ("message", "assistant", None),
        ("call", "add", "{}", "a"),
        ("result", "a", "4"),
    ]
    back = responses_items(items[2:])
    assert "tool_calls" not in back[0]
    assert back[1:] == [call("a", arguments="{}"), result("a", "4")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "not_a_rollout"),
        ({"responses_create_params": 1}, "malformed_row"),
        ({"responses_create_params": {"input": []}, "response": []}, "malformed_row"),
        (rollout(reward="1.0"), "malformed_row"),
        (rollout(reward=True), "malformed_row"),
        (rollout(prompt=7), "malformed_row"),
        (rollout(tools=7), "malformed_tools"),
        (rollout(tools=["add"]), "malformed_tools"),
        (rollout(instructions=7), "malformed_row"),
        (rollout("text"), "malformed_item"),
        (rollout([], 7), "malformed_item"),
        (rollout({"type": 7}), "malformed_item"),
        (rollout({"content": "x"}), "malformed_item"),
        (rollout({"role": "assistant", "content": 7}), "malformed_content"),
        (rollout({"role": "assistant", "content": ["x"]}), "malformed_content"),
        (rollout({"role": "assistant", "content": [{"type": "output_text"}]}), "malformed_content"),
        (rollout({"type": "function_call", "arguments": "{}"}), "malformed_call"),
        (rollout({"type": "function_call", "name": "add"}), "malformed_call"),
        (rollout({"type": "reasoning", "summary": ["x"]}), "malformed_item"),
        ({**rollout(), "_ng_failure_class": "timeout"}, "failed_rollout"),
    ],
)
def test_what_is_no_rollout_has_a_reason(row: Row, reason: str) -> None:
    found = read_rollout(row)
    assert isinstance(found, Rejected)
    assert found.reason == reason


def test_provenance_names_file_line_and_stamps() -> None:
    row = rollout(said("4"), _ng_task_index=3, _ng_rollout_index=1, agent_ref={"name": "a"})
    row["response"]["id"] = "r1"
    found = read_rollout(row, "f.jsonl", 7)
    assert isinstance(found, Rollout)
    assert found.conversation.provenance == {
        "file": "f.jsonl",
        "line": 7,
        "task_index": 3,
        "rollout_index": 1,
        "agent": "a",
        "reward": 1.0,
        "response_id": "r1",
    }


def test_parts_made_by_hand_are_written_by_the_side_that_said_them() -> None:
    items = [
        Message("user", (Part("text", "2+2?"),)),
        Message("assistant", (Part("text", "4"),)),
        Reasoning(("Add.",)),
    ]
    assert responses_items(items) == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        said("4"),
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Add."}]},
    ]
