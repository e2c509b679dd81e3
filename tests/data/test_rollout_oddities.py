"""Rollouts as servers really send them, and some that somebody broke: lossless, or left out with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rollout_samples import Row, call, result, rollout, said

from nemotron.data.rollouts.convert import MAKES, NothingKept, convert_rollouts
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.rollouts.rollout import Rollout, read_rollout, rollout_row


def deep(row: Row, depth: int = 1010) -> bytes:
    """The row, with lists within lists for the word DEEP."""
    return json.dumps(row).encode().replace(b'"DEEP"', b"[" * depth + b"]" * depth)


SEALED = {"type": "reasoning", "summary": [], "encrypted_content": "gA==", "content": None}
LONG = b"9" * 30


def searched(kind: str) -> Row:
    return {"type": kind, "id": "x", "status": "completed", "action": {"type": "search", "query": "q"}}


# What comes in, and under which name the chat leaves it out; None where it is kept.
LOSSLESS: dict[str, tuple[Row, str | None]] = {
    "a refusal": (
        rollout({"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
        None,
    ),
    "sealed reasoning": (
        rollout(SEALED, said("4")),
        None,
    ),
    "a call without an id": (rollout(call(None), result(None), said("4")), None),
    "parts as a result": (
        rollout(call("1"), result("1", [{"type": "input_text", "text": "2"}]), said("4")),
        None,
    ),
    "an object as a result": (rollout(call("1"), result("1", {"value": 2}), said("4")), None),
    "arguments as an object": (
        rollout(call("1", arguments={"b": 1, "a": 2.0}), result("1"), said("4")),
        None,
    ),
    "several messages": (rollout(said("4"), said("four"), said("IV")), None),
    "a prompt that is a string": (rollout(said("4"), prompt="2+2?"), None),
    "keys of the environment": (rollout(said("4"), extra={"a": [1, None]}, _ng_task_index={"odd": 1}), None),
    "a web search": (rollout(searched("web_search_call"), said("4")), "unknown_item"),
    "a tool of its own kind": (
        rollout({"type": "custom_tool_call", "name": "c", "input": "x", "call_id": "1"}, said("4")),
        "unknown_item",
    ),
    "a reference": (rollout({"type": "item_reference", "id": "x"}, said("4")), "unknown_item"),
    "two calls of one id": (rollout(call("1"), call("1"), result("1"), said("4")), "duplicate_call_id"),
    "a result before its call": (rollout(result("1"), call("1"), said("4")), "result_without_call"),
}  # fmt: skip
# What is no rollout, and why.
BROKEN: dict[str, tuple[Row | bytes, str]] = {
    "a list as an id": (rollout(call(["1"]), result(["1"]), said("4")), "malformed_call"),  # type: ignore[arg-type]
    "an object as the id of a result": (rollout(result({"a": 1}), said("4")), "malformed_call"),  # type: ignore[arg-type]
    "a number as a thought": (
        rollout({"type": "reasoning", "summary": [{"type": "summary_text", "text": 5}]}, said("4")),
        "malformed_item",
    ),
    "an id of a chat message": (
        rollout({"type": "message", "role": "assistant", "content": "", "tool_calls": [
            {"id": {}, "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, said("4")),
        "malformed_call",
    ),
    "no arguments": (rollout(call("1", arguments=None), said("4")), "malformed_call"),
    "a number as content": (
        rollout({"type": "message", "role": "assistant", "content": 5}),
        "malformed_content",
    ),
    "a list as a role": (rollout({"type": "message", "role": ["a"], "content": "a"}), "malformed_item"),
    "a truth as reward": (rollout(said("4"), reward=True), "malformed_row"),
    "infinity": (b'{"reward": 1e400, "response": {"output": []}}', "invalid_json"),
    "half a character": (b'{"reward": 1, "responses_create_params": {"input": "\\ud800"}}', "invalid_json"),
    "a deep result": (deep(rollout(call("1"), result("1", "DEEP"), said("4"))), "too_deep"),
    "a deep tool": (
        deep(rollout(said("4"), tools=[{"type": "function", "name": "f", "parameters": "DEEP"}])),
        "too_deep",
    ),
    "a deep row with a long number": (
        deep(rollout(said("4"), tools=[{"name": "f", "parameters": "LONG"}], x="DEEP"), 1000)
        .replace(b'"LONG"', LONG),
        "too_deep",
    ),
}  # fmt: skip


def converted(tmp_path: Path, row: Row | bytes) -> dict[str, Any]:
    """The report of all that can be made of one row."""
    source, options = tmp_path / "rollouts.jsonl", ExportOptions(media="keep")
    source.write_bytes((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    try:
        return convert_rollouts(
            str(source), {name: tmp_path / name for name in MAKES}, options, make=MAKES
        ).as_dict()
    except NothingKept as nothing:
        nothing.report.render()
        return nothing.report.as_dict()


@pytest.mark.parametrize("name", LOSSLESS)
def test_odd_rollouts_come_back_as_they_were_and_are_kept_or_counted(tmp_path: Path, name: str) -> None:
    row, reason = LOSSLESS[name]
    found = read_rollout(row)
    assert isinstance(found, Rollout)
    assert json.dumps(rollout_row(found)) == json.dumps(row)
    chat = converted(tmp_path, row)["outputs"]["chat"]
    assert (chat["kept"], list(chat["left_out"])) == ((1, []) if reason is None else (0, [reason]))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rollouts_are_counted(tmp_path: Path, name: str) -> None:
    row, reason = BROKEN[name]
    report = converted(tmp_path, row)
    assert list(report["read"]["left_out"]) == [reason]
    assert report["rows"] == 1
