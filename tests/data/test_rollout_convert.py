"""Rollout files to chats, preferences and prompts, with a reason for every row that is left out."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rollout_samples import REAL, REAL_FILES, Row, call, real_rows, result, rollout, said, user

from nemotron.artifacts.checks import check_artifact
from nemotron.data.rollouts.convert import Report, convert_rollouts
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.stream.keys import key_of
from nemotron.errors import CheckFailed, NemotronError, UsageError

OUTPUTS = ("chat", "validation", "preferences", "prompts", "report")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return {name: tmp_path / "out" / f"{name}.jsonl" for name in OUTPUTS}


def written(path: Path, rows: list[Row | bytes]) -> str:
    path.write_bytes(
        b"".join(r + b"\n" if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows)
    )
    return str(path)


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answer(text: str, reward: float = 1.0, prompt: str = "2+2?", **more: Any) -> Row:
    return rollout(said(text), reward=reward, prompt=prompt, **more)


def left_out(report: Report, name: str = "chat") -> dict[str, int]:
    return dict(report.outputs[name].left_out)


def test_real_rollouts_become_what_their_types_say(tmp_path: Path, places: dict[str, Path]) -> None:
    inputs = [str(REAL / f"{name}.jsonl.gz") for name in REAL_FILES]
    options = ExportOptions(reward_threshold=None)
    report = convert_rollouts(inputs, places, options, make=("chat", "prompts"))
    for name, type_ in (
        ("chat", "training_jsonl"),
        ("prompts", "prompt_jsonl"),
    ):
        checked = check_artifact(places[name], type_)
        assert checked.ok, checked.findings
        assert checked.facts["rows"] == report.outputs[name].kept
    assert report.read.rows == 39
    assert left_out(report) == {"no_response": 5, "media": 5}
    assert report.outputs["chat"].kept == 29
    # Five rows have one prompt.
    assert report.outputs["prompts"].kept == 35


def test_the_default_threshold_is_that_of_the_document(tmp_path: Path, places: dict[str, Path]) -> None:
    source = written(tmp_path / "r.jsonl", [answer("4", 0.95), answer("5", 0.94), answer("6", 7)])
    report = convert_rollouts(source, places, ExportOptions())
    assert [row["messages"][-1]["content"] for row in rows_of(places["chat"])] == ["4", "6"]
    assert left_out(report) == {"reward_below_threshold": 1}
    assert [text for text in report.advice() if "rewards go from 0.94 to 7" in text]


def test_a_row_without_a_reward_is_left_out_unless_no_threshold_is_set(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    row = answer("4")
    del row["reward"]
    source = written(tmp_path / "r.jsonl", [row, answer("5")])
    assert left_out(convert_rollouts(source, places, ExportOptions())) == {"no_reward": 1}
    assert convert_rollouts(source, places, ExportOptions(reward_threshold=None)).outputs["chat"].kept == 2


def test_rows_carry_tools_and_where_they_come_from(tmp_path: Path, places: dict[str, Path]) -> None:
    tool = {
        "type": "function",
        "name": "add",
        "parameters": {"maximum": 1.0, "type": "object"},
        "strict": True,
    }
    same = {**tool, "parameters": {"maximum": 1, "type": "object"}}
    rows = [rollout(call("a"), result("a"), said("4"), tools=[t], _ng_task_index=3) for t in (tool, same)]
    source = written(tmp_path / "r.jsonl", rows)
    convert_rollouts(source, places, ExportOptions())
    made = places["chat"].read_text().splitlines()
    assert json.dumps([json.loads(line)["tools"] for line in made]) == json.dumps(
        [
            [{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}}]
            for t in (tool, same)
        ]
    )
    assert json.loads(made[1])["provenance"] == {"file": source, "line": 2, "task_index": 3, "reward": 1.0}
    convert_rollouts(source, places, ExportOptions(tools="flat", provenance=False))
    made = places["chat"].read_text().splitlines()
    assert json.dumps([json.loads(line)["tools"] for line in made]) == json.dumps([[tool], [same]])
    assert "provenance" not in made[0]


def test_numbers_beyond_64_bits_in_tools_stay_whole(tmp_path: Path, places: dict[str, Path]) -> None:
    tool = {"type": "function", "name": "add", "parameters": {"maximum": 10**30, "step": 0.1, "most": 1e30}}
    source = written(tmp_path / "r.jsonl", [answer("4"), answer("5", tools=[tool]), answer("6")])
    convert_rollouts(source, places, ExportOptions())
    (function,) = [tool["function"] for tool in rows_of(places["chat"])[1]["tools"]]
    assert json.dumps(function["parameters"]) == json.dumps(tool["parameters"])
    convert_rollouts(source, places, ExportOptions(), make=["prompts"])
    assert "1" + "0" * 30 in places["prompts"].read_text()


def test_the_simple_form_is_one_question_and_one_answer(tmp_path: Path, places: dict[str, Path]) -> None:
    rows = [
        answer("4", instructions="Be brief."),
        rollout(call("a"), result("a"), said("4")),
        rollout(call("a")),
        rollout(said("hit"), user("16"), said("stand")),
    ]
    source = written(tmp_path / "r.jsonl", rows)
    report = convert_rollouts(source, places, ExportOptions(format="simple", provenance=False))
    assert rows_of(places["chat"]) == [{"input": "Be brief.\n\n2+2?", "output": "4"}]
    assert left_out(report) == {"not_simple": 3}
    assert check_artifact(places["chat"], "training_jsonl").ok


def test_truncated_answers_are_left_out_unless_kept(tmp_path: Path, places: dict[str, Path]) -> None:
    rows = [answer("4"), answer("5"), answer("6")]
    rows[1]["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    rows[2]["response"]["status"] = "incomplete"
    source = written(tmp_path / "r.jsonl", rows)
    assert left_out(convert_rollouts(source, places, ExportOptions())) == {"incomplete_response": 2}
    assert convert_rollouts(source, places, ExportOptions(incomplete="keep")).outputs["chat"].kept == 3


def test_duplicates_are_those_of_prompt_and_answer_whatever_the_ids(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    rows = [
        rollout(call("a"), result("a"), said("4")),
        rollout(call("b"), result("b"), said("4")),
        rollout(call("b"), result("b", "3"), said("4")),
        rollout(call("b"), result("b"), said("4"), prompt="3+1?"),
    ]
    source = written(tmp_path / "r.jsonl", rows)
    report = convert_rollouts(source, places, ExportOptions())
    assert [row["provenance"]["line"] for row in rows_of(places["chat"])] == [1, 3, 4]
    assert left_out(report) == {"duplicate": 1}
    assert report.outputs["chat"].examples["duplicate"][0][:2] == (source, 2)
    assert convert_rollouts(source, places, ExportOptions(duplicates="keep")).outputs["chat"].kept == 4


def test_a_response_id_that_was_seen_is_a_duplicate(tmp_path: Path, places: dict[str, Path]) -> None:
    rows = [answer("4"), answer("5"), answer("6")]
    for row, name in zip(rows, ("r1", "r1", "r2"), strict=True):
        row["response"]["id"] = name
    report = convert_rollouts(written(tmp_path / "r.jsonl", rows), places, ExportOptions())
    assert left_out(report) == {"duplicate_id": 1}


def test_near_duplicates_differ_in_few_words(tmp_path: Path, places: dict[str, Path]) -> None:
    words = [f"word{key_of(b'%d' % n) % 1000}" for n in range(120)]
    near, other = [*words[:60], "changed", *words[61:]], [f"other{n}" for n in range(120)]
    rows = [answer(" ".join(text)) for text in (words, near, other)]
    source = written(tmp_path / "r.jsonl", [*rows, answer(" ".join(near), prompt="3+1?")])
    assert left_out(convert_rollouts(source, places, ExportOptions(duplicates="near"))) == {
        "near_duplicate": 1
    }
    assert [row["provenance"]["line"] for row in rows_of(places["chat"])] == [1, 3, 4]
    assert left_out(convert_rollouts(source, places, ExportOptions())) == {}


def test_of_one_prompt_only_so_many_rows_are_kept(tmp_path: Path, places: dict[str, Path]) -> None:
    rows = [answer(f"{n}", prompt=prompt) for n in range(4) for prompt in ("a", "b")]
    report = convert_rollouts(written(tmp_path / "r.jsonl", rows), places, ExportOptions(max_per_prompt=3))
    assert left_out(report) == {"prompt_cap": 2}
    assert [row["provenance"]["line"] for row in rows_of(places["chat"])] == [1, 2, 3, 4, 5, 6]


def test_the_split_is_by_prompt(tmp_path: Path, places: dict[str, Path]) -> None:
    rows = [answer(f"{n}", prompt=f"prompt {n % 50}") for n in range(400)]
    source = written(tmp_path / "r.jsonl", rows)

    def split(seed: int) -> tuple[set[str], set[str], int]:
        options = ExportOptions(validation_share=0.3, split_seed=seed)
        report = convert_rollouts(source, places, options)
        train, held = (rows_of(places[name]) for name in ("chat", "validation"))
        assert len(train) + len(held) == 400
        assert len(held) == report.validation_rows
        asked = [{row["messages"][0]["content"] for row in part} for part in (train, held)]
        return asked[0], asked[1], len(held)

    train, held, rows_held = split(0)
    assert not train & held
    assert rows_held == 8 * len(held)
    assert 5 <= len(held) <= 25
    assert split(0)[1] == held
    assert split(1)[1] != held


def test_preferences_are_the_best_and_the_worst_answer_of_a_prompt(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    rows = [
        answer("mid", 0.5),
        answer("alone", 1.0, prompt="alone"),
        answer("worst", -1.0),
        rollout(call("x"), result("x"), said("best"), reward=2),
        answer("best too", 2),
        answer("same", 0.0, prompt="same"),
        answer("same", 1.0, prompt="same"),
        answer("a", 0.5, prompt="close"),
        answer("b", 0.6, prompt="close"),
        answer("", 0.0, prompt="empty"),
    ]
    report = convert_rollouts(
        written(tmp_path / "r.jsonl", rows), places, ExportOptions(min_reward_gap=0.2), make=["preferences"]
    )
    (row,) = rows_of(places["preferences"])
    assert row["context"] == [{"role": "user", "content": "2+2?"}]
    assert [c["rank"] for c in row["completions"]] == [0, 1]
    assert [c["reward"] for c in row["completions"]] == [2.0, -1.0]
    assert [c["completion"][-1]["content"] for c in row["completions"]] == ["best", "worst"]
    assert [c["provenance"]["line"] for c in row["completions"]] == [4, 3]
    assert row["tools"][0]["function"]["name"] == "add"
    assert left_out(report, "preferences") == {
        "neither_best_nor_worst": 2,
        "only_answer_of_its_prompt": 1,
        "same_answers": 2,
        "rewards_too_close": 2,
        "no_answer": 1,
    }
    assert check_artifact(places["preferences"], "preference_jsonl").ok
    assert not places["preferences"].with_name("preferences.jsonl.spool").exists()


def test_prompts_are_requests_that_the_environment_takes(tmp_path: Path, places: dict[str, Path]) -> None:
    row = answer(
        "4", agent_ref={"type": "responses_api_agents", "name": "a"}, expected_answer="4", _ng_task_index=1
    )
    row["responses_create_params"] |= {"tool_choice": None, "temperature": 0.5}
    inside = rollout([user("3+3?")], [user("3+3?"), said("6")], prompt=[])
    only = {"responses_create_params": {"input": "5+5?"}, "agent_ref": {"name": "a"}}
    empty: Row = {"responses_create_params": {"input": []}}
    source = written(tmp_path / "r.jsonl", [row, answer("5"), row, inside, only, empty])
    report = convert_rollouts(source, places, ExportOptions(), make=["prompts"])
    made = rows_of(places["prompts"])
    assert made[0] == {
        "responses_create_params": {**answer("4")["responses_create_params"], "temperature": 0.5},
        "agent_ref": {"type": "responses_api_agents", "name": "a"},
        "expected_answer": "4",
    }
    assert made[1]["responses_create_params"]["input"] == [user("3+3?")]
    assert made[2] == only
    assert left_out(report, "prompts") == {"same_prompt": 2, "no_prompt": 1}
    assert check_artifact(places["prompts"], "prompt_jsonl").ok


def test_failures_beside_a_file_are_counted_and_none_is_training_data(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    failures = [
        {"_ng_failure_class": "timeout", "_ng_failure_terminal": True},
        {"_ng_failure_class": "timeout", "_ng_failure_terminal": False},
        {"_ng_failure_class": "crash", "_ng_failure_terminal": True},
    ]
    beside = written(tmp_path / "r_failures.jsonl", [*failures, b"{"])
    source = written(tmp_path / "r.jsonl", [answer("4")])
    (sidecar,) = convert_rollouts(source, places, ExportOptions()).as_dict()["failures"]
    assert sidecar == {"file": beside, "classes": {"timeout": 2, "crash": 1}, "terminal": 2, "unreadable": 1}
    both = convert_rollouts([source, beside], places, ExportOptions())
    assert dict(both.read.left_out) == {"failed_rollout": 3, "invalid_json": 1}
    assert both.sidecars == ()


def test_the_report_counts_every_row_and_shows_examples(tmp_path: Path, places: dict[str, Path]) -> None:
    rows: list[Row | bytes] = [answer(f"{n}", n / 10) for n in range(11)]
    source = written(tmp_path / "r.jsonl", [*rows, b"{", b"", b"[]", answer("", 1.0)])
    report = convert_rollouts(source, places, ExportOptions())
    told = json.loads(places["report"].read_text())
    assert told == json.loads(json.dumps(report.as_dict()))
    assert told["rows"] == 14
    chat = told["outputs"]["chat"]
    assert chat["kept"] == 1
    assert {reason: entry["rows"] for reason, entry in chat["left_out"].items()} == {
        "reward_below_threshold": 10,
        "no_answer": 1,
    }
    assert {reason: entry["rows"] for reason, entry in told["read"]["left_out"].items()} == {
        "invalid_json": 1,
        "not_an_object": 1,
    }
    assert told["read"]["notes"] == {"blank_lines_skipped": 1}
    examples = chat["left_out"]["reward_below_threshold"]["examples"]
    assert [(e["file"], e["line"], e["what"]) for e in examples] == [
        (source, line, f"the reward is {(line - 1) / 10}") for line in (1, 2, 3)
    ]
    assert told["reward"] | {"histogram": None} == {
        "rows": 12,
        "min": 0.0,
        "max": 1.0,
        "mean": pytest.approx(6.5 / 12),
        "median": 0.5,
        "histogram": None,
    }
    assert [entry["rows"] for entry in told["reward"]["histogram"]] == [1] * 9 + [3]
    shown = report.render()
    assert shown.isascii()
    assert f"{source}:1: the reward is 0.0" in shown
    assert "fewer than 100 rows" in shown
    assert [line.count("#") for line in shown.splitlines() if "#" in line] == [13] * 9 + [40]


def state(tmp_path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def bad_utf16(path: Path) -> None:
    path.write_text(json.dumps(answer("4")), encoding="utf-16")


def truncated_gzip(path: Path) -> None:
    rows = b"".join(json.dumps(answer(f"{key_of(b'%d' % n)}")).encode() + b"\n" for n in range(3000))
    path.write_bytes(gzip.compress(rows)[:-20])


@pytest.mark.parametrize(
    ("make_bad", "says"),
    [
        (truncated_gzip, "damaged gzip data"),
        (bad_utf16, "UTF-16"),
        (Path.touch, "there is no row"),
        (Path.mkdir, "a directory"),
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"\n \n"), "there is no row"),
        (lambda path: path.write_bytes(b'{"a": 1}\n'), "1 not_a_rollout"),
        (lambda path: written(path, [answer("4", 0.0)]), "1 reward_below_threshold"),
    ],
    ids=["truncated", "utf16", "empty", "directory", "missing", "blank", "other rows", "none kept"],
)
def test_bad_input_is_a_clear_error_and_leaves_earlier_output_alone(
    tmp_path: Path, places: dict[str, Path], make_bad: Any, says: str
) -> None:
    convert_rollouts(written(tmp_path / "good.jsonl", [answer("4")]), places, ExportOptions())
    make_bad(tmp_path / "bad.jsonl")
    before = state(tmp_path)
    with pytest.raises(NemotronError, match=says) as caught:
        convert_rollouts(str(tmp_path / "bad.jsonl"), places, ExportOptions())
    assert "bad.jsonl" in str(caught.value.where)
    assert state(tmp_path) == before


def test_bad_rows_among_good_ones_are_counted(tmp_path: Path, places: dict[str, Path]) -> None:
    good = json.dumps(answer("4")).encode()
    latin = json.dumps(answer("caf\xe9"), ensure_ascii=False).encode("latin-1")
    long = b'{"responses_create_params": "' + b"x" * (17 << 20) + b'"}'
    source = written(tmp_path / "r.jsonl", [good, latin, long, b"\x00\x01", good[:-9], good])
    report = convert_rollouts(source, places, ExportOptions())
    assert dict(report.read.left_out) == {"not_utf8": 1, "line_too_long": 1, "invalid_json": 2}
    assert left_out(report) == {"duplicate": 1}
    examples = report.read.examples
    assert [examples[r][0].line for r in ("not_utf8", "line_too_long", "invalid_json")] == [2, 3, 4]
    assert report.outputs["chat"].examples["duplicate"][0].line == 6


def test_a_pipe_is_an_input_like_any_other(tmp_path: Path, places: dict[str, Path]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"".join(json.dumps(answer(f"{n}", n % 2)).encode() + b"\n" for n in range(500))
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    report = convert_rollouts(str(pipe), places, ExportOptions())
    writer.join()
    assert report.outputs["chat"].kept == 250


def test_several_processes_make_the_same_files_as_one(tmp_path: Path, places: dict[str, Path]) -> None:
    real = [row for name in REAL_FILES for row in real_rows(name)]
    source = tmp_path / "r.jsonl"
    with source.open("w") as file:
        for n in range(24 * len(real)):
            row = real[n * 7 % len(real)]
            file.write(json.dumps({**row, "reward": n % 5 / 4}) + "\n" * (1 + (n % 11 == 0)))
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes(), 1))
    options = ExportOptions(max_per_prompt=9, duplicates="near", validation_share=0.2, media="keep")
    found: dict[tuple[str, int], dict[str, bytes]] = defaultdict(dict)
    for path in (source, packed):
        for workers in (1, 3):
            convert_rollouts(
                str(path), places, options, make=("chat", "preferences", "prompts"), workers=workers
            )
            for name in OUTPUTS[:-1]:
                found[path.name, workers][name] = places[name].read_bytes().replace(b".jsonl.gz", b".jsonl")
    first, *others = found.values()
    assert len(first["chat"]) > 10_000
    assert all(other == first for other in others)


def test_the_standard_library_makes_the_same_files(
    tmp_path: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemotron.data.stream import jsontext

    inputs = [str(REAL / f"{name}.jsonl.gz") for name in REAL_FILES]
    made = []
    for replaced in (False, True):
        if replaced:
            for module in ("rollouts.export", "rollouts.rollout", "rollouts.chat"):
                monkeypatch.setattr(
                    f"nemotron.data.{module}.codec", lambda: (jsontext.exact_loads, jsontext.exact_dumps)
                )
        convert_rollouts(inputs, places, ExportOptions(reward_threshold=0.0), make=("chat", "prompts"))
        made.append([places[name].read_text() for name in ("chat", "prompts")])
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"reward_treshold": 1}, "did you mean reward_threshold"),
        ({"reasoning": "hide"}, "reasoning is 'hide', not one of keep, inline, drop"),
        ({"reward_threshold": "high"}, "reward_threshold is 'high', not a number"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"max_per_prompt": 0}, "max_per_prompt is 0"),
        ({"min_reward_gap": -1}, "min_reward_gap is -1"),
        ({"split_seed": 0.5}, "split_seed is 0.5"),
        ({"provenance": "yes"}, "provenance is 'yes'"),
        ({"media": None}, "media is None"),
        ({"validation_share": None}, "validation_share is null"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: Row, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ExportOptions.from_config({"format": "simple", **values})


def test_outputs_without_a_place_or_a_name_are_refused(tmp_path: Path, places: dict[str, Path]) -> None:
    source = written(tmp_path / "r.jsonl", [answer("4")])
    with pytest.raises(UsageError, match="chats"):
        convert_rollouts(source, places, ExportOptions(), make=["chats"])
    with pytest.raises(UsageError, match="nothing"):
        convert_rollouts(source, places, ExportOptions(), make=[])
    del places["validation"]
    with pytest.raises(UsageError, match="validation has no place"):
        convert_rollouts(source, places, ExportOptions(validation_share=0.1))


def test_an_output_that_would_be_empty_is_an_error(tmp_path: Path, places: dict[str, Path]) -> None:
    source = written(tmp_path / "r.jsonl", [answer("4"), answer("5", prompt="x")])
    with pytest.raises(CheckFailed, match="preferences has no row of 2: 2 only_answer_of_its_prompt"):
        convert_rollouts(source, places, ExportOptions(), make=["chat", "preferences"])
    with pytest.raises(CheckFailed, match="its share drew none"):
        convert_rollouts(source, places, ExportOptions(validation_share=0.001))
    assert not places["chat"].exists()
