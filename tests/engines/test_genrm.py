"""The pairwise judge's arithmetic: pairs, verdicts, rewards, against NeMo-Gym's worked example."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.engines.genrm import (
    Verdict,
    comparison_pairs,
    group_rewards,
    judge_messages,
    parse_verdict,
    verdict_text,
)

NEUTRAL = Verdict(3.0, 3.0, 3.5, fallback=True)
SCORES = st.integers(1, 5).map(float)
VERDICTS = st.builds(Verdict, SCORES, SCORES, st.integers(1, 6).map(float))


def test_circular_pairs_show_each_response_once_in_each_position() -> None:
    assert comparison_pairs(2) == ((0, 1), (1, 0))
    assert comparison_pairs(4) == ((0, 1), (1, 2), (2, 3), (3, 0))


def test_all_pairs_compares_every_two_responses_once() -> None:
    assert comparison_pairs(2, "all_pairs") == ((0, 1),)
    assert comparison_pairs(4, "all_pairs") == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@given(st.integers(2, 40))
def test_the_numbers_of_comparisons_are_the_rules(responses: int) -> None:
    circular = comparison_pairs(responses)
    assert len(circular) == responses
    assert Counter(i for i, _ in circular) == Counter(j for _, j in circular) == Counter(range(responses))
    every = comparison_pairs(responses, "all_pairs")
    assert len({frozenset(p) for p in every}) == len(every) == responses * (responses - 1) // 2


def test_impossible_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        comparison_pairs(1)
    with pytest.raises(ValueError, match="circular, all_pairs"):
        comparison_pairs(4, "round_robin")


def test_the_worked_example_of_nemo_gym() -> None:
    judged = [
        ((0, 1), Verdict(4, 2, 2)),
        ((1, 2), Verdict(3, 3, 5)),
        ((2, 3), Verdict(2, 5, 6)),
        ((3, 0), Verdict(1, 4, 6)),
    ]
    group = group_rewards(4, judged)
    assert group.rewards == (4.0, 1.75, 3.25, 3.0)
    assert group.tie_rate == 0.25
    assert group.fallback_rate == 0.0


def test_unreadable_verdicts_reward_everybody_alike() -> None:
    group = group_rewards(4, [(pair, NEUTRAL) for pair in comparison_pairs(4)])
    assert group.rewards == (3.0, 3.0, 3.0, 3.0)
    assert group.fallback_rate == group.tie_rate == 1.0


def test_a_response_nobody_compared_gets_the_default() -> None:
    assert group_rewards(3, [((0, 1), Verdict(5, 1, 1))], default_score=2.5).rewards == (5.0, 1.0, 2.5)


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(VERDICTS, min_size=n, max_size=n))))
def test_rewards_do_not_depend_on_the_order_of_verdicts(given_: tuple[int, list[Verdict]]) -> None:
    responses, verdicts = given_
    judged = list(zip(comparison_pairs(responses), verdicts, strict=True))
    expected = group_rewards(responses, judged)
    turned = group_rewards(responses, judged[::-1])
    assert turned.rewards == pytest.approx(expected.rewards)
    assert (turned.tie_rate, turned.fallback_rate) == (expected.tie_rate, expected.fallback_rate)


@given(st.permutations(range(5)), st.lists(VERDICTS, min_size=10, max_size=10))
def test_renaming_the_responses_renames_their_rewards(names: list[int], verdicts: list[Verdict]) -> None:
    judged = list(zip(comparison_pairs(5, "all_pairs"), verdicts, strict=True))
    plain = group_rewards(5, judged).rewards
    renamed = group_rewards(5, [((names[i], names[j]), v) for (i, j), v in judged]).rewards
    assert [renamed[names[i]] for i in range(5)] == pytest.approx(list(plain))


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(VERDICTS, min_size=n, max_size=n))))
def test_rewards_stay_in_the_range_of_the_scores_and_the_tie_breaker(
    given_: tuple[int, list[Verdict]],
) -> None:
    responses, verdicts = given_
    group = group_rewards(responses, list(zip(comparison_pairs(responses), verdicts, strict=True)))
    assert all(1 - 2.5 <= r <= 5 + 2.5 for r in group.rewards)
    # What a tie gives one side it takes from the other, so the mean score stays.
    total = sum(v.score_1 + v.score_2 for v in verdicts)
    assert sum(group.rewards) * 2 == pytest.approx(total)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"score_1": 4, "score_2": 2, "ranking": 2}', (4, 2, 2)),
        ('Let me see. {"score_1": 4, "score_2": 2, "ranking": 2} That is all.', (4, 2, 2)),
        ('first {"score_1": 1} and then {"score_1": 5, "score_2": 4}', (5, 4, 3.5)),
        ('```json\n{"score_1": 2}\n```\nor rather {"score_1": 5}', (2, 3, 3.5)),
        ('```JSON {"score_1": 2} {"score_1": 5}```', (2, 3, 3.5)),
        ('```json {"note": 1} ``` ```json {"score_2": 5} ``` {"score_2": 1}', (3, 5, 3.5)),
        ('``` {"score_1": 2} ``` no, {"score_1": 5}', (5, 3, 3.5)),
        ('{"score_1": 4}', (4, 3, 3.5)),
        ('{"score_2": 1.5}', (3, 1.5, 3.5)),
        ('{"ranking": 1}', (3, 3, 1)),
        ('{"score_1": "4", "score_2": " 2 "}', (4, 2, 3.5)),
        ('{"overall": {"score_1": 5, "score_2": 1}, "rubric": [{"score_1": 1}]}', (5, 1, 3.5)),
        ('{"overall": {"score_1": 5}, "details": {"score_1": 1}}', (5, 3, 3.5)),
        ('{"score_1": 4, "why": {"ranking": 6}}', (4, 3, 3.5)),
        ('{"overall": "fine", "score_1": 4}', (4, 3, 3.5)),
        ('{broken {"score_1": 4}', (4, 3, 3.5)),
        ('{"score_1": 4} {"score_1": ', (4, 3, 3.5)),
        ('{"score_1": 4} {"score_1": "four"}', (4, 3, 3.5)),
        ('{"text": "a } in a string", "score_1": 4}', (4, 3, 3.5)),
    ],
)
def test_verdicts_are_found_in_what_judges_write(text: str, expected: tuple[float, float, float]) -> None:
    first, second, ranking = expected
    assert parse_verdict(text) == Verdict(first, second, ranking)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Response 1 is better.",
        "score_1: 4, score_2: 2",
        '["score_1", 4]',
        "{}",
        '{"score": 4}',
        '{"overall": {"quality": 4}, "score_1": 4}',
        '{"score_1": "four"}',
        '{"score_1": null, "score_2": 4}',
        '{"score_1": true}',
        '{"score_1": [4]}',
        '{"score_1": NaN}',
        '{"score_1": Infinity, "score_2": 2}',
        '{"score_1": 1e999}',
        '{"score_1": ' + "9" * 400 + "}",
        '{"score_1": ' + "9" * 9000 + "}",
        '{"score_1": 4',
    ],
)
def test_what_is_no_verdict_is_neutral_and_marked(text: str) -> None:
    assert parse_verdict(text) == NEUTRAL


def test_defaults_fill_what_a_verdict_leaves_out() -> None:
    assert parse_verdict('{"score_1": 4}', default_score=2.0, default_ranking=3.0) == Verdict(4.0, 2.0, 3.0)
    assert parse_verdict("no", default_score=2.0, default_ranking=3.0) == Verdict(2.0, 2.0, 3.0, True)


@pytest.mark.parametrize("text", ["{" * 40_000, '{"a":' * 20_000, "```json{" * 10_000, '{"a":1}' * 20_000])
def test_hostile_answers_are_read_in_a_moment(text: str) -> None:
    begun = time.process_time()
    assert parse_verdict(text).fallback
    assert time.process_time() - begun < 2.0, "reading it from every brace to the end takes minutes"


@given(st.text(max_size=200) | st.text(alphabet='{}"`:,score_1json 45\n', max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    verdict = parse_verdict(text)
    assert all(abs(v) < float("inf") for v in (verdict.score_1, verdict.score_2, verdict.ranking))


@given(st.integers(1, 5), st.integers(1, 5), st.text(alphabet="abc .{}", max_size=30))
def test_a_taught_verdict_reads_back_in_any_prose(first: int, second: int, prose: str) -> None:
    verdict = parse_verdict(f"{prose.replace('{', '')} {verdict_text(first, second)}")
    assert (verdict.score_1, verdict.score_2, verdict.fallback) == (first, second, False)
    assert 1 <= verdict.ranking <= 6
    # The ranking says the same as the scores; between equals none of the six is neutral.
    if first != second:
        assert (verdict.ranking < 3.5) == (first > second)


def test_the_judge_reads_the_conversation_then_both_responses() -> None:
    chat = [{"role": "user", "content": "Hi"}]
    assert judge_messages(chat, "a", "b", "Be kind.") == [
        {"role": "user", "content": "Hi"},
        {"role": "principle", "content": "Be kind."},
        {"role": "response_1", "content": "a"},
        {"role": "response_2", "content": "b"},
    ]
    assert [m["role"] for m in judge_messages(chat, "a", "b")] == ["user", "response_1", "response_2"]
    assert json.dumps(chat) == '[{"role": "user", "content": "Hi"}]', "the caller's messages are not touched"
