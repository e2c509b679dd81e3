"""Judges: what they are shown, what unread verdicts cost, and that a judge that cannot judge is found out.

The model is replaced by a function of the texts it is shown, at `generate`, except where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from nemotron.engines.embedded import judge as judge_module
from nemotron.engines.embedded.generation import generate
from nemotron.engines.embedded.judge import (
    FALLBACK_WINDOW,
    ClassifierJudge,
    GenerativeJudge,
    Group,
    load_judge,
)
from nemotron.engines.embedded.reading import COMPARE, JUDGE_MODEL
from nemotron.engines.genrm import verdict_text
from nemotron.errors import CheckFailed, NotFound, WorkFailed

Config = Callable[..., dict[str, Any]]
PROMPT = [{"role": "user", "content": "Hi"}]


class Said:
    """Stands for `generate`: answers by a function of the text, and counts what it was asked."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.settings: dict[str, Any] = {}

    def __call__(self, _model: Any, _tokenizer: Any, texts: Sequence[str], **settings: Any) -> list[str]:
        self.asked += texts
        self.settings = settings
        return [self.answer(text) for text in texts]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def judge_of(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[GenerativeJudge, Said]]:
    def make(
        answer: Callable[[str], str], limit: float = 1.0, **settings: Any
    ) -> tuple[GenerativeJudge, Said]:
        said = Said(answer)
        monkeypatch.setattr(judge_module, "generate", said)
        params = {"temperature": settings.pop("temperature", 0.0), "max_output_tokens": 24}
        settings["genrm_responses_create_params"] = params
        made = GenerativeJudge(None, tokenizer, settings, batch_size=4, max_fallback_rate=limit)
        return made, said

    return make


def longer_wins(text: str) -> str:
    """The verdict of a judge that likes length."""
    first = text.partition("response_1\n")[2].partition("<|im_end|>")[0]
    second = text.partition("response_2\n")[2].partition("<|im_end|>")[0]
    return verdict_text(min(5, len(first)), min(5, len(second)))


def test_a_group_is_rewarded_by_its_comparisons(judge_of: Any) -> None:
    judge, said = judge_of(longer_wins)
    (group,) = judge.rewards([Group(PROMPT, ("aaaaa", "a", "aaa"))])
    assert group.rewards == (5.0, 1.0, 3.0)
    assert (group.tie_rate, group.fallback_rate) == (0.0, 0.0)
    assert len(said.asked) == 3


def test_groups_are_judged_apart_and_in_order(judge_of: Any) -> None:
    judge, _ = judge_of(longer_wins, comparison_strategy="all_pairs")
    first, second = judge.rewards([Group(PROMPT, ("aaaaa", "a")), Group(PROMPT, ("aa", "aaaa"))])
    assert (first.rewards, second.rewards) == ((5.0, 1.0), (2.0, 4.0))


def test_the_judge_sees_both_answers_under_their_roles_and_none_for_nothing(judge_of: Any) -> None:
    judge, said = judge_of(longer_wins)
    judge.rewards([Group(PROMPT, ("Good", " \n"))])
    assert "<|im_start|>response_1\nGood<|im_end|>\n<|im_start|>response_2\nNone<|im_end|>" in said.asked[0]
    assert all("principle" not in text for text in said.asked)
    assert said.settings["max_new_tokens"] == 24


def test_the_principle_of_the_row_goes_before_the_default(judge_of: Any) -> None:
    judge, said = judge_of(longer_wins, use_principle=True, default_principle="Be kind.")
    judge.rewards([Group(PROMPT, ("a", "b"), "Be brief."), Group(PROMPT, ("a", "b"))])
    assert ["Be brief." in text for text in said.asked].count(True) == 2
    assert ["Be kind." in text for text in said.asked].count(True) == 2
    off, said = judge_of(longer_wins, use_principle=False, default_principle="Be kind.")
    off.rewards([Group(PROMPT, ("a", "b"), "Be brief.")])
    assert not any("Be " in text for text in said.asked)


def test_several_passes_are_averaged(judge_of: Any) -> None:
    answers = iter([5, 1, 3, 3])
    judge, said = judge_of(
        lambda _: verdict_text(next(answers), 2),
        temperature=0.6,
        comparison_strategy="all_pairs",
        num_judges_per_comparison=4,
    )
    (group,) = judge.rewards([Group(PROMPT, ("a", "b"))])
    assert len(said.asked) == 4
    assert group.rewards == (3.0, 2.0)


def test_unread_verdicts_are_neutral_and_counted(judge_of: Any) -> None:
    judge, _ = judge_of(lambda text: "Both are fine." if "response_1\nb<" in text else longer_wins(text))
    (group,) = judge.rewards([Group(PROMPT, ("aaaa", "b"))])
    assert group.fallback_rate == 0.5
    assert group.rewards == ((4 + 3) / 2, (1 + 3) / 2)


def test_the_configs_default_scores_stand_for_unread_verdicts(judge_of: Any) -> None:
    judge, _ = judge_of(lambda _: "no", default_score=2.0, default_ranking=3.5)
    (group,) = judge.rewards([Group(PROMPT, ("a", "b"))])
    assert group.rewards == (2.0, 2.0)


def test_too_many_unread_verdicts_stop_the_run(judge_of: Any) -> None:
    judge, _ = judge_of(lambda _: "no idea", limit=0.2)
    rounds = 0
    with pytest.raises(WorkFailed, match=f"the limit is 20% of {FALLBACK_WINDOW}") as caught:
        while rounds < 100:
            judge.rewards([Group(PROMPT, tuple(f"{rounds} {n}" for n in range(4)))])
            rounds += 1
    assert rounds == 5, "20 unread verdicts pass, the next do not"
    assert caught.value.where == JUDGE_MODEL


def test_one_bad_verdict_among_the_first_few_stops_nothing(judge_of: Any) -> None:
    judge, _ = judge_of(lambda text: "hm" if "response_1\nb<" in text else longer_wins(text), limit=0.2)
    for _ in range(15):
        judge.rewards([Group(PROMPT, ("a", "b", "c", "d"))])
    judge, _ = judge_of(lambda text: "hm" if "response_1\nb<" in text else longer_wins(text), limit=0.2)
    with pytest.raises(WorkFailed):
        for _ in range(60):
            judge.rewards([Group(PROMPT, ("a", "b"))])


def test_only_a_sampling_judge_is_asked_again(judge_of: Any) -> None:
    tries = iter(["hm", "hm", verdict_text(4, 2)] * 2)
    judge, said = judge_of(lambda _: next(tries), temperature=0.6, comparison_strategy="all_pairs")
    (group,) = judge.rewards([Group(PROMPT, ("a", "b"))])
    assert (group.rewards, group.fallback_rate, len(said.asked)) == ((4.0, 2.0), 0.0, 3)
    judge, said = judge_of(
        lambda _: "hm", temperature=0.6, genrm_parse_retries=2, comparison_strategy="all_pairs"
    )
    assert judge.rewards([Group(PROMPT, ("a", "b"))])[0].fallback_rate == 1.0
    assert len(said.asked) == 3
    judge, said = judge_of(lambda _: "hm", comparison_strategy="all_pairs")
    assert judge.rewards([Group(PROMPT, ("a", "b"))])[0].fallback_rate == 1.0
    assert len(said.asked) == 1


def test_a_greedy_judge_is_asked_once_about_the_same_and_a_sampling_one_every_time(judge_of: Any) -> None:
    group = Group(PROMPT, ("aa", "b", "aa", "b"))
    judge, said = judge_of(longer_wins)
    first = judge.rewards([group])
    assert len(said.asked) == 2
    assert judge.rewards([group]) == first
    assert len(said.asked) == 2
    again, said = judge_of(longer_wins)
    again.cache.update(judge.cache)
    assert again.rewards([group]) == first
    assert said.asked == []
    sampling, said = judge_of(longer_wins, temperature=0.6)
    sampling.rewards([group])
    sampling.rewards([group])
    assert len(said.asked) == 8


def test_preferences_are_asked_in_both_orders(judge_of: Any) -> None:
    judge, said = judge_of(longer_wins)
    pairs = [(PROMPT, "aaa", "a"), (PROMPT, "a", "aaa"), (PROMPT, "aa", "bb")]
    assert judge.preferences(pairs) == [1.0, 0.0, 0.5]
    assert len(said.asked) == 4, "the first two pairs are one, asked about in both orders"
    first_always, _ = judge_of(lambda _: verdict_text(5, 1))
    assert first_always.preferences([(PROMPT, "a", "b")]) == [0.5], "liking a place is no preference"
    mute, _ = judge_of(lambda _: "hm")
    assert mute.preferences([(PROMPT, "a", "b")]) == [0.5]


def test_the_probe_wants_one_readable_verdict(judge_of: Any) -> None:
    judge, _ = judge_of(lambda text: longer_wins(text) if "response_1\na<" in text else "hm")
    judge.probe(PROMPT, "a", "b")
    judge, _ = judge_of(lambda _: "Response one, clearly.")
    with pytest.raises(CheckFailed, match="Response one, clearly") as caught:
        judge.probe(PROMPT, "a", "b")
    assert caught.value.where == JUDGE_MODEL
    assert "rm/nemo_rl" in str(caught.value.next)


# with real models


def test_a_random_model_is_no_judge(training_config: Config, tiny_model: Path) -> None:
    settings = {"genrm_responses_create_params": {"temperature": 0.0, "max_output_tokens": 12}}
    judge = load_judge(training_config("grpo", {JUDGE_MODEL: str(tiny_model), COMPARE: settings}))
    assert isinstance(judge, GenerativeJudge)
    with pytest.raises(CheckFailed, match="writes no verdict"):
        judge.probe(PROMPT, "Good", "Bad")


@pytest.fixture(scope="module")
def classifier(tokenizer: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config.from_pretrained(tiny_model, num_labels=1)
    where = tmp_path_factory.mktemp("classifier")
    Qwen3ForSequenceClassification(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def test_a_classifier_scores_each_answer_by_itself(training_config: Config, classifier: Path) -> None:
    judge = load_judge(training_config("grpo", {JUDGE_MODEL: str(classifier)}))
    assert isinstance(judge, ClassifierJudge)
    answers = ("It is Rome.", "Who knows?", "It is Rome. Have a lovely day, and take care!")
    together, alone = judge.rewards([Group(PROMPT, answers), Group(PROMPT, answers[1:])])
    assert together.rewards[1:] == pytest.approx(alone.rewards, abs=1e-5), "padding does not count"
    assert len(set(together.rewards)) == 3
    assert (together.tie_rate, together.fallback_rate) == (0.0, 0.0)
    best = max(answers, key=dict(zip(answers, together.rewards, strict=True)).__getitem__)
    worst = min(answers, key=dict(zip(answers, together.rewards, strict=True)).__getitem__)
    assert judge.preferences([(PROMPT, best, worst), (PROMPT, worst, best), (PROMPT, best, best)]) == [
        1,
        0,
        0.5,
    ]


def test_a_judge_that_cannot_be_loaded_names_its_key(
    training_config: Config, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFound) as missing:
        load_judge(training_config("grpo", {JUDGE_MODEL: str(tmp_path / "none")}))
    assert missing.value.where == JUDGE_MODEL
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    with pytest.raises(CheckFailed) as cut:
        load_judge(training_config("grpo", {JUDGE_MODEL: str(broken)}))
    assert cut.value.where == JUDGE_MODEL


def test_generation_is_cut_to_the_models_positions_text_by_text(tokenizer: Any, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    room = model.config.max_position_embeddings
    torch.manual_seed(0)
    short, long = "Hi " * 4, "Hi there " * room
    alone = generate(model, tokenizer, [short], max_new_tokens=5, temperature=0.0)
    assert generate(model, tokenizer, [long, short, long], max_new_tokens=5, temperature=0.0) == [
        "",
        *alone,
        "",
    ]
    assert generate(model, tokenizer, [long], max_new_tokens=5, temperature=0.0) == [""]
    assert generate(model, tokenizer, [], max_new_tokens=5, temperature=0.0) == []
    nearly = tokenizer.decode(tokenizer(long)["input_ids"][: room - 3])
    (made,) = generate(model, tokenizer, [nearly], max_new_tokens=50, temperature=1.0, top_k=-1)
    assert len(tokenizer(made)["input_ids"]) <= 4


def test_generation_stops_at_the_configs_tokens(tokenizer: Any, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    (free,) = generate(model, tokenizer, ["Hi"], max_new_tokens=8, temperature=0.0)
    ids = tokenizer(free)["input_ids"]
    (stopped,) = generate(
        model, tokenizer, ["Hi"], max_new_tokens=8, temperature=0.0, stop_token_ids=[ids[0]]
    )
    assert len(ids) > 1
    assert tokenizer(stopped)["input_ids"] == ids[:1]
