"""What is seen at a glance is true: rows said to be sound pass the check, no huge number is passed over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.artifacts.checks.tools import ToolWatch
from nemotron.data.rowwise import refused_by
from nemotron.data.sound import sound_test
from nemotron.data.stream.digits import holds_huge, may_hold_huge
from nemotron.data.stream.held import Files, Target, Write, write_at
from nemotron.errors import NemotronError

Row = dict[str, Any]

texts = st.sampled_from(
    ["", " ", "x", "{}", '{"a": 1}', '{"a": NaN}', "[1]", "{", '{"a":' * 60 + "1" + "}" * 60]
)
odd = st.none() | st.booleans() | st.integers(0, 2) | st.just([]) | st.just({})
# Mostly right, so that rows that are right in all their parts come up.
roles = st.sampled_from(["system", "user", "assistant", "assistant", "tool", "developer", "critic"]) | odd
functions = st.fixed_dictionaries({}, optional={"name": texts | odd, "arguments": texts | odd})
calls = st.lists(st.fixed_dictionaries({}, optional={"function": functions | odd, "name": texts}), max_size=2)
messages = st.lists(
    st.fixed_dictionaries({"role": roles}, optional={"content": texts | odd, "tool_calls": calls | odd})
    | odd,
    max_size=3,
)
tools = st.lists(
    st.fixed_dictionaries({}, optional={"function": functions | odd, "name": texts | odd}), max_size=2
)
sides = st.fixed_dictionaries({}, optional={"rank": odd, "completion": messages | odd})
ROWS = {
    "training_jsonl": st.fixed_dictionaries({"messages": messages | odd}, optional={"tools": tools | odd}),
    "preference_jsonl": st.fixed_dictionaries(
        {"context": messages | odd, "completions": st.lists(sides, max_size=3) | odd},
        optional={"tools": tools | odd},
    ),
}  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.data())
@pytest.mark.parametrize("type_name", ROWS)
def test_a_row_that_looks_sound_has_no_error(type_name: str, data: st.DataObject) -> None:
    row = data.draw(ROWS[type_name])
    if sound_test(type_name)(row):
        assert refused_by(row, type_name, ToolWatch(compare=False)) is None


def test_rows_as_they_mostly_are_look_sound() -> None:
    """Else nobody would look at a glance."""
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"q": 1}'}}
    called = [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
    called += [{"role": "tool", "tool_call_id": "1", "content": "r"}, said]
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "g"}]
    sound = sound_test("training_jsonl")
    assert sound({"messages": [asked, said], "id": 1}) and sound({"messages": called, "tools": tools})
    sides = [{"rank": rank, "completion": [{**said, "content": str(rank)}]} for rank in (0, 1)]
    assert sound_test("preference_jsonl")({"context": [asked], "completions": sides})
    assert not sound_test("prompt_jsonl")({"prompt": "q"})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.text("0123456789", max_size=40), st.binary(max_size=60))
def test_no_long_number_is_passed_over(before: bytes, digits: str, after: bytes) -> None:
    data = before + digits.encode("ascii") + after
    if len(digits) >= 19:
        assert holds_huge(data)
    if holds_huge(data):
        assert may_hold_huge(data)


def test_a_block_of_prose_holds_no_long_number() -> None:
    assert not may_hold_huge(
        json.dumps({"messages": [{"role": "user", "content": "In 2026, 12 of 30."}]}).encode()
    )
    assert not holds_huge(b"123456789012345678 " * 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=8), st.integers(1, 7))
def test_pieces_are_written_whole_however_little_the_system_takes(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], most: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"

    def few(descriptor: int, rest: list[memoryview], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(rest)[:most], offset)

    with pytest.MonkeyPatch.context() as patch, path.open("wb") as file:
        patch.setattr(os, "pwritev", few)
        write_at(file.fileno(), [memoryview(piece) for piece in pieces if piece], 3)
    assert path.read_bytes() == (b"\0" * 3 + b"".join(pieces) if b"".join(pieces) else b"")


def test_a_place_that_is_gone_is_told_by_the_name_that_the_user_knows(tmp_path: Path) -> None:
    target = Target(tmp_path / "gone" / ".rows.tmp", tmp_path / "rows.jsonl")
    with pytest.raises(NemotronError) as caught:
        Files().write({"rows": b"x"}, [Write("rows", target, 0)])
    assert str(caught.value.where).endswith("rows.jsonl")
