"""What one row of each row type looks like; `lines.py` reads the files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .messages import ROLES, content_problems, message_problems, out_of_turn
from .report import Problem, missing, shown, wrong_type
from .tools import Call, ToolWatch

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One way to write a row.

    keys: a row with any of them is meant to have this shape, unless an earlier shape of its type claims it.
    example: the smallest row, for the message about rows that have no shape.
    """

    name: str
    keys: frozenset[str]
    problems: Callable[[Row, ToolWatch], Iterator[Problem]]
    example: str


# The request as the verifier of NeMo-Gym takes it: any other key is refused during the rollout.
_REQUEST_KEYS = frozenset(
    (
        "background", "include", "input", "instructions", "max_output_tokens", "max_tool_calls",
        "metadata", "model", "parallel_tool_calls", "previous_response_id", "prompt", "reasoning",
        "service_tier", "store", "stream", "temperature", "text", "tool_choice", "tools",
        "top_logprobs", "top_p", "truncation", "user",
    )
)  # fmt: skip
_NEVER_NULL = ("tool_choice", "parallel_tool_calls")


def _string(row: Row, key: str) -> Iterator[Problem]:
    value = row.get(key)
    if key not in row:
        yield missing(key)
    elif not isinstance(value, str):
        yield wrong_type(key, "a string", value)
    elif not value.strip():
        yield Problem("data.empty_text", f"{key} is empty")


def _chat_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    calls: list[Call] = []
    yield from message_problems(row["messages"], "messages", last="assistant", calls=calls)
    if calls or "tools" in row:
        yield from watch.problems(row.get("tools"), calls, "tools")


def _pair_row(row: Row, _: ToolWatch) -> Iterator[Problem]:
    yield from _string(row, "input")
    yield from _string(row, "output")


def _request_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    request = row["responses_create_params"]
    where = "responses_create_params"
    if not isinstance(request, dict):
        yield wrong_type(where, "an object", request)
        return
    yield from _request_input(request, f"{where}.input")
    calls = list(_item_calls(request.get("input"), f"{where}.input"))
    if calls or "tools" in request:
        yield from watch.problems(request.get("tools"), calls, f"{where}.tools")
    for key in _NEVER_NULL:
        if key in request and request[key] is None:
            what = f"{where}.{key} is null, which the environment refuses"
            yield Problem("data.null_parameter", what, fix=f"leave {key} out")
    for key in request.keys() - _REQUEST_KEYS:
        what = f"{where}.{shown(key)} is no parameter that the environment knows"
        yield Problem("data.unknown_parameter", what, "warning", valid=", ".join(sorted(_REQUEST_KEYS)))
    agent = row.get("agent_ref")
    if agent is not None and not isinstance(agent, dict):
        yield wrong_type("agent_ref", "an object with a name", agent)
    elif agent is not None and not isinstance(agent.get("name"), str):
        yield missing("agent_ref.name")


def _request_input(request: Row, where: str) -> Iterator[Problem]:
    value = request.get("input")
    if "input" not in request:
        yield missing(where)
    elif isinstance(value, str):
        if not value.strip():
            yield Problem("data.empty_text", f"{where} is empty")
    elif not isinstance(value, list):
        yield wrong_type(where, "a string or a list of items", value)
    elif not value:
        yield Problem("data.no_messages", f"{where} is an empty list")
    else:
        previous = None
        for index, item in enumerate(value):
            yield from _item(item, f"{where}[{index}]")
            role = item.get("role") if isinstance(item, dict) else None
            if role == "user" == previous:
                yield out_of_turn("user", "user", f"{where}[{index}]")
            previous = role


def _item_calls(items: object, where: str) -> Iterator[Call]:
    """The calls among input or output items; of lists of items, those of the last, which repeats the rest."""
    if isinstance(items, list) and items and all(isinstance(item, list) for item in items):
        where = f"{where}[{len(items) - 1}]"
        items = items[-1]
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") == "function_call":
            yield Call(f"{where}[{index}]", item.get("name"), item.get("arguments"))


def _item(item: object, where: str) -> Iterator[Problem]:
    """An input item: a message, with or without a type, or a call, its result or reasoning."""
    if not isinstance(item, dict):
        yield wrong_type(where, "an item object", item)
    elif item.get("type", "message") == "message":
        if item.get("role") not in ROLES:
            yield Problem("data.role", f"{where}.role is {shown(item.get('role'))}", valid=", ".join(ROLES))
        if "content" not in item:
            yield missing(f"{where}.content")
        else:
            yield from content_problems(item["content"], f"{where}.content")


def _prompt(row: Row, key: str) -> Iterator[Problem]:
    if isinstance(row[key], list):
        yield from message_problems(row[key], key, last="user")
    elif isinstance(row[key], str):
        yield from _string(row, key)
    else:
        yield wrong_type(key, "a string or a list of messages", row[key])


def _prompt_row(row: Row, _: ToolWatch) -> Iterator[Problem]:
    return _prompt(row, "prompt")


def _messages_prompt_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    calls: list[Call] = []
    yield from message_problems(row["messages"], "messages", last="user", calls=calls)
    if calls or "tools" in row:
        yield from watch.problems(row.get("tools"), calls, "tools")


def _input_row(row: Row, _: ToolWatch) -> Iterator[Problem]:
    return _prompt(row, "input")


def _ranked_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    calls: list[Call] = []
    if "context" not in row:
        yield missing("context")
    else:
        yield from message_problems(row["context"], "context", calls=calls)
    yield from _completions(row, calls)
    if calls or "tools" in row:
        yield from watch.problems(row.get("tools"), calls, "tools")


def _completions(row: Row, calls: list[Call]) -> Iterator[Problem]:
    completions = row.get("completions")
    if "completions" not in row:
        yield missing("completions")
        return
    if not isinstance(completions, list):
        yield wrong_type("completions", "a list of two completions", completions)
        return
    if len(completions) != 2:
        yield Problem("data.completions", f"completions has {len(completions)} entries, not 2")
    for index, completion in enumerate(completions):
        yield from _completion(completion, f"completions[{index}]", calls)
    if len(completions) == 2 and all(isinstance(c, dict) for c in completions):
        first, second = completions
        if "rank" in first and "rank" in second and first["rank"] == second["rank"]:
            what = f"both completions have rank {shown(first['rank'])}"
            yield Problem("data.equal_ranks", what, valid="the better one has the lower rank")
        if "completion" in first and "completion" in second and first["completion"] == second["completion"]:
            yield Problem("data.same_answers", "both completions are the same")


def _completion(completion: object, where: str, calls: list[Call]) -> Iterator[Problem]:
    if not isinstance(completion, dict):
        yield wrong_type(where, "an object with rank and completion", completion)
        return
    rank = completion.get("rank")
    if "rank" not in completion:
        yield missing(f"{where}.rank")
    elif not isinstance(rank, int) or isinstance(rank, bool):
        yield wrong_type(f"{where}.rank", "an integer", rank)
    if "completion" not in completion:
        yield missing(f"{where}.completion")
    else:
        here = f"{where}.completion"
        yield from message_problems(
            completion["completion"], here, last="assistant", calls=calls, begins=False
        )


def _chosen_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    calls: list[Call] = []
    if "prompt" not in row:
        yield missing("prompt")
    else:
        yield from _prompt(row, "prompt")
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        for key, answer in (("chosen", chosen), ("rejected", rejected)):
            yield from message_problems(answer, key, last="assistant", calls=calls, begins=False)
    else:
        yield from _string(row, "chosen")
        yield from _string(row, "rejected")
    if "chosen" in row and "rejected" in row and chosen == rejected:
        yield Problem("data.same_answers", "chosen and rejected are the same")
    if calls or "tools" in row:
        yield from watch.problems(row.get("tools"), calls, "tools")


def _rollout_row(row: Row, watch: ToolWatch) -> Iterator[Problem]:
    reward = row.get("reward")
    if "reward" not in row and "response" not in row and "responses_create_params" in row:
        what = "a prompt without response and reward, as files of judged answers hold them"
        yield Problem("data.no_response", what, "warning")
    elif "reward" not in row:
        yield missing("reward")
    elif not isinstance(reward, int | float) or isinstance(reward, bool):
        yield wrong_type("reward", "a number", reward)
    elif isinstance(reward, float) and not math.isfinite(reward):
        yield Problem("data.not_finite", f"reward is {reward}")
    response, request = row.get("response"), row.get("responses_create_params")
    if "response" not in row and "responses_create_params" not in row:
        yield missing("response")
    if "responses_create_params" in row and not isinstance(request, dict):
        yield wrong_type("responses_create_params", "an object", request)
    if "response" in row:
        if not isinstance(response, dict):
            yield wrong_type("response", "an object", response)
        elif "output" not in response:
            yield missing("response.output")
        elif not isinstance(response["output"], list):
            yield wrong_type("response.output", "a list of items", response["output"])
        else:
            # Where the environment brings the tools, only the response tells them.
            asked = request.get("tools") if isinstance(request, dict) else None
            yield from _output(response["output"], asked or response.get("tools", asked), watch)


def _output(output: list[Any], tools: object, watch: ToolWatch) -> Iterator[Problem]:
    """What a model generated: its mistakes are warnings, training is to see them."""
    items = output[-1] if output and all(isinstance(item, list) for item in output) else output
    if not any(_answers(item) for item in items):
        what = "response.output has neither a text nor a call of the assistant"
        yield Problem("data.empty_answer", what, "warning")
    calls = list(_item_calls(output, "response.output"))
    if calls or tools is not None:
        where = "responses_create_params.tools"
        yield from watch.problems(tools, calls, where, severity="warning")


def _answers(item: object) -> bool:
    """Whether an output item is a call, or a message of the assistant with a text in it."""
    if not isinstance(item, dict):
        return False
    if item.get("role") != "assistant":
        return item.get("type") == "function_call"
    content = item.get("content")
    texts = (
        [part.get("text") for part in content if isinstance(part, dict)]
        if isinstance(content, list)
        else [content]
    )
    return bool(item.get("tool_calls")) or any(isinstance(text, str) and text.strip() for text in texts)


def _shape(
    name: str, keys: str, problems: Callable[[Row, ToolWatch], Iterator[Problem]], example: str
) -> Shape:
    return Shape(name, frozenset(keys.split()), problems, example)


ROW_TYPES: Mapping[str, tuple[Shape, ...]] = MappingProxyType(
    {
        "training_jsonl": (
            _shape(
                "messages", "messages", _chat_row, '{"messages": [{"role": "user", "content": ...}, ...]}'
            ),
            _shape("input_output", "input output", _pair_row, '{"input": "...", "output": "..."}'),
        ),
        "prompt_jsonl": (
            _shape(
                "responses_create_params",
                "responses_create_params",
                _request_row,
                '{"responses_create_params": {"input": [...]}}',
            ),
            _shape("prompt", "prompt", _prompt_row, '{"prompt": "..."}'),
            _shape("messages", "messages", _messages_prompt_row, '{"messages": [...]}'),
            _shape("input", "input", _input_row, '{"input": "..."}'),
        ),
        "preference_jsonl": (
            _shape(
                "context_completions",
                "context completions",
                _ranked_row,
                '{"context": [...], "completions": [...]}',
            ),
            _shape(
                "chosen_rejected",
                "chosen rejected",
                _chosen_row,
                '{"prompt": ..., "chosen": ..., "rejected": ...}',
            ),
        ),
        "rollout_jsonl": (
            _shape(
                "rollout",
                "response responses_create_params reward",
                _rollout_row,
                '{"responses_create_params": {...}, "response": {"output": [...]}, "reward": 1.0}',
            ),
        ),
    }
)


def shape_of(row: Row, shapes: tuple[Shape, ...]) -> Shape | None:
    """The shape that a row is meant to have."""
    for shape in shapes:
        if not shape.keys.isdisjoint(row):
            return shape
    return None
