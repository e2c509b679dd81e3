"""Rows that have nothing odd, straight from their items to chat messages, in one pass.

What is odd is left to the general way, `items_from` and `ChatWriter`. What is written here is what that way
writes, byte for byte, in half of its time: no item is made, and nothing is looked at twice.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from nemotron.data.conversation import JsonObject, is_plain, text_of
from nemotron.data.messages import chat_content, content_from
from nemotron.data.stream.rows import Rejected

from .chat import ChatMessage, answers, joined, split_thought
from .items import one_text
from .options import ExportOptions
from .rollout import Parts

# Options that decide how messages are written. Here they are written as they are by default.
_DECISIVE = (
    *("reasoning", "think_tags", "arguments", "developer", "repeated_roles", "ending"),
    *("invalid_arguments", "unanswered_calls", "undeclared_tools"),
)


class DirectWriter:
    """Writes rows, one after the other: what it tells is of the last, as `ChatWriter` tells it."""

    def __init__(self, options: ExportOptions, loads: Callable[[bytes | str], Any]) -> None:
        self._loads = loads
        self._keeps_media = options.media == "keep"
        self.notes: list[str] = []
        self.messages: list[ChatMessage] = []
        self.answer_at = 0
        # The last message of the assistant, if nothing but results came after it, and whether it goes on.
        self._turn: ChatMessage | None = None
        self._goes_on = False
        # Calls without a result, by id, with the message that made them.
        self._open: dict[str, ChatMessage] = {}
        self._declared: Container[str | None] = ()

    @staticmethod
    def suits(options: ExportOptions) -> bool:
        """Whether this is how messages are to be written."""
        usual = ExportOptions()
        return all(getattr(options, name) == getattr(usual, name) for name in _DECISIVE)

    def write(self, parts: Parts, declared: Container[str | None]) -> bool:
        """Fill `messages` from what a row holds, or tell that something is odd. Of a row without an answer
        the prompt is written.

        declared: the names of the tools that are defined.
        """
        instructions, prompt, output = parts.instructions, parts.prompt, parts.output
        messages: list[ChatMessage] = []
        self.messages, self.notes, self._open = messages, [], {}
        self._turn, self._declared = None, declared
        if instructions is not None and type(instructions) is not str:
            return False
        if instructions:
            messages.append({"role": "system", "content": instructions})
        if type(prompt) is str:
            messages.append({"role": "user", "content": prompt})
        elif type(prompt) is not list or not self._add(prompt):
            return False
        if not parts.answered:
            return True
        answer_from = len(messages)
        return type(output) is list and self._add(output) and self._ends(answer_from)

    def _add(self, items: list[Any]) -> bool:
        """Whether the items are as they mostly are; if so their messages are added."""
        self._goes_on = False
        for item in items:
            if type(item) is not dict:
                return False
            kind = item.get("type")
            if kind == "message" or kind is None:
                usual = self._message(item)
            elif kind == "function_call":
                usual = self._call(item)
            elif kind == "function_call_output":
                usual = self._result(item)
            else:
                usual = kind == "reasoning" and self._reasoning(item)
            if not usual:
                return False
        return True

    def _message(self, item: dict[str, Any]) -> bool:
        role, content = item.get("role"), item.get("content")
        if type(content) is not str:
            content = self._content(content)
        if content is None or "tool_calls" in item or "reasoning_content" in item:
            return False
        if role == "assistant":
            return type(content) is str and self._say(content)
        if role == "developer":
            role = "system"
        elif role != "user" and role != "system":
            return False
        self._turn, self._goes_on = None, False
        messages = self.messages
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = joined(messages[-1]["content"], content)
            self.notes.append("repeated_roles_merged")
        else:
            messages.append({"role": role, "content": content})
        return True

    def _say(self, said: str) -> bool:
        if "think>" in said:
            thought, said = split_thought(said)
            if thought:
                if not self._think(thought):
                    return False
                self.notes.append("think_tags_split")
        if said and not said.isspace():
            turn = self._in_turn()
            if turn["content"]:
                turn["content"] = joined(turn["content"], said)
                self.notes.append("assistant_texts_joined")
            else:
                turn["content"] = said
        return True

    def _reasoning(self, item: dict[str, Any]) -> bool:
        content, summary = item.get("content") or [], item.get("summary") or []
        if type(content) is not list or type(summary) is not list:
            return False
        try:
            thoughts = "\n".join([part["text"] for part in content])
            summed_up = "\n".join([part["text"] for part in summary])
        except (KeyError, TypeError):
            return False
        thought = thoughts if content else summed_up
        return not thought or self._think(thought)

    def _think(self, thought: str) -> bool:
        turn = self._in_turn()
        if "reasoning_content" in turn:
            turn["reasoning_content"] += f"\n\n{thought}"
            return True
        turn["reasoning_content"] = thought
        return "tool_calls" not in turn  # after which it stands otherwise

    def _call(self, item: dict[str, Any]) -> bool:
        name, arguments, call_id = item.get("name"), item.get("arguments"), item.get("call_id")
        if type(name) is not str or type(arguments) is not str or type(call_id) is not str:
            return False
        try:
            if call_id in self._open or type(self._loads(arguments)) is not dict:
                return False
        except ValueError:
            return False
        if name not in self._declared:
            self.notes.append("calls_of_undeclared_tools")
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        turn = self._open[call_id] = self._in_turn()
        if "tool_calls" in turn:
            turn["tool_calls"].append(call)
        else:
            turn["tool_calls"] = [call]
        return True

    def _result(self, item: dict[str, Any]) -> bool:
        call_id, content = item.get("call_id"), item.get("output")
        if type(content) is not str:
            content = self._content(content)
        if type(call_id) is not str or content is None:
            return False
        turn = self._open.pop(call_id, None)
        if turn is None or turn is not self._turn:
            return False
        self._goes_on = False
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        return True

    def _content(self, content: Any) -> str | list[JsonObject] | None:
        """Parts of text as text, others as they are if they are kept; None for whatever is odd."""
        found = one_text(content) or content_from(content, "")
        if found is None or isinstance(found, Rejected):
            return None
        if is_plain(found):
            return text_of(found)
        return chat_content(found) if self._keeps_media else None

    def _in_turn(self) -> ChatMessage:
        """The message of the assistant that goes on, or a new one."""
        turn = self._turn
        if turn is None or not self._goes_on:
            self._goes_on, turn = True, {"role": "assistant", "content": ""}
            self._turn = turn
            self.messages.append(turn)
        return turn

    def _ends(self, answer_from: int) -> bool:
        messages, turn = self.messages, self._turn
        for owner in self._open.values():
            if owner is not turn:
                return False
        if not messages or messages[0]["role"] == "assistant":
            return False
        begin, end = answer_from, len(messages)
        while begin < end and messages[begin]["role"] != "assistant":
            begin += 1
        while begin < end and not answers(messages[end - 1]):
            end -= 1
        if end < len(messages):
            del messages[end:]
            self.notes.append("trimmed_to_last_answer")
        self.answer_at = begin
        return begin < end
