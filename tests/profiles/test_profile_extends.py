"""`extends`: what a chain of profiles makes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.errors import NotFound, UsageError
from nemotron.profiles.extend import leaf_paths, merged
from nemotron.profiles.load import Profiles

Load = Callable[..., Profiles]

SCALARS = st.one_of(
    st.booleans(), st.integers(0, 9), st.text("ab", max_size=2), st.lists(st.integers(0, 9), max_size=3)
)
NAMES = st.text("abc", min_size=1, max_size=2)
TABLES = st.recursive(
    st.dictionaries(NAMES, SCALARS, max_size=4),
    lambda inner: st.dictionaries(NAMES, SCALARS | inner, max_size=4),
)


def at(table: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        table = table[part]
    return table


def has(table: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(table, dict) or part not in table:
            return False
        table = table[part]
    return True


@given(TABLES, TABLES)
def test_every_value_of_the_child_is_there(parent: dict[str, Any], child: dict[str, Any]) -> None:
    result = merged(parent, child)
    for path in leaf_paths(child):
        value = at(child, path)
        assert at(result, path) == (value if value != {} or not has(parent, path) else at(result, path))


@given(TABLES, TABLES)
def test_every_value_comes_from_one_of_the_two(parent: dict[str, Any], child: dict[str, Any]) -> None:
    result = merged(parent, child)
    for path in leaf_paths(result):
        assert any(has(each, path) and at(each, path) == at(result, path) for each in (child, parent))
        if has(child, path) and at(child, path) != {}:
            assert at(result, path) == at(child, path)


@given(TABLES)
def test_nothing_on_either_side_changes_nothing(table: dict[str, Any]) -> None:
    assert merged(table, {}) == merged({}, table) == merged(table, table) == table


@given(TABLES, TABLES)
def test_merging_leaves_both_as_they_were(parent: dict[str, Any], child: dict[str, Any]) -> None:
    before = repr((parent, child))
    merged(parent, child)
    assert repr((parent, child)) == before


def flat(prefix: str) -> st.SearchStrategy[dict[str, Any]]:
    """Tables whose keys say whether a table is below them, so that no two differ in that."""
    return st.dictionaries(
        st.sampled_from([f"{prefix}x", f"{prefix}y"]), st.dictionaries(NAMES, SCALARS, max_size=3), max_size=2
    )


@given(flat("t"), flat("t"), flat("t"))
def test_it_does_not_matter_where_a_chain_is_cut(a: Any, b: Any, c: Any) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


def test_tables_are_merged_and_lists_replaced(load: Load) -> None:
    profile = load("""
        [base]
        executor = "slurm"
        nodes = 1
        mounts = ["/a:/a", "/b:/b"]
        [base.env_vars]
        A = "base"
        B = "base"

        [middle]
        extends = "base"
        nodes = 2
        [middle.env_vars]
        B = "middle"

        [mine]
        extends = "middle"
        mounts = ["/c:/c"]
        env_vars = { C = "mine" }
    """).get("mine")
    assert profile.extends == ("middle", "base")
    assert profile.values == {
        "nodes": 2,
        "mounts": ["/c:/c"],
        "env_vars": {"A": "base", "B": "middle", "C": "mine"},
    }
    origins = {key: (origin.profile, origin.line) for key, origin in profile.origins.items()}
    assert origins == {
        "executor": ("base", 3),
        "nodes": ("middle", 12),
        "mounts": ("mine", 18),
        "env_vars.A": ("base", 7),
        "env_vars.B": ("middle", 14),
        "env_vars.C": ("mine", 19),
    }


def test_an_empty_text_takes_a_value_away(load: Load) -> None:
    profile = load("""
        [base]
        executor = "slurm"
        partition = "batch"
        nodes = 4
        [mine]
        extends = "base"
        partition = ""
        nodes = ""
    """).get("mine")
    assert profile.get("partition") is None
    assert profile.get("nodes", 1) == 1


def test_a_circle_is_shown_whole(load: Load) -> None:
    profiles = load('[a]\nextends = "b"\n[b]\nextends = "c"\n[c]\nextends = "b"\n')
    with pytest.raises(UsageError, match="a -> b -> c -> b") as raised:
        profiles.get("a")
    assert str(raised.value.where).endswith("env.toml:6")
    with pytest.raises(UsageError, match="s -> s"):
        load('[s]\nextends = "s"\n').get("s")


def test_an_unknown_parent_is_named_with_the_chain(load: Load) -> None:
    profiles = load('[a]\nextends = "b"\n[b]\nextends = "slrm"\n[slurm]\nexecutor = "slurm"\n')
    with pytest.raises(NotFound, match=r"no profile slrm \(a -> b -> slrm\)") as raised:
        profiles.get("a")
    assert raised.value.nearest[0] == "slurm"
    assert str(raised.value.where).endswith("env.toml:4")


@pytest.mark.parametrize("value", ["3", '["b"]', '""', '"${oc.env:BASE}"', '"wandb"'])
def test_extends_must_name_a_profile(load: Load, value: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(f"[wandb]\n[b]\nexecutor = 'local'\n[a]\nextends = {value}\n").get("a")
    assert str(raised.value.where).endswith("env.toml:5")


@pytest.mark.parametrize(("length", "fits"), [(32, True), (33, False)])
def test_a_chain_has_an_end(load: Load, length: int, fits: bool) -> None:
    text = "".join(f'[p{n}]\nextends = "p{n + 1}"\n' for n in range(length - 1))
    profiles = load(f"{text}[p{length - 1}]\nexecutor = 'local'\n")
    if fits:
        assert profiles.get("p0").executor == "local"
    else:
        with pytest.raises(UsageError, match="more than 32"):
            profiles.get("p0")
