"""Reading YAML: lines of keys, and every kind of file that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron.config.tree import load_yaml
from nemotron.errors import NotFound, UsageError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(tmp_path: Path, text: str | bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_yaml(written(tmp_path, text))
    return caught.value


def test_every_key_and_list_item_has_its_line(tmp_path: Path) -> None:
    text = "# head\na:\n  b: 1\n  list:\n    - x\n    - k: 2\n\nflow: {p: [1, 2],\n  q: 3}\n"
    data, lines = load_yaml(written(tmp_path, text))
    assert data == {"a": {"b": 1, "list": ["x", {"k": 2}]}, "flow": {"p": [1, 2], "q": 3}}
    assert lines == {
        "a": 2,
        "a.b": 3,
        "a.list": 4,
        "a.list.0": 5,
        "a.list.1": 6,
        "a.list.1.k": 6,
        "flow": 8,
        "flow.p": 8,
        "flow.p.0": 8,
        "flow.p.1": 8,
        "flow.q": 9,
    }


def test_aliases_are_copies_and_own_keys_win_over_merged_ones(tmp_path: Path) -> None:
    text = """\
one: &one {a: 1, b: 1, d: 1}
two: &two
  b: 2
  c: 2
  d: 2
both:
  b: 0
  <<: [*one, *two]
again: *two
"""
    data, lines = load_yaml(written(tmp_path, text))
    assert data["both"] == {"a": 1, "b": 0, "c": 2, "d": 1}
    assert (lines["both.a"], lines["both.b"], lines["both.c"]) == (1, 7, 4)
    assert data["again"] == data["two"]
    assert data["again"] is not data["two"]


def test_merged_maps_that_merge_themselves(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n"
    assert load_yaml(written(tmp_path, text))[0]["c"] == {"x": 1, "y": 2, "z": 3}


def test_text_styles(tmp_path: Path) -> None:
    text = """\
folded: >
  a
  b
literal: |
  {% if x %}
  ${y}
quoted: 'null'
explicit: !!str 12
number: !!float 3
"""
    data, _ = load_yaml(written(tmp_path, text))
    assert data == {
        "folded": "a b\n",
        "literal": "{% if x %}\n${y}\n",
        "quoted": "null",
        "explicit": "12",
        "number": 3.0,
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "\ufeff"])
def test_an_empty_file_is_an_empty_map(tmp_path: Path, text: str) -> None:
    assert load_yaml(written(tmp_path, text)) == ({}, {})


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, "\ufeffa: é\n"))[0] == {"a": "é"}


def test_a_key_given_twice_names_both_lines(tmp_path: Path) -> None:
    error = refused(tmp_path, "a:\n  x: 1\n  y: 2\n  x: 3\n")
    assert "'x' is given twice, on lines 2 and 4" in error.what
    assert error.where is not None and error.where.endswith("a.yaml:4")


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/name:os.system",
        "!!python/tuple [1]",
        "!mine {{a: 1}}",
        "!!binary aGVsbG8=",
        "!!timestamp 2020-01-01",
        "!!set {{a}}",
        "!<tag:example.org,2020:x> 1",
        "! [!!python/none x]",
    ],
)
def test_a_tag_is_refused_and_never_run(tmp_path: Path, tagged: str) -> None:
    marker = tmp_path / "ran"
    error = refused(tmp_path, "ok: 1\nbad: " + tagged.format(marker=marker) + "\n")
    assert "is refused" in error.what
    assert error.where is not None and error.where.endswith(":2")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n- 2\n", "this is a list"),
        ("just text\n", "this is a single value"),
        ("a: 1\n---\nb: 2\n", "one YAML document"),
        ("a: [1\nb: 2\n", "not YAML"),
        ("a:\n\t- 1\n", "not YAML"),
        ("a: {% if x %}\n", "not YAML"),
        ("a: @x\n", "not YAML"),
        ("a: *nowhere\n", "has no anchor"),
        ("a: &a [*a]\n", "has no anchor"),
        ("a: &a {<<: *a}\n", "has no anchor"),
        ("a: {<<: 3}\n", "takes a map"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "given twice"),
        ("1: a\n", "1 is a number"),
        ("1.5: a\n", "1.5 is a number"),
        ("on: a\n", "true is a boolean"),
        ("~: a\n", "null is null"),
        ('"": a\n', "a key is empty"),
        ("? [1, 2]\n: a\n", "this is a list or a map"),
        ("a: {{ x }}\n", "this is a list or a map"),
        ("a: !!int many\n", "not a value of the type !!int"),
        ("a: !!bool maybe\n", "not a value of the type !!bool"),
        ("a: 0x_\n", "not a number"),
        ("a: " + "9" * 5000 + "\n", "not a number"),
        ("a: \x01\n", "not YAML"),
    ],
)
def test_what_a_config_cannot_be_is_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    error = refused(tmp_path, text)
    assert says in error.what
    assert error.where is not None and "a.yaml" in error.where
    assert error.exit_code == 2


def test_a_billion_laughs_is_refused(tmp_path: Path) -> None:
    rows = ["l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    rows += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "aliases" in refused(tmp_path, "\n".join(rows)).what


def test_a_billion_laughs_by_merge_keys_is_refused(tmp_path: Path) -> None:
    rows = ["l0: &l0 {" + ", ".join(f"k{i}: {i}" for i in range(100)) + "}"]
    rows += [f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 10)}]}}" for i in range(1, 10)]
    assert "aliases" in refused(tmp_path, "\n".join(rows)).what


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_without_end_is_refused_and_does_not_end_the_process(tmp_path: Path, opening: str) -> None:
    assert "nested deeper" in refused(tmp_path, "a:\n  " + opening * 100_000).what


def test_a_file_of_too_many_values_is_refused(tmp_path: Path) -> None:
    assert "more than 100000 keys and values" in refused(tmp_path, "a: [" + "1," * 200_000 + "]").what


def test_aliases_that_nest_deeper_than_the_file_looks(tmp_path: Path) -> None:
    rows = ["l0: &l0 [x]"] + [f"l{i}: &l{i} [*l{i - 1}]" for i in range(1, 3000)]
    assert "nested deeper" in refused(tmp_path, "\n".join(rows)).what


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    error = refused(tmp_path, b"a: 1\nb: \xff\xfe\n")
    assert "not UTF-8" in error.what
    assert error.where is not None and error.where.endswith(":2")


def test_a_file_of_9_mb_is_refused(tmp_path: Path) -> None:
    assert "larger than 8 MB" in refused(tmp_path, b"a: '" + b"x" * 9_000_000 + b"'").what


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        load_yaml(tmp_path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "a: 1")
    with pytest.raises(NotFound) as caught:
        load_yaml(tmp_path / "b.yaml")
    assert caught.value.exit_code == 3
    assert caught.value.nearest == ("a.yaml",)


@pytest.mark.parametrize("name", ["x" * 5000 + ".yaml", "nul\0.yaml", "a.yaml/b.yaml"])
def test_a_name_the_system_cannot_look_up(tmp_path: Path, name: str) -> None:
    written(tmp_path, "a: 1")
    with pytest.raises(UsageError, match="cannot be read"):
        load_yaml(tmp_path / name)
