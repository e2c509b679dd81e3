"""The short way from rows to chats gives what the long one gives, or leaves the row to it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_samples import REAL_FILES, Row, call, real_rows, result, rollout, said, thought, user

from nemotron.data.rollouts.chat import ChatWriter
from nemotron.data.rollouts.direct import DirectWriter
from nemotron.data.rollouts.export import CHAT, RolloutWork
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.rollouts.rollout import Parts, Rollout, parts_of, read_rollout
from nemotron.data.stream.blocks import Block
from nemotron.data.stream.jsontext import codec
from nemotron.data.stream.sources import Source

REAL = [row for name in REAL_FILES for row in real_rows(name)]
SOURCE = Source(Path("rows.jsonl"), "rows.jsonl", "pipe", 0, (0, 0, 0, 0))

LINES = st.sampled_from(["", " \n", "yes", "<think>", "</think>", "so\n", "\nit is", "think>", "\u00e9"])
TEXTS = st.lists(LINES, max_size=5).map("".join)
IDS = st.sampled_from(["a", "b", "c"])


def rarely(usual: st.SearchStrategy[Any], *odd: Any) -> st.SearchStrategy[Any]:
    """Mostly the usual."""
    return st.integers(0, 15).flatmap(lambda n: st.sampled_from(odd) if n == 0 else usual)


PARTS = st.one_of(
    st.builds(
        lambda kind, text: {"type": kind, "text": text}, st.sampled_from(["output_text", "text"]), TEXTS
    ),
    st.just({"type": "input_image", "image_url": "data:,", "detail": "low"}),
    rarely(st.just({"type": "refusal", "refusal": "no"}), {"type": "output_text"}, {"text": "x"}, "x", 1),
)
CONTENTS = st.one_of(
    TEXTS, TEXTS.map(lambda text: [{"type": "output_text", "text": text}]), st.lists(PARTS, max_size=3)
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": rarely(
            st.sampled_from(["user", "assistant", "assistant", "system", "developer"]), "tool", "x", 1
        ),
        "content": rarely(CONTENTS, None, 1, {}),
    },
    optional={"type": st.just("message")},
)
CALLS = st.fixed_dictionaries(
    {
        "type": st.just("function_call"),
        "name": rarely(st.sampled_from(["look_up", "undefined"]), None),
        "arguments": rarely(st.sampled_from(["{}", '{"a": 1}']), "[]", "{", {"a": 1}, None),
        "call_id": rarely(IDS, None, 1),
    }
)
RESULTS = st.fixed_dictionaries(
    {
        "type": st.just("function_call_output"),
        "call_id": rarely(IDS, None, 1),
        "output": rarely(CONTENTS, None, {}),
    }
)
SUMMARIES = rarely(
    st.lists(TEXTS.map(lambda text: {"text": text}), max_size=2), None, "x", {"a": 1}, ["x"], [{"text": 1}]
)
THOUGHTS = st.fixed_dictionaries(
    {"type": st.just("reasoning")}, optional={"summary": SUMMARIES, "content": SUMMARIES}
)
PAIRS = st.tuples(IDS, CONTENTS).map(
    lambda pair: [
        {"type": "function_call", "name": "look_up", "arguments": "{}", "call_id": pair[0]},
        {"type": "function_call_output", "call_id": pair[0], "output": pair[1]},
    ]
)
CHAT_MESSAGES = (
    [{"role": "assistant", "content": "4", "reasoning_content": "2+2"}],
    [{"role": "assistant", "content": "4", "tool_calls": []}],
)
ONES = st.one_of(MESSAGES, MESSAGES, CALLS, RESULTS, THOUGHTS).map(lambda item: [item])
ODD = ([{"type": "web_search_call"}], ["x"], [{"type": 1}])
ITEMS = st.lists(st.one_of(ONES, PAIRS, PAIRS, rarely(PAIRS, *ODD, *CHAT_MESSAGES)), max_size=5)
ITEMS = ITEMS.map(lambda groups: [item for group in groups for item in group])
ASKED = ITEMS.map(lambda items: [{"role": "user", "content": "2+2?"}, *items])
TOOLS = [{"type": "function", "name": "look_up", "parameters": {}}]
HUGE = [{"type": "function", "name": "look_up", "parameters": {"maximum": 1 << 70}}]
ROWS = st.fixed_dictionaries(
    {
        "responses_create_params": rarely(
            st.fixed_dictionaries(
                {"input": rarely(ASKED, "2+2?", [], None, 1)},
                optional={
                    "tools": rarely(st.just(TOOLS), HUGE, [], {}, ["x"]),
                    "instructions": rarely(st.just("Be kind."), "", 1),
                },
            ),
            None,
        ),
        "reward": rarely(st.sampled_from([0, 1, 0.5]), None, "x"),
    },
    optional={
        "response": rarely(
            st.fixed_dictionaries(
                {"output": rarely(ITEMS, None, {}, [[], []], [[1], [2]]), "id": rarely(IDS, None, 1)},
                optional={"status": rarely(st.just("completed"), "incomplete")},
            ),
            None,
            {},
            "x",
        ),
        "agent_ref": st.just({"name": "agent"}),
    },
)
OPTIONS = st.builds(
    ExportOptions,
    reward_threshold=st.sampled_from([None, 0.5]),
    media=st.sampled_from(["leave_out", "drop", "keep"]),
    format=st.sampled_from(["openai", "simple"]),
    tools=st.sampled_from(["nested", "flat"]),
    incomplete=st.sampled_from(["leave_out", "keep"]),
    duplicates=st.sampled_from(["exact", "near", "keep"]),
    provenance=st.booleans(),
)


def made(rows: list[Row], options: ExportOptions) -> tuple[Any, ...]:
    """All that becomes of some rows, the order of what is counted included."""
    data = b"\n".join(json.dumps(row).encode() for row in rows)
    done = RolloutWork(options, (CHAT,))(Block(SOURCE, 1, 0, 0, data))
    counts = [
        (tally.kept, list(tally.left_out.items()), tally.examples, list(tally.notes.items()))
        for tally in (done.read, done.tallies[CHAT])
    ]
    return done.held, done.made, counts, done.rewards


def made_the_long_way(rows: list[Row], options: ExportOptions) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectWriter, "write", lambda *_: False)
        return made(rows, options)


@settings(max_examples=300, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), OPTIONS)
def test_rows_become_the_same_on_both_ways(rows: list[Row], options: ExportOptions) -> None:
    assert made(rows, options) == made_the_long_way(rows, options)


PICTURE = [{"type": "input_image", "image_url": "data:,"}]
ODDITIES: dict[str, tuple[Any, ...]] = {
    "a result after others spoke": (call("a"), call("b"), result("a"), said("Wait."), result("b"), said("4")),
    "a result after the user spoke": (call("a"), user("And?"), result("a"), said("4")),
    "a call that is left open": (call("a"), call("b"), result("a"), said("4")),
    "an open call at the end": (said("Hm."), call("a"), call("b"), result("a")),
    "one id for two calls": (call("a"), call("a"), result("a"), said("4")),
    "an id that is used again": (call("a"), result("a"), call("a"), result("a"), said("4")),
    "a result that nobody asked for": (result("a"), said("4")),
    "a tool that is not defined": (call("a", name="other"), result("a"), said("4")),
    "arguments that are no object": (call("a", arguments="[]"), result("a"), said("4")),
    "a blank text": (said(" \n"), call("a"), said("\t"), result("a"), said("4"), said(" ")),
    "a thought after a call": (call("a"), thought("So."), result("a"), said("4")),
    "two thoughts": (thought("One."), thought("Two."), said("<think>Three.</think>4")),
    "an empty thought and its summary": (
        {"type": "reasoning", "content": [{"text": ""}], "summary": [{"text": "x"}]},
        said("4"),
    ),
    "a thought alone": (thought("Hm."),),
    "an end without an answer": (said("4"), thought("Hm."), user("And?"), user("Well?")),
    "an answer in pictures": ({"role": "assistant", "content": PICTURE}, said("4")),
    "a result in pictures": (call("a"), result("a", PICTURE), said("4")),
    "a chat message with its thought": ({"role": "assistant", "content": "4", "reasoning_content": "2+2"},),
    "nothing": (),
}


@pytest.mark.parametrize("prompt", ["2+2?", [], [user("2+2?"), said("Well,")], [user("2+2?"), call("b")]])
@pytest.mark.parametrize("output", ODDITIES.values(), ids=ODDITIES)
def test_odd_rows_become_the_same_on_both_ways(output: tuple[Any, ...], prompt: Any) -> None:
    rows = [rollout(*output, prompt=prompt), rollout(*output, prompt=prompt, instructions="Add.")]
    rows.append(rollout(*output, prompt=prompt, instructions=1))
    for options in (ExportOptions(), ExportOptions(media="keep", duplicates="keep")):
        assert made(rows, options) == made_the_long_way(rows, options)


@pytest.mark.parametrize("media", ["keep", "leave_out"])
def test_real_rows_become_the_same_on_both_ways(media: str) -> None:
    options = ExportOptions(reward_threshold=None, media=media)
    short = made(REAL, options)
    assert short == made_the_long_way(REAL, options)
    assert short[0][CHAT].count(b"\n") > 20


def test_real_rows_take_the_short_way() -> None:
    """Else it would be of no use."""
    writer, left = DirectWriter(ExportOptions(media="keep"), codec()[0]), Counter[str]()
    for name in REAL_FILES:
        for row in real_rows(name):
            parts = parts_of(row)
            assert isinstance(parts, Parts)
            left[name] += not writer.write(parts, ())
    assert +left == {}


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from(["keep", "leave_out"]))
def test_what_the_short_way_tells_is_what_the_long_one_tells(row: Row, media: str) -> None:
    options = ExportOptions(media=media)
    short, long = DirectWriter(options, codec()[0]), ChatWriter(options, codec()[0])
    parts, rollout = parts_of(row), read_rollout(row)
    if not isinstance(rollout, Rollout) or not rollout.answered:
        return
    assert isinstance(parts, Parts)
    if short.write(parts, {tool.name for tool in rollout.conversation.tools}):
        assert long.write(rollout.conversation) is None
        assert short.messages == long.messages
        assert [list(message) for message in short.messages] == [list(message) for message in long.messages]
        assert (short.notes, short.answer_at) == (long.notes, long.answer_at)


@pytest.mark.parametrize(
    "option",
    [
        {"reasoning": "drop"},
        {"think_tags": "keep"},
        {"arguments": "object"},
        {"developer": "keep"},
        {"repeated_roles": "keep"},
        {"ending": "keep"},
        {"invalid_arguments": "keep"},
        {"unanswered_calls": "keep"},
        {"undeclared_tools": "leave_out"},
    ],
    ids=str,
)
def test_the_short_way_is_for_messages_as_they_are_by_default(option: dict[str, str]) -> None:
    assert DirectWriter.suits(ExportOptions())
    assert not DirectWriter.suits(ExportOptions(**option))
