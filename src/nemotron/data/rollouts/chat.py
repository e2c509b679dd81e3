"""A canonical conversation as chat messages that a trainer takes.

Calls and results are paired by id, whatever stands between them: an assistant's texts and calls up to the
first result are one message, results follow the message that called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron.data.conversation import (
    Content,
    Conversation,
    JsonObject,
    Message,
    Other,
    Reasoning,
    Tool,
    ToolCall,
    ToolResult,
    is_plain,
    text_of,
)
from nemotron.data.messages import chat_content
from nemotron.data.stream.jsontext import codec
from nemotron.data.stream.rows import Rejected

from .options import ExportOptions

ChatMessage = dict[str, Any]

_OPEN, _CLOSE = "<think>", "</think>"
_NO_ANSWER = Rejected("no_answer", "the model neither said nor called anything")


class ChatWriter:
    """Writes conversations, one after the other: what it tells is of the last."""

    def __init__(self, options: ExportOptions, loads: Callable[[bytes | str], Any]) -> None:
        self._options = options
        self._loads = loads
        # Asked for every item, of which there are dozens in a row.
        self._splits = options.think_tags == "split"
        self._merges = options.repeated_roles == "merge"
        self._as_object = options.arguments == "object"
        self._parses = options.invalid_arguments == "leave_out"
        # Many rows have the tools of the row before.
        self._tools: tuple[Tool, ...] = ()
        self._declared: set[str | None] = set()
        self._clear()

    def _clear(self) -> None:
        # What was changed on the way, a word for each change.
        self.notes: list[str] = []
        self.messages: list[ChatMessage] = []
        # Where the answer begins in `messages`: the first message of the assistant that was generated.
        self.answer_at = 0
        self._answer: ChatMessage | None = None
        self._turn: ChatMessage | None = None
        self._turn_generated = False
        # The last message of the assistant, while nothing but results of its calls came after it.
        self._before: ChatMessage | None = None
        self._thoughts: list[str] = []
        # Calls without a result, by id, with the message that made them; by the id() of that, the results
        # that came later than others of their turn.
        self._open: dict[str, ChatMessage] = {}
        self._late: dict[int, list[ChatMessage]] = {}
        self._unnamed: list[str] = []

    def write(self, conversation: Conversation) -> Rejected | None:
        """Fill `messages`, or say why this conversation is none for training."""
        self._clear()
        if conversation.instructions:
            self.messages.append({"role": "system", "content": conversation.instructions})
        if conversation.tools is not self._tools:
            self._tools = conversation.tools
            self._declared = {tool.name for tool in conversation.tools}
        for item in conversation.items:
            kind = type(item)
            if kind is Message:
                wrong = self._message(item)  # type: ignore[arg-type]
            elif kind is ToolCall:
                wrong = self._call(item)  # type: ignore[arg-type]
            elif kind is ToolResult:
                wrong = self._result(item)  # type: ignore[arg-type]
            elif kind is Reasoning:
                wrong = None
                self._reasoning(item)  # type: ignore[arg-type]
            else:
                assert isinstance(item, Other)
                wrong = Rejected("unknown_item", f"an item of the type {item.kind[:40]}")
            if wrong is not None:
                return wrong
        self._end_turn()
        return self._end()

    def _message(self, item: Message) -> Rejected | None:
        role, content, generated, _ = item
        found = content if type(content) is str else self._content(content)
        if type(found) is Rejected:
            return found
        if role == "assistant":
            if self._splits and type(found) is str and "think>" in found:
                thought, found = split_thought(found)
                if thought:
                    self._in_turn(generated)
                    self._thoughts.append(thought)
                    self.notes.append("think_tags_split")
            if found and not (type(found) is str and found.isspace()):
                self._say(found, generated)  # type: ignore[arg-type]
            return None
        if self._turn is not None:
            self._end_turn()
        if role == "developer" and self._options.developer == "system":
            role = "system"
        elif role not in ("user", "system", "developer"):
            return Rejected("unknown_role", f"a message of the role {role[:40]}")
        last = self.messages[-1] if self.messages else None
        if self._merges and last is not None and last["role"] == role:
            last["content"] = joined(last["content"], found)
            self.notes.append("repeated_roles_merged")
        else:
            self.messages.append({"role": role, "content": found})
        self._before = None
        return None

    def _content(self, content: Content) -> str | list[JsonObject] | Rejected:
        """Content as text where it is text; what else there is by the option `media`."""
        if type(content) is not tuple:
            return content or ""  # type: ignore[return-value]
        if len(content) == 1 and content[0].kind == "text":
            return content[0].text or ""
        if is_plain(content):
            return text_of(content)
        if self._options.media == "keep":
            return chat_content(content)
        texts = tuple([part for part in content if part.kind in ("text", "refusal", "json")])
        if len(texts) == len(content):
            return text_of(texts)
        if self._options.media == "drop":
            self.notes.append("media_dropped")
            return text_of(texts)
        kind = next(part.kind for part in content if part.kind not in ("text", "refusal", "json"))
        return Rejected("media", f"a part of the kind {kind[:40]}")

    def _reasoning(self, item: Reasoning) -> None:
        if item.text:
            self._in_turn(item.generated)
            self._thoughts.append(item.text)

    def _say(self, said: str | list[JsonObject], generated: bool) -> None:
        turn = self._in_turn(generated)
        if not turn["content"]:
            turn["content"] = said
            return
        if not self._merges and "tool_calls" not in turn:
            self._end_turn()
            self._in_turn(generated)["content"] = said
            return
        turn["content"] = joined(turn["content"], said)
        self.notes.append("assistant_texts_joined")

    def _call(self, item: ToolCall) -> Rejected | None:
        if item.name not in self._declared:
            if self._options.undeclared_tools == "leave_out":
                return Rejected("undeclared_tool", f"a call of {item.name[:60]}, which has no definition")
            self.notes.append("calls_of_undeclared_tools")
        arguments: Any = item.arguments
        as_object = self._as_object
        if type(arguments) is str and (as_object or self._parses):
            value = self._parsed(arguments)
            if value is None and self._parses:
                return Rejected(
                    "invalid_arguments", f"a call of {item.name[:60]} whose arguments are no JSON object"
                )
            if as_object and value is not None:
                arguments = value
        elif type(arguments) is not str and not as_object:
            arguments = codec()[1](arguments).decode("utf-8")
        call_id = item.call_id
        if call_id is None:
            call_id = f"call_{len(self._unnamed) + 1}"
            self._unnamed.append(call_id)
        if call_id in self._open:
            return Rejected("duplicate_call_id", f"two calls without a result have the id {call_id[:60]}")
        turn = self._in_turn(item.generated)
        self._open[call_id] = turn
        turn.setdefault("tool_calls", []).append(
            {"id": call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}
        )
        return None

    def _parsed(self, arguments: str) -> JsonObject | None:
        """The object that the arguments are the JSON of."""
        try:
            value = self._loads(arguments)
        except ValueError:
            return None
        return value if type(value) is dict else None

    def _result(self, item: ToolResult) -> Rejected | None:
        call_id = item.call_id
        if call_id is None:
            call_id = next((name for name in self._unnamed if name in self._open), None)
        turn = self._open.pop(call_id, None) if call_id is not None else None
        if turn is None:
            return Rejected("result_without_call", f"a result of the call {call_id!s:.60}, which nobody made")
        said = item.output if type(item.output) is str else self._content(item.output)
        if type(said) is Rejected:
            return said
        made = {"role": "tool", "tool_call_id": call_id, "content": said}
        if turn is self._turn:
            self._end_turn()
        elif self._turn is not None or turn is not self._before:
            self.notes.append("results_moved_to_their_call")
            self._late.setdefault(id(turn), []).append(made)
            return None
        self.messages.append(made)
        return None

    def _in_turn(self, generated: bool) -> ChatMessage:
        """The message of the assistant that goes on, or a new one."""
        if self._turn is not None and generated and not self._turn_generated:
            self._end_turn()  # the prompt ended in the assistant's words: the answer is a message of its own
        if self._turn is None:
            self._turn, self._turn_generated = {"role": "assistant", "content": ""}, generated
        return self._turn

    def _end_turn(self) -> None:
        turn, thoughts = self._turn, self._thoughts
        if turn is None:
            return
        self._turn, self._thoughts = None, []
        if thoughts:
            self._put_thoughts(turn, "\n\n".join(thoughts))
        if turn["content"] or len(turn) > 2:
            self.messages.append(turn)
            self._before = turn
            if self._turn_generated and self._answer is None:
                self._answer = turn

    def _put_thoughts(self, turn: ChatMessage, thought: str) -> None:
        how = self._options.reasoning
        if how == "drop":
            self.notes.append("reasoning_dropped")
        elif how == "keep":
            calls = turn.pop("tool_calls", None)
            turn["reasoning_content"] = thought
            if calls:
                turn["tool_calls"] = calls
        else:
            told = f"{_OPEN}\n{thought}\n{_CLOSE}\n\n"
            turn["content"] = (
                told + turn["content"]
                if type(turn["content"]) is str
                else [{"type": "text", "text": told}, *turn["content"]]
            )

    def _end(self) -> Rejected | None:
        if self._answer is None:
            return _NO_ANSWER
        open_turns = self._open.values() if self._options.unanswered_calls == "leave_out" else ()
        if any(turn is not self._before for turn in open_turns):
            return Rejected("unanswered_call", "the conversation goes on from a call without its result")
        messages = self._in_order() if self._late else self.messages
        for at, message in enumerate(messages):
            if message is self._answer:
                self.answer_at = at
                break
        if not answers(self._answer) and not any(map(answers, messages[self.answer_at :])):
            return _NO_ANSWER
        if not answers(messages[-1]) and self._options.ending != "keep":
            if self._options.ending == "leave_out":
                return Rejected(
                    "no_answer_at_the_end", f"the last message is of the role {messages[-1]['role']}"
                )
            while not answers(messages[-1]):
                messages.pop()
            self.notes.append("trimmed_to_last_answer")
        if messages[0]["role"] == "assistant":
            return Rejected("no_prompt", "nothing stands before the answer")
        self.messages = messages
        return None

    def _in_order(self) -> list[ChatMessage]:
        """The messages with each late result after the others of its turn."""
        whole: list[ChatMessage] = []
        late: list[ChatMessage] = []
        for message in self.messages:
            if message["role"] != "tool":
                whole += late
                late = self._late.get(id(message), [])
            whole.append(message)
        return whole + late


def answers(message: ChatMessage) -> bool:
    return message["role"] == "assistant" and bool(message["content"] or message.get("tool_calls"))


def joined(first: Any, second: Any) -> Any:
    """Two contents of one role as one."""
    if not first or not second:
        return first or second
    if type(first) is str and type(second) is str:
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[JsonObject]:
    return [{"type": "text", "text": content}] if type(content) is str else content


def split_thought(text: str) -> tuple[str, str]:
    """What stands between think tags at the beginning of a text, and the answer after it.

    Templates that begin the answer with the first tag leave only the second in the text; an answer that was
    cut off has the first alone. Tags further on are part of the answer.
    """
    begins = text if text.startswith(_OPEN) else text.lstrip()
    if begins.startswith(_OPEN):
        thought, _, answer = begins[len(_OPEN) :].partition(_CLOSE)
        return thought.strip("\n"), answer.lstrip("\n")
    thought, closed, answer = text.partition(_CLOSE)
    if closed and _OPEN not in thought:
        return thought.strip("\n"), answer.lstrip("\n")
    return "", text
