"""One row of a rollout file as a canonical conversation with its reward, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nemotron.data.conversation import NOTHING, Conversation, Item, JsonObject, Message, Tool, tool_from
from nemotron.data.stream.jsontext import codec, has_huge_number
from nemotron.data.stream.rows import Rejected

from .items import items_from, responses_items

# What NeMo-Gym stamps on a row, and how provenance calls it.
_STAMPS = (
    ("_ng_task_index", "task_index"),
    ("_ng_rollout_index", "rollout_index"),
    ("_ng_attempt_index", "attempt_index"),
)
# Files of several environments have as many sets of tools; so many bytes of them are remembered.
_REMEMBERED = 1 << 20


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout.

    conversation: prompt and answer; the items of the answer are `generated`.
    reward: as the row has it, None where it has none.
    answered: the row has a response; a row of prompts alone has not.
    prompt_items: how many of the conversation's items are the request's input.
    transitions: where the output was a list of lists, each repeating the one before: their lengths.
    row: the whole row it was read from. Nobody changes it.
    """

    conversation: Conversation
    reward: float | int | None
    answered: bool
    prompt_items: int
    transitions: tuple[int, ...] | None
    row: JsonObject

    @property
    def response(self) -> JsonObject:
        """What the model's server answered, without the row around it."""
        response = self.row.get("response")
        return response if isinstance(response, dict) else {}

    @property
    def prompt(self) -> tuple[Item, ...]:
        """The items before the model spoke: the input, and what the environment said before the answer."""
        items = self.conversation.items
        end = self.prompt_items
        while end < len(items) and isinstance(item := items[end], Message) and item.role != "assistant":
            end += 1
        return items[:end]

    @property
    def is_incomplete(self) -> bool:
        """Whether the answer was cut off."""
        return _is_cut_off(self.response)


def _is_cut_off(response: JsonObject) -> bool:
    status = response.get("status")
    return bool(response.get("incomplete_details")) or status in ("incomplete", "failed", "cancelled")


class ToolMemory:
    """Tools that earlier rows had: most rows of a file have those of the row before, or of one near it.

    has_huge_number: whether the last ones hold a number that the text had otherwise, see `jsontext`.
    declared: their names.
    """

    def __init__(self) -> None:
        self._dumps = codec()[1]
        self._known: dict[bytes, _Known] = {}
        self._size = 0
        self._none = self._last = _Known((), frozenset(), False, {})

    @property
    def has_huge_number(self) -> bool:
        return self._last.huge

    @property
    def declared(self) -> frozenset[str | None]:
        return self._last.declared

    def written(self, nested: bool) -> bytes:
        """The last tools, as JSON in one of the notations."""
        last = self._last
        text = last.written.get(nested)
        if text is None:
            tools = [tool.as_nested() if nested else tool.as_flat() for tool in last.tools]
            text = last.written[nested] = self._dumps(tools)
        return text

    def tools_from(self, definitions: Any) -> tuple[Tool, ...] | None:
        """The tools of a list of definitions, None when it is none."""
        if not definitions:
            self._last = self._none
            return ()
        if type(definitions) is not list:
            return None
        text = self._dumps(definitions)  # as values 1 and 1.0 are equal, and so are other orders of keys
        known = self._known.get(text)
        if known is None:
            if not all(type(tool) is dict for tool in definitions):
                return None
            tools = tuple([tool_from(tool) for tool in definitions])
            declared = frozenset([tool.name for tool in tools])
            if self._size > _REMEMBERED:
                self._known.clear()
                self._size = 0
            self._size += len(text)
            known = self._known[text] = _Known(tools, declared, has_huge_number(definitions), {})
        self._last = known
        return known.tools


class _Known(NamedTuple):
    tools: tuple[Tool, ...]
    declared: frozenset[str | None]
    huge: bool
    written: dict[bool, bytes]


class Parts(NamedTuple):
    """What a row holds, before anybody looks at its items.

    prompt: a string or a list of items. output: the items of the answer. Each of them may be the reason why
    it is neither. answered and transitions: see `Rollout`. definitions and instructions: as found.
    """

    reward: float | int | None
    answered: bool
    prompt: str | list[Any] | Rejected
    output: list[Any] | Rejected
    transitions: tuple[int, ...] | None
    definitions: Any
    instructions: Any
    row: dict[str, Any]

    @property
    def is_incomplete(self) -> bool:
        """Whether the answer was cut off."""
        return _is_cut_off(self.row.get("response") or NOTHING)


def parts_of(row: dict[str, Any]) -> Parts | Rejected:
    """The parts of a rollout, or why the row is none."""
    if "_ng_failure_class" in row:
        return Rejected("failed_rollout", f"the rollout failed: {str(row['_ng_failure_class'])[:80]}")
    request = row.get("responses_create_params")
    response = row.get("response")
    if type(request) is not dict:
        if request is not None:
            return Rejected("malformed_row", "responses_create_params is no object")
        if response is None and "output" not in row:
            return Rejected("not_a_rollout", "the row has neither responses_create_params nor a response")
        request = {}
    if type(response) is not dict and response is not None:
        return Rejected("malformed_row", "response is no object")
    reward = row.get("reward")
    if type(reward) not in (float, int) and reward is not None:
        return Rejected("malformed_row", "reward is no number")
    prompt = request.get("input")
    if prompt is None:
        prompt = []
    elif type(prompt) is not list and type(prompt) is not str:
        prompt = Rejected("malformed_row", "input is neither a string nor a list of items")
    holder = response if response is not None and "output" in response else row
    output, transitions = _output_of(holder.get("output"))
    definitions = request.get("tools") or (response.get("tools") if response else None)
    instructions = request.get("instructions")
    return Parts(reward, "output" in holder, prompt, output, transitions, definitions, instructions, row)


def _output_of(value: Any) -> tuple[list[Any] | Rejected, tuple[int, ...] | None]:
    if value is None:
        return [], None
    if type(value) is not list:
        return Rejected("malformed_row", "the output is no list of items"), None
    if not value or type(value[0]) is not list or not all(type(item) is list for item in value):
        return value, None
    whole = value[-1]
    if any(item != whole[: len(item)] for item in value):
        what = "the output is a list of lists that do not each go on from the one before"
        return Rejected("broken_transitions", what), None
    return whole, tuple([len(item) for item in value])


def read_rollout(
    row: dict[str, Any], file: str = "", line: int = 0, memory: ToolMemory | None = None
) -> Rollout | Rejected:
    """The rollout in a row, or why there is none.

    The output is taken from `response.output`, in files of the documented shape from `output`. Tools are
    those of the request, else those that the response repeats. `file` and `line` go into the provenance.
    memory: of whoever reads many rows.
    """
    parts = parts_of(row)
    if isinstance(parts, Rejected):
        return parts
    reward, answered, asked, answer, transitions, definitions, instructions, _ = parts
    prompt = items_from(asked, "input", generated=False) if type(asked) is list else _prompt_of(asked)
    if isinstance(prompt, Rejected):
        return prompt
    output = answer if isinstance(answer, Rejected) else items_from(answer, "output", generated=True)
    if isinstance(output, Rejected):
        return output
    tools = (memory or ToolMemory()).tools_from(definitions)
    if tools is None:
        return Rejected("malformed_tools", "the tools are no list of definitions")
    if type(instructions) is not str and instructions is not None:
        return Rejected("malformed_row", "instructions are no string")
    conversation = Conversation((*prompt, *output), tools, instructions, provenance_of(row, file, line))
    return Rollout(conversation, reward, answered, len(prompt), transitions, row)


def _prompt_of(asked: Any) -> list[Item] | Rejected:
    return [Message("user", asked)] if type(asked) is str else asked


def provenance_of(row: dict[str, Any], file: str, line: int) -> JsonObject:
    known: dict[str, Any] = {"file": file, "line": line}
    for key, name in _STAMPS:
        if key in row:
            known[name] = row[key]
    agent = row.get("agent_ref")
    if type(agent) is dict and type(agent.get("name")) is str:
        known["agent"] = agent["name"]
    reward = row.get("reward")
    if reward is not None:
        known["reward"] = reward
    response = row.get("response")
    if type(response) is dict and type(response.get("id")) is str:
        known["response_id"] = response["id"]
    return known


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """The row of a rollout file that says what the rollout says: its items, tools and instructions are
    written from the conversation, the keys beside them taken from the row it was read from."""
    row = dict(rollout.row)
    items = rollout.conversation.items
    request = row.get("responses_create_params")
    if isinstance(request, dict):
        row["responses_create_params"] = _request(request, rollout)
    response = row.get("response")
    output: list[Any] = list(responses_items(items[rollout.prompt_items :]))
    if rollout.transitions is not None:
        output = [output[:length] for length in rollout.transitions]
    if isinstance(response, dict) and "output" in response:
        made = {**response, "output": output}
        if not (isinstance(request, dict) and request.get("tools")) and response.get("tools"):
            made["tools"] = _tools(rollout.conversation.tools)
        row["response"] = made
    elif rollout.answered:
        row["output"] = output
    return row


def _request(request: JsonObject, rollout: Rollout) -> dict[str, Any]:
    made = dict(request)
    items = rollout.conversation.items[: rollout.prompt_items]
    if isinstance(request.get("input"), str):
        first = items[0]
        assert isinstance(first, Message)
        made["input"] = first.content
    elif "input" in request:
        made["input"] = responses_items(items) if request["input"] is not None else None
    if request.get("tools"):
        made["tools"] = _tools(rollout.conversation.tools)
    if "instructions" in request:
        made["instructions"] = rollout.conversation.instructions
    return made


def _tools(tools: tuple[Tool, ...]) -> list[JsonObject]:
    return [tool.as_nested() if tool.nested else tool.as_flat() for tool in tools]
