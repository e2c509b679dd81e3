"""Real rollout rows, small ones made here, and a strategy that generates any."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Row = dict[str, Any]

REAL = Path(__file__).parent / "rollouts"
REAL_FILES = sorted(path.name.removesuffix(".jsonl.gz") for path in REAL.glob("*.jsonl.gz"))


def real_rows(name: str) -> list[Row]:
    with gzip.open(REAL / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def user(text: Any) -> Row:
    return {"type": "message", "role": "user", "content": text}


def said(text: str, role: str = "assistant") -> Row:
    return {
        "type": "message",
        "role": role,
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def call(call_id: str | None, name: str = "add", arguments: Any = '{"a": 1}') -> Row:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


def result(call_id: str | None, output: Any = "2") -> Row:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(text: str) -> Row:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def rollout(*output: Any, prompt: Any = "2+2?", reward: Any = 1.0, **more: Any) -> Row:
    """A row with this output; more: keys of the request (tools, instructions) and of the row."""
    request: Row = {"input": [user(prompt)] if isinstance(prompt, str) else prompt, "tools": [ADD]}
    for key in ("tools", "instructions"):
        if key in more:
            request[key] = more.pop(key)
    return {
        "responses_create_params": request,
        "response": {"output": list(output)},
        "reward": reward,
        **more,
    }


texts = st.text(max_size=12) | st.sampled_from(["<think>", "</think>", "é\U0001f600", "\x00", "2026-01-01"])
names = st.sampled_from(["add", "search", "a.b-c"])
ids = st.none() | st.sampled_from([f"c{i}" for i in range(6)]) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
# Keys that nobody here knows, whatever they are called, stay where they were.
extras = st.dictionaries(st.sampled_from(["id", "status", "logprobs", "x"]), values, max_size=2)


@st.composite
def with_extras(draw: st.DrawFn, fields: st.SearchStrategy[Row]) -> Row:
    made = {**draw(fields), **draw(extras)}
    return {key: made[key] for key in draw(st.permutations(list(made)))}


parts = with_extras(
    st.fixed_dictionaries({"type": st.sampled_from(["input_text", "output_text", "text"]), "text": texts})
    | st.fixed_dictionaries({"type": st.just("refusal"), "refusal": texts})
    | st.fixed_dictionaries({"type": st.just("input_image"), "image_url": texts})
)
contents = texts | st.lists(parts, max_size=3)
roles = st.sampled_from(["system", "developer", "user", "assistant", "critic"])
thoughts = st.lists(
    with_extras(st.fixed_dictionaries({"type": st.just("summary_text"), "text": texts})), max_size=2
)
items = with_extras(
    st.fixed_dictionaries({"type": st.just("message"), "role": roles, "content": contents})
    | st.fixed_dictionaries({"role": roles, "content": contents})
    | st.fixed_dictionaries(
        {"type": st.just("function_call"), "name": names, "arguments": texts, "call_id": ids}
    )
    | st.fixed_dictionaries({"type": st.just("function_call_output"), "call_id": ids, "output": values})
    | st.fixed_dictionaries(
        {"type": st.just("reasoning"), "summary": thoughts}, optional={"content": thoughts}
    )
    | st.fixed_dictionaries({"type": st.sampled_from(["web_search_call", "mcp_call"])})
)
tools = st.lists(
    with_extras(
        st.fixed_dictionaries({"type": st.just("function"), "name": names, "parameters": values})
        | st.fixed_dictionaries(
            {
                "type": st.just("function"),
                "function": st.fixed_dictionaries({"name": names, "parameters": values}),
            }
        )
        | st.fixed_dictionaries({"type": st.just("web_search")})
    ),
    max_size=3,
)


@st.composite
def outputs(draw: st.DrawFn) -> list[Any]:
    whole = draw(st.lists(items, max_size=6))
    if not whole or not draw(st.booleans()):
        return whole
    ends = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=2)))
    return [whole[:end] for end in (*ends, len(whole))]


rollouts = with_extras(
    st.fixed_dictionaries(
        {
            "responses_create_params": with_extras(
                st.fixed_dictionaries(
                    {"input": texts | st.lists(items, max_size=4)},
                    optional={"tools": tools, "instructions": st.none() | texts},
                )
            ),
            "response": with_extras(st.fixed_dictionaries({"output": outputs()}, optional={"tools": tools})),
        },
        optional={"reward": st.floats(-2, 2) | st.integers(-2, 2), "_ng_task_index": st.integers(0, 9)},
    )
)
