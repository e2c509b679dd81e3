"""Chats as packed rows of tokens: what is trained on, how full the rows are, and what they remember."""

from __future__ import annotations

import importlib.util
import json
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import nemotron
from nemotron.artifacts.checks import check_artifact
from nemotron.data.chats.templates import PASSTHROUGH, choose_template
from nemotron.data.fields import RefusedRowError
from nemotron.data.packing.bins import best_fit, mixed
from nemotron.data.packing.identity import tokenizer_identity
from nemotron.data.packing.tokens import ChatTokens, Sequence
from nemotron.data.packing.write import PackOptions, pack_chats
from nemotron.errors import CheckFailed, UsageError

pytest.importorskip("transformers")
pq = pytest.importorskip("pyarrow.parquet")

Row = dict[str, Any]
IDENTITY: dict[str, str | int] = {"tokenizer_digest": "sha256:1", "chat_template_digest": "sha256:2"}

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
TAIL = (
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = HEAD + "{{ m['content'] }}" + TAIL
MARKED = (
    HEAD
    + "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Thoughts of all answers but the last are taken away.
FORGETFUL = (
    HEAD
    + "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n' + m.get('reasoning_content', '') + '\n"
    "</think>\n' }}{% endif %}{{ m['content'] }}" + TAIL
)
# What goes before an answer opens a thought that the answer need not have.
THINKING = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
CALLS = (
    HEAD
    + "{{ m['content'] }}{% for c in m.get('tool_calls', []) %}<call>{{ c.function.%s }}</call>{% endfor %}"
    + TAIL
)


def chat(*texts: str) -> Row:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer that has seen a little English."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(["What is the capital of France? It is Paris."] * 20, trainer)
    place = tmp_path_factory.mktemp("model")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[2], pad_token=special[0],
        additional_special_tokens=special[1:2], chat_template=MARKED,
    )  # fmt: skip
    fast.save_pretrained(place)
    return place


@pytest.fixture
def tokens(model: Path) -> Callable[[str | None], ChatTokens]:
    from transformers import AutoTokenizer

    return lambda template: ChatTokens(lambda: AutoTokenizer.from_pretrained(model), template)


def trained(of: ChatTokens, made: Sequence) -> str:
    """The text that is trained on, with a bar between its pieces."""
    pieces, last = [""], 0
    for one, kept in zip(made.ids, made.mask, strict=True):
        if kept and not last:
            pieces.append("")
        if kept:
            pieces[-1] += of.ready.tokenizer.decode([one])  # type: ignore[attr-defined]
        last = kept
    return "|".join(pieces[1:])


TWO_TURNS = chat("What is it?", "It is Paris.", "Sure?", "Paris!")


@pytest.mark.parametrize("template", [MARKED, CHATML, "default"], ids=["marked", "compared", "own"])
def test_the_answers_and_their_ends_are_trained_on_and_nothing_else(
    tokens: Callable[[str | None], ChatTokens], template: str
) -> None:
    of = tokens(template)
    made = of.sequence(TWO_TURNS)
    assert trained(of, made) == "It is Paris.<|im_end|>|Paris!<|im_end|>"
    whole = of.ready.tokenizer.decode(list(made.ids))  # type: ignore[attr-defined]
    assert whole == of.ready.rendered(TWO_TURNS["messages"], None)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and "<" not in text
)


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, min_size=2, max_size=6).filter(lambda many: len(many) % 2 == 0))
def test_comparing_texts_finds_what_a_template_with_marks_says(model: Path, said: list[str]) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(model)
    marked, compared = (ChatTokens(lambda: loaded, template) for template in (MARKED, CHATML))
    one, other = marked.sequence(chat(*said)), compared.sequence(chat(*said))
    assert one.ids == other.ids
    assert one.mask == other.mask


def test_an_answer_that_the_template_rewrites_later_is_not_trained_on(
    tokens: Callable[[str | None], ChatTokens],
) -> None:
    of = tokens(FORGETFUL)
    made = of.sequence(TWO_TURNS)
    assert trained(of, made).count("Paris!") == 1
    assert "It is Paris." not in trained(of, made)
    assert any("earlier answer" in note for note in made.notes)


def test_an_answer_without_the_thought_that_the_template_opens_is_trained_on_and_told(
    tokens: Callable[[str | None], ChatTokens],
) -> None:
    of = tokens(THINKING)
    made = of.sequence(chat("q", "Paris."))
    assert trained(of, made) == "Paris.<|im_end|>"
    assert any("begins answers" in note for note in made.notes)
    thought = of.sequence(chat("q", "<think>\nhm</think>Paris."))
    assert trained(of, thought) == "hm</think>Paris.<|im_end|>"
    assert not thought.notes


@pytest.mark.parametrize("way", ["arguments", "arguments | tojson"])
def test_arguments_of_calls_are_written_once_whatever_the_template_expects(
    tokens: Callable[[str | None], ChatTokens], way: str
) -> None:
    of = tokens(CALLS.replace("%s", way))
    call = {"name": "f", "arguments": '{"a": 1}'}
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    }
    made = trained(of, of.sequence(row))
    assert "a" in made and "\\" not in made and "None" not in made
    assert json.loads(made.split("<call>")[1].split("</call>")[0].replace("'", '"')) == {"a": 1}


def test_passthrough_puts_the_texts_one_after_the_other(tokens: Callable[[str | None], ChatTokens]) -> None:
    of = tokens(None)
    made = of.sequence(chat("User: q\nBot:", " Paris"))
    assert of.ready.rendered(chat("User: q\nBot:", " Paris")["messages"], None) == "User: q\nBot: Paris"
    assert trained(of, made) == " Paris"


def test_a_pair_of_input_and_output_is_a_chat(tokens: Callable[[str | None], ChatTokens]) -> None:
    of = tokens("default")
    assert of.sequence({"input": "q", "output": "Paris"}) == of.sequence(chat("q", "Paris"))


def test_a_template_that_refuses_a_row_leaves_it_out(tokens: Callable[[str | None], ChatTokens]) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    row = {"messages": [{"role": "system", "content": "s"}, *chat("q", "a")["messages"]]}
    with pytest.raises(RefusedRowError) as raised:
        tokens(strict).sequence(row)
    assert raised.value.rejected.reason == "template_refused" and "no system" in raised.value.rejected.what
    with pytest.raises(RefusedRowError) as raised:
        tokens(CHATML).sequence({"messages": [{"role": "user", "content": "q"}]})
    assert raised.value.rejected.reason == "nothing_to_train"


def test_a_system_message_alone_is_never_rendered(tokens: Callable[[str | None], ChatTokens]) -> None:
    """Some templates need a question; none is asked to do without."""
    asked = "messages | selectattr('role', 'equalto', 'user') | list"
    needs = "{% if not " + asked + " %}{{ raise_exception('no user') }}{% endif %}"
    row = {"messages": [{"role": "system", "content": "s"}, *chat("q", "Paris")["messages"]]}
    of = tokens(needs + CHATML)
    assert trained(of, of.sequence(row)) == "Paris<|im_end|>"


def test_the_three_ways_to_choose_a_template() -> None:
    assert choose_template("default", "{{ x }}") == "{{ x }}"
    assert choose_template(None, "{{ x }}") == PASSTHROUGH
    assert choose_template("{{ y }}", None) == "{{ y }}"
    for setting, own in (("default", None), ("chatml", "{{ x }}")):
        with pytest.raises(UsageError):
            choose_template(setting, own)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=120)))
)
def test_every_sequence_is_packed_once_into_a_row_with_room(case: tuple[int, list[int]]) -> None:
    size, lengths = case
    rows = best_fit(lengths, size)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= size for row in rows)
    fewest = -(-sum(lengths) // size)
    assert (
        len(rows) <= 11 / 9 * max(fewest, sum(2 * n > size for n in lengths)) + 6 / 9
        or len(rows) <= 1.5 * fewest + 1
    )
    assert sorted(map(tuple, mixed(rows, 3))) == sorted(tuple(sorted(row)) for row in rows)
    assert mixed(rows, 3) == mixed(rows, 3)


def test_best_fit_takes_the_fullest_row_that_has_room() -> None:
    assert best_fit([6, 5, 4, 3, 2], 10) == [array("I", (0, 2)), array("I", (1, 3, 4))]
    assert best_fit([7, 6, 3, 4], 10) == [array("I", (0, 2)), array("I", (1, 3))]


def write(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_packed_rows_hold_every_chat_and_say_what_made_them(
    tmp_path: Path, model: Path, tokens: Callable[[str | None], ChatTokens]
) -> None:
    rows = [chat(f"What is {n}?" * (n % 7 + 1), "It is Paris." * (n % 3 + 1)) for n in range(100)]
    bad = [chat("q"), {"messages": "no"}, chat("q", "long " * 999)]
    of = tokens("default")
    identity = tokenizer_identity(model, of.ready.template)
    options = PackOptions(pack_size=256, shard_rows=10, seed=1)
    data = write(tmp_path / "chats.jsonl", [*rows, *bad])
    report = pack_chats(data, tmp_path / "packed", of, options, identity, workers=1)
    checked = check_artifact(tmp_path / "packed", "packed_parquet")
    assert checked.ok and not checked.findings
    made_of = check_artifact(model, "checkpoint_hf").facts
    for key in ("tokenizer_digest", "chat_template_digest", "tokenizer_size"):
        assert checked.facts[key] == made_of[key]
    assert checked.facts["pack_size"] == 256
    table = pq.read_table(tmp_path / "packed").to_pylist()
    found = []
    for row in table:
        assert len(row["input_ids"]) == len(row["loss_mask"]) <= 256
        bounds = [*row["seq_start_id"], len(row["input_ids"])]
        assert bounds[0] == 0
        for begin, end in pairwise(bounds):
            found.append((tuple(row["input_ids"][begin:end]), bytes(row["loss_mask"][begin:end])))
    wanted = [of.sequence(row) for row in rows]
    # The mask says of each place whether the token after it is to be predicted, as Megatron-Bridge reads it.
    assert sorted(found) == sorted((tuple(made.ids), made.mask[1:] + b"\0") for made in wanted)
    assert {reason: left["rows"] for reason, left in report["left_out"].items()} == {
        "last_role": 1, "wrong_type": 1, "too_long": 1,
    }  # fmt: skip
    packing = report["packing"]
    assert packing["files"] == checked.facts["files"] == -(-len(table) // 10)
    assert packing["tokens"] == sum(len(made.ids) for made in wanted)
    assert packing["trained_tokens"] == sum(sum(made.mask[1:]) for made in wanted)
    assert packing["efficiency"] == round(packing["tokens"] / (256 * len(table)), 4)
    assert len(table) <= -(-packing["tokens"] // 256) + 1


def test_packing_again_gives_the_same_bytes_and_leaves_no_shard_of_before(
    tmp_path: Path, tokens: Callable[[str | None], ChatTokens]
) -> None:
    data = write(tmp_path / "chats.jsonl", [chat(f"{n}?", "Paris") for n in range(60)])
    of, place = tokens("default"), tmp_path / "packed"
    pack_chats(data, place, of, PackOptions(64, shard_rows=1), IDENTITY, workers=1)
    many = sorted(file.name for file in place.iterdir())
    pack_chats(data, place, of, PackOptions(64), IDENTITY, workers=1)
    first = {file.name: file.read_bytes() for file in place.iterdir()}
    assert list(first) == ["shard_000000.parquet"] and len(many) > 3
    pack_chats(data, place, of, PackOptions(64), IDENTITY, workers=2)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == first
    assert {entry.name for entry in tmp_path.iterdir()} == {"chats.jsonl", "packed"}
    pack_chats(data, place, of, PackOptions(64, seed=2), IDENTITY, workers=1)
    assert (place / "shard_000000.parquet").read_bytes() != first["shard_000000.parquet"]


def test_what_is_too_long_is_cut_where_the_config_says_so(
    tmp_path: Path, tokens: Callable[[str | None], ChatTokens]
) -> None:
    rows = [chat("q", "Paris " * 90), chat("long " * 90, "Paris")]
    data, place = write(tmp_path / "chats.jsonl", rows), tmp_path / "packed"
    report = pack_chats(data, place, tokens("default"), PackOptions(64, "truncate"), IDENTITY, workers=1)
    assert report["packing"]["longest"] == 64 and report["kept"] == 1
    assert report["notes"] == {"cut to pack_size": 1}
    assert list(report["left_out"]) == ["too_long"]


def test_the_step_packs_with_the_tokenizer_of_a_model(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(nemotron.__file__).parent / "steps" / "data_prep" / "sft_packing"
    spec = importlib.util.spec_from_file_location("sft_packing", place / "step.py")
    assert spec is not None and spec.loader is not None
    step = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step)
    config = yaml.safe_load((place / "config" / "default.yaml").read_text(encoding="utf-8"))
    config |= {"data_path": write(tmp_path / "chats.jsonl", [chat("q", "Paris")] * 9), "workers": 1}
    config["tokenizer"]["name"] = str(model)
    monkeypatch.chdir(tmp_path)
    step.main(config)
    facts = check_artifact(tmp_path / "data/packed", "packed_parquet").facts
    assert facts["tokenizer_digest"] == check_artifact(model, "checkpoint_hf").facts["tokenizer_digest"]
    assert "9 conversations" in capsys.readouterr().out
    config["tokenizer"]["name"] = str(tmp_path / "data")
    with pytest.raises(nemotron.NemotronError, match="no tokenizer"):
        step.main(config)


def test_nothing_to_pack_leaves_the_earlier_shards_alone(
    tmp_path: Path, tokens: Callable[[str | None], ChatTokens]
) -> None:
    place = tmp_path / "packed"
    pack_chats(
        write(tmp_path / "a", [chat("q", "a")]),
        place,
        tokens("default"),
        PackOptions(64),
        IDENTITY,
        workers=1,
    )
    before = (place / "shard_000000.parquet").read_bytes()
    with pytest.raises(CheckFailed, match="no row is left"):
        pack_chats(write(tmp_path / "b", [chat("q")]), place, tokens("default"), PackOptions(64), IDENTITY)
    assert (place / "shard_000000.parquet").read_bytes() == before
    with pytest.raises(UsageError):
        PackOptions(0)
    with pytest.raises(UsageError):
        PackOptions(too_long="drop")
    with pytest.raises(UsageError, match="pack_sise"):
        PackOptions.of({"pack_sise": 1})
    with pytest.raises(CheckFailed, match="no tokenizer"):
        tokenizer_identity(place, "")
