"""Every type of preference data by its name: to one form, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks import check_artifact
from nemotron.data.preferences.convert import convert_preferences
from nemotron.data.preferences.formats import find_format, type_names
from nemotron.data.preferences.pair import Judged, Pair, pair_row
from nemotron.data.preferences.unpaired import Pairing
from nemotron.data.rowwise import Split
from nemotron.data.stream.rows import Rejected
from nemotron.errors import UsageError

Row = dict[str, Any]

SYSTEM, ASK, GOOD, BAD = "Be kind.", "2+2?", "Four.", "Five."
USER, BETTER, WORSE = (
    {"role": "user", "content": ASK},
    {"role": "assistant", "content": GOOD},
    {"role": "assistant", "content": BAD},
)
PAIR = Pair((USER,), (BETTER,), (WORSE,))
WITH_SYSTEM = Pair(({"role": "system", "content": SYSTEM}, USER), (BETTER,), (WORSE,))
LISTS = {"chosen": [USER, BETTER], "rejected": [USER, WORSE]}

# The rows as the document of these types gives them, without what it calls optional.
SAMPLES: dict[tuple[str, str], Row] = {
    ("dpo", "argilla"): {"instruction": ASK, "chosen_response": GOOD, "rejected_response": BAD},
    ("dpo", "argilla_chat"): LISTS,
    ("dpo", "icr"): {"input": ASK, "chosen": GOOD, "rejected": BAD},
    ("dpo", "intel"): {"question": ASK, "chosen": GOOD, "rejected": BAD},
    ("dpo", "prompt_pairs"): {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    ("dpo", "ultra"): {"prompt": ASK, **LISTS},
    ("kto", "argilla"): {"instruction": ASK, "completion": GOOD},
    ("kto", "intel"): {"question": ASK, "completion": GOOD},
    ("kto", "prompt_pairs"): {"prompt": ASK, "completion": GOOD},
    ("kto", "ultra"): {"prompt": ASK, "completion": GOOD},
}
PAIRED: dict[tuple[str, str], Row] = {
    **{(m, f"{t}.{n}"): r for (m, n), r in SAMPLES.items() if m == "dpo" for t in ("chatml", "llama3")},
    ("dpo", "zephyr.nectar"): {
        "prompt": ASK,
        "answers": [{"answer": GOOD, "rank": 1}, {"answer": BAD, "rank": 2}],
    },
    ("dpo", "chat_template.argilla_chat"): LISTS,
    ("dpo", "chat_template.default"): {"messages": [USER], "chosen": BETTER, "rejected": WORSE},
    ("dpo", "user_defined.default"): {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    ("orpo", "chat_template.argilla"): LISTS,
}
JUDGED: dict[tuple[str, str], Row] = {
    **{(m, f"{t}.{n}"): r for (m, n), r in SAMPLES.items() if m == "kto" for t in ("chatml", "llama3")},
    ("kto", "chatml.argilla_chat"): {"chosen": [USER], "completion": [BETTER]},
    ("kto", "llama3.argilla_chat"): {"completion": [USER, BETTER]},
    ("kto", "user_defined.default"): {"prompt": ASK, "completion": GOOD, "label": "true"},
}
TAKES_SYSTEM = [
    key
    for key, row in {**PAIRED, **JUDGED}.items()
    if isinstance(row.get("instruction", row.get("input", row.get("question", row.get("prompt")))), str)
    and key[1] != "zephyr.nectar"
] + [("orpo", "chat_template.argilla")]


def names(keys: Any) -> list[str]:
    return [f"{method}-{name}" for method, name in keys]


def read(key: tuple[str, str], row: Row, **options: Any) -> Any:
    method, name = key
    found = find_format(name, method, options).read(row)
    return found[0] if isinstance(found, tuple) and len(found) == 1 else found


@pytest.mark.parametrize("key", PAIRED, ids=names(PAIRED))
def test_the_documents_row_becomes_the_pair_it_means_and_comes_back(key: tuple[str, str]) -> None:
    row = PAIRED[key]
    assert read(key, row) == PAIR
    assert find_format(key[1], key[0]).write(PAIR) == (row,)


@pytest.mark.parametrize("key", JUDGED, ids=names(JUDGED))
def test_the_documents_judged_row_becomes_the_answer_and_comes_back(key: tuple[str, str]) -> None:
    row = JUDGED[key]
    label = True if "label" in row else None
    assert read(key, row) == Judged((USER,), (BETTER,), label)
    again = find_format(key[1], key[0]).write(PAIR)
    assert isinstance(again, tuple)
    assert again[0] == {**row, "label": True}
    assert again[1]["label"] is False
    assert read(key, again[1]) == Judged((USER,), (WORSE,), False)


def test_every_type_has_a_sample() -> None:
    bare = {"chatml", "llama3", "PreferenceDataset", "BinaryPreferenceDataset"}
    bare |= {"HelpSteer3", "Tulu3Preference"}  # of another document: see below
    for method in ("dpo", "orpo", "kto"):
        sampled = {name for m, name in {**PAIRED, **JUDGED} if m == method}
        assert sampled == set(type_names(method)) - bare
    assert type_names("ipo") == type_names("simpo") == type_names("dpo")


@pytest.mark.parametrize("key", TAKES_SYSTEM, ids=names(TAKES_SYSTEM))
def test_a_system_text_becomes_the_first_message_and_comes_back(key: tuple[str, str]) -> None:
    row = {"system": SYSTEM, **{**PAIRED, **JUDGED}[key]}
    found = read(key, row)
    assert found.context == WITH_SYSTEM.context
    written = find_format(key[1], key[0]).write(WITH_SYSTEM)
    assert isinstance(written, tuple) and written[0]["system"] == SYSTEM
    for nothing in (None, ""):
        assert read(key, {**row, "system": nothing}).context == (USER,)


@pytest.mark.parametrize("key", {**PAIRED, **JUDGED}, ids=names({**PAIRED, **JUDGED}))
def test_a_row_with_a_missing_or_an_extra_field_is_left_out_with_its_reason(key: tuple[str, str]) -> None:
    row = {**PAIRED, **JUDGED}[key]
    for field in row.keys() - {"label"}:
        short = {name: value for name, value in row.items() if name != field}
        found = read(key, short)
        assert isinstance(found, Rejected) and found.reason == "missing_field", (field, found)
        assert field in found.what
    found = read(key, {**row, "rating": 4})
    assert found == Rejected("extra_field", "rating")
    method, name = key
    assert find_format(name, method, extra=True).read({**row, "rating": 4}) == find_format(name, method).read(
        row
    )


@pytest.mark.parametrize("key", {**PAIRED, **JUDGED}, ids=names({**PAIRED, **JUDGED}))
@pytest.mark.parametrize("value", [None, 3, "", " ", [], {}, ["x"], [{"role": "user"}]], ids=repr)
def test_a_field_of_the_wrong_type_is_left_out_and_never_raises(key: tuple[str, str], value: Any) -> None:
    row = {**PAIRED, **JUDGED}[key]
    optional = {"prompt"} if key[0] == "orpo" else set()
    for field in row.keys() - optional:
        found = read(key, {**row, field: value})
        assert isinstance(found, Rejected), (field, found)
        assert found.reason in {
            "wrong_type", "empty_text", "no_messages", "missing_field", "unknown_label", "wrong_number",
            "extra_field",
        }  # fmt: skip


def test_rank_one_is_the_best_of_several_and_ties_are_no_pair() -> None:
    answers = [{"answer": text, "rank": rank} for text, rank in (("c", 3), ("a", 1.0), ("b", 2), ("b2", 2))]
    row = {"prompt": ASK, "answers": answers}
    pair = read(("dpo", "zephyr.nectar"), row)
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("a", "c")
    every = find_format("zephyr.nectar", options={"every_pair": True}).read(row)
    assert isinstance(every, tuple)
    ranked = [(pair.chosen[0]["content"], pair.rejected[0]["content"]) for pair in every]  # type: ignore[union-attr]
    assert ranked == [("a", "b"), ("a", "b2"), ("a", "c"), ("b", "c"), ("b2", "c")]
    tied = {**row, "answers": [{**answer, "rank": 1} for answer in answers]}
    assert read(("dpo", "zephyr.nectar"), tied).reason == "equal_ranks"


def test_conversations_that_differ_before_the_answer_are_left_out() -> None:
    other = {"role": "user", "content": "3+3?"}
    for key in (("dpo", "chatml.argilla_chat"), ("orpo", "chat_template.argilla")):
        found = read(key, {"chosen": [USER, BETTER], "rejected": [other, WORSE]})
        assert found.reason == "prompts_differ"
    assert read(("dpo", "llama3.ultra"), {"prompt": "3+3?", **LISTS}).reason == "prompts_differ"


def test_several_turns_are_kept_where_the_type_has_them() -> None:
    head = [USER, BETTER, {"role": "user", "content": "Sure?"}]
    row = {"chosen": [*head, BETTER], "rejected": [*head, WORSE]}
    for key in (("dpo", "chatml.argilla_chat"), ("orpo", "chat_template.argilla")):
        pair = read(key, row)
        assert pair == Pair(tuple(head), (BETTER,), (WORSE,))
        assert find_format(key[1], key[0]).write(pair) == (row,)
    assert find_format("chatml.intel").write(Pair(tuple(head), (BETTER,), (WORSE,))) == Rejected(
        "many_turns", "the context is user, assistant, user; this type has one question"
    )


def test_orpo_takes_an_even_number_of_turns_alone_and_the_prompt_beside_them() -> None:
    key = ("orpo", "chat_template.argilla")
    odd = [USER, BETTER, BETTER]
    assert read(key, {"chosen": odd, "rejected": [*odd[:2], WORSE]}).reason == "not_alternating"
    assert read(key, {"prompt": "3+3?", **LISTS}).context == ({"role": "user", "content": "3+3?"},)
    assert read(key, {"prompt": ASK, **LISTS}) == PAIR


def test_columns_roles_and_keys_have_the_names_the_config_gives_them() -> None:
    options = {
        "field_messages": "talk",
        "field_chosen": "win",
        "field_rejected": "lose",
        "message_property_mappings": {"role": "from", "content": "value"},
        "roles": {"user": ["human"], "assistant": ["gpt", "bot"]},
    }
    row = {
        "talk": [{"from": "human", "value": ASK}],
        "win": {"from": "gpt", "value": GOOD},
        "lose": {"from": "gpt", "value": BAD},
    }
    assert read(("dpo", "chat_template.default"), row, **options) == PAIR
    assert find_format("chat_template.default", options=options).write(PAIR) == (row,)
    strange = {**row, "win": {"from": "narrator", "value": GOOD}}
    assert read(("dpo", "chat_template.default"), strange, **options).reason == "unknown_role"


def test_formats_of_the_user_are_filled_and_nothing_in_the_text_is() -> None:
    formats = {
        "prompt_format": "{system}|{prompt}|",
        "chosen_format": "<{chosen}>",
        "rejected_format": "{rejected}",
    }
    ask = "{chosen} {prompt.__class__} {0}"
    row = {"system": SYSTEM, "prompt": ask, "chosen": GOOD, "rejected": BAD}
    pair = read(("dpo", "user_defined.default"), row, **formats)
    assert pair.context == ({"role": "user", "content": f"{SYSTEM}|{ask}|"},)
    assert pair.chosen == ({"role": "assistant", "content": f"<{GOOD}>"},)
    mapped = find_format({"field_prompt": "q", "field_chosen": "a", "field_rejected": "b"})
    assert mapped.read({"q": ASK, "a": GOOD, "b": BAD}) == (PAIR,)


def test_tool_calls_of_an_answer_stay_as_they_are() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2.50}'}}
    chosen = {"role": "assistant", "content": None, "tool_calls": [call]}
    row = {"messages": [USER], "tools": [{"name": "add"}], "chosen": chosen, "rejected": WORSE}
    pair = read(("dpo", "chat_template.default"), row)
    assert pair.chosen == (chosen,) and pair.tools == [{"name": "add"}]
    assert find_format("chat_template.default").write(pair) == (row,)
    assert find_format("chatml.ultra").write(pair) == Rejected(
        "has_tools", "this type has no place for tools"
    )


@pytest.mark.parametrize(
    ("name", "method", "options", "told"),
    [
        ("chatml.intle", "dpo", {}, "chatml.intel"),
        ("chatml.icr", "kto", {}, "chatml.intel"),
        ("chatml.intel", "dop", {}, "dpo"),
        ("chatml.intel", "dpo", {"field_prompt": "q"}, "no option field_prompt"),
        ("user_defined.default", "dpo", {"field_promt": "q"}, "field_prompt"),
        ("user_defined.default", "dpo", {"field_prompt": 3}, "not a str"),
        ("chat_template.default", "dpo", {"roles": {"user": "user"}}, "lists of names"),
    ],
)
def test_a_name_or_an_option_that_does_not_exist_is_told_with_the_nearest(
    name: str, method: str, options: Row, told: str
) -> None:
    with pytest.raises(UsageError) as raised:
        find_format(name, method, options)
    assert told in raised.value.render()


texts = st.text(min_size=1).filter(lambda text: text.strip())


@settings(max_examples=60, deadline=None)
@given(st.none() | texts, texts, texts, texts)
def test_what_a_type_can_hold_survives_the_way_there_and_back(
    system: str | None, ask: str, good: str, bad: str
) -> None:
    head = ({"role": "system", "content": system},) if system else ()
    context = (*head, {"role": "user", "content": ask})
    pair = Pair(context, ({"role": "assistant", "content": good},), ({"role": "assistant", "content": bad},))
    for method, name in [("dpo", n) for n in type_names("dpo")] + [("orpo", n) for n in type_names("orpo")]:
        kind = find_format(name, method)
        written = kind.write(pair)
        if isinstance(written, Rejected):
            assert system and written.reason in ("has_system", "many_turns")
            continue
        back = kind.read(written[0])
        if good == bad:
            assert back == Rejected("same_answers", "chosen and rejected are the same")
        else:
            assert isinstance(back, tuple)
            scores = (1, 0) if name == "HelpSteer3" else None
            assert back == (pair._replace(scores=scores),)


HELPSTEER: Row = {
    "domain": "general", "language": "english", "context": [USER], "response1": BAD, "response2": GOOD,
    "overall_preference": 2, "individual_preference": [{"score": 2, "reasoning": "r", "feedback1": "f"}],
}  # fmt: skip
TULU: Row = {"id": "1", "source": "s", "prompt": ASK, **LISTS, "chosen_model": "m", "rejected_model": "n"}


def test_the_size_of_a_preference_says_which_response_is_better() -> None:
    key = ("dpo", "HelpSteer3")
    assert read(key, HELPSTEER) == PAIR._replace(scores=(2, 0))
    turned = {**HELPSTEER, "response1": GOOD, "response2": BAD, "overall_preference": -3, "context": ASK}
    assert read(key, turned) == PAIR._replace(scores=(3, 0))
    written = find_format("HelpSteer3").write(PAIR._replace(scores=(3, 0)))
    assert isinstance(written, tuple) and read(key, written[0]) == PAIR._replace(scores=(3, 0))
    assert read(key, {**HELPSTEER, "overall_preference": 0}).reason == "equal_ranks"
    assert read(key, {**HELPSTEER, "overall_preference": "2"}).reason == "wrong_type"
    for field in ("context", "response1", "response2", "overall_preference"):
        short = {name: value for name, value in HELPSTEER.items() if name != field}
        assert (read(key, short).reason, read(key, short).what.removeprefix("no ")) == (
            "missing_field",
            field,
        )
    assert read(key, {**HELPSTEER, "more": 1}) == Rejected("extra_field", "more")


def test_conversations_of_tulu_become_pairs_without_what_says_nothing_of_them() -> None:
    key = ("dpo", "Tulu3Preference")
    assert read(key, TULU) == PAIR
    assert read(key, {**TULU, "more": 1}) == Rejected("extra_field", "more")
    assert read(key, {**TULU, "rejected": [{**USER, "content": "?"}, WORSE]}).reason == "prompts_differ"
    assert read(key, {"chosen": LISTS["chosen"]}).reason == "missing_field"


def as_parquet(path: Path, rows: list[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("method", "name", "rows"),
    [
        ("dpo", "HelpSteer3", [HELPSTEER, {**HELPSTEER, "overall_preference": 0, "language": None}]),
        ("dpo", "Tulu3Preference", [TULU]),
        (
            "kto",
            "chatml.intel",
            [{"question": ASK, "completion": a, "label": a == GOOD} for a in (GOOD, BAD)],
        ),
    ],
)
def test_a_data_set_of_the_hub_becomes_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str, rows: list[Row]
) -> None:
    """By the package itself; only where it looks for the name is told to it."""
    datasets = pytest.importorskip("datasets")
    from nemotron.steps.data_prep.preference.step import inputs_of

    file = as_parquet(tmp_path / "data" / "train.parquet", rows)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    asked = []

    def hub(path: str, subset: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((path, subset, split))
        return datasets.load_dataset(
            "parquet", data_files={split: str(file)}, split=split, streaming=streaming
        )

    kind = find_format(name, method)
    config = dict.fromkeys(("data_path", "raw_path", "hf_dataset", "subset", "split"))
    config["hf_dataset"] = None if kind.on_hub else "org/name"
    place = inputs_of(config, kind)
    out = tmp_path / "pairs.jsonl"
    report = convert_preferences(place, kind, {"rows": out}, split=Split(), hub=hub)
    assert (report["rows_in"], report["outputs"]) == (len(rows), {"rows": 1})
    assert [c["completion"] for c in json.loads(out.read_text())["completions"]] == [[BETTER], [WORSE]]
    assert not check_artifact(out, "preference_jsonl").findings
    expected = {
        "HelpSteer3": ("nvidia/HelpSteer3", "preference", "train"),
        "Tulu3Preference": ("allenai/llama-3.1-tulu-3-8b-preference-mixture", None, "train"),
    }
    assert asked == [expected.get(name, ("org/name", None, "train"))]


def test_judged_answers_to_one_prompt_become_pairs_and_the_rest_is_told() -> None:
    def judged(ask: str, answer: str, good: bool | None) -> Judged:
        return Judged(({"role": "user", "content": ask},), ({"role": "assistant", "content": answer},), good)

    with Pairing() as pairing:
        entries = [("a", "x", False), ("b", "y", True), ("a", "z", True), ("a", "w", True), ("c", "v", None)]
        refused = [pairing.add(judged(*entry), "f", n) for n, entry in enumerate(entries, start=1)]
        found = list(pairing.pairs())
    assert refused[:4] == [None] * 4
    assert refused[4] == Rejected("no_label", "no label, and none is assumed")
    file, line, pair = found[0]
    assert (file, line) == ("f", 3) and isinstance(pair, Pair)
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("z", "x")
    left = [(line, item.reason) for _, line, item in found[1:] if isinstance(item, Rejected)]
    assert left == [(4, "no_counterpart"), (2, "no_counterpart")]


def test_the_row_of_a_pair_is_what_its_type_says(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair_row(pair)) + "\n" for pair in (PAIR, WITH_SYSTEM)))
    report = check_artifact(path, "preference_jsonl")
    assert not report.findings
    assert report.facts["rows"] == 2
