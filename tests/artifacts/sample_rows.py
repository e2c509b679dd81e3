"""Small representative rows of every row type, written here after the shape of real ones."""

from __future__ import annotations

import json
from typing import Any

CHAT: dict[str, Any] = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "2+2?"}, {"type": "image", "image": "a.png"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": "4"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
}
PAIR = {"input": "2+2?", "output": "4"}
RANKED = {
    "context": [{"role": "user", "content": "2+2?"}],
    "completions": [
        {"rank": 0, "completion": [{"role": "assistant", "content": "4"}]},
        {"rank": 1, "completion": [{"role": "assistant", "content": "5"}]},
    ],
}
CHOSEN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
CHOSEN_CHATS = {
    "prompt": [{"role": "user", "content": "2+2?"}],
    "chosen": [{"role": "assistant", "content": "4"}],
    "rejected": [{"role": "assistant", "content": "5"}],
}
REQUEST = {
    "responses_create_params": {
        "input": [
            {"role": "system", "content": "Use the tools."},
            {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}], "type": "message"},
            {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "4"},
            {"type": "reasoning", "summary": []},
        ],
        "tools": [{"type": "function", "name": "add", "parameters": {}, "strict": True}],
        "parallel_tool_calls": True,
    },
    "agent_ref": {"type": "responses_api_agents", "name": "simple_agent"},
    "expected_answer": "4",
}
TEXT_REQUEST = {"responses_create_params": {"input": "2+2?"}}
ROLLOUT = {
    "responses_create_params": {"input": [{"role": "user", "content": "2+2?"}], "tool_choice": None},
    "response": {
        "id": "r1",
        "object": "response",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Add."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
        ],
    },
    "reward": -1,
    "_ng_task_index": 0,
}
LISTS_ROLLOUT = {
    "response": {
        "output": [
            [{"role": "user", "content": "2+2?"}],
            [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
        ]
    },
    "reward": 2.5,
}

GOOD: dict[str, list[dict[str, Any]]] = {
    "training_jsonl": [CHAT, PAIR],
    "prompt_jsonl": [
        REQUEST,
        TEXT_REQUEST,
        {"prompt": "2+2?"},
        {"prompt": [{"role": "user", "content": "2+2?"}]},
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "2+2?"}]},
        {"input": "2+2?"},
    ],
    "preference_jsonl": [RANKED, CHOSEN, CHOSEN_CHATS],
    "rollout_jsonl": [ROLLOUT, LISTS_ROLLOUT, {"responses_create_params": {}, "reward": 0.5}],
}


def jsonl(*rows: Any) -> bytes:
    """The rows as the bytes of a file."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def changed(row: dict[str, Any], key: str, value: Any = ...) -> dict[str, Any]:
    """A copy of `row` with the dotted `key` set, or removed without a value; list positions are numbers."""
    made = json.loads(json.dumps(row))
    *way, last = (int(part) if part.isdigit() else part for part in key.split("."))
    place = made
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made
