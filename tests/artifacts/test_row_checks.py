from __future__ import annotations

import gzip
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_rows import (
    CHAT,
    CHOSEN,
    CHOSEN_CHATS,
    GOOD,
    LISTS_ROLLOUT,
    PAIR,
    RANKED,
    REQUEST,
    ROLLOUT,
    changed,
    jsonl,
)

from nemotron.artifacts.checks import Checked, check_artifact, guess_type, known_types, lines
from nemotron.errors import NotFound
from nemotron.findings import errors_in

GOOD_ROWS = [(name, row) for name, rows in GOOD.items() for row in rows]


def checked(directory: Path, content: bytes, types: str | list[str], **options: int) -> Checked:
    path = directory / "rows.jsonl"
    path.write_bytes(content)
    return check_artifact(path, types, **options)


@pytest.mark.parametrize(("name", "row"), GOOD_ROWS)
def test_a_good_row_passes_and_is_counted(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    content = jsonl(row, row)
    result = checked(tmp_path, content, name)
    assert result.findings == ()
    assert result.ok
    assert result.type == name
    assert result.facts["rows"] == 2
    assert result.facts["bytes"] == len(content)
    assert result.facts["max_line_bytes"] == len(content) // 2
    assert result.facts["fields"] == dict.fromkeys(sorted(row), 2)


@pytest.mark.parametrize(("name", "row"), GOOD_ROWS)
def test_a_good_row_is_recognised(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n" + jsonl(row))
    expected = "rollout_jsonl" if "reward" in row else name
    assert guess_type(path) == expected


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_line_ends_and_a_missing_last_one_are_fine(tmp_path: Path, ending: bytes) -> None:
    row = json.dumps(PAIR).encode()
    result = checked(tmp_path, row + ending + row, "training_jsonl")
    assert (result.findings, result.facts["rows"]) == ((), 2)


GOOD_LINE = jsonl(PAIR)
DEEP = b'{"input": "x", "output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"

BAD_FILES = {
    "broken JSON": (b'{"input": "x"\n', "data.broken_json"),
    "two values in a line": (b'{"input": "x", "output": "y"} {}\n', "data.broken_json"),
    "cut off": (GOOD_LINE[:-3], "data.broken_json"),
    "single quotes": (b"{'input': 'x', 'output': 'y'}\n", "data.broken_json"),
    "blanks that JSON does not know": (b"\xc2\xa0" + GOOD_LINE, "data.broken_json"),
    "a number too long to read": (b'{"input": ' + b"9" * 5000 + b"}\n", "data.broken_json"),
    "not an object": (b"[1, 2]\n", "data.not_an_object"),
    "null": (b"null\n", "data.not_an_object"),
    "duplicate keys": (b'{"input": "x", "output": "y", "input": "z"}\n', "data.duplicate_key"),
    "duplicate keys inside": (
        b'{"input": "x", "output": "y", "m": [{"a": 1, "a": 1}]}\n',
        "data.duplicate_key",
    ),
    "NaN": (b'{"input": "x", "output": "y", "score": NaN}\n', "data.not_finite"),
    "infinity": (b'{"input": "x", "output": "y", "score": -Infinity}\n', "data.not_finite"),
    "not UTF-8": (b'{"input": "\xff", "output": "y"}\n', "artifact.not_utf8"),
    "half a character": (b'{"input": "\\ud800", "output": "y"}\n', "data.half_character"),
    "nested too deeply": (DEEP, "data.too_deep"),
    "no known field": (b'{"text": "raw"}\n', "data.missing_field"),
    "an empty object": (b"{}\n", "data.missing_field"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_line_is_one_error_at_its_line_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    content, problem = BAD_FILES[name]
    result = checked(tmp_path, GOOD_LINE + content.rstrip(b"\n") + b"\n" + GOOD_LINE, "training_jsonl")
    (finding,) = result.findings
    assert (finding.id, finding.severity) == (problem, "error")
    assert finding.where == f"{tmp_path}/rows.jsonl:2"
    assert not result.ok
    assert result.facts["lines"] == 3
    assert result.facts["findings"] == {problem: 1}
    finding.render().encode("ascii")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "artifact.empty"),
        (gzip.compress(GOOD_LINE, mtime=0), "artifact.compressed"),
        (b"\x28\xb5\x2f\xfd....", "artifact.compressed"),
        (b"PK\x03\x04....", "artifact.compressed"),
        (b"\x7fELF\x02\x01\x01\x00", "artifact.binary"),
        (GOOD_LINE.decode().encode("utf-16"), "artifact.not_utf8"),
        (GOOD_LINE.decode().encode("utf-16-be"), "artifact.binary"),
    ],
)
def test_a_file_that_is_no_text_is_one_error(tmp_path: Path, content: bytes, problem: str) -> None:
    result = checked(tmp_path, content, "training_jsonl")
    assert [finding.id for finding in errors_in(result.findings)] == [problem]


def test_a_file_of_blank_lines_has_no_rows(tmp_path: Path) -> None:
    result = checked(tmp_path, b"\n \n", "training_jsonl")
    assert result.facts["findings"] == {"data.blank_line": 2, "data.no_rows": 1}
    assert not result.ok


def test_blank_lines_and_a_byte_order_mark_are_warnings(tmp_path: Path) -> None:
    result = checked(tmp_path, b"\xef\xbb\xbf" + GOOD_LINE + b"\n" + GOOD_LINE + b" \t\r\n", "training_jsonl")
    assert result.ok
    assert [(f.id, f.severity, (f.where or "").rpartition(":")[2]) for f in result.findings] == [
        ("data.byte_order_mark", "warning", "1"),
        ("data.blank_line", "warning", "2"),
        ("data.blank_line", "warning", "4"),
    ]


def test_a_line_beyond_the_limit_is_counted_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 16)
    huge = b'{"input": "x", "output": "' + b"y" * (32 << 20) + b'"}\n'
    content = GOOD_LINE + huge + GOOD_LINE
    (tmp_path / "rows.jsonl").write_bytes(content)
    tracemalloc.start()
    result = check_artifact(tmp_path / "rows.jsonl", "training_jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert [(f.id, f.where) for f in result.findings] == [("data.line_too_long", f"{tmp_path}/rows.jsonl:2")]
    assert result.facts["max_line_bytes"] == len(huge)
    assert (result.facts["rows"], result.facts["bytes"]) == (2, len(content))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    row = jsonl(changed(PAIR, "output", "y" * 2000))

    def peak(rows: int) -> int:
        (tmp_path / "rows.jsonl").write_bytes(row * rows)
        tracemalloc.start()
        assert check_artifact(tmp_path / "rows.jsonl", "training_jsonl").facts["rows"] == rows
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(5000) < 1.2 * peak(1000)


def test_a_file_where_every_row_has_other_keys_does_not_fill_the_memory(tmp_path: Path) -> None:
    rows = [{**PAIR, f"key{n}" * 50: n} for n in range(1000)]
    fields = checked(tmp_path, jsonl(*rows), "training_jsonl").facts["fields"]
    assert fields["input"] == 1000
    assert len(fields) <= 200
    assert max(map(len, fields)) <= 100


def test_the_longest_line_that_is_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (len(GOOD_LINE), len(GOOD_LINE) - 1):  # the line end does not count
        monkeypatch.setattr(lines, "MAX_LINE", limit)
        result = checked(tmp_path, GOOD_LINE * 2, "training_jsonl")
        assert (result.findings, result.facts["rows"]) == ((), 2)
    monkeypatch.setattr(lines, "MAX_LINE", len(GOOD_LINE) - 2)
    assert checked(tmp_path, GOOD_LINE * 2, "training_jsonl").facts["findings"] == {"data.line_too_long": 2}


BAD_ROWS = [
    ("training_jsonl", {"messages": "hi"}, "data.wrong_type", "messages"),
    ("training_jsonl", {"messages": []}, "data.no_messages", "messages"),
    ("training_jsonl", {"messages": ["hi"]}, "data.wrong_type", "messages[0]"),
    ("training_jsonl", changed(CHAT, "messages.0.role"), "data.missing_field", "messages[0].role"),
    ("training_jsonl", changed(CHAT, "messages.0.role", 1), "data.wrong_type", "messages[0].role"),
    ("training_jsonl", changed(CHAT, "messages.0.role", "usr"), "data.role", "did you mean user"),
    ("training_jsonl", changed(CHAT, "messages.4.role", "user"), "data.last_role", "user, not assistant"),
    ("training_jsonl", changed(CHAT, "messages.4.content"), "data.missing_field", "messages[4].content"),
    (
        "training_jsonl",
        changed(CHAT, "messages.4.content", None),
        "data.wrong_type",
        "messages[4].content is null",
    ),
    (
        "training_jsonl",
        changed(CHAT, "messages.4.content", 4),
        "data.wrong_type",
        "messages[4].content is a number",
    ),
    ("training_jsonl", changed(CHAT, "messages.1.content.0", "x"), "data.wrong_type", "content[0]"),
    ("training_jsonl", changed(CHAT, "messages.1.content.0.type"), "data.missing_field", "content[0].type"),
    ("training_jsonl", changed(CHAT, "messages.1.content.0.type", 1), "data.wrong_type", "content[0].type"),
    ("training_jsonl", changed(CHAT, "messages.1.content.0.text"), "data.missing_field", "content[0].text"),
    ("training_jsonl", changed(CHAT, "messages.1.content.0.text", 1), "data.wrong_type", "content[0].text"),
    (
        "training_jsonl",
        changed(CHAT, "messages.2.tool_calls", {"name": "add"}),
        "data.wrong_type",
        "tool_calls",
    ),
    ("training_jsonl", changed(CHAT, "messages.2.tool_calls.0", "add"), "data.wrong_type", "tool_calls[0]"),
    (
        "training_jsonl",
        changed(CHAT, "messages.2.tool_calls.0.function", "add"),
        "data.wrong_type",
        "tool_calls[0]",
    ),
    (
        "training_jsonl",
        changed(CHAT, "messages.2.tool_calls.0.function.name"),
        "data.missing_field",
        "function.name",
    ),
    (
        "training_jsonl",
        changed(CHAT, "messages.2.tool_calls.0.function.arguments", 1),
        "data.wrong_type",
        "arguments",
    ),
    ("training_jsonl", changed(CHAT, "tools", "add"), "data.wrong_type", "tools"),
    ("training_jsonl", changed(PAIR, "output"), "data.missing_field", "output"),
    ("training_jsonl", changed(PAIR, "output", 4), "data.wrong_type", "output is a number"),
    ("training_jsonl", changed(PAIR, "input", " "), "data.empty_text", "input"),
    ("prompt_jsonl", {"responses_create_params": []}, "data.wrong_type", "responses_create_params"),
    ("prompt_jsonl", {"responses_create_params": {}}, "data.missing_field", "responses_create_params.input"),
    ("prompt_jsonl", {"responses_create_params": {"input": ""}}, "data.empty_text", "input"),
    ("prompt_jsonl", {"responses_create_params": {"input": []}}, "data.no_messages", "input"),
    ("prompt_jsonl", {"responses_create_params": {"input": 1}}, "data.wrong_type", "input"),
    ("prompt_jsonl", changed(REQUEST, "responses_create_params.input.0", 1), "data.wrong_type", "input[0]"),
    (
        "prompt_jsonl",
        changed(REQUEST, "responses_create_params.input.0.role", "x"),
        "data.role",
        "input[0].role",
    ),
    (
        "prompt_jsonl",
        changed(REQUEST, "responses_create_params.input.1.content"),
        "data.missing_field",
        "input[1]",
    ),
    (
        "prompt_jsonl",
        changed(REQUEST, "responses_create_params.input.1.content", 1),
        "data.wrong_type",
        "input[1]",
    ),
    (
        "prompt_jsonl",
        changed(REQUEST, "responses_create_params.tool_choice", None),
        "data.null_parameter",
        "tool_choice",
    ),
    ("prompt_jsonl", changed(REQUEST, "agent_ref", "x"), "data.wrong_type", "agent_ref"),
    ("prompt_jsonl", changed(REQUEST, "agent_ref.name"), "data.missing_field", "agent_ref.name"),
    ("prompt_jsonl", {"prompt": ""}, "data.empty_text", "prompt"),
    ("prompt_jsonl", {"prompt": None}, "data.wrong_type", "prompt is null"),
    ("prompt_jsonl", {"input": 5}, "data.wrong_type", "input"),
    ("prompt_jsonl", CHAT, "data.last_role", "assistant, not user"),
    ("preference_jsonl", changed(RANKED, "context"), "data.missing_field", "context"),
    ("preference_jsonl", changed(RANKED, "context", []), "data.no_messages", "context"),
    ("preference_jsonl", changed(RANKED, "completions"), "data.missing_field", "completions"),
    ("preference_jsonl", changed(RANKED, "completions", {}), "data.wrong_type", "completions"),
    ("preference_jsonl", changed(RANKED, "completions.1"), "data.completions", "1 entries, not 2"),
    ("preference_jsonl", changed(RANKED, "completions.1", "5"), "data.wrong_type", "completions[1]"),
    ("preference_jsonl", changed(RANKED, "completions.1.rank"), "data.missing_field", "completions[1].rank"),
    (
        "preference_jsonl",
        changed(RANKED, "completions.1.rank", True),
        "data.wrong_type",
        "completions[1].rank",
    ),
    ("preference_jsonl", changed(RANKED, "completions.1.rank", 0), "data.equal_ranks", "rank 0"),
    (
        "preference_jsonl",
        changed(RANKED, "completions.1.completion"),
        "data.missing_field",
        "completions[1].completion",
    ),
    (
        "preference_jsonl",
        changed(RANKED, "completions.1.completion", RANKED["completions"][0]["completion"]),
        "data.same_answers",
        "same",
    ),
    ("preference_jsonl", changed(CHOSEN, "prompt"), "data.missing_field", "prompt"),
    ("preference_jsonl", changed(CHOSEN, "rejected"), "data.missing_field", "rejected"),
    ("preference_jsonl", changed(CHOSEN, "rejected", "4"), "data.same_answers", "same"),
    ("preference_jsonl", changed(CHOSEN, "rejected", ["5"]), "data.wrong_type", "rejected"),
    ("preference_jsonl", changed(CHOSEN_CHATS, "rejected.0.role", "user"), "data.last_role", "rejected"),
    ("rollout_jsonl", changed(ROLLOUT, "reward"), "data.missing_field", "reward"),
    ("rollout_jsonl", changed(ROLLOUT, "reward", "1"), "data.wrong_type", "reward"),
    ("rollout_jsonl", changed(ROLLOUT, "reward", True), "data.wrong_type", "reward"),
    ("rollout_jsonl", {"reward": 1.0}, "data.missing_field", "response"),
    ("rollout_jsonl", changed(ROLLOUT, "response", []), "data.wrong_type", "response"),
    ("rollout_jsonl", changed(ROLLOUT, "response.output"), "data.missing_field", "response.output"),
    ("rollout_jsonl", changed(ROLLOUT, "response.output", "4"), "data.wrong_type", "response.output"),
    (
        "rollout_jsonl",
        changed(ROLLOUT, "responses_create_params", 1),
        "data.wrong_type",
        "responses_create_params",
    ),
]


@pytest.mark.parametrize(("name", "row", "problem", "says"), BAD_ROWS)
def test_a_bad_row_is_exactly_one_error_that_names_the_field(
    tmp_path: Path, name: str, row: dict[str, Any], problem: str, says: str
) -> None:
    result = checked(tmp_path, jsonl(row), name)
    (finding,) = result.findings
    assert (finding.id, finding.severity) == (problem, "error")
    assert says in finding.message
    assert finding.where == f"{tmp_path}/rows.jsonl:1"


def test_a_reward_beyond_every_number_is_refused(tmp_path: Path) -> None:
    line = jsonl(ROLLOUT).replace(b'"reward": -1', b'"reward": 1e999')
    assert checked(tmp_path, line, "rollout_jsonl").facts["findings"] == {"data.not_finite": 1}


def test_an_empty_last_answer_and_an_unknown_parameter_are_warnings(tmp_path: Path) -> None:
    result = checked(tmp_path, jsonl(changed(CHAT, "messages.4.content", " ")), "training_jsonl")
    assert (result.ok, result.facts["findings"]) == (True, {"data.empty_answer": 1})
    result = checked(
        tmp_path, jsonl(changed(REQUEST, "responses_create_params.temprature", 1)), "prompt_jsonl"
    )
    assert (result.ok, result.facts["findings"]) == (True, {"data.unknown_parameter": 1})


def test_rows_of_several_shapes_in_one_file_are_errors(tmp_path: Path) -> None:
    result = checked(tmp_path, jsonl(PAIR, CHAT, PAIR, CHAT), "training_jsonl")
    assert [(f.id, (f.where or "")[-2:]) for f in result.findings] == [
        ("data.mixed_shapes", ":2"),
        ("data.mixed_shapes", ":4"),
    ]
    assert "input_output as in line 1" in result.findings[0].message
    assert result.facts["shape"] == "input_output"


def test_rewards_are_summed_up(tmp_path: Path) -> None:
    facts = checked(tmp_path, jsonl(ROLLOUT, LISTS_ROLLOUT), "rollout_jsonl").facts
    assert facts["reward"] == {"rows": 2, "min": -1, "max": 2.5, "mean": 0.75}


def test_rewards_too_large_to_add_up_are_left_out_of_the_sum(tmp_path: Path) -> None:
    rows = [changed(ROLLOUT, "reward", reward) for reward in (10**400, 1.7e308, 1.7e308, 1)]
    result = checked(tmp_path, jsonl(*rows), "rollout_jsonl")
    assert result.ok
    assert result.facts["reward"] == {"rows": 1, "min": 1, "max": 1, "mean": 1.0}


def test_values_that_can_just_be_read_cannot_break_what_follows(tmp_path: Path) -> None:
    problems = set()
    for depth in range(sys.getrecursionlimit() - 120, sys.getrecursionlimit(), 2):
        nested = "[" * depth + "]" * depth
        line = f'{{"prompt": "x", "chosen": {nested}, "rejected": {nested}}}'
        problems |= set(checked(tmp_path, line.encode(), "preference_jsonl").facts["findings"])
    assert {"data.same_answers"} <= problems <= {"data.same_answers", "data.wrong_type", "data.too_deep"}


def test_the_first_findings_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    content = b"\n" * 7 + b"nonsense\n" * 9 + jsonl({"text": "x"}) * 2 + GOOD_LINE
    result = checked(tmp_path, content, "training_jsonl", limit=3)
    assert [f.severity for f in result.findings] == ["warning"] * 3 + ["error"] * 3 + ["note"]
    assert result.facts["findings"] == {"data.blank_line": 7, "data.broken_json": 9, "data.missing_field": 2}
    assert (result.facts["errors"], result.facts["warnings"]) == (11, 7)
    assert "12 more" in result.findings[-1].message
    assert "6 data.broken_json" in result.findings[-1].message


def test_an_error_is_listed_whatever_the_limit(tmp_path: Path) -> None:
    assert errors_in(checked(tmp_path, b"nonsense\n", "training_jsonl", limit=0).findings)


def test_a_hostile_value_cannot_move_the_cursor_or_flood_the_screen(tmp_path: Path) -> None:
    row = changed(CHAT, "messages.0.role", "\x1b[2J\u202e" + "x" * 10_000)
    (finding,) = checked(tmp_path, jsonl(row), "training_jsonl").findings
    assert finding.message.isascii() and finding.message.isprintable()
    assert len(finding.message) < 200


def test_of_several_types_the_first_that_fits_is_taken(tmp_path: Path) -> None:
    assert checked(tmp_path, jsonl(CHOSEN), ["training_jsonl", "preference_jsonl"]).type == "preference_jsonl"
    assert checked(tmp_path, jsonl(PAIR), ["training_jsonl", "prompt_jsonl"]).type == "training_jsonl"
    assert checked(tmp_path, jsonl(PAIR), ["prompt_jsonl", "training_jsonl"]).type == "prompt_jsonl"


def test_of_several_types_none_of_which_fits_the_closest_explains(tmp_path: Path) -> None:
    result = checked(
        tmp_path, jsonl(changed(RANKED, "completions.1.rank", 0)), ["training_jsonl", "preference_jsonl"]
    )
    assert (result.type, result.facts["findings"]) == ("preference_jsonl", {"data.equal_ranks": 1})


def test_an_unknown_type_is_a_note_and_not_a_way_out_for_a_broken_file(tmp_path: Path) -> None:
    result = checked(tmp_path, b"anything", "binidx")
    assert result.ok
    assert [f.severity for f in result.findings] == ["note"]
    assert "binidx" in result.findings[0].message
    broken = jsonl(changed(CHAT, "messages.4.role", "tool"))
    assert checked(tmp_path, broken, ["training_jsonl", "binidx"]).type == "training_jsonl"
    assert checked(tmp_path, b"MMIDIDX\0", ["training_jsonl", "binidx"]).type == "binidx"


@pytest.mark.parametrize("name", known_types())
def test_what_is_not_there_is_not_found_with_its_neighbours(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(NotFound) as caught:
        check_artifact(tmp_path / "tain.jsonl", name)
    assert caught.value.nearest == (str(tmp_path / "train.jsonl"),)
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(NotFound, match="points at nothing"):
        check_artifact(tmp_path / "link", name)
    with pytest.raises(NotFound):
        check_artifact(tmp_path / "train.jsonl" / "below", name)


@pytest.mark.parametrize("name", known_types())
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        result = check_artifact(path, name)
        assert not result.ok
        assert result.findings[0].id in ("artifact.special_file", "artifact.not_a_directory")
        assert guess_type(path) is None


@pytest.mark.parametrize("name", ["training_jsonl", "rollout_jsonl", "eval_results"])
def test_a_directory_in_the_place_of_a_file_is_an_error(tmp_path: Path, name: str) -> None:
    (finding,) = check_artifact(tmp_path, name).findings
    assert (finding.id, finding.severity) == ("artifact.not_a_file", "error")


@pytest.mark.parametrize("name", known_types())
def test_what_may_not_be_read_is_an_error(unprivileged: Path, name: str) -> None:
    place = unprivileged / "place"
    if name.endswith("jsonl") or name == "eval_results":
        place.write_bytes(GOOD_LINE)
    else:
        place.mkdir()
    place.chmod(0o000)
    result = check_artifact(place, name)
    assert [f.id for f in result.findings] == ["artifact.unreadable"]
    assert guess_type(place) is None
    unprivileged.chmod(0o000)
    assert [f.id for f in check_artifact(place, name).findings] == ["artifact.unreadable"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"mmlu": {"acc": 0.5}}', None),
        (b"[1]", "data.not_an_object"),
        (b"", "artifact.empty"),
        (b'{"a": 1', "data.broken_json"),
        (b'{"a": NaN}', "data.not_finite"),
        (b'{"a": 1, "a": 2}', "data.duplicate_key"),
        (b"\xff", "artifact.not_utf8"),
        (b"[" * 100_000, "data.too_deep"),
        (gzip.compress(b"{}", mtime=0), "artifact.compressed"),
    ],
)
def test_eval_results_are_one_json_object(tmp_path: Path, content: bytes, problem: str | None) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    result = check_artifact(path, "eval_results")
    assert [f.id for f in result.findings] == ([problem] if problem else [])
    if not problem:
        assert result.facts["keys"] == ["mmlu"]
        assert guess_type(path) == "eval_results"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "messages", "type", "rank", "completion", "input", "output", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = sorted({key for rows in GOOD.values() for row in rows for key in row} - {"expected_answer"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.binary(max_size=20) | st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4).map(jsonl),
        max_size=4,
    )
)
def test_no_content_whatever_raises(tmp_path: Path, parts: list[bytes]) -> None:
    for name in GOOD:
        result = checked(tmp_path, b"\n".join(parts), name)
        assert result.ok == (not errors_in(result.findings))
        json.dumps(dict(result.facts), allow_nan=False)
    guess_type(tmp_path / "rows.jsonl")
