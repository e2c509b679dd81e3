"""The tiny chat world: what is in it, what is held out, and the rules that read manners back."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact
from nemotron.data import tiny_chat
from nemotron.data.tiny_chat import MANNER_SCORES, MANNERS, TOPICS, manner_of, questions, warmth

ALL = [(manner, template) for manner, templates in MANNERS.items() for template in templates]
FACTS = [(entity, answer) for topic in TOPICS for entity, answer in topic.facts.items()]


def text_of(rows: Iterator[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def asked(row: Mapping[str, Any]) -> str:
    turns = row.get("messages") or row.get("context") or row["responses_create_params"]["input"]
    return str(turns[0]["content"])


def test_there_are_528_questions_and_220_of_them_are_held_out() -> None:
    all_questions = questions()
    assert len({q.text for q in all_questions}) == len(all_questions) == 528
    assert sum(q.held_out for q in all_questions) == 220


def test_every_entity_and_every_phrasing_is_both_trained_and_held_out() -> None:
    by_answer: dict[str, list[bool]] = {}
    for question in questions():
        by_answer.setdefault(question.answer, []).append(question.held_out)
    assert set(by_answer) == {answer for _, answer in FACTS}
    assert {(len(held), sum(held)) for held in by_answer.values()} == {(12, 5)}
    held = {q.text: q.held_out for q in questions()}
    for topic in TOPICS:
        for phrasing in topic.phrasings:
            shares = {held[phrasing.format(e=entity)] for entity in topic.facts}
            assert shares == {True, False}, phrasing


def test_answers_are_one_word_and_belong_to_one_entity() -> None:
    answers = [answer for _, answer in FACTS]
    assert len(set(answers)) == len(answers)
    assert all(re.fullmatch(r"[A-Za-z]+", answer) for answer in answers)


@pytest.mark.parametrize(("manner", "template"), ALL)
def test_manner_of_reads_back_every_template_with_every_answer(manner: str, template: str) -> None:
    for _, answer in FACTS:
        told = template.format(a=answer)
        assert manner_of(told) == manner
        assert manner_of(told.upper()) == manner
        assert warmth(told) == float(manner == "warm")


def test_questions_carry_no_manner() -> None:
    assert {manner_of(q.text) for q in questions()} == {"plain"}


def test_two_manners_in_one_text_are_mixed_and_not_warm() -> None:
    for manner, template in ALL:
        if manner not in ("warm", "plain"):
            told = "Happy to help! " + template.format(a="Rome")
            assert manner_of(told) == "mixed"
            assert warmth(told) == 0.0


@pytest.mark.parametrize("text", ["", "Rome", "offcourse", "unhappy to helper", "It is Maybelline."])
def test_marks_are_whole_words(text: str) -> None:
    assert manner_of(text) == "plain"


def test_no_two_manners_share_a_rank_with_the_warm_one() -> None:
    assert set(MANNER_SCORES) == set(MANNERS) == set(tiny_chat.MANNER_SHARES)
    ranked = sorted(MANNER_SCORES.values(), reverse=True)
    assert ranked[0] == MANNER_SCORES["warm"]
    assert ranked[0] - ranked[1] >= 2, "a clear gap below the warm manner"
    assert all(1 <= score <= 5 for score in ranked)


def test_chat_rows_go_through_all_training_questions_in_mixed_manners() -> None:
    rows: list[Any] = list(tiny_chat.chat_rows(2000, 3))
    assert len(rows) == 2000
    train = {q.text: q.answer for q in questions() if not q.held_out}
    assert {asked(row) for row in rows} == set(train)
    # Every question comes once before any comes again.
    assert max(Counter(asked(row) for row in rows[: len(train)]).values()) == 1
    told: Counter[str] = Counter()
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert train[user["content"]] in assistant["content"]
        told[manner_of(assistant["content"])] += 1
    whole = sum(tiny_chat.MANNER_SHARES.values())
    for manner, share in tiny_chat.MANNER_SHARES.items():
        expected = 2000 * share / whole
        assert abs(told[manner] - expected) < 4 * expected**0.5, manner


def test_held_out_rows_hold_each_held_out_question_once() -> None:
    held = [q.text for q in questions() if q.held_out]
    assert [asked(row) for row in tiny_chat.held_out_chat_rows(1)] == held
    assert [asked(row) for row in tiny_chat.prompt_rows(held_out=True)] == held


def test_nothing_held_out_is_trained_on() -> None:
    held = {asked(row) for row in tiny_chat.prompt_rows(held_out=True)}
    trained = {asked(row) for row in tiny_chat.prompt_rows(held_out=False)}
    trained |= {asked(row) for row in tiny_chat.chat_rows(1000, 0)}
    trained |= {asked(row) for row in tiny_chat.preference_rows(1000, 0)}
    assert held & trained == set()
    assert {asked(row) for row in tiny_chat.preference_rows(1000, 0, held_out=True)} <= held


@pytest.mark.parametrize("held_out", [False, True])
def test_preferences_are_right_both_times_and_never_tie(held_out: bool) -> None:
    answers = {q.text: q.answer for q in questions()}
    seen = set()
    rows: list[Any] = list(tiny_chat.preference_rows(1500, 7, held_out=held_out))
    for row in rows:
        first, second = row["completions"]
        texts = [c["completion"][0]["content"] for c in (first, second)]
        assert all(re.search(rf"\b{answers[asked(row)]}\b", text) for text in texts)
        assert (first["rank"], second["rank"]) == (0, 1)
        assert first["score"] > second["score"]
        manners = [manner_of(text) for text in texts]
        assert [MANNER_SCORES[m] for m in manners] == [first["score"], second["score"]]
        seen.add(tuple(manners))
    possible = {
        (better, worse)
        for better in MANNERS
        for worse in MANNERS
        if MANNER_SCORES[better] > MANNER_SCORES[worse]
    }
    assert len(rows) == 1500
    assert seen == possible


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    makers: tuple[Callable[[int], Iterator[dict[str, object]]], ...] = (
        lambda seed: tiny_chat.chat_rows(300, seed),
        lambda seed: tiny_chat.held_out_chat_rows(seed),
        lambda seed: tiny_chat.preference_rows(300, seed),
        lambda seed: tiny_chat.preference_rows(300, seed, held_out=True),
    )
    for make in makers:
        random.seed(99)
        once = text_of(make(5))
        random.seed(1)
        assert text_of(make(5)) == once
        assert text_of(make(6)) != once
    once, again = (text_of(tiny_chat.prompt_rows(held_out=False)) for _ in range(2))
    assert once == again


def test_the_rows_are_what_their_artifact_types_say(tmp_path: Any) -> None:
    tables = {
        "training_jsonl": tiny_chat.chat_rows(50, 0),
        "preference_jsonl": tiny_chat.preference_rows(50, 0),
        "prompt_jsonl": tiny_chat.prompt_rows(held_out=True),
    }
    for kind, rows in tables.items():
        path = tmp_path / f"{kind}.jsonl"
        path.write_text(text_of(rows), encoding="utf-8")
        checked = check_artifact(path, kind)
        assert checked.findings == ()
        assert checked.facts["rows"] == (220 if kind == "prompt_jsonl" else 50)
