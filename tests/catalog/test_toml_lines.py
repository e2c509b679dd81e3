"""tomllib names no lines, so a scanner finds them."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.catalog.toml_lines import key_lines, line_of

TEXT = '''\
top = 1
a.b = 2

[step]  # the step
name = "x # no comment"
description = """
[not.a.table]
key = "text"
"""
'quoted key' = 3
literal = \'\'\'
[[nor.this]]\'\'\'

[[ports]]
type = [
  "one",   # ] not the end
  "two]",
]

[[ports]]
type = { inner = 1, other = "}" }
[ports.more]
deep = true
[[ports.list]]
x = 1
[[ports.list]]
x = 2
[tool."run spec".run]
launch = "ray"
'''


def test_every_kind_of_line_is_found():
    lines = key_lines(TEXT)
    tomllib.loads(TEXT)
    assert {
        ("top",): 1,
        ("a",): 2,
        ("a", "b"): 2,
        ("step",): 4,
        ("step", "name"): 5,
        ("step", "description"): 6,
        ("step", "quoted key"): 10,
        ("step", "literal"): 11,
        ("ports", 0): 14,
        ("ports", 0, "type"): 15,
        ("ports", 1): 20,
        ("ports", 1, "type"): 21,
        ("ports", 1, "more", "deep"): 23,
        ("ports", 1, "list", 0, "x"): 25,
        ("ports", 1, "list", 1, "x"): 27,
        ("tool", "run spec", "run", "launch"): 29,
    }.items() <= lines.items()
    assert not any("not" in key or "nor" in key or "inner" in key for key in lines)


def test_a_key_that_is_not_there_has_the_line_of_its_table():
    lines = key_lines(TEXT)
    assert line_of(lines, ("ports", 1, "type", "inner")) == 21
    assert line_of(lines, ("ports", 1, "nothing")) == 20
    assert line_of(lines, ("nothing", "at", "all")) is None


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
VALUES = st.sampled_from(
    [
        "1",
        "true",
        '"s"',
        '"a \\" ] # b"',
        "'''x\n[[y]]\nz = 1'''",
        '"""\n[t]\nk = 2\n\\"""."""',
        "[\n 1,\n [2], # ]\n]",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), min_size=1, max_size=6))
def test_lines_are_right_for_any_array_of_tables(tables):
    text, expected, counts = "", {}, {}
    for name, values in tables:
        index = counts[name] = counts.get(name, -1) + 1
        expected[name, index] = text.count("\n") + 1
        text += f"[[{name}]]\n"
        for key, value in values.items():
            expected[name, index, key] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    assert tomllib.loads(text).keys() == {name for name, _ in tables}
    lines = key_lines(text)
    assert {key: lines[key] for key in expected} == expected


@given(st.text(alphabet="[]{}\"'=#.\\ab1 \n", max_size=80))
def test_no_text_breaks_the_scanner(text):
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())
