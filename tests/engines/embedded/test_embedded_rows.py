"""Rows out of JSONL files: every form that is taken, and errors that name file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.engines.embedded.rows import chat_rows, preference_rows, prompt_rows
from nemotron.errors import CheckFailed, NotFound, UsageError

Writer = Callable[[str, list[Any]], Path]
USER = {"role": "user", "content": "Hi"}
BOT = {"role": "assistant", "content": "Hello"}


def reading(path: Path, **keys: Any) -> dict[str, Any]:
    return {"data": {"train": {"data_path": str(path)}, "default": keys}}


def completion(rank: Any, text: str, **more: Any) -> dict[str, Any]:
    return {"rank": rank, "completion": [{"role": "assistant", "content": text}], **more}


# chats


def test_messages_are_taken_as_they_are(rows_at: Writer) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    tools = [{"type": "function", "function": {"name": "f"}}]
    path = rows_at("chat.jsonl", [{"messages": [USER, BOT]}, "", {"messages": [USER, call], "tools": tools}])
    assert chat_rows(reading(path), "train") == [([USER, BOT], None), ([USER, call], tools)]


def test_input_and_output_make_a_chat(rows_at: Writer) -> None:
    path = rows_at("chat.jsonl", [{"input": "Hi", "output": "Hello"}])
    assert chat_rows(reading(path), "train") == [([USER, BOT], None)]


def test_the_configs_names_for_columns_are_used(rows_at: Writer) -> None:
    rows = [{"turns": [USER, BOT], "functions": [1]}, {"ask": "Hi", "say": "Hello"}]
    path = rows_at("chat.jsonl", rows)
    keys = {"chat_key": "turns", "tool_key": "functions", "input_key": "ask", "output_key": "say"}
    assert chat_rows(reading(path, **keys), "train") == [([USER, BOT], [1]), ([USER, BOT], None)]


def test_a_split_overrides_the_default_names(rows_at: Writer) -> None:
    config = reading(rows_at("chat.jsonl", [{"turns": [USER, BOT]}]), chat_key="messages")
    config["data"]["train"]["chat_key"] = "turns"
    assert chat_rows(config, "train") == [([USER, BOT], None)]


def test_a_system_prompt_goes_before_chats_that_have_none(rows_at: Writer) -> None:
    own = {"role": "system", "content": "Own."}
    path = rows_at("chat.jsonl", [{"messages": [USER, BOT], "sys": "Row."}, {"messages": [own, USER, BOT]}])
    told = chat_rows(reading(path, system_prompt="All."), "train")
    assert [m[0]["content"] for m, _ in told] == ["All.", "Own."]
    told = chat_rows(reading(path, system_key="sys", system_prompt="All."), "train")
    assert [m[0]["content"] for m, _ in told] == ["Row.", "Own."]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "Hi"}, "neither 'messages' nor 'input' and 'output'"),
        ({"input": "Hi"}, "neither"),
        ({"messages": []}, "non-empty list"),
        ({"messages": "Hi"}, "non-empty list"),
        ({"messages": [{"content": "Hi"}]}, "role"),
        ({"messages": ["Hi"]}, "role"),
    ],
)
def test_a_chat_row_that_is_none_names_its_line(rows_at: Writer, row: Any, says: str) -> None:
    path = rows_at("chat.jsonl", [{"messages": [USER, BOT]}, "", row])
    with pytest.raises(CheckFailed, match=says) as caught:
        chat_rows(reading(path), "train")
    assert caught.value.where == f"{path}:3"


# preferences


def test_ranked_completions_make_a_pair_in_the_order_of_ranks(rows_at: Writer) -> None:
    path = rows_at(
        "pairs.jsonl", [{"context": [USER], "completions": [completion(1, "b"), completion(0, "a")]}]
    )
    (row,) = preference_rows(reading(path), "train")
    assert row == {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }


def test_scores_are_kept_where_both_have_one(rows_at: Writer) -> None:
    both = {"context": "Hi", "completions": [completion(0, "a", score=5), completion(1, "b", score=2)]}
    one = {"context": "Hi", "completions": [completion(0, "a", score=5), completion(1, "b")]}
    first, second = preference_rows(reading(rows_at("pairs.jsonl", [both, one])), "train")
    assert first["scores"] == (5, 2)
    assert "scores" not in second


def test_prompt_chosen_and_rejected_may_be_texts_or_messages(rows_at: Writer) -> None:
    texts = {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]
    lists = {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": parts}],
        "rejected": [{"role": "assistant", "content": "What?"}],
    }
    first, second = preference_rows(reading(rows_at("pairs.jsonl", [texts, lists])), "train")
    assert (
        first
        == second
        == {
            "prompt": [USER],
            "chosen": [BOT],
            "rejected": [{"role": "assistant", "content": "What?"}],
        }
    )


def test_pairs_may_have_other_column_names(rows_at: Writer) -> None:
    path = rows_at("pairs.jsonl", [{"question": "Hi", "good": "Hello", "bad": "What?"}])
    keys = {"prompt_key": "question", "chosen_key": "good", "rejected_key": "bad"}
    (row,) = preference_rows(reading(path, **keys), "train")
    assert row["chosen"] == [BOT]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Hi", "chosen": "Hello"}, "context and completions, or prompt, chosen and rejected"),
        ({"prompt": 5, "chosen": "a", "rejected": "b"}, "the user's part must be a text"),
        ({"prompt": "Hi", "chosen": {"content": "a"}, "rejected": "b"}, "the assistant's part must be"),
        ({"prompt": "Hi", "chosen": [{"content": "a"}], "rejected": "b"}, "no message with a role"),
        ({"prompt": "Hi", "chosen": ["a"], "rejected": "b"}, "no message with a role"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "non-empty list"),
        ({"context": [USER], "completions": [completion(0, "a")]}, "exactly two"),
        ({"context": [USER], "completions": {"a": 1, "b": 2}}, "exactly two"),
        ({"context": [USER], "completions": [completion(0, "a"), completion(0, "b")]}, "same rank"),
        ({"context": [USER], "completions": [{"completion": "a"}, {"completion": "b"}]}, "same rank"),
        ({"context": [USER], "completions": [{"rank": 0}, completion(1, "b")]}, "needs rank and completion"),
        ({"context": [USER], "completions": ["a", "b"]}, "needs rank and completion"),
        ({"context": [USER], "completions": [completion("one", "a"), completion(1, "b")]}, "rank is 'one'"),
        (
            {"context": [USER], "completions": [completion(0, "a", score="high"), completion(1, "b")]},
            "score is 'high'",
        ),
        ({"completions": [completion(0, "a"), completion(1, "b")]}, "the user's part must be"),
    ],
)
def test_a_pair_that_is_none_names_its_line(rows_at: Writer, row: Any, says: str) -> None:
    path = rows_at("pairs.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": "b"}, row])
    with pytest.raises(CheckFailed, match=says) as caught:
        preference_rows(reading(path), "train")
    assert caught.value.where == f"{path}:2"


# prompts


def test_prompts_come_in_gyms_form_and_in_plain_ones(rows_at: Writer) -> None:
    system = {"role": "system", "content": "Be brief."}
    parts = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    rows = [
        {"responses_create_params": {"input": [USER]}, "expected_answer": "Hello"},
        {"responses_create_params": {"input": "Hi"}},
        {
            "responses_create_params": {"input": [parts], "instructions": "Be brief."},
            "principle": "Kindness.",
        },
        {"prompt": "Hi"},
        {"prompt": [USER]},
        {"messages": [USER]},
        {"input": "Hi"},
    ]
    plain = {"prompt": [USER], "expected_answer": "", "principle": ""}
    assert prompt_rows(reading(rows_at("prompts.jsonl", rows)), "train") == [
        {**plain, "expected_answer": "Hello"},
        plain,
        {"prompt": [system, USER], "expected_answer": "", "principle": "Kindness."},
        *[plain] * 4,
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Hi"}, "no prompt"),
        ({"responses_create_params": {"input": []}}, "no prompt"),
        (
            {"responses_create_params": {"input": [{"type": "function_call", "name": "f"}]}},
            "no message with a role",
        ),
        ({"responses_create_params": {"input": 5}}, "must be a text"),
        ({"prompt": [["Hi"]]}, "no message with a role"),
    ],
)
def test_a_prompt_that_is_none_names_its_line(rows_at: Writer, row: Any, says: str) -> None:
    path = rows_at("prompts.jsonl", [{"prompt": "Hi"}, row])
    with pytest.raises(CheckFailed, match=says) as caught:
        prompt_rows(reading(path), "train")
    assert caught.value.where == f"{path}:2"


# files


READERS = [chat_rows, preference_rows, prompt_rows]


@pytest.mark.parametrize("read", READERS)
def test_broken_files_are_named(read: Any, rows_at: Writer, tmp_path: Path) -> None:
    good = {"messages": [USER, BOT], "prompt": "Hi", "chosen": "a", "rejected": "b"}
    for line, says in [
        ('{"messages": [', "not JSON"),
        ("[1, 2]", "must be a JSON object"),
        ("[" * 100_000, "nested too deep"),
    ]:
        path = rows_at("broken.jsonl", [good, "", line])
        with pytest.raises(CheckFailed, match=says) as caught:
            read(reading(path), "train")
        assert caught.value.where == f"{path}:3"
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"prompt": "Größe"}\n'.encode("latin-1"))
    with pytest.raises(CheckFailed, match="not UTF-8"):
        read(reading(latin), "train")


@pytest.mark.parametrize("read", READERS)
def test_empty_and_missing_files_are_told_apart(read: Any, rows_at: Writer, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no row"):
        read(reading(rows_at("empty.jsonl", ["", " "])), "train")
    with pytest.raises(NotFound) as caught:
        read(reading(tmp_path / "none.jsonl"), "train")
    assert caught.value.where == "data.train.data_path"


@pytest.mark.parametrize("read", READERS)
def test_a_split_that_is_no_map_is_refused(read: Any) -> None:
    with pytest.raises(UsageError, match="must be a map with data_path"):
        read({"data": {"train": "rows.jsonl"}}, "train")
