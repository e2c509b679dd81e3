"""Chat data sets by their names: what their rows become, and that nothing in them changes."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks import check_artifact
from nemotron.data.chats.datasets import OasstDataset, OpenAIFormatDataset, ResponseDataset, SquadDataset
from nemotron.data.chats.registry import dataset_names, load_chats, write_chats
from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError

Row = dict[str, Any]


def chat(*texts: str, **more: Any) -> Row:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)], **more}


def write(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def converted(tmp_path: Path, name: str, rows: list[Row], **keys: Any) -> tuple[list[Row], Row]:
    """The rows that the data set `name` makes of rows in a file, and the report."""
    data = write(tmp_path / "in.jsonl", rows)
    places = {"rows": tmp_path / "out.jsonl"}
    report = write_chats(load_chats(name, {"data_path": data, **keys}), places, workers=1)
    assert check_artifact(places["rows"], "training_jsonl").ok
    return read(places["rows"]), report


def call(name: str, arguments: Any) -> Row:
    called = {"name": name, "arguments": arguments}
    return {
        "messages": [
            {"role": "user", "content": "Do it"},
            {"role": "assistant", "content": "", "tool_calls": [called]},
            {"role": "tool", "content": "done", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": [{"name": name, "parameters": {"enum": [0.6, 1, 3.1622776601683795]}}],
    }


# What the JSON loader of `datasets` changes, or fails on, in one version or the other.
TRAPS: dict[str, list[Row]] = {
    "arguments with other keys": [call("search", {"query": "x"}), call("calc", {"expr": "2+2", "digits": 2})],
    "a plain row beside a tool row": [chat("2+2?", "4"), call("search", {"query": "x"})],
    "an integer and a string at one place": [call("f", {"n": 1}), call("f", {"n": "1"})],
    "an integer beside a float": [call("f", {"n": 1}), call("f", {"n": 1.0}), call("f", {"n": 1.5})],
    "a text and a list of parts": [chat("a", "b"), {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"}]}],
    "dates": [chat("2024-01-01", "2024-01-02T00:00:00Z"), chat("2024-01-03", "2024-01-04")],
    "long numbers": [call("f", {"n": 1234567890123456789012, "x": 0.1622776601683795, "y": 1e-7, "z": -0.0})],
    "nulls that are there": [call("f", {"n": None}), {**chat("a", "b"), "tools": None, "note": None}],
    "keys in an order of their own": [{"z": 1, **chat("a", "b"), "a": {"y": 1, "b": 2}}],
    "other alphabets and escapes": [chat("\u0416\u2028\U0001f600\\\"\x00\t", "\ud7ff\uffff")],
}  # fmt: skip


@pytest.mark.parametrize("rows", TRAPS.values(), ids=TRAPS)
@pytest.mark.parametrize("preserving", [True, False])
def test_rows_that_other_loaders_change_come_through_exactly(
    tmp_path: Path, rows: list[Row], preserving: bool
) -> None:
    found, report = converted(tmp_path, "openai_format", rows, use_preserving_dataset=preserving)
    assert [json.dumps(row) for row in found] == [json.dumps(row) for row in rows]
    assert report["left_out"] == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=4))
def test_any_arguments_come_through_exactly(
    tmp_path_factory: pytest.TempPathFactory, many: list[Row]
) -> None:
    rows = [call("f", arguments) for arguments in many]
    found, _ = converted(tmp_path_factory.mktemp("any"), "openai_format", rows)
    assert [json.dumps(row) for row in found] == [json.dumps(row) for row in rows]


def test_a_squad_row_has_its_context_as_system_text_and_the_first_answer(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "context": "C",
        "question": "Q",
        "answers": {"text": ["A", "B"], "answer_start": [0, 1]},
    }
    none = {**row, "answers": {"text": [], "answer_start": []}}
    found, report = converted(tmp_path, "squad", [row, none, {"question": "Q", "answers": row["answers"]}])
    roles = [(said["role"], said["content"]) for said in found[0]["messages"]]
    assert roles == [("system", "C"), ("user", "Q"), ("assistant", "A")]
    assert {reason: left["rows"] for reason, left in report["left_out"].items()} == {
        "no_answer": 1, "missing_field": 1,
    }  # fmt: skip
    assert report["left_out"]["no_answer"]["examples"][0]["line"] == 2


def test_open_math_instruct_trains_on_the_column_it_is_told(tmp_path: Path) -> None:
    row = {"problem": "2+2?", "generated_solution": "We add.", "expected_answer": "4", "problem_source": "x"}
    keys = {"split_validation_size": 0.0}
    assert converted(tmp_path, "OpenMathInstruct-2", [row], **keys)[0] == [chat("2+2?", "4")]
    keys = {"split_validation_size": 0.0, "output_key": "generated_solution"}
    assert converted(tmp_path, "openmathinstruct2", [row], **keys)[0] == [chat("2+2?", "We add.")]


def tree(role: str, text: str, *replies: Row) -> Row:
    return {"role": role, "text": text, "replies": list(replies), "message_id": text}


def test_a_tree_becomes_a_conversation_for_every_last_answer(tmp_path: Path) -> None:
    ask = tree(
        "prompter", "q",
        tree("assistant", "a1", tree("prompter", "q2", tree("assistant", "a2"), tree("assistant", "a3"))),
        tree("assistant", "a4", tree("prompter", "q5"), tree("prompter", "q6")),
    )  # fmt: skip
    rows = [{"message_tree_id": "t", "prompt": ask}, {"prompt": tree("prompter", "nobody answered")}]
    found, report = converted(tmp_path, "open_assistant", rows, split_validation_size=0.0)
    told = [[said["content"] for said in row["messages"]] for row in found]
    assert told == [["q", "a1", "q2", "a2"], ["q", "a1", "q2", "a3"], ["q", "a4"]]
    assert list(report["left_out"]) == ["no_answer"]
    assert report["rows_in"] == 2 and report["kept"] == 3
    keys = {"split_validation_size": 0.0, "system_prompt": "Be kind."}
    assert converted(tmp_path, "open_assistant", rows, **keys)[0][0]["messages"][0]["role"] == "system"


def test_question_and_answer_have_the_keys_of_the_config(tmp_path: Path) -> None:
    found, _ = converted(tmp_path, "ResponseDataset", [{"input": "q", "output": "a"}])
    assert found == [chat("q", "a")]
    keys = {"input_key": "ask", "output_key": "say"}
    found, _ = converted(tmp_path, "ResponseDataset", [{"ask": "q", "say": "a"}, {"ask": "q"}], **keys)
    assert found == [chat("q", "a")]
    tools = [{"name": "f"}]
    assert converted(tmp_path, "ResponseDataset", [chat("q", "a", tools=tools)])[0] == [
        chat("q", "a", tools=tools)
    ]


def test_chat_system_and_tool_keys_name_the_columns(tmp_path: Path) -> None:
    said = chat("q", "a")["messages"]
    row = {"id": 7, "talk": said, "sys": "Be kind.", "functions": [{"name": "f"}]}
    keys = {"chat_key": "talk", "system_key": "sys", "tool_key": "functions", "system_prompt": "Else."}
    system = {"role": "system", "content": "Be kind."}
    found, _ = converted(tmp_path, "openai_format", [row, {"id": 8, "talk": said}], **keys)
    assert found[0] == {"id": 7, "messages": [system, *said], "tools": [{"name": "f"}]}
    assert found[1] == {"id": 8, "messages": [{"role": "system", "content": "Else."}, *said]}


def test_a_system_text_is_never_put_before_another_one(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "Mine."}, *chat("q", "a")["messages"]]}
    assert converted(tmp_path, "openai_format", [own], system_prompt="Else.")[0] == [own]
    rows = [{**own, "sys": "Other."}, {**own, "sys": "Mine."}]
    found, report = converted(tmp_path, "openai_format", rows, system_key="sys")
    assert found == [own]
    assert list(report["left_out"]) == ["two_systems"]


def test_a_row_that_does_not_end_with_the_assistant_is_left_out_or_cut(tmp_path: Path) -> None:
    rows = [chat("q", "a", "and?"), chat("q", "a"), chat("q")]
    found, report = converted(tmp_path, "openai_format", rows)
    assert found == [chat("q", "a")]
    assert report["left_out"]["no_answer"]["rows"] == 2
    found, report = converted(tmp_path, "openai_format", rows, trim=True)
    assert found == [chat("q", "a"), chat("q", "a")]


def test_a_row_that_the_check_of_the_artifact_would_refuse_is_left_out(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "usr", "content": "q"}, {"role": "assistant", "content": "a"}]}
    broken = call("f", '{"n": ')
    found, report = converted(tmp_path, "openai_format", [bad, broken, chat("q", "a")])
    assert found == [chat("q", "a")]
    assert set(report["left_out"]) == {"role", "tool_arguments"}


def test_media_stand_where_their_tags_are(tmp_path: Path) -> None:
    row = {
        "image": ["a.png", "/abs/b.png"],
        "sound": "c.wav",
        "conversations": [
            {"from": "human", "value": "See <image> and <image>, hear <sound>."},
            {"from": "gpt", "value": "Nice."},
        ],
    }
    over = {**row, "image": ["a.png"]}
    unused = {**row, "video": "d.mp4"}
    rows = [row, over, unused]
    found, report = converted(tmp_path, "general-conversation-jsonl", rows, media_data_dir="media/")
    parts = found[0]["messages"][0]["content"]
    assert [part.get(part["type"]) for part in parts] == [
        "See ", "media/a.png", " and ", "/abs/b.png", ", hear ", "media/c.wav", ".",
    ]  # fmt: skip
    assert found[0]["messages"][1] == {"role": "assistant", "content": "Nice."}
    assert set(report["left_out"]) == {"media_missing", "media_left_over"}


def test_a_data_set_is_a_python_object_with_both_splits(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub" / "d.jsonl", [chat(f"q{n}", "a") for n in range(200)])
    made = OpenAIFormatDataset(path, split_validation_size=0.25, seed=1)
    assert made.task_spec.task_name == "sub-d"
    train, validation = made.formatted_ds["train"], made.formatted_ds["validation"]
    assert train is not None and validation is not None
    assert len(train) + len(validation) == 200 and 30 < len(validation) < 70
    assert not {row["messages"][0]["content"] for row in train} & {
        row["messages"][0]["content"] for row in validation
    }
    assert train[0] == next(iter(train)) and train[:2] == list(train)[:2]
    assert ResponseDataset(path).formatted_ds["validation"] is None


def test_rows_that_ask_the_same_are_on_one_side(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [chat(f"q{n % 40}", f"a{n}") for n in range(400)])
    places = {"rows": tmp_path / "t.jsonl", "validation": tmp_path / "v.jsonl"}
    write_chats(
        load_chats("openai_format", {"data_path": data, "split_validation_size": 0.3}), places, workers=1
    )
    train, held_out = (read(path) for path in places.values())
    assert len(train) + len(held_out) == 400 and train and held_out
    assert not {r["messages"][0]["content"] for r in train} & {r["messages"][0]["content"] for r in held_out}


def test_any_number_of_processes_writes_the_same(tmp_path: Path) -> None:
    rows = [chat(f"{n}?" + "q" * 9000, "a" * 9000) if n % 50 else {"messages": n} for n in range(400)]
    data = write(tmp_path / "d.jsonl", rows)
    found = []
    for workers, share in ((1, 0.0), (2, 0.0), (1, 0.3), (2, 0.3)):
        places = {"rows": tmp_path / "t.jsonl"} | ({"validation": tmp_path / "v.jsonl"} if share else {})
        made = load_chats("openai_format", {"data_path": data, "split_validation_size": share})
        report = write_chats(made, places, workers=workers)
        found.append((report, *(path.read_bytes() for path in places.values())))
    assert found[0] == found[1] and found[2] == found[3]
    assert found[0][0]["left_out"]["wrong_type"]["rows"] == 8
    assert [e["line"] for e in found[0][0]["left_out"]["wrong_type"]["examples"]] == [1, 51, 101]


def test_files_may_be_packed_and_a_validation_file_stays_apart(tmp_path: Path) -> None:
    rows = [chat("q", "a"), chat("q", "a"), chat("r", "b")]
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    other = write(tmp_path / "v.jsonl", [chat("s", "c")])
    made = load_chats("openai_format", {"train_data_path": str(packed), "val_data_path": other})
    places = {"rows": tmp_path / "t.jsonl", "validation": tmp_path / "w.jsonl"}
    report = write_chats(made, places, dedupe=True, workers=1)
    assert (read(places["rows"]), read(places["validation"])) == ([rows[0], rows[2]], [chat("s", "c")])
    assert report["outputs"] == {"rows": 2, "validation": 1}
    assert report["left_out"]["duplicate"]["rows"] == 1


class FakeHub:
    """What `datasets.load_dataset` does, as far as it is used."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows, self.asked = rows, list[Any]()

    def __call__(self, name: str, subset: str | None, *, split: str | None, streaming: bool) -> Iterator[Row]:
        self.asked.append((name, subset, split, streaming))
        return iter(self.rows)


def test_a_hub_name_is_loaded_by_what_is_given_for_it(tmp_path: Path) -> None:
    hub = FakeHub([chat("q", "a"), {**chat("q", "b"), "at": datetime(2024, 1, 1)}, {**chat("r", "a")}])
    made = load_chats("ResponseDataset", {"data_path": "org/name", "split": "train_sft"}, hub=hub)
    places = {"rows": tmp_path / "t.jsonl"}
    report = write_chats(made, places)
    assert read(places["rows"]) == [chat("q", "a"), chat("r", "a")]
    assert hub.asked == [("org/name", None, "train_sft", True)]
    assert list(report["left_out"]) == ["not_json"]
    with pytest.raises(UsageError, match="datasets"):
        next(iter(SquadDataset().formatted_ds["train"] or ()))
    with pytest.raises(UsageError, match="trees"):
        OasstDataset()


class Mine:
    """A user's class."""

    def __init__(self, count: int) -> None:
        self.formatted_ds = {
            "train": [chat(f"q{n}", "a") for n in range(count)] + [chat("x")],
            "validation": None,
        }
        self.task_spec = type("Spec", (), {"task_name": "mine"})()


class NotMine:
    pass


def test_a_class_of_the_users_stands_in_for_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "my_data", sys.modules[__name__])
    places = {"rows": tmp_path / "t.jsonl"}
    report = write_chats(load_chats("my_data.Mine", {"count": 3}), places)
    assert len(read(places["rows"])) == 3
    assert report["left_out"]["last_role"]["examples"][0] == {
        "file": "mine", "line": 4, "what": "messages ends with the role user, not assistant",
    }  # fmt: skip
    with pytest.raises(UsageError, match="formatted_ds"):
        load_chats("my_data.NotMine", {})


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("squadd", {}, "squad"),
        ("openai_format", {"data_path": "x", "chat_kee": "m"}, "chat_key"),
        ("openai_format", {}, "needs a data_path"),
        ("no.such.module.Class", {}, "no class"),
        ("openai_format", {"data_path": "x", "split_validation_size": 1.5}, "1.5"),
    ],
)
def test_a_name_or_key_that_does_not_exist_is_told(name: str, keys: Row, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_chats(name, keys)
    assert told in raised.value.render()


def test_all_names_can_be_asked_for() -> None:
    wanted = {"squad", "open_assistant", "OpenMathInstruct-2", "ResponseDataset", "openai_format"}
    assert wanted <= set(dataset_names())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", CheckFailed),
        (b"\n\n", CheckFailed),
        (b"not json\n", CheckFailed),
        (gzip.compress(b'{"messages": []}\n' * 999)[:30], CheckFailed),
        (None, NotFound),
    ],
    ids=["empty", "blank", "no row", "cut gzip", "absent"],
)
def test_bad_input_is_told_and_leaves_the_earlier_output_alone(
    tmp_path: Path, data: bytes | None, kind: type[NemotronError]
) -> None:
    path, places = tmp_path / "in.jsonl", {"rows": tmp_path / "out.jsonl"}
    places["rows"].write_text("earlier")
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(kind):
        write_chats(load_chats("openai_format", {"data_path": str(path)}), places, workers=1)
    assert places["rows"].read_text() == "earlier"
    assert {file.name for file in tmp_path.iterdir()} <= {"in.jsonl", "out.jsonl"}
