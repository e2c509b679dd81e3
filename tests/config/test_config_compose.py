"""Files, their `defaults:` and how they merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron.config.compose import compose, resolve_config_path
from nemotron.config.config import Config, Origin
from nemotron.config.keys import leaves
from nemotron.errors import NotFound, UsageError

ENGINE = Origin("engine")


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def test_a_chain_of_three_files(chain: dict[str, Path]) -> None:
    config = compose(chain["tiny"])
    assert config.get("policy.model_name") == "org/model-tiny"
    assert config.get("policy.precision") == "bfloat16"
    assert config.get("policy.optimizer.kwargs") == {"lr": 5e-6, "betas": [0.8], "eps": 1e-8}
    assert config.get("cluster") == {"gpus_per_node": 1, "num_nodes": 1}
    assert config.get("grpo.num_generations_per_prompt") == 8
    assert not config.has("defaults")


def test_every_source_of_a_key_is_known_oldest_first(chain: dict[str, Path]) -> None:
    config = compose(chain["tiny"], ["cluster.num_nodes=2"])
    places = [
        (Path(o.path).name if o.path else "", o.line, o.text) for o in config.origins("cluster.num_nodes")
    ]
    assert places == [
        ("base.yaml", 42, "1"),
        ("default.yaml", 5, "4"),
        ("tiny.yaml", 10, "1"),
        ("", None, "cluster.num_nodes=2"),
    ]
    layers = [o.layer for o in config.origins("cluster.num_nodes")]
    assert layers == sorted(set(layers))


def test_the_layer_tells_which_of_two_keys_was_set_later(chain: dict[str, Path]) -> None:
    config = compose(chain["tiny"], ["grpo.seed=1", "cluster.num_nodes=2"])

    def layer(key: str) -> int:
        return config.origins(key)[-1].layer

    assert layer("policy.precision") < layer("grpo.num_prompts_per_step") < layer("grpo.seed")
    assert layer("grpo.seed") < layer("cluster.num_nodes") == layer("cluster")
    later = config.set("policy.precision", "float16", Origin("input", text="policy=x"))
    assert later.origins("policy.precision")[-1].layer > layer("cluster.num_nodes")


def test_bases_merge_left_to_right_and_depth_first(tmp_path: Path) -> None:
    write(
        tmp_path,
        root="a: root\nb: root\nc: root\nd: root\n",
        left="defaults: root\nb: left\nc: left\n",
        right="c: right\nd: right\n",
        child="defaults: [left, right.yaml]\nd: child\n",
    )
    assert compose(tmp_path / "child.yaml").data == {"a": "root", "b": "left", "c": "right", "d": "child"}


@pytest.mark.parametrize(
    "entry", ["base", "base.yaml", "./base", "sub/../base", "{dir}/base.yaml", "{dir}/base"]
)
def test_ways_to_name_a_base(tmp_path: Path, entry: str) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, base="a: 1\n", child=f"defaults: {entry.format(dir=tmp_path)}\nb: 2\n")
    assert compose(tmp_path / "child.yaml").data == {"a": 1, "b": 2}


def test_yml_and_names_with_dots(tmp_path: Path) -> None:
    (tmp_path / "other.yml").write_text("a: 1\n")
    (tmp_path / "grpo-1.5b.yaml").write_text("b: 1\n")
    write(tmp_path, child="defaults: [other, grpo-1.5b]\n")
    assert compose(tmp_path / "child.yaml").data == {"a": 1, "b": 1}


def test_a_base_may_be_a_name_from_the_catalog(tmp_path: Path, chain: dict[str, Path]) -> None:
    write(tmp_path, mine="defaults: tiny\ngrpo: {seed: 1}\n")
    config = compose(tmp_path / "mine.yaml", configs=chain)
    assert (config.get("grpo.seed"), config.get("policy.model_name")) == (1, "org/model-tiny")


def test_a_file_beside_wins_over_a_name(tmp_path: Path, chain: dict[str, Path]) -> None:
    write(tmp_path, tiny="here: 1\n", mine="defaults: tiny\n")
    assert compose(tmp_path / "mine.yaml", configs=chain).data == {"here": 1}


@pytest.mark.parametrize("defaults", ["null", "[]", "_self_", "[_self_]"])
def test_no_bases(tmp_path: Path, defaults: str) -> None:
    write(tmp_path, a=f"defaults: {defaults}\nx: 1\n")
    assert compose(tmp_path / "a.yaml").data == {"x": 1}


def test_a_cycle_is_shown_as_a_chain(tmp_path: Path) -> None:
    write(tmp_path, a="defaults: b\n", b="defaults: c\n", c="defaults: ./a.yaml\n")
    with pytest.raises(UsageError, match=r"in a circle: .*a\.yaml -> .*b\.yaml -> .*c\.yaml -> .*a\.yaml"):
        compose(tmp_path / "a.yaml")


def test_includes_that_double_at_every_level_end(tmp_path: Path) -> None:
    write(tmp_path, f0="x: 1\n", **{f"f{i}": f"defaults: [f{i - 1}, f{i - 1}]\n" for i in range(1, 30)})
    with pytest.raises(UsageError, match="more than 200 files"):
        compose(tmp_path / "f29.yaml")


def test_a_missing_base_names_where_and_the_nearest(tmp_path: Path, chain: dict[str, Path]) -> None:
    write(tmp_path, a="x: 1\ndefaults:\n  - base\n  - defualt\n")
    with pytest.raises(NotFound) as caught:
        compose(tmp_path / "a.yaml", configs=chain)
    assert caught.value.nearest == ("default",)
    assert caught.value.where is not None and caught.value.where.endswith("a.yaml:4")


@pytest.mark.parametrize("entry", ["{group: name}", "[x]", "3", "null", "''"])
def test_an_entry_of_defaults_that_is_no_file_is_named(tmp_path: Path, entry: str) -> None:
    write(tmp_path, base="b: 1\n", a=f"defaults:\n- base\n- {entry}\n")
    with pytest.raises(UsageError, match="takes file names") as caught:
        compose(tmp_path / "a.yaml")
    assert caught.value.where is not None and caught.value.where.endswith("a.yaml:3")


def test_override_marker_drops_what_came_before(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="opt: {lr: 1, eps: 2}\nkeep: {a: 1}\nempty: {a: 1}\n",
        child="""\
defaults: base
opt: {_override_: true, lr: 3}
keep: {_override_: false, b: 2}
empty: {_override_: true}
""",
    )
    config = compose(tmp_path / "child.yaml")
    assert config.data == {"keep": {"a": 1, "b": 2}, "opt": {"lr": 3}, "empty": {}}
    assert config.origins("empty")[-1].line == 4
    assert set(config.history) == set(config.keys())


def test_override_marker_of_one_base_drops_the_one_before_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        one="opt: {lr: 1}\n",
        two="opt: {_override_: true, eps: 2}\n",
        child="defaults: [one, two]\nx: {y: {_override_: true}}\n",
    )
    # Below the top level the marker is a key like any other, as in NeMo-RL.
    assert compose(tmp_path / "child.yaml").data == {"opt": {"eps": 2}, "x": {"y": {"_override_": True}}}
    assert compose(tmp_path / "two.yaml").data == {"opt": {"eps": 2}}


def test_a_section_given_for_a_reference_merges_into_what_it_refers_to(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="policy: {model: small, opt: {lr: 1}}\nteacher: ${policy}\n",
        child="defaults: base\nteacher: {model: big}\n",
    )
    config = compose(tmp_path / "child.yaml")
    assert config.get("teacher") == {"model": "big", "opt": {"lr": 1}}
    assert config.get("policy.model") == "small"
    assert config.place("teacher.opt.lr").endswith("base.yaml:2")
    assert [o.line for o in config.origins("teacher.model")] == [2, 2]


def test_a_missing_value_never_replaces_one(tmp_path: Path) -> None:
    write(
        tmp_path, base="a: 1\nb: {c: 2}\nd: null\n", child="defaults: base\na: ???\nb: ???\nd: ???\ne: ???\n"
    )
    config = compose(tmp_path / "child.yaml")
    assert config.data == {"a": 1, "b": {"c": 2}, "d": None, "e": "???"}
    assert len(config.origins("a")) == 1


def test_a_list_over_a_section_names_both_places(tmp_path: Path) -> None:
    write(tmp_path, base="a:\n  b: {x: 1}\n", child="defaults: base\na:\n  b: [1]\n")
    with pytest.raises(UsageError, match=r"a\.b is a list here and a section in .*base\.yaml:2") as caught:
        compose(tmp_path / "child.yaml")
    assert caught.value.where is not None and caught.value.where.endswith("child.yaml:3")


def test_a_key_with_a_dot_in_it_is_found_under_its_full_name(tmp_path: Path) -> None:
    write(tmp_path, a='m: {"total_reward/mean.x": 1, "a": {"x": 2}, "a.y": 3}\n')
    config = compose(tmp_path / "a.yaml", ["m.a.y=4"])
    assert (config.get("m.total_reward/mean.x"), config.get("m.a.x"), config.get("m.a.y")) == (1, 2, 4)
    assert config.origins("m.a.y")[-1].place == "command line"


class TestResolveConfigPath:
    def test_names_and_paths(self, tmp_path: Path, chain: dict[str, Path]) -> None:
        assert resolve_config_path("tiny", chain, tmp_path) == chain["tiny"]
        assert resolve_config_path("config/tiny.yaml", chain, tmp_path) == chain["tiny"]
        assert resolve_config_path("base.yaml", {}, tmp_path) == chain["base"]
        assert resolve_config_path(str(chain["base"]), {}, Path("/")) == chain["base"]

    def test_an_unknown_name_lists_all_nearest_first(self, tmp_path: Path, chain: dict[str, Path]) -> None:
        with pytest.raises(NotFound) as caught:
            resolve_config_path("tin", chain, tmp_path)
        assert caught.value.nearest == ("tiny",)
        assert caught.value.valid == ("tiny", "base", "default")

    def test_a_file_of_that_name_here_is_offered(self, tmp_path: Path, chain: dict[str, Path]) -> None:
        with pytest.raises(NotFound) as caught:
            resolve_config_path("base", {}, tmp_path)
        assert caught.value.next is not None and caught.value.next.endswith("./base.yaml")

    def test_a_name_with_a_suffix_is_told_to_drop_it(self, chain: dict[str, Path]) -> None:
        with pytest.raises(NotFound) as caught:
            resolve_config_path("tiny.yaml", chain, Path("/"))
        assert caught.value.next == "for the config of that name write tiny"

    def test_a_path_that_is_none(self, tmp_path: Path, chain: dict[str, Path]) -> None:
        with pytest.raises(NotFound) as caught:
            resolve_config_path("./bas.yaml", chain, tmp_path)
        assert caught.value.nearest == ("base.yaml",)
        with pytest.raises(UsageError, match="is a directory"):
            resolve_config_path("./config", chain, tmp_path)
        with pytest.raises(NotFound):
            resolve_config_path("x" * 5000 + ".yaml", chain, tmp_path)


# Laws of merging. Names are few, so that sections meet.

SCALARS = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["x", "y z", "1"])
LISTS = st.lists(SCALARS | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2), max_size=3)


OPEN_SCALARS = SCALARS | st.just("???")


def sections(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    inner: st.SearchStrategy[Any] = OPEN_SCALARS | LISTS
    if depth:
        inner = inner | sections(depth - 1)
    return st.dictionaries(st.sampled_from("abc"), inner, max_size=3)


# One value kind for each name, so that a section never meets a list or a scalar.
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "s": st.fixed_dictionaries(
            {}, optional={"t": SCALARS, "u": LISTS, "v": st.dictionaries(st.sampled_from("ab"), SCALARS)}
        ),
        "l": LISTS,
        "x": SCALARS,
    },
)


def composed(tmp: Path, *layers: Any) -> Config:
    """Each layer as a file that builds on the one before it."""
    for number, layer in enumerate(layers):
        data = dict(layer)
        if number:
            data["defaults"] = f"layer{number - 1}"
        (tmp / f"layer{number}.yaml").write_text(yaml.safe_dump(data))
    return compose(tmp / f"layer{len(layers) - 1}.yaml")


def reference_merge(base: Any, child: Any) -> Any:
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(child)))


def changes_a_kind(base: Any, child: Any) -> bool:
    """Whether a child makes a section or list of something else, or the reverse; null may be anything.

    OmegaConf refuses only a list for a section; a number for a section is a slip as well.
    """
    for name in set(base) & set(child):
        old, new = base[name], child[name]
        if isinstance(old, dict) and isinstance(new, dict):
            if changes_a_kind(old, new):
                return True
        elif any(v is None or (isinstance(v, str) and "${" in v) or v == "???" for v in (old, new)):
            continue
        elif {type(v) if isinstance(v, dict | list) else object for v in (old, new)} not in (
            {object},
            {list},
        ):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(base=sections(2), child=sections(2))
def test_two_files_merge_as_omegaconf_merges_them(
    tmp_path_factory: pytest.TempPathFactory, base: Any, child: Any
) -> None:
    tmp = tmp_path_factory.mktemp("merge")
    if changes_a_kind(base, child):
        with pytest.raises(UsageError, match="here and"):
            composed(tmp, base, child)
        return
    expected = reference_merge(base, child)
    config = composed(tmp, base, child)
    assert config.data == expected
    assert set(config.history) == set(config.keys())
    assert all(config.history.values())


@settings(max_examples=80, deadline=None)
@given(a=SHAPED, b=SHAPED, c=SHAPED)
def test_merging_and_its_history_are_associative(
    tmp_path_factory: pytest.TempPathFactory, a: Any, b: Any, c: Any
) -> None:
    left = tmp_path_factory.mktemp("left")
    chained = composed(left, a, b, c)
    right = tmp_path_factory.mktemp("right")
    for name, data in (("a", a), ("b", b), ("bc", {"defaults": "b"} | c), ("abc", {"defaults": ["a", "bc"]})):
        (right / f"{name}.yaml").write_text(yaml.safe_dump(data))
    grouped = compose(right / "abc.yaml")
    assert grouped.data == chained.data

    def history(config: Config) -> dict[str, list[str]]:
        return {key: [origin.text for origin in found] for key, found in config.history.items()}

    assert history(grouped) == history(chained)


@settings(max_examples=80, deadline=None)
@given(base=SHAPED, child=SHAPED)
def test_the_child_wins_everywhere_it_says_something(
    tmp_path_factory: pytest.TempPathFactory, base: Any, child: Any
) -> None:
    config = composed(tmp_path_factory.mktemp("wins"), base, child)
    own = composed(tmp_path_factory.mktemp("own"), child)
    for key, value in leaves(own.data):
        if value not in ({}, []):
            assert config.get(key) == value
            assert Path(config.origins(key)[-1].path or "").name == "layer1.yaml"


@settings(max_examples=60, deadline=None)
@given(
    data=sections(2),
    key=st.sampled_from(["a", "b.a", "c.a.b", "a.0", "b.1.a", "c.b.0"]),
    value=sections(1) | SCALARS | LISTS,
)
def test_set_changes_one_key_and_never_the_config_it_was_called_on(data: Any, key: str, value: Any) -> None:
    config = Config(copy.deepcopy(data))
    try:
        changed = config.set(key, value, ENGINE)
    except UsageError:
        return
    assert config.data == data
    assert changed.get(key) == value
    top = key.partition(".")[0]
    assert {k: v for k, v in changed.data.items() if k != top} == {k: v for k, v in data.items() if k != top}
    assert changed.layers == config.layers + 1
