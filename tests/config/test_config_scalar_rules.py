"""Unquoted words mean what they mean to OmegaConf, which the trainers read configs with."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron.config.scalars import plain_scalar
from nemotron.config.tree import parse_value

WORDS = st.text("0123456789+-._eExXbaftTnNyolsruFALI~=", min_size=1, max_size=9)


def as_omegaconf_reads(word: str) -> object:
    return OmegaConf.to_container(OmegaConf.create(f"a: {word}\n"))["a"]


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and one == other


@settings(max_examples=600, deadline=None)
@given(WORDS.filter(lambda w: w not in "-=" and not w.startswith(("---", "- ", "..."))))
@example("1e-8")
@example("1.0e-6")
@example("1e5")
@example("-1E+5")
@example(".5")
@example("1.")
@example("1_000")
@example("1__0")
@example("017")
@example("08")
@example("0o17")
@example("0x1F")
@example("0b11")
@example("-0")
@example("yes")
@example("Off")
@example("oN")
@example("~")
@example("-.inf")
@example(".NaN")
@example("1e5.0")
def test_words_and_numbers_read_as_omegaconf_reads_them(word: str) -> None:
    try:
        expected = as_omegaconf_reads(word)
    except ValueError:
        with pytest.raises(ValueError):
            plain_scalar(word)
        return
    assert same(plain_scalar(word), expected)


@pytest.mark.parametrize("text", ["2020-01-01", "2020-01-01 10:00:00", "12:30:00", "04:00:00", "1:30.5", "="])
def test_dates_and_times_stay_text(text: str) -> None:
    assert plain_scalar(text) == text


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("null", None),
        ("true", True),
        ("1e-8", 1e-8),
        ("[1, 2]", [1, 2]),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ('"3"', "3"),
        ("'it''s'", "it's"),
        ("  8  ", 8),
        ("", None),
    ],
)
def test_yaml_values_on_the_command_line(typed: str, value: object) -> None:
    assert same(parse_value(typed), value)


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{{ x }}",
        "{a: 1} and more",
        "[1, 2] # both",
        "[1, 2",
        "a: b",
        "a #b",
        "- a",
        "@name",
        "%x",
        "*alias",
        "&anchor 3",
        "!!int 3",
        "!!python/object/apply:os.system [id]",
        "[!!python/name:os.system ]",
        "| block",
        "--- a",
        "'open",
        '"a" "b"',
        "a=b=c",
        "${a.b}",
        "$(id); `id`",
        "s3://bucket/x,y",
        "host:8000",
        "9" * 5000,
    ],
)
def test_whatever_is_not_one_yaml_value_is_the_text_itself(text: str) -> None:
    assert parse_value(text) == text
