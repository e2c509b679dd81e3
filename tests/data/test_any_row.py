"""Whatever stands in a row, it is converted or left out with a reason; nothing raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks.tools import ToolWatch
from nemotron.data.chats.datasets import asked
from nemotron.data.chats.formats import (
    GeneralConversation,
    OpenAIFormat,
    OpenAssistant,
    OpenMathInstruct2,
    Response,
    Squad,
)
from nemotron.data.fields import RefusedRowError
from nemotron.data.preferences.convert import FormatRows, PairRows
from nemotron.data.preferences.convert import asked as about
from nemotron.data.preferences.formats import METHODS, find_format, type_names
from nemotron.data.prompts import PromptRows, prompt_work
from nemotron.data.rowwise import Done, RowMaker, RowWork, refused_by
from nemotron.data.stream.rows import Rejected

Row = dict[str, Any]

scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", " ", "x", "user", "assistant"])
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "prompter", "human", "gpt"])
calls = st.lists(
    st.fixed_dictionaries(
        {}, optional={"name": scalars, "arguments": scalars, "function": scalars, "id": scalars}
    ),
    max_size=2,
)
said = st.fixed_dictionaries(
    {},
    optional={
        "role": roles | scalars, "content": scalars, "from": roles, "value": scalars, "text": scalars,
        "tool_calls": calls | scalars, "tool_call_id": scalars, "replies": scalars, "rank": scalars,
        "answer": scalars, "completion": scalars, "type": scalars,
    },
)  # fmt: skip
fair = st.fixed_dictionaries({"role": roles, "content": st.sampled_from(["x", "y", ""])})
values = scalars | st.lists(said | scalars | fair, max_size=3) | st.lists(fair, max_size=4) | said
KEYS = (
    "messages", "tools", "context", "completions", "prompt", "chosen", "rejected", "question", "input",
    "output", "instruction", "chosen_response", "rejected_response", "system", "answers", "completion",
    "label", "problem", "expected_answer", "conversations", "image", "responses_create_params", "agent_ref",
)  # fmt: skip
rows = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


def taken(work: RowWork, row: Row) -> Done:
    maker = RowMaker(work, "f")
    maker.take(row, 1)
    return maker.end()


CHATS = (
    Squad(), OpenMathInstruct2(), Response(), OpenAIFormat(system_key="system", trim=True),
    OpenAIFormat("conversations", None, "s", None), OpenAssistant("s"), GeneralConversation("d"),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rows)
@pytest.mark.parametrize("convert", CHATS, ids=lambda convert: type(convert).__name__)
def test_any_row_of_a_chat_data_set(convert: Any, row: Row) -> None:
    done = taken(RowWork(convert, "training_jsonl", asked), row)
    assert done.written or done.tally.left_out


@settings(max_examples=400, deadline=None)
@given(rows)
def test_any_row_that_may_become_a_prompt(row: Row) -> None:
    for convert in (
        PromptRows(system_prompt="s"),
        PromptRows("problem", "answers", agent="a", keep=("label",)),
    ):
        done = taken(prompt_work(convert), row)
        assert done.written or done.tally.left_out


@settings(max_examples=150, deadline=None)
@given(rows)
@pytest.mark.parametrize("method", METHODS)
def test_any_row_of_any_type_of_preferences(method: str, row: Row) -> None:
    for name in type_names(method):
        kind = find_format(name, method)
        work = RowWork(PairRows(kind), "preference_jsonl", about)
        done = taken(work, row)
        assert done.written or done.tally.left_out or not kind.paired
    taken(RowWork(FormatRows(find_format("chatml.ultra")), None, about), row)


@settings(max_examples=300, deadline=None)
@given(rows, st.sampled_from(["q", " ", "", 3, None]), st.sampled_from(["a", "b", "\n"]))
def test_what_needs_no_check_would_pass_it(row: Row, ask: Any, answer: str) -> None:
    """Of rows that have all that is asked for, so that some come through."""
    kinds = [(PairRows(find_format(name)), "preference_jsonl") for name in type_names("dpo")]
    given_ = {"answers": {"text": [answer]}, "context": "c", "problem": ask, "expected_answer": answer}
    told = dict.fromkeys(("prompt", "question", "input", "instruction", "system"), ask)
    sides = {"chosen": answer, "chosen_response": answer, "rejected": "b", "rejected_response": "b"}
    for convert, kind in [(Squad(), "training_jsonl"), (OpenMathInstruct2(), "training_jsonl"), *kinds]:
        if not getattr(convert, "sound", False):
            continue
        for tried in (row, {**row, **given_, **told}, {**told, **sides}):
            try:
                found = convert(tried)
            except RefusedRowError:
                continue
            if not isinstance(found, Rejected):
                assert all(refused_by(made, kind, ToolWatch()) is None for made in found)


def test_some_need_no_check_and_come_through() -> None:
    assert PairRows(find_format("chatml.intel")).sound and Squad.sound and OpenMathInstruct2.sound
    assert not PairRows(find_format("user_defined.default")).sound
