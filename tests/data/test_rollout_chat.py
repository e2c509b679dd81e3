"""Rollouts as chat messages: what the documented script lost or bent comes out right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from rollout_samples import REAL_FILES, Row, call, real_rows, result, rollout, rollouts, said, thought, user

from nemotron.artifacts.checks.report import Problem
from nemotron.artifacts.checks.rows import ROW_TYPES
from nemotron.artifacts.checks.tools import ToolWatch
from nemotron.data.rollouts.chat import ChatWriter
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.rollouts.rollout import Rollout, read_rollout
from nemotron.data.stream.jsontext import codec
from nemotron.data.stream.rows import Rejected

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"}


def written(row: Row, **options: Any) -> ChatWriter | Rejected:
    read = read_rollout(row)
    assert isinstance(read, Rollout), read
    writer = ChatWriter(ExportOptions(**options), codec()[0])
    return writer.write(read.conversation) or writer


def messages(row: Row, **options: Any) -> list[dict[str, Any]]:
    writer = written(row, **options)
    assert isinstance(writer, ChatWriter), writer
    return writer.messages


def reason(row: Row, **options: Any) -> str:
    refused = written(row, **options)
    assert isinstance(refused, Rejected), refused.messages
    return refused.reason


def turns(row: Row, **options: Any) -> list[tuple[Any, ...]]:
    """Role, content, and the ids of calls or of the answered call."""
    return [
        (
            m["role"],
            m["content"],
            *[c["id"] for c in m.get("tool_calls", ())],
            *filter(None, [m.get("tool_call_id")]),
        )
        for m in messages(row, **options)
    ]


ASKED = ("user", "2+2?")


def test_a_text_and_its_call_are_one_message_and_the_result_names_the_call() -> None:
    row = rollout(said("I add."), call("c1", arguments='{"a":  1}'), result("c1"), said("4"))
    assert messages(row) == [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":  1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "4"},
    ]


def test_parallel_calls_are_one_message_and_results_match_by_id_in_any_order() -> None:
    row = rollout(call("a"), call("b"), result("b", "B"), result("a", "A"), said("4"))
    assert turns(row) == [
        ASKED,
        ("assistant", "", "a", "b"),
        ("tool", "B", "b"),
        ("tool", "A", "a"),
        ("assistant", "4"),
    ]


def test_calls_after_results_are_turns_of_their_own_and_may_use_an_id_again() -> None:
    row = rollout(call("a"), result("a"), call("a"), result("a", "3"), said("4"))
    assert turns(row)[1:] == [
        ("assistant", "", "a"),
        ("tool", "2", "a"),
        ("assistant", "", "a"),
        ("tool", "3", "a"),
        ("assistant", "4"),
    ]


def test_a_text_between_a_call_and_its_result_stays_with_the_call() -> None:
    assert turns(rollout(call("a"), said("Wait."), result("a"), said("4")))[1:] == [
        ("assistant", "Wait.", "a"),
        ("tool", "2", "a"),
        ("assistant", "4"),
    ]


def test_a_late_result_goes_to_the_message_that_called() -> None:
    row = rollout(call("a"), call("b"), result("a", "A"), said("Half."), result("b", "B"), said("4"))
    assert turns(row)[1:] == [
        ("assistant", "", "a", "b"),
        ("tool", "A", "a"),
        ("tool", "B", "b"),
        ("assistant", "Half.\n\n4"),
    ]


def test_a_result_that_comes_after_other_words_stands_with_its_call_too() -> None:
    row = rollout(call("a"), call("b"), result("a", "A"), user("Go on."), result("b", "B"), said("4"))
    assert turns(row)[1:] == [
        ("assistant", "", "a", "b"),
        ("tool", "A", "a"),
        ("tool", "B", "b"),
        ("user", "Go on."),
        ("assistant", "4"),
    ]


def test_calls_without_ids_are_paired_in_order_and_get_ids() -> None:
    assert turns(rollout(call(None), call(None), result(None, "A"), result(None, "B"), said("4")))[1:4] == [
        ("assistant", "", "call_1", "call_2"),
        ("tool", "A", "call_1"),
        ("tool", "B", "call_2"),
    ]


def test_user_and_system_items_inside_the_output_keep_their_role() -> None:
    row = rollout(said("hit"), user("You have 16."), said("stand"), said("Over.", "system"), said("ok"))
    assert turns(row)[1:] == [
        ("assistant", "hit"),
        ("user", "You have 16."),
        ("assistant", "stand"),
        ("system", "Over."),
        ("assistant", "ok"),
    ]


def test_calls_and_results_in_the_input_are_history() -> None:
    row = rollout(said("4"), prompt=[user("2+2?"), call("h"), result("h")])
    assert turns(row) == [ASKED, ("assistant", "", "h"), ("tool", "2", "h"), ("assistant", "4")]


def test_the_answer_begins_after_words_that_the_prompt_put_into_the_mouth_of_the_assistant() -> None:
    row = rollout(said("4."), prompt=[user("2+2?"), {"role": "assistant", "content": "It is"}])
    writer = written(row)
    assert isinstance(writer, ChatWriter)
    assert writer.answer_at == 2
    assert turns(row) == [ASKED, ("assistant", "It is"), ("assistant", "4.")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, {"role": "assistant", "content": "4", "reasoning_content": "Add."}),
        ({"reasoning": "drop"}, {"role": "assistant", "content": "4"}),
        ({"reasoning": "inline"}, {"role": "assistant", "content": "<think>\nAdd.\n</think>\n\n4"}),
    ],
)
@pytest.mark.parametrize(
    "output",
    [
        [thought("Add."), said("4")],
        [said("<think>\nAdd.\n</think>\n\n4")],
        [said("Add.\n</think>\n4")],
        [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Add."}]},
            said("4"),
        ],
    ],
    ids=["item", "tags", "second tag", "content"],
)
def test_reasoning_is_kept_dropped_or_inlined(output: list[Row], options: Row, message: Row) -> None:
    assert messages(rollout(*output), **options)[-1] == message


def test_think_tags_stay_in_the_text_when_asked_for_and_when_they_are_part_of_the_answer() -> None:
    text = "<think>Add.</think>4"
    assert messages(rollout(said(text)), think_tags="keep")[-1] == {"role": "assistant", "content": text}
    inside = "Use <think> and </think>."
    assert messages(rollout(said(inside)))[-1] == {"role": "assistant", "content": inside}


def test_reasoning_stands_before_the_calls_it_led_to() -> None:
    message = messages(rollout(thought("Add."), call("a"), result("a"), said("4")))[1]
    assert list(message) == ["role", "content", "reasoning_content", "tool_calls"]


def test_an_answer_that_was_cut_off_while_thinking_is_none() -> None:
    assert reason(rollout(said("<think>\nLet me"))) == "no_answer"
    assert reason(rollout(thought("Add."))) == "no_answer"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ([], "no_answer"),
        ([said("")], "no_answer"),
        ([said(" \n")], "no_answer"),
        ([user("Go on.")], "no_answer"),
        ([call("a", arguments='{"a": 1')], "invalid_arguments"),
        ([call("a", arguments="[1]")], "invalid_arguments"),
        ([call("a", arguments="")], "invalid_arguments"),
        ([call("a"), user("Well?"), said("4")], "unanswered_call"),
        ([call("a"), call("b"), result("a"), said("4")], "unanswered_call"),
        ([result("x"), said("4")], "result_without_call"),
        ([call("a"), result("a"), result("a"), said("4")], "result_without_call"),
        ([call("a"), call("a"), result("a"), said("4")], "duplicate_call_id"),
        ([{"type": "web_search_call"}, said("4")], "unknown_item"),
        ([said("4", "critic")], "unknown_role"),
        ([user([IMAGE]), said("4")], "media"),
        ([call("a"), result("a", [IMAGE]), said("4")], "media"),
    ],
)
def test_what_no_trainer_takes_has_a_reason(output: list[Row], why: str) -> None:
    assert reason(rollout(*output)) == why


def test_without_a_prompt_there_is_nothing_to_answer() -> None:
    assert reason(rollout(said("4"), prompt=[])) == "no_prompt"
    assert turns(rollout(user("2+2?"), said("4"), prompt=[])) == [ASKED, ("assistant", "4")]


@pytest.mark.parametrize("open_calls", [["a"], ["a", "b"]])
def test_calls_at_the_very_end_are_the_answer(open_calls: list[str]) -> None:
    row = rollout(said("I add."), *[call(name) for name in open_calls])
    assert turns(row)[-1] == ("assistant", "I add.", *open_calls)


def test_a_conversation_that_does_not_end_in_an_answer_is_trimmed_left_out_or_kept() -> None:
    row = rollout(call("a"), call("b"), result("a"))
    assert turns(row) == [ASKED, ("assistant", "", "a", "b")]
    writer = written(row)
    assert isinstance(writer, ChatWriter)
    assert writer.notes == ["trimmed_to_last_answer"]
    assert reason(row, ending="leave_out") == "no_answer_at_the_end"
    assert turns(row, ending="keep")[-1] == ("tool", "2", "a")
    assert turns(rollout(said("hit"), user("You lose.")))[-1] == ("assistant", "hit")
    assert turns(rollout(said("4"), thought("Is it?")))[-1] == ("assistant", "4")


def test_options_let_through_what_is_left_out_by_default() -> None:
    assert (
        turns(rollout(call("a", arguments="{"), result("a"), said("4")), invalid_arguments="keep")[1][2]
        == "a"
    )
    assert turns(rollout(call("a"), user("Well?"), said("4")), unanswered_calls="keep")[2] == (
        "user",
        "Well?",
    )
    assert reason(rollout(call("a"), result("a"), said("4"), tools=[]), undeclared_tools="leave_out") == (
        "undeclared_tool"
    )
    assert turns(
        rollout(said("4"), prompt=[user([IMAGE, {"type": "input_text", "text": "?"}])]), media="drop"
    )[0] == (
        "user",
        "?",
    )


def test_images_are_written_as_chat_completions_have_them() -> None:
    row = rollout(said("4"), prompt=[user([IMAGE, {"type": "input_text", "text": "?"}])])
    assert messages(row, media="keep")[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "auto"}},
        {"type": "text", "text": "?"},
    ]


def test_text_parts_become_one_text_and_a_refusal_counts() -> None:
    parts = [{"type": "output_text", "text": "4"}, {"type": "output_text", "text": "!"}]
    assert turns(rollout({"role": "assistant", "content": parts}))[-1] == ("assistant", "4!")
    refusal = [{"type": "refusal", "refusal": "No."}]
    assert turns(rollout({"role": "assistant", "content": refusal}))[-1] == ("assistant", "No.")


def test_results_that_are_no_strings_are_their_json() -> None:
    assert turns(rollout(call("a"), result("a", {"x": 1.0}), said("4")))[2] == ("tool", '{"x": 1.0}', "a")


def test_arguments_become_an_object_or_a_string_as_asked() -> None:
    text, value = rollout(call("a", arguments='{"a": 1}')), rollout(call("a", arguments={"a": 1}))

    def arguments(row: Row, how: str) -> Any:
        return messages(row, arguments=how)[-1]["tool_calls"][0]["function"]["arguments"]

    assert (arguments(text, "object"), arguments(value, "object")) == ({"a": 1}, {"a": 1})
    assert (arguments(text, "string"), json.loads(arguments(value, "string"))) == ('{"a": 1}', {"a": 1})


def test_instructions_and_developers_are_the_system() -> None:
    prompt = [{"role": "developer", "content": "Be brief."}, user("2+2?")]
    row = rollout(said("4"), prompt=prompt, instructions="You add.")
    assert turns(row)[0] == ("system", "You add.\n\nBe brief.")
    assert turns(row, developer="keep")[:2] == [("system", "You add."), ("developer", "Be brief.")]
    assert turns(row, repeated_roles="keep")[:2] == [("system", "You add."), ("system", "Be brief.")]


def test_messages_of_one_role_in_a_row_are_joined_or_kept() -> None:
    row = rollout(said("4"), said("I think."), prompt=[user("Hi."), user("2+2?")])
    assert turns(row) == [("user", "Hi.\n\n2+2?"), ("assistant", "4\n\nI think.")]
    assert turns(row, repeated_roles="keep")[:2] == [("user", "Hi."), ASKED]
    assert turns(row, repeated_roles="keep")[2:] == [("assistant", "4"), ("assistant", "I think.")]


def problems(row: Row) -> list[Problem]:
    shape = ROW_TYPES["training_jsonl"][0]
    return [p for p in shape.problems(row, ToolWatch()) if p.severity == "error"]


@settings(max_examples=300, deadline=None)
@given(rollouts)
def test_whatever_is_written_is_a_training_row(row: Row) -> None:
    """And every text and call of the assistant is in it once, in its order."""
    read = read_rollout(row)
    assert isinstance(read, Rollout)
    writer = ChatWriter(ExportOptions(), codec()[0])
    if writer.write(read.conversation):
        return
    assert not problems({"messages": writer.messages})
    calls = [c["id"] for m in writer.messages for c in m.get("tool_calls", ())]
    results = [m["tool_call_id"] for m in writer.messages if m["role"] == "tool"]
    assert len(results) <= len(calls)
    for place, message in enumerate(writer.messages):
        if message["role"] == "tool":
            before = next(m for m in reversed(writer.messages[:place]) if m["role"] != "tool")
            assert message["tool_call_id"] in [c["id"] for c in before["tool_calls"]]


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_rows_say_all_their_texts_and_calls(name: str) -> None:
    for row in real_rows(name):
        read = read_rollout(row)
        assert isinstance(read, Rollout)
        if not read.answered:
            continue
        writer = written(row, media="keep", ending="keep", think_tags="keep", repeated_roles="keep")
        assert isinstance(writer, ChatWriter), writer
        output = row["response"]["output"]
        output = output[-1] if isinstance(output[0], list) else output
        spoken = [
            (
                item["role"],
                item["content"] if isinstance(item["content"], str) else item["content"][0]["text"],
            )
            for item in output
            if item["type"] == "message"
        ]
        told = [(m["role"], m["content"]) for m in writer.messages if m["content"] and m["role"] != "tool"]
        assert told[len(told) - len(spoken) :] == spoken
        calls = [(i["call_id"], i["name"], i["arguments"]) for i in output if i["type"] == "function_call"]
        made = [
            (c["id"], c["function"]["name"], c["function"]["arguments"])
            for m in writer.messages
            for c in m.get("tool_calls", ())
        ]
        assert made[len(made) - len(calls) :] == calls
