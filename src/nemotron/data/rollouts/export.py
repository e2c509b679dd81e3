"""A block of rollout rows as rows of training data: what each worker process does.

`RolloutWork` depends on the block alone, so that it runs in any process, or as a stage of Ray Data. What
depends on other rows (duplicates, caps, splits, pairs) is decided from the keys it gives, see `keep.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nemotron.data.stream.blocks import Block
from nemotron.data.stream.held import Held
from nemotron.data.stream.jsontext import TooDeepError, codec, exact_loads, has_huge_number
from nemotron.data.stream.keys import key_of
from nemotron.data.stream.rows import TOO_DEEP, Rejected, parse_row
from nemotron.data.stream.tally import Tally

from .chat import ChatMessage, ChatWriter
from .options import ExportOptions
from .pairs import parted
from .rollout import Rollout, ToolMemory, read_rollout
from .similar import band_keys

CHAT, PREFERENCES, PROMPTS = "chat", "preferences", "prompts"

# Parameters of a request that the environment refuses as null.
_NEVER_NULL = ("tool_choice", "parallel_tool_calls")
# What a rollout added to the row it was made from.
_ADDED = frozenset(("response", "output", "reward"))


class Made(NamedTuple):
    """What became of one row for one output.

    data: the pieces of the row to write, line end included; of a preference see `Pairs`. prompt, answers
    and response: 64-bit keys, 0 or empty where nobody needs them.
    """

    data: tuple[bytes, ...]
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
        self._data: dict[str, list[bytes]] = {name: [] for name in work.outputs}
        self._ends = dict.fromkeys(work.outputs, 0)
        self._tools = ToolMemory()
        self._loads = codec()[0]
        self._kit = _Kit(work.options, self._tools, ChatWriter(work.options, self._loads))
        self._copies_all = PROMPTS in work.outputs
        # Rows below the threshold, often most, are not worth reading further where nothing else is made.
        self._below = work.options.reward_threshold if work.outputs == (CHAT,) else None

    def take(self, text: bytes, line: int) -> None:
        done = self._done
        row = parse_row(text, self._loads)
        if self._below is not None and self._is_below(row, line):
            return
        try:
            rollout = self._rollout(row, text, line)
        except (TooDeepError, RecursionError):
            rollout = TOO_DEEP
        if isinstance(rollout, Rejected):
            done.read.leave_out(rollout, done.file, line)
            return
        done.read.kept += 1
        if rollout.reward is not None:
            done.rewards[rollout.reward] += 1
        for name, maker in self._makers:
            tally = done.tallies[name]
            try:
                made = maker(rollout, tally, self._kit)
            except (TooDeepError, RecursionError):
                made = TOO_DEEP
            if isinstance(made, Rejected):
                tally.leave_out(made, done.file, line)
                continue
            data, prompt, answers, response, reward = made
            self._data[name] += data
            begin = self._ends[name]
            end = self._ends[name] = begin + sum(map(len, data))
            done.made[name].append(Placed(line, begin, end, prompt, answers, response, reward))

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


def _written(rollout: Rollout, writer: ChatWriter, tally: Tally) -> Rejected | None:
    """Have the messages of a rollout written; what was changed is counted unless it is left out."""
    wrong = writer.write(rollout.conversation)
    if wrong is None:
        for note in writer.notes:
            tally.notes[note] += 1
    return wrong


def _chat(rollout: Rollout, tally: Tally, kit: _Kit) -> Made | Rejected:
    options, memory, writer = kit
    wrong = _unfit(rollout, options, options.reward_threshold)
    if wrong is not None:
        return wrong
    wrong = _written(rollout, writer, tally)
    if wrong is not None:
        return wrong
    dumps = codec()[1]
    has_tools = bool(rollout.conversation.tools)
    tools = memory.written(options.tools == "nested") if has_tools else b"[]"
    data: tuple[bytes, ...]
    if options.format == "simple":
        row = _simple(writer)
        if isinstance(row, Rejected):
            return row
        data = (dumps(row)[:-1],)
    else:
        data = (b'{"messages":', dumps(writer.messages))
        if has_tools:
            data += (b',"tools":', tools)
    if options.provenance:
        data += (b',"provenance":', dumps(rollout.conversation.provenance))
    return Made((*data, b"}\n"), *_keys(rollout, options, writer, tools))


def _unfit(rollout: Rollout, options: ExportOptions, threshold: float | None) -> Rejected | None:
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


def _simple(writer: ChatWriter) -> dict[str, Any] | Rejected:
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
    rollout: Rollout, options: ExportOptions, writer: ChatWriter, tools: bytes
) -> tuple[int, tuple[int, ...], int]:
    """The keys that the options need: of the prompt with its tools, the answer, the response id."""
    unique = options.duplicates != "keep"
    if not (unique or options.max_per_prompt is not None or options.validation_share):
        return 0, (), 0
    prompt = key_of(codec()[1](writer.messages[: writer.answer_at]), tools)
    if not unique:
        return prompt, (), 0
    said = _said(writer.messages[writer.answer_at :])
    answers: tuple[int, ...] = (key_of(prompt.to_bytes(8, "little"), said),)
    if options.duplicates == "near":
        answers += band_keys(prompt, said)
    response_id = rollout.conversation.provenance.get("response_id")
    return prompt, answers, key_of(response_id.encode("utf-8")) if response_id else 0


def _said(answer: list[ChatMessage]) -> bytes:
    """What an answer says, without the ids of its calls, which differ between two that say the same."""
    said: list[Any] = []
    for message in answer:
        said += message["role"], message["content"]
        if message["role"] == "assistant":
            calls = message.get("tool_calls")
            said += message.get("reasoning_content"), calls and [call["function"] for call in calls]
    return codec()[1](said)


def _preference(rollout: Rollout, tally: Tally, kit: _Kit) -> Made | Rejected:
    """A side of a pair: which pair is decided when all rows are known."""
    options, memory, writer = kit
    wrong = _unfit(rollout, options, float("-inf"))
    if wrong is not None:
        return wrong
    wrong = _written(rollout, writer, tally)
    if wrong is not None:
        return wrong
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
