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
from nemotron.data.stream.jsontext import codec, exact_loads, has_huge_number
from nemotron.data.stream.keys import key_of
from nemotron.data.stream.rows import Rejected, parse_row
from nemotron.data.stream.tally import Tally

from .chat import ChatWriter
from .options import ExportOptions
from .rollout import Rollout, ToolMemory, read_rollout
from .similar import band_keys

CHAT, PREFERENCES, PROMPTS = "chat", "preferences", "prompts"

# Parameters of a request that the environment refuses as null.
_NEVER_NULL = ("tool_choice", "parallel_tool_calls")
# What a rollout added to the row it was made from.
_ADDED = frozenset(("response", "output", "reward"))


class Made(NamedTuple):
    """What became of one row for one output.

    data: the row to write, with its line end; of a preference the context and the answer apart. prompt,
    answers and response: 64-bit keys, 0 or empty where nobody needs them.
    """

    line: int
    data: bytes
    prompt: int = 0
    answers: tuple[int, ...] = ()
    response: int = 0
    reward: float = 0.0
    answer: bytes = b""


@dataclass
class Exported:
    """What became of one block. read: rows that are rollouts, and those that are none; rewards: of all
    that have one, by value, as long as there are few values; made and tallies: by output."""

    file: str
    read: Tally = field(default_factory=Tally)
    rewards: Counter[float] = field(default_factory=Counter)
    made: dict[str, list[Made]] = field(default_factory=dict)
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
            return done
        reader = _Reader(self, done)
        for line, text in enumerate(block.lines(), start=block.first_line):
            if not text or text.isspace():
                done.read.notes["blank_lines_skipped"] += 1
            else:
                reader.take(text, line)
        return done


class _Reader:
    """Takes the rows of one block, one after the other."""

    def __init__(self, work: RolloutWork, done: Exported) -> None:
        self._done = done
        self._options = work.options
        self._makers = [(name, _MAKERS[name]) for name in work.outputs]
        self._tools = ToolMemory()
        self._loads = codec()[0]
        self._copies_all = PROMPTS in work.outputs
        # Rows below the threshold, often most, are not worth reading further where nothing else is made.
        self._below = work.options.reward_threshold if work.outputs == (CHAT,) else None

    def take(self, text: bytes, line: int) -> None:
        done = self._done
        row = parse_row(text, self._loads)
        if self._below is not None and self._is_below(row, line):
            return
        rollout = row if isinstance(row, Rejected) else read_rollout(row, done.file, line, self._tools)
        if isinstance(rollout, Rejected):
            done.read.leave_out(rollout, done.file, line)
            return
        if self._tools.has_huge_number or (self._copies_all and has_huge_number(row)):
            rollout = read_rollout(exact_loads(text), done.file, line, self._tools)
            assert isinstance(rollout, Rollout)
        done.read.kept += 1
        if rollout.reward is not None:
            done.rewards[rollout.reward] += 1
        for name, maker in self._makers:
            tally = done.tallies[name]
            made = maker(rollout, line, self._options, tally, self._tools)
            if isinstance(made, Rejected):
                tally.leave_out(made, done.file, line)
            else:
                done.made[name].append(made)

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


def _written(rollout: Rollout, options: ExportOptions, tally: Tally) -> ChatWriter | Rejected:
    """The messages of a rollout; what was changed on the way is counted unless it is left out."""
    writer = ChatWriter(options, codec()[0])
    wrong = writer.write(rollout.conversation)
    if wrong:
        return wrong
    for note in writer.notes:
        tally.notes[note] += 1
    return writer


def _chat(
    rollout: Rollout, line: int, options: ExportOptions, tally: Tally, memory: ToolMemory
) -> Made | Rejected:
    wrong = _unfit(rollout, options, options.reward_threshold)
    if wrong:
        return wrong
    writer = _written(rollout, options, tally)
    if isinstance(writer, Rejected):
        return writer
    dumps = codec()[1]
    at, tools = writer.answer_at, b"[]"
    context, answer = dumps(writer.messages[:at]), dumps(writer.messages[at:])
    if rollout.conversation.tools:
        tools = memory.written(options.tools == "nested")
    if options.format == "simple":
        row = _simple(writer)
        if isinstance(row, Rejected):
            return row
        data = dumps(row)[:-1]
    else:
        data = b'{"messages":' + context[:-1] + b"," + answer[1:]
        if rollout.conversation.tools:
            data += b',"tools":' + tools
    if options.provenance:
        data += b',"provenance":' + dumps(rollout.conversation.provenance)
    keys = _keys(rollout, options, context + tools, answer)
    return Made(line, data + b"}\n", *keys)


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
    rollout: Rollout, options: ExportOptions, asked: bytes, answer: bytes
) -> tuple[int, tuple[int, ...], int]:
    """The keys that the options need: of the prompt with its tools, the answer, the response id."""
    unique = options.duplicates != "keep"
    if not (unique or options.max_per_prompt is not None or options.validation_share):
        return 0, (), 0
    prompt = key_of(asked)
    if not unique:
        return prompt, (), 0
    answer = _without_ids(answer)
    answers: tuple[int, ...] = (key_of(prompt.to_bytes(8, "little") + answer),)
    if options.duplicates == "near":
        answers += band_keys(prompt, answer)
    response_id = rollout.conversation.provenance.get("response_id")
    return prompt, answers, key_of(response_id.encode("utf-8")) if response_id else 0


_RESULT_ID = b'"tool_call_id":"'
_CALL_ID, _CALL = b'{"id":"', b'","type":"function","function":{"name":"'


def _without_ids(answer: bytes) -> bytes:
    """The JSON of an answer without the ids of its calls, which differ between two that say the same.

    In the text, where it takes a tenth of the time: quotes within strings are escaped, so that no string can
    look like these keys.
    """
    first, *rest = answer.split(_RESULT_ID)
    if rest:
        answer = b"".join((first, *(piece[piece.find(b'"') :] for piece in rest)))
    *calls, last = answer.split(_CALL)
    if calls:
        answer = b"".join((*(piece[: piece.rfind(_CALL_ID) + 1] for piece in calls), last))
    return answer


def _preference(
    rollout: Rollout, line: int, options: ExportOptions, tally: Tally, memory: ToolMemory
) -> Made | Rejected:
    """A side of a pair: which pair is decided when all rows are known."""
    wrong = _unfit(rollout, options, float("-inf"))
    if wrong:
        return wrong
    writer = _written(rollout, options, tally)
    if isinstance(writer, Rejected):
        return writer
    dumps = codec()[1]
    messages = writer.messages[writer.answer_at :]
    start = b'{"context":' + dumps(writer.messages[: writer.answer_at])
    if rollout.conversation.tools:
        start += b',"tools":' + memory.written(options.tools == "nested")
    side: dict[str, Any] = {"completion": messages}
    if options.provenance:
        side["provenance"] = rollout.conversation.provenance
    assert rollout.reward is not None
    same = (key_of(_without_ids(dumps(messages))),)
    return Made(line, start, key_of(start), same, 0, float(rollout.reward), dumps(side))


def _prompt(
    rollout: Rollout, line: int, options: ExportOptions, tally: Tally, memory: ToolMemory
) -> Made | Rejected:
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
    return Made(line, data, key_of(asked))


_Maker = Callable[[Rollout, int, ExportOptions, Tally, ToolMemory], Made | Rejected]
_MAKERS: dict[str, _Maker] = {CHAT: _chat, PREFERENCES: _preference, PROMPTS: _prompt}
