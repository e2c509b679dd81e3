"""A block of rollout rows as rows of training data: what each worker process does.

`RolloutWork` depends on the block alone, so that it runs in any process, or as a stage of Ray Data. What
depends on other rows (duplicates, caps, splits, pairs) is decided from the keys it gives, see `keep.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from nemotron.data.conversation import JsonObject
from nemotron.data.stream.blocks import Block
from nemotron.data.stream.held import Held
from nemotron.data.stream.jsontext import TooDeepError, codec, exact_loads, has_huge_number
from nemotron.data.stream.keys import key_of
from nemotron.data.stream.rows import TOO_DEEP, Rejected, parse_row
from nemotron.data.stream.tally import Tally

from .chat import ChatMessage, ChatWriter
from .direct import DirectWriter
from .options import ExportOptions
from .pairs import parted
from .rollout import Parts, Rollout, ToolMemory, parts_of, provenance_of, read_rollout
from .similar import band_keys

CHAT, PREFERENCES, PROMPTS = "chat", "preferences", "prompts"

# Parameters of a request that the environment refuses as null.
_NEVER_NULL = ("tool_choice", "parallel_tool_calls")
# What a rollout added to the row it was made from.
_ADDED = frozenset(("response", "output", "reward"))


Piece: TypeAlias = bytes | memoryview


class Made(NamedTuple):
    """What became of one row for one output.

    data: the pieces of the row to write, line end included; of a preference see `Pairs`. prompt, answers
    and response: 64-bit keys, 0 or empty where nobody needs them.
    """

    data: tuple[Piece, ...]
    prompt: int = 0
    answers: tuple[int, ...] = ()
    response: int = 0
    reward: float = 0.0


class Placed(NamedTuple):
    """What became of one row, without its data, which stand from begin to end among those of the block."""

    line: int
    begin: int
    end: int
    prompt: int
    answers: tuple[int, ...]
    response: int
    reward: float


@dataclass
class Exported(Held):
    """What became of one block; under the name of each output its data are held.

    read: rows that are rollouts, and those that are none; rewards: of all that have one, by value, as long
    as there are few values; made and tallies: by output.
    """

    file: str
    read: Tally = field(default_factory=Tally)
    rewards: Counter[float] = field(default_factory=Counter)
    made: dict[str, list[Placed]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutWork:
    """What is made of each rollout. outputs: of CHAT, PREFERENCES, PROMPTS those that are wanted."""

    options: ExportOptions
    outputs: tuple[str, ...]

    def __call__(self, block: Block) -> Exported:
        """Read the rows of a block and make the rows of each output."""
        file = block.source.name
        done = Exported(file, made={name: [] for name in self.outputs})
        done.tallies = {name: Tally() for name in self.outputs}
        if block.too_long:
            what = f"a line of {block.too_long:,} bytes, not read"
            done.read.leave_out(Rejected("line_too_long", what), file, block.first_line)
        reader = _Reader(self, done)
        for line, text in enumerate(block.lines(), start=block.first_line):
            if not text or text.isspace():
                done.read.notes["blank_lines_skipped"] += 1
            else:
                reader.take(text, line)
        reader.end()
        return done


class _Reader:
    """Takes the rows of one block, one after the other."""

    def __init__(self, work: RolloutWork, done: Exported) -> None:
        self._done = done
        self._makers = [(name, _MAKERS[name]) for name in work.outputs]
        self._data: dict[str, list[Piece]] = {name: [] for name in work.outputs}
        self._ends = dict.fromkeys(work.outputs, 0)
        self._tools = ToolMemory()
        self._loads = codec()[0]
        self._kit = _Kit(work.options, self._tools, ChatWriter(work.options, self._loads))
        self._copies_all = PROMPTS in work.outputs
        # Rows below the threshold, often most, are not worth reading further where nothing else is made.
        self._below = work.options.reward_threshold if work.outputs == (CHAT,) else None
        chats_alone = work.outputs == (CHAT,) and DirectWriter.suits(work.options)
        self._direct = DirectWriter(work.options, self._loads) if chats_alone else None

    def take(self, text: bytes, line: int) -> None:
        done = self._done
        row = parse_row(text, self._loads)
        if self._below is not None and self._is_below(row, line):
            return
        if self._direct is not None and type(row) is dict and self._take_directly(row, line, self._direct):
            return
        try:
            rollout = self._rollout(row, text, line)
        except (TooDeepError, RecursionError):
            rollout = TOO_DEEP
        if isinstance(rollout, Rejected):
            done.read.leave_out(rollout, done.file, line)
            return
        self._count(rollout.reward)
        for name, maker in self._makers:
            try:
                made = maker(rollout, done.tallies[name], self._kit)
            except (TooDeepError, RecursionError):
                made = TOO_DEEP
            self._put(name, made, line)

    def _count(self, reward: float | None) -> None:
        self._done.read.kept += 1
        if reward is not None:
            self._done.rewards[reward] += 1

    def _put(self, name: str, made: Made | Rejected, line: int) -> None:
        done = self._done
        if isinstance(made, Rejected):
            done.tallies[name].leave_out(made, done.file, line)
            return
        data, prompt, answers, response, reward = made
        self._data[name] += data
        begin = self._ends[name]
        end = self._ends[name] = begin + sum(map(len, data))
        done.made[name].append(Placed(line, begin, end, prompt, answers, response, reward))

    def _take_directly(self, row: dict[str, Any], line: int, writer: DirectWriter) -> bool:
        """Take a row that has nothing odd; of any other nothing is done, and False returned."""
        parts, memory, kit, done = parts_of(row), self._tools, self._kit, self._done
        if isinstance(parts, Rejected):
            return False
        try:
            tools = memory.tools_from(parts.definitions)
        except (TooDeepError, RecursionError):
            return False
        if tools is None or memory.has_huge_number or not writer.write(parts, memory.declared):
            return False
        self._count(parts.reward)
        made: Made | Rejected | None = _unfit(parts, kit.options, kit.options.reward_threshold)
        if made is None:
            provenance = provenance_of(row, done.file, line)
            try:
                made = _chat_row(writer, done.tallies[CHAT], bool(tools), provenance, kit)
            except (TooDeepError, RecursionError):
                made = TOO_DEEP
        self._put(CHAT, made, line)
        return True

    def _rollout(self, row: dict[str, Any] | Rejected, text: bytes, line: int) -> Rollout | Rejected:
        """The rollout in a row; with its numbers as they stand in the text, where they are to be copied."""
        file, tools = self._done.file, self._tools
        rollout = row if isinstance(row, Rejected) else read_rollout(row, file, line, tools)
        if isinstance(rollout, Rejected):
            return rollout
        if tools.has_huge_number or (self._copies_all and has_huge_number(row)):
            return read_rollout(exact_loads(text), file, line, tools)
        return rollout

    def end(self) -> None:
        """Hand over the data."""
        self._done.held = {name: b"".join(data) for name, data in self._data.items()}

    def _is_below(self, row: dict[str, Any] | Rejected, line: int) -> bool:
        """Whether the reward alone says that the row is left out; if so it is counted."""
        if isinstance(row, Rejected) or "_ng_failure_class" in row:
            return False
        reward = row.get("reward")
        if type(reward) not in (int, float) or reward >= self._below:  # type: ignore[operator]
            return False
        done = self._done
        done.read.kept += 1
        done.rewards[reward] += 1  # type: ignore[index]
        done.tallies[CHAT].leave_out(_below(reward), done.file, line)  # type: ignore[arg-type]
        return True


class _Kit(NamedTuple):
    """What is of use for many rows."""

    options: ExportOptions
    memory: ToolMemory
    writer: ChatWriter


def _chat(rollout: Rollout, tally: Tally, kit: _Kit) -> Made | Rejected:
    wrong = _unfit(rollout, kit.options, kit.options.reward_threshold)
    wrong = wrong or kit.writer.write(rollout.conversation)
    if wrong is not None:
        return wrong
    known = rollout.conversation
    return _chat_row(kit.writer, tally, bool(known.tools), known.provenance, kit)


def _chat_row(
    writer: ChatWriter | DirectWriter, tally: Tally, has_tools: bool, provenance: JsonObject, kit: _Kit
) -> Made | Rejected:
    """The row of what a writer wrote; has_tools: those that the memory saw last."""
    options, dumps = kit.options, codec()[1]
    for note in writer.notes:
        tally.notes[note] += 1
    simple = _simple(writer) if options.format == "simple" else None
    if isinstance(simple, Rejected):
        return simple
    # Apart, as each has a key of its own.
    prompt, answer = dumps(writer.messages[: writer.answer_at]), dumps(writer.messages[writer.answer_at :])
    tools = kit.memory.written(options.tools == "nested") if has_tools else b"[]"
    data: tuple[Piece, ...]
    if simple is not None:
        data = (dumps(simple)[:-1],)
    else:
        data = (b'{"messages":', memoryview(prompt)[:-1], b",", memoryview(answer)[1:])
        if has_tools:
            data += (b',"tools":', tools)
    if options.provenance:
        data += (b',"provenance":', dumps(provenance))
    response_id = provenance.get("response_id")
    return Made((*data, b"}\n"), *_keys(writer, options, prompt, answer, tools, response_id))


def _unfit(rollout: Rollout | Parts, options: ExportOptions, threshold: float | None) -> Rejected | None:
    """Why a rollout is no example to learn from, whatever it says."""
    if not rollout.answered:
        return Rejected("no_response", "the row has a prompt and no response")
    if threshold is not None:
        reward = rollout.reward
        if reward is None:
            return Rejected("no_reward", "the row has no reward")
        if reward < threshold:
            return _below(reward)
    if options.incomplete == "leave_out" and rollout.is_incomplete:
        return Rejected("incomplete_response", "the answer was cut off")
    return None


def _below(reward: float) -> Rejected:
    return Rejected("reward_below_threshold", f"the reward is {reward}")


def _simple(writer: ChatWriter | DirectWriter) -> dict[str, Any] | Rejected:
    """One question and one answer; a system message stands before the question."""
    messages = writer.messages
    roles = [message["role"] for message in messages]
    if [role for role in roles if role != "system"] != ["user", "assistant"] or roles[-1] != "assistant":
        return Rejected("not_simple", "more than one question and one answer")
    if "tool_calls" in messages[-1]:
        return Rejected("not_simple", "the answer is a call of a tool")
    texts = [message["content"] for message in messages]
    if not all(type(text) is str for text in texts):
        return Rejected("not_simple", "there are parts that are no text")
    row = {"input": "\n\n".join(texts[:-1]), "output": texts[-1]}
    if "reasoning_content" in messages[-1]:
        row["reasoning_content"] = messages[-1]["reasoning_content"]
    return row


def _keys(
    writer: ChatWriter | DirectWriter,
    options: ExportOptions,
    asked: bytes,
    answer: bytes,
    tools: bytes,
    response_id: str | None,
) -> tuple[int, tuple[int, ...], int]:
    """The keys that the options need: of the prompt with its tools, the answer, the response id."""
    unique = options.duplicates != "keep"
    if not (unique or options.max_per_prompt is not None or options.validation_share):
        return 0, (), 0
    prompt = key_of(asked, tools)
    if not unique:
        return prompt, (), 0
    near, messages = options.duplicates == "near", writer.messages[writer.answer_at :]
    # One message without calls says what is written of it.
    plain = len(messages) == 1 and not near and "tool_calls" not in messages[0]
    said = answer if plain else _said(messages)
    answers: tuple[int, ...] = (key_of(prompt.to_bytes(8, "little"), said),)
    if near:
        answers += band_keys(prompt, said)
    return prompt, answers, key_of(response_id.encode("utf-8")) if response_id else 0


def _said(answer: list[ChatMessage]) -> bytes:
    """What an answer says, without the ids of its calls, which differ between two that say the same."""
    said: list[Any] = []
    for message in answer:
        role, content = message["role"], message["content"]
        if role == "assistant":
            calls = message.get("tool_calls")
            functions = calls and [call["function"] for call in calls]
            said += role, content, message.get("reasoning_content"), functions
        else:
            said += role, content
    return codec()[1](said)


def _preference(rollout: Rollout, tally: Tally, kit: _Kit) -> Made | Rejected:
    """A side of a pair: which pair is decided when all rows are known."""
    options, memory, writer = kit
    wrong = _unfit(rollout, options, float("-inf")) or writer.write(rollout.conversation)
    if wrong is not None:
        return wrong
    for note in writer.notes:
        tally.notes[note] += 1
    dumps = codec()[1]
    messages = writer.messages[writer.answer_at :]
    start = b'{"context":' + dumps(writer.messages[: writer.answer_at])
    if rollout.conversation.tools:
        start += b',"tools":' + memory.written(options.tools == "nested")
    side: dict[str, Any] = {"completion": messages}
    if options.provenance:
        side["provenance"] = rollout.conversation.provenance
    assert rollout.reward is not None
    same = (key_of(_said(messages)),)
    return Made(parted(start, dumps(side)), key_of(start), same, 0, float(rollout.reward))


def _prompt(rollout: Rollout, tally: Tally, _: _Kit) -> Made | Rejected:
    """The prompt as NeMo-Gym takes it; keys of the environment stay beside it."""
    row = rollout.row
    request = dict(row.get("responses_create_params") or {})
    items = request.get("input")
    if not items and rollout.conversation.items:
        from .items import responses_items

        # Some environments hold the prompt themselves, and it is seen in the output only.
        items = request["input"] = responses_items(rollout.prompt)
        tally.notes["prompt_taken_from_output"] += 1
    if not items:
        return Rejected("no_prompt", "the input is empty")
    for key in _NEVER_NULL:
        if key in request and request[key] is None:
            del request[key]
    made: dict[str, Any] = {"responses_create_params": request}
    for key, value in row.items():
        if key not in _ADDED and key not in made and not key.startswith("_ng_"):
            made[key] = value
    dumps = codec()[1]
    data = dumps(made) + b"\n"
    asked = dumps([items, request.get("tools"), request.get("instructions")])
    return Made((data,), key_of(asked))


_Maker = Callable[[Rollout, Tally, _Kit], Made | Rejected]
_MAKERS: dict[str, _Maker] = {CHAT: _chat, PREFERENCES: _preference, PROMPTS: _prompt}
