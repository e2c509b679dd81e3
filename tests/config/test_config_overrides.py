"""`key=value` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron.config.compose import compose
from nemotron.config.config import Config, Origin
from nemotron.config.keys import leaves
from nemotron.config.overrides import apply_overrides, parse_override
from nemotron.errors import UsageError

SHIPPED = {
    "n": 8,
    "lr": 1e-6,
    "on": True,
    "name": "adam",
    "none": None,
    "todo": "???",
    "ref": "${n}",
    "betas": [0.9, 0.999],
    "empty": {},
    "nothing": [],
    "opt": {"kwargs": {"lr": 0.1, "foreach": False}},
    "steps": [{"kind": "warm", "args": {"n": 1}}, {"kind": "flat"}],
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "default.yaml").write_text(yaml.safe_dump(SHIPPED, sort_keys=False))
    return compose(tmp_path / "default.yaml")


def refused(config: Config, *overrides: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        apply_overrides(config, overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("n=4", "n", 4),
        ("n=1e3", "n", 1000),
        ("n=null", "n", None),
        ("n=${opt.kwargs.lr}", "n", "${opt.kwargs.lr}"),
        ("lr=1", "lr", 1),
        ("lr=1e-8", "lr", 1e-8),
        ("on=false", "on", False),
        ("on=off", "on", False),
        ("name=sgd", "name", "sgd"),
        ("name=8", "name", "8"),
        ("name=1.50", "name", "1.50"),
        ("name=yes", "name", "yes"),
        ("name=", "name", ""),
        ("name=null", "name", None),
        ("name='null'", "name", "null"),
        ("name=a=b==c", "name", "a=b==c"),
        ("name={% for m in x %}{{ m }}{% endfor %}", "name", "{% for m in x %}{{ m }}{% endfor %}"),
        ("name=@x: *y %z", "name", "@x: *y %z"),
        ("none=12:30:00", "none", "12:30:00"),
        ("none=3", "none", 3),
        ("none=[1,2]", "none", [1, 2]),
        ("none={a: 1}", "none", {"a": 1}),
        ("todo=5", "todo", 5),
        ("todo=/data", "todo", "/data"),
        ("ref=3", "ref", 3),
        ("betas=[0.8]", "betas", [0.8]),
        ("betas=[]", "betas", []),
        ("betas=${ref}", "betas", "${ref}"),
        ("betas.0=0.5", "betas", [0.5, 0.999]),
        ("betas.-1=0.5", "betas", [0.9, 0.5]),
        ("+betas.2=0.1", "betas", [0.9, 0.999, 0.1]),
        ("+nothing.0=a", "nothing", ["a"]),
        ("steps.0.args.n=7", "steps.0", {"kind": "warm", "args": {"n": 7}}),
        ("+steps.1.args.n=7", "steps.1", {"kind": "flat", "args": {"n": 7}}),
        ("empty={a: {b: 1}}", "empty", {"a": {"b": 1}}),
        ("+empty.a.b=1", "empty", {"a": {"b": 1}}),
        ("+none.a=1", "none", {"a": 1}),
        ("opt={kwargs: {lr: 0.2}}", "opt", {"kwargs": {"lr": 0.2, "foreach": False}}),
        ("opt=null", "opt", None),
        ("+brand.new.key=x", "brand", {"new": {"key": "x"}}),
    ],
)
def test_what_an_override_sets(config: Config, override: str, key: str, value: Any) -> None:
    changed = apply_overrides(config, [override])
    assert changed.get(key) == value
    assert type(changed.get(key)) is type(value)
    assert set(changed.history) == set(changed.keys())


def test_the_origin_is_the_command_line_and_the_history_stays(config: Config) -> None:
    changed = apply_overrides(config, ["betas.-1=0.5"])
    first, last = changed.origins("betas.1")
    assert config.get("betas") == [0.9, 0.999]
    assert first.place.endswith("default.yaml:10")
    assert (last.place, last.text) == ("command line", "betas.-1=0.5")


def test_a_map_sets_only_the_keys_it_names(config: Config) -> None:
    changed = apply_overrides(config, ["opt={kwargs: {lr: 0.2}}"])
    assert changed.place("opt.kwargs.lr") == "command line"
    assert changed.place("opt.kwargs.foreach").endswith("default.yaml:16")


def test_the_later_of_two_wins(config: Config) -> None:
    changed = apply_overrides(config, ["n=1", "n=2"])
    assert changed.get("n") == 2
    assert [o.text for o in changed.origins("n")] == ["8", "n=1", "n=2"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("n=abc", "n: the text 'abc' cannot replace the number 8"),
        ("n=0.5", "n: the number 0.5 cannot replace the number 8"),
        ("n=true", "n: true cannot replace the number 8"),
        ("n=[1]", "n: a list cannot replace the number 8"),
        ("n={a: 1}", "n: a section cannot replace the number 8"),
        ("lr=fast", "lr: the text 'fast' cannot replace the number"),
        ("on=1", "on: the number 1 cannot replace true"),
        ("on=maybe", "on: the text 'maybe' cannot replace true"),
        ("name=[a]", "name: a list cannot replace the text 'adam'"),
        ("name={a: 1}", "name: a section cannot replace the text"),
        ("betas=0.9", "betas: the number 0.9 cannot replace a list"),
        ("betas={a: 1}", "betas: a section cannot replace a list"),
        ("opt=3", "opt: the number 3 cannot replace a section"),
        ("opt=[1]", "opt: a list cannot replace a section"),
        ("opt={kwargs: 3}", "opt.kwargs: the number 3 cannot replace a section"),
        ("opt={kwargs: {lr: fast}}", "opt.kwargs.lr: the text 'fast' cannot replace the number 0.1"),
        ("opt={}", "opt={} changes nothing"),
        ("steps.0={kind: 1.50}", "steps.0.kind: the number 1.5 cannot replace the text 'warm'"),
        ("empty=3", "empty: the number 3 cannot replace a section"),
    ],
)
def test_a_change_of_type_is_an_error_that_says_what_is_there(
    config: Config, override: str, says: str
) -> None:
    error = refused(config, override)
    assert error.what.startswith(says)
    assert error.where == "command line"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("opt.kwargs.l=1", "opt.kwargs.lr"),
        ("opt.kwarg.lr=1", "opt.kwargs.lr"),
        ("lr.x=1", None),
        ("opt={kwargs: {lrr: 1}}", "opt.kwargs.lr"),
        ("steps.1.kin=1", "steps.1.kind"),
    ],
)
def test_a_typo_names_the_nearest_key(config: Config, override: str, near: str | None) -> None:
    error = refused(config, override)
    if near is None:
        assert "leads nowhere: lr is the number" in error.what
    else:
        assert near in error.nearest
        assert error.next is not None and error.next.startswith("for a new key: +")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("betas.2=1", "betas.2 is not a key"),
        ("betas.3=1", "betas is a list of 2, '3' is not one of its positions"),
        ("betas.-3=1", "betas is a list of 2, '-3' is not one of its positions"),
        ("betas.first=1", "betas is a list of 2, 'first' is not one of its positions"),
        ("betas.0.x=1", "betas.0 is the number 0.9, which has no keys"),
        ("+betas.3=1", "'3' is not one of its positions"),
        ("+betas.99999999999999999999=1", "is not one of its positions"),
        ("steps.7.kind=x", "'7' is not one of its positions"),
        ("betas[0]=1", "list items are written with dots"),
        ("+new.0=1", "there is no list that could have an item 0"),
        ("name.x.y=1", "name is the text 'adam', which has no keys"),
        ("ref.x=1", "ref is the text '${n}', which has no keys"),
        ("+ref.x=1", "ref is the text '${n}', which has no keys"),
    ],
)
def test_paths_that_lead_nowhere(config: Config, override: str, says: str) -> None:
    assert says in refused(config, override).what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no `=`"),
        ("grpo.seed", "has no `=`"),
        ("=3", "no key before"),
        ("+=3", "no key before"),
        (".n=3", "a part of it is empty"),
        ("a..b=3", "a part of it is empty"),
        ("a.=3", "a part of it is empty"),
        ("a b=3", "holds a space"),
        ("n =3", "holds a space"),
        ("a\nb=3", "holds a space"),
        ("~n", "deleting a key is not supported"),
        ("~n=3", "deleting a key is not supported"),
        ("++n=3", "`++` is not supported"),
        ("+n=3", "n exists already"),
        ("n=", "no value after the `=`"),
        ("none=", "no value after the `=`"),
        ("+new=", "no value after the `=`"),
        ("name=\udcff", "is not UTF-8 text"),
        ("name=[\udcff]", "is not UTF-8 text"),
    ],
)
def test_malformed_overrides(config: Config, text: str, says: str) -> None:
    error = refused(config, text)
    assert says in error.what
    assert error.exit_code == 2


def test_the_plus_of_an_existing_key_is_dropped_in_the_advice(config: Config) -> None:
    assert refused(config, "+n=3").next == "drop the plus: n=3"


def test_all_bad_overrides_are_listed_at_once(config: Config) -> None:
    error = refused(config, "nn=1", "n=5", "betas=3", "~x")
    assert error.what.startswith("3 overrides cannot be applied")
    assert all(part in error.what for part in ("nn is not a key", "betas: the number 3", "deleting a key"))


def test_an_override_knows_its_parts() -> None:
    override = parse_override("+a.b=[1, x=y]")
    assert (override.key, override.value, override.is_new, override.raw) == (
        "a.b",
        [1, "x=y"],
        True,
        "[1, x=y]",
    )


KEY = st.text("abcxyz_-", min_size=1, max_size=4)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
LEAF = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT
TREE = st.dictionaries(
    KEY,
    st.recursive(
        LEAF, lambda inner: st.dictionaries(KEY, inner, min_size=1, max_size=3) | st.lists(inner, max_size=3)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=120, deadline=None)
@given(data=TREE, new=st.data())
def test_every_leaf_can_be_set_and_read_back(data: dict[str, Any], new: st.DataObject) -> None:
    start = Config().set("all", data, Origin("engine"))
    for key, old in leaves(start.data):
        same_kind = {bool: st.booleans(), int: st.integers(), float: st.floats(allow_nan=False), str: TEXT}
        value = new.draw(same_kind.get(type(old), TEXT))
        # JSON is YAML but for its floats, which `1e+16` and `Infinity` show.
        typed = (
            repr(value).replace("inf", ".inf")
            if isinstance(value, float)
            else json.dumps(value, ensure_ascii=False)
        )
        if isinstance(old, dict | list):
            continue
        changed = apply_overrides(start, [f"{key}={typed}"])
        assert changed.get(key) == value
        assert changed.origins(key)[-1].kind == "override"
        others = {k: v for k, v in leaves(changed.data) if k != key}
        assert others == {k: v for k, v in leaves(start.data) if k != key}


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_text_typed_for_a_text_key_arrives_as_typed(text: str) -> None:
    start = Config().set("a", "old", Origin("engine"))
    stripped = text.strip()
    quoted_or_null = stripped[:1] in ("'", '"', "[", "{") or stripped in ("", "~", "null", "Null", "NULL")
    if not quoted_or_null:
        assert apply_overrides(start, [f"a={text}"]).get("a") == stripped
