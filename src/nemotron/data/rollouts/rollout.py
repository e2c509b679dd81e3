"""One row of a rollout file as a canonical conversation with its reward, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemotron.data.conversation import Conversation, Item, JsonObject, Message, Tool, tool_from
from nemotron.data.stream.jsontext import codec, has_huge_number
from nemotron.data.stream.rows import Rejected

from .items import items_from, responses_items

# What NeMo-Gym stamps on a row, and how provenance calls it.
_STAMPS = (
    ("_ng_task_index", "task_index"),
    ("_ng_rollout_index", "rollout_index"),
    ("_ng_attempt_index", "attempt_index"),
)


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
        response = self.response
        status = response.get("status")
        return bool(response.get("incomplete_details")) or status in ("incomplete", "failed", "cancelled")


_NO_TOOLS: tuple[Tool, ...] = ()


class ToolMemory:
    """The tools of the row before: most rows of a file have the same.

    has_huge_number: whether they hold a number that the text had otherwise, see `jsontext`.
    """

    def __init__(self) -> None:
        self._dumps = codec()[1]
        self._text = b""
        self._tools: tuple[Tool, ...] = ()
        self._huge = False
        self.has_huge_number = False
        self._written: dict[bool, bytes] = {}

    def written(self, nested: bool) -> bytes:
        """The tools of the row before, as JSON in one of the notations."""
        text = self._written.get(nested)
        if text is None:
            tools = [tool.as_nested() if nested else tool.as_flat() for tool in self._tools]
            text = self._written[nested] = self._dumps(tools)
        return text

    def tools_from(self, definitions: Any) -> tuple[Tool, ...] | None:
        """The tools of a list of definitions, None when it is none."""
        if not definitions:
            self.has_huge_number = False
            return _NO_TOOLS
        if type(definitions) is not list:
            return None
        text = self._dumps(definitions)  # as values 1 and 1.0 are equal, and so are other orders of keys
        if text != self._text:
            if not all(type(tool) is dict for tool in definitions):
                return None
            self._tools = tuple([tool_from(tool) for tool in definitions])
            self._text, self._huge = text, has_huge_number(definitions)
            self._written.clear()
        self.has_huge_number = self._huge
        return self._tools


def read_rollout(
    row: dict[str, Any], file: str = "", line: int = 0, memory: ToolMemory | None = None
) -> Rollout | Rejected:
    """The rollout in a row, or why there is none.

    The output is taken from `response.output`, in files of the documented shape from `output`. Tools are
    those of the request, else those that the response repeats. `file` and `line` go into the provenance.
    memory: of whoever reads many rows.
    """
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

    prompt = _input_items(request.get("input"))
    if isinstance(prompt, Rejected):
        return prompt
    holder = response if response is not None and "output" in response else row
    found = _output_items(holder.get("output"))
    if isinstance(found, Rejected):
        return found
    output, transitions = found
    definitions = request.get("tools") or (response.get("tools") if response else None)
    tools = (memory or ToolMemory()).tools_from(definitions)
    if tools is None:
        return Rejected("malformed_tools", "the tools are no list of definitions")
    instructions = request.get("instructions")
    if type(instructions) is not str and instructions is not None:
        return Rejected("malformed_row", "instructions are no string")
    conversation = Conversation(
        (*prompt, *output),
        tools,
        instructions,
        _provenance(row, file, line),
    )
    return Rollout(conversation, reward, "output" in holder, len(prompt), transitions, row)


def _input_items(value: Any) -> list[Item] | Rejected:
    if type(value) is list:
        return items_from(value, "input", generated=False)
    if type(value) is str:
        return [Message("user", value)]
    return [] if value is None else Rejected("malformed_row", "input is neither a string nor a list of items")


def _output_items(value: Any) -> tuple[list[Item], tuple[int, ...] | None] | Rejected:
    if value is None:
        return [], None
    if type(value) is not list:
        return Rejected("malformed_row", "the output is no list of items")
    transitions = None
    if value and type(value[0]) is list and all(type(item) is list for item in value):
        transitions = tuple([len(item) for item in value])
        whole = value[-1]
        if any(item != whole[: len(item)] for item in value):
            what = "the output is a list of lists that do not each go on from the one before"
            return Rejected("broken_transitions", what)
        value = whole
    items = items_from(value, "output", generated=True)
    if isinstance(items, Rejected):
        return items
    return items, transitions


def _provenance(row: dict[str, Any], file: str, line: int) -> JsonObject:
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
