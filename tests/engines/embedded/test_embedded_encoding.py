"""From chats to tokens: only the assistant's are trained on, by markers or by prefixes, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from nemotron.engines.embedded.models import PASSTHROUGH_TEMPLATE, load_tokenizer
from nemotron.engines.embedded.preference import fitting_pairs
from nemotron.engines.embedded.rows import preference_rows
from nemotron.engines.embedded.supervised import IGNORED, _verdicts, encode
from nemotron.engines.genrm import parse_verdict
from nemotron.errors import CheckFailed

Config = Callable[..., dict[str, Any]]


def says(role: str, content: str | None) -> dict[str, Any]:
    return {"role": role, "content": content}


CHAT = [says("user", "Hi"), says("assistant", "Hello there")]
LONG = [says("system", "Be brief."), *CHAT, says("user", "And Rome?"), says("assistant", "It is Rome.")]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def unmarked(template: str) -> str:
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def trained_on(tokenizer: Any, row: dict[str, list[int]]) -> str:
    """The text that the labels count."""
    return str(tokenizer.decode([token for token in row["labels"] if token != IGNORED]))


@pytest.mark.parametrize("chat", [CHAT, LONG])
def test_labels_count_the_assistants_words_and_the_end_of_the_turn(tokenizer: Any, chat: Any) -> None:
    (row,) = encode(tokenizer, [(chat, None)], 200)
    spoken = [m["content"] for m in chat if m["role"] == "assistant"]
    assert trained_on(tokenizer, row) == "".join(f"{text}<|im_end|>" for text in spoken)
    assert all(
        label in (IGNORED, token) for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )
    assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(chat, tokenize=False)


@pytest.mark.parametrize("chat", [CHAT, LONG, CHAT[::-1], [CHAT[1], CHAT[1]]])
def test_a_template_without_markers_gives_the_same_labels(tokenizer: Any, chat: Any) -> None:
    (marked,) = encode(tokenizer, [(chat, None)], 200)
    tokenizer.chat_template = unmarked(tokenizer.chat_template)
    assert "generation %}" not in tokenizer.chat_template
    (plain,) = encode(tokenizer, [(chat, None)], 200)
    assert plain["input_ids"] == marked["input_ids"]
    if chat[0]["role"] == "assistant":
        # Nothing can be rendered before the first turn: its header is trained on too.
        assert trained_on(tokenizer, plain).endswith(trained_on(tokenizer, marked).partition("<|im_end|>")[2])
    else:
        assert plain["labels"] == marked["labels"]


def test_a_generation_prompt_that_says_more_does_not_shift_the_labels(tokenizer: Any) -> None:
    (expected,) = encode(tokenizer, [(LONG, None)], 200)
    template = unmarked(tokenizer.chat_template)
    tokenizer.chat_template = template.replace("assistant\\n' }}", "assistant\\n<think></think>' }}")
    assert tokenizer.chat_template != template
    (row,) = encode(tokenizer, [(LONG, None)], 200)
    assert row["labels"] == expected["labels"]


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.role }}: {{ m.content }}\n"
        "{% else %}assistant: (earlier)\n{% endif %}{% endfor %}"
    )
    with pytest.raises(CheckFailed, match="in another way once other turns follow") as caught:
        encode(tokenizer, [(LONG, None)], 200)
    assert "generation" in str(caught.value.next)
    assert len(encode(tokenizer, [(CHAT, None)], 200)) == 1, "with one answer there is nothing to rewrite"


def test_rows_that_are_too_long_or_silent_are_left_out_and_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = [says("user", "Hi")]
    (row,) = encode(tokenizer, [(CHAT, None)], 200)
    limit = len(row["input_ids"])
    kept = encode(tokenizer, [(LONG, None), (CHAT, None), (silent, None)], limit)
    assert [r["input_ids"] for r in kept] == [row["input_ids"]], "exactly the limit still fits"
    said = capsys.readouterr().out
    assert f"left out: 1 of 3 rows are longer than {limit} tokens" in said
    assert "left out: 1 of 3 rows hold no word of the assistant" in said
    with pytest.raises(CheckFailed, match="1 are longer than 5 tokens, 0 hold no word") as caught:
        encode(tokenizer, [(CHAT, None)], 5)
    assert caught.value.where == "policy.max_total_sequence_length"


def test_what_the_template_cannot_render_names_the_conversation(tokenizer: Any) -> None:
    with pytest.raises(CheckFailed, match="conversation 2") as caught:
        encode(tokenizer, [(CHAT, None), ([says("user", None), CHAT[1]], None)], 200)
    assert caught.value.where == "policy.tokenizer.chat_template"
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CheckFailed, match="conversation 1: roles must alternate"):
        encode(tokenizer, [(CHAT, None)], 200)


def test_tools_reach_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{{ tools | length }} tools {{ messages[0].content }}{% generation %}x{% endgeneration %}"
    )
    (row,) = encode(tokenizer, [(CHAT, [{"type": "function", "function": {"name": "f"}}])], 200)
    assert tokenizer.decode(row["input_ids"]).startswith("1 tools Hi")


@pytest.mark.parametrize(
    ("keys", "rendered"),
    [
        ({}, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there<|im_end|>\n"),
        (
            {"chat_template": "default"},
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there<|im_end|>\n",
        ),
        ({"chat_template": None}, "HiHello there"),
        (
            {"chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"},
            "[user] Hi[assistant] Hello there",
        ),
    ],
    ids=["absent", "default", "null", "custom"],
)
def test_chat_template_modes(training_config: Config, keys: dict[str, Any], rendered: str) -> None:
    tokenizer = load_tokenizer(training_config("sft", {"policy.tokenizer": keys}))
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == rendered
    (row,) = encode(tokenizer, [(CHAT, None)], 200)
    assert "Hello there" in trained_on(tokenizer, row)
    assert "Hi" not in trained_on(tokenizer, row)


def test_null_means_the_marked_passthrough(training_config: Config) -> None:
    tokenizer = load_tokenizer(training_config("sft", {"policy.tokenizer": {"chat_template": None}}))
    assert tokenizer.chat_template == PASSTHROUGH_TEMPLATE
    (row,) = encode(tokenizer, [(LONG, None)], 200)
    assert trained_on(tokenizer, row) == "Hello thereIt is Rome."


def test_a_tokenizer_without_template_asks_for_one(
    training_config: Config, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    keys = {"policy.tokenizer": {"name": str(tmp_path / "bare")}}
    with pytest.raises(CheckFailed, match="no chat template") as caught:
        load_tokenizer(training_config("sft", keys))
    assert "policy.tokenizer.chat_template" in str(caught.value.next)


def test_padding_is_on_the_left_and_never_missing(
    training_config: Config, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path / "unpadded")
    loaded = load_tokenizer(
        training_config("sft", {"policy.tokenizer": {"name": str(tmp_path / "unpadded")}})
    )
    assert (loaded.padding_side, loaded.pad_token) == ("left", loaded.eos_token)


def test_long_pairs_are_left_out_and_counted(
    training_config: Config, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = preference_rows(training_config("dpo"), "train")

    def length(pair: dict[str, Any]) -> int:
        sizes = []
        for name in ("chosen", "rejected"):
            chat = [*pair["prompt"], *pair[name]]
            sizes.append(
                len(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"])
            )
        return max(sizes)

    limit = sorted(map(length, pairs))[len(pairs) // 2]
    kept = fitting_pairs(tokenizer, pairs, limit)
    assert kept == [p for p in pairs if length(p) <= limit]
    assert 0 < len(kept) < len(pairs)
    out = len(pairs) - len(kept)
    assert f"left out: {out} of {len(pairs)} pairs are longer than {limit} tokens" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="no pair fits into 3 tokens"):
        fitting_pairs(tokenizer, pairs, 3)


def test_a_judge_is_taught_the_scores_in_either_order_and_some_ties(training_config: Config) -> None:
    pairs = preference_rows(training_config("rm"), "train") * 20
    taught = _verdicts(pairs, seed=5)
    assert taught == _verdicts(pairs, seed=5) != _verdicts(pairs, seed=6)
    ties = first_better = 0
    for pair, (chat, tools) in zip(pairs, taught, strict=True):
        *prompt, first, second, answer = chat
        assert (prompt, tools) == (pair["prompt"], None)
        assert (first["role"], second["role"], answer["role"]) == ("response_1", "response_2", "assistant")
        verdict = parse_verdict(answer["content"])
        if verdict.score_1 == verdict.score_2:
            ties += 1
            assert verdict.score_1 in pair["scores"]
        else:
            shown = {first["content"]: verdict.score_1, second["content"]: verdict.score_2}
            expected = [p[0]["content"] for p in (pair["chosen"], pair["rejected"])]
            assert shown == dict(zip(expected, pair["scores"], strict=True))
            first_better += verdict.score_1 > verdict.score_2
    assert 0.15 < ties / len(pairs) < 0.25
    assert 0.45 < first_better / (len(pairs) - ties) < 0.55, "no position is the better one"


def test_pairs_without_scores_teach_the_ends_of_the_scale() -> None:
    pair = {"prompt": [CHAT[0]], "chosen": [says("assistant", "a")], "rejected": [says("assistant", "b")]}
    for chat, _ in _verdicts([pair] * 30, seed=0):
        verdict = parse_verdict(chat[-1]["content"])
        scores = {"a": 5.0, "b": 1.0}
        assert (verdict.score_1, verdict.score_2) == (
            scores[chat[-3]["content"]],
            scores[chat[-2]["content"]],
        )
