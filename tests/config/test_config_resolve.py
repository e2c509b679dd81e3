"""Interpolations, the environment, and what stays for the job's machine."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemotron.config import grammar
from nemotron.config.compose import compose
from nemotron.config.config import Config, Origin
from nemotron.config.interpolation import Resolved
from nemotron.errors import UsageError

ENGINE = Origin("engine")
VALUES: dict[str, Any] = {
    "y": "Y",
    "n": 4,
    "num": "8",
    "none": None,
    "yes": True,
    "pick": "u",
    "list": [1, 2],
    "s": {"k": 1, "j": "${.k}", "q": None},
    "up": {"y": "${..y}"},
    "deep": {"u": {"v": 5}},
    "alias": "${deep}",
}


def config_of(data: dict[str, Any]) -> Config:
    config = Config()
    for key, value in data.items():
        config = config.set(key, value, ENGINE)
    return config


def resolved(text: Any, environ: dict[str, str] | None = None, **more: Any) -> Any:
    return config_of(VALUES | more | {"a": text}).resolve(environ or {}).data["a"]


def refused(text: Any, environ: dict[str, str] | None = None, **more: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolved(text, environ, **more)
    return caught.value


def test_a_training_config_resolves(chain: dict[str, Path]) -> None:
    found = compose(chain["tiny"]).without("run").resolve({"DATA_DIR": "/mnt/d"})
    data = found.data
    assert data["policy"]["tokenizer"]["name"] == "org/model-tiny"
    assert data["policy"]["dynamic_batching"]["train_mb_tokens"] == 8192
    assert data["policy"]["make_sequence_length_divisible_by"] == 2
    assert data["policy"]["generation"]["max_new_tokens"] == 4096
    assert data["grpo"]["rollouts"] == 16
    assert data["data"]["validation"] == {"data_path": "/mnt/d/train.jsonl", "split": "train"}
    assert data["logger"]["wandb"]["api_key"] == "${oc.env:WANDB_API_KEY}"
    assert [(late.key, late.variable, late.reason) for late in found.late] == [
        ("logger.wandb.api_key", "WANDB_API_KEY", "secret")
    ]
    assert found.missing == ()
    assert "run" not in data
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_environment_is_the_callers_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "process")
    assert resolved("${oc.env:WHERE}", {"WHERE": "caller"}) == "caller"
    assert resolved("${oc.env:WHERE,/default}") == "/default"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${mul:2,3}", 6),
        ("${mul:${n}, 2.5}", 10.0),
        ("${add:${list.0},${mul:2,${n}}}", 9),
        ("${div:6,3}", 2.0),
        ("${max:${n},2}", 4),
        ("x${div:6,4}", "x1.5"),
        ("${oc.select:s.k}", 1),
        ("${oc.select:no.such,${y}}", "Y"),
        ("${oc.select:no.such}", None),
        ("${oc.decode:${num}}", 8),
        ("${mul:${oc.decode:${oc.env:N}},2}", 14),
        ("${alias.u.v}", 5),
        ("${deep.${pick}.v}", 5),
        ("${list[-1]}", 2),
        ("${up.y}", "Y"),
        ("${s}", {"k": 1, "j": 1, "q": None}),
        ("${oc.env:UNSET,null}", None),
        ("${oc.env:UNSET,8}", "8"),
        ("${oc.env:UNSET,${oc.env:N}}", "7"),
    ],
)
def test_values(text: str, value: object) -> None:
    found = resolved(text, {"N": "7"})
    assert found == value
    assert type(found) is type(value)


PIECES = st.sampled_from(
    [
        "a",
        "/",
        " ",
        "$",
        "{",
        "}",
        "\\",
        "\\\\",
        "é",
        "\\${y}",
        "${y}",
        "${n}",
        "${ y }",
        "${none}",
        "${yes}",
        "${s.k}",
        "${s.j}",
        "${list.1}",
        "${list[0]}",
        "${up.y}",
        "${alias.u.v}",
        "${deep.${pick}.v}",
        "${oc.env:SET}",
        "${oc.env:UNSET,/a/b-1.e5}",
        "${oc.env:UNSET,}",
        "${oc.env:UNSET,x y}",
        "${oc.env:UNSET,'${y}/z'}",
        "${oc.env:UNSET,1.50}",
        "${oc.env:UNSET,org-a/model-1.5B}",
        "${oc.env:UNSET,a/b}",
    ]
)


@settings(max_examples=250, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=5))
def test_texts_resolve_as_omegaconf_resolves_them(pieces: list[str]) -> None:
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SET", "value\\")
        patch.delenv("UNSET", raising=False)
        try:
            expected = OmegaConf.to_container(OmegaConf.create(VALUES | {"a": text}), resolve=True)["a"]
        except OmegaConfBaseException:
            refused(text, dict(os.environ))
            return
        found = resolved(text, dict(os.environ))
        # `data` is text that OmegaConf reads: what the trainer sees is what this reads.
        assert OmegaConf.to_container(OmegaConf.create({"a": found}), resolve=True)["a"] == expected
        if isinstance(found, str) and "${" not in found:
            assert found == expected


@pytest.mark.parametrize(
    "arguments", ["${n},3", "${n},${s.k}", "03,2", "${..y},2", "${s},2", "${n}", "0,10", "-1,2"]
)
def test_a_call_is_read_as_the_grammar_reads_it(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(text: str) -> list[object]:
        found: list[object] = []

        def reference(dots: int, parts: list[str]) -> object:
            found.append((dots, parts))
            return {"of": parts} if parts == ["s"] else len(parts)

        def call(name: str, args: tuple[object, ...], texts: tuple[str, ...]) -> object:
            found.append((name, list(map(repr, args)), texts))
            return 7

        found.append(grammar.evaluate(text, reference, call))
        return found

    text = f"a ${{mul:{arguments}}}/${{mul:{arguments}}}"
    short = told(text)
    monkeypatch.setattr(grammar, "_SIMPLE", re.compile("(?!)"))
    assert short == told(text)


@pytest.mark.parametrize("text", ["\\${HOME}", "run \\${HOME}/x", "a\\\\\\${b}", "\\${a} \\${b:-c}"])
def test_escaped_interpolations_survive(text: str) -> None:
    assert resolved(text) == text


def test_a_variable_that_holds_an_interpolation_is_text() -> None:
    assert resolved("${oc.env:X}", {"X": "a${y}"}) == "a\\${y}"


def test_missing_values_stay_and_are_listed_once() -> None:
    data = {"model": "???", "tok": "${model}", "dir": "/x/${model}/y", "s": {"t": "${model}"}, "c": "${s}"}
    found = config_of(data).resolve({})
    assert found.missing == ("model",)
    assert found.data == {"model": "???", "tok": "???", "dir": "???", "s": {"t": "???"}, "c": {"t": "???"}}


def test_a_reference_to_below_a_missing_value_is_missing() -> None:
    found = config_of({"s": "???", "a": "${s.t}", "b": "${.c.x}", "c": "${s}"}).resolve({})
    assert found == Resolved({"s": "???", "a": "???", "b": "???", "c": "???"}, missing=("s",))


def test_without_hides_a_section_but_references_still_reach_it() -> None:
    config = config_of({"run": {"nodes": 4, "token": "${oc.env:UNSET}"}, "n": "${run.nodes}"}).without(
        "run", "none"
    )
    assert not config.has("run")
    assert config.resolve({}) == Resolved({"n": 4})


def test_all_unset_variables_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "x: ${oc.env:ONE}\ny:\n  - 1\n  - '${oc.env:TWO}/z'\nok: ${oc.env:THREE,/d}\n"
    )
    with pytest.raises(UsageError) as caught:
        compose(tmp_path / "a.yaml", ["ok=${oc.env:FOUR}"]).resolve({})
    error = caught.value
    assert error.what.startswith("3 values of the config cannot be resolved")
    assert (
        f"x: the environment variable ONE is not set and has no default ({tmp_path}/a.yaml:1)" in error.what
    )
    assert (
        f"y.1: the environment variable TWO is not set and has no default ({tmp_path}/a.yaml:4)" in error.what
    )
    assert "ok: the environment variable FOUR is not set and has no default (command line)" in error.what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${zz}", "${zz} refers to a key that does not exist"),
        ("${s.kk}", "${s.kk} refers to a key that does not exist"),
        ("${s.k.z}", "${s.k.z} refers to a key that does not exist"),
        ("${list.5}", "${list.5} refers to a key that does not exist"),
        ("${alias.nope}", "${alias.nope} refers to a key that does not exist"),
        ("${...y}", "${...y} leads above the top"),
        ("${nul:2,3}", "there is no resolver 'nul'"),
        ("${eval:1}", "there is no resolver 'eval'"),
        ("${y", "is not a valid interpolation"),
        ("${}", "is not a valid interpolation"),
        ("${VAR:-x}", "there is no resolver 'VAR'"),
        ("${mul:2}", "mul takes 2 numbers, here are 1"),
        ("${mul:2,3,4}", "mul takes 2 numbers, here are 3"),
        ("${mul:${num},2}", "mul takes numbers, '8' is none"),
        ("${add:${none},2}", "add takes numbers, None is none"),
        ("${max:${yes},2}", "max takes numbers, True is none"),
        ("${mul:${s},2}", "mul takes numbers"),
        ("${div:${n},0}", "div divides 4 by 0"),
        ("${div:1" + "0" * 400 + ",3}", "is too large"),
        ("${mul:1e308,10}", "inf is not a number that JSON can hold"),
        ("${oc.env:}", "oc.env takes the name of a variable"),
        ("${oc.env:A,b,c}", "oc.env takes the name of a variable"),
        ("${oc.env:${n}}", "oc.env takes the name of a variable"),
        ("${oc.decode:'[1,'}", "is not a valid interpolation"),
        ("${oc.decode:${n}}", "oc.decode takes one text"),
        ("${oc.decode:'{1: 2}'}", "a key must be text"),
        ("${oc.select:1}", "oc.select takes a key"),
        ("x${s}", "a section or a list cannot be part of a text"),
        ("${oc.env:A,${s}}", "a section or a list cannot be part of a text"),
        ("${oc.env:" * 300 + "A" + "}" * 300, "nested too deeply"),
        (float("nan"), "nan is not a number that JSON can hold"),
        ([1.0, float("-inf")], "-inf is not a number that JSON can hold"),
        ("a\0b", "holds a NUL byte"),
    ],
)
def test_each_wrong_expression_is_a_clear_error(text: Any, says: str) -> None:
    error = refused(text)
    assert says in error.what
    assert error.what.startswith("a")
    assert error.where == "engine"


def test_errors_name_what_would_be_valid() -> None:
    assert refused("${s.kk}").nearest[0] == "s.k"
    assert refused("${nul:2,3}").nearest == ("mul",)
    assert "oc.env" in refused("${nul:2,3}").valid


@pytest.mark.parametrize(
    ("data", "circle"),
    [
        ({"a": "${a}"}, "a -> a"),
        ({"a": "${b}", "b": "${c}", "c": "x${a}"}, "a -> b -> c -> a"),
        ({"a": {"b": "${a}"}}, "a -> a.b -> a"),
        ({"a": ["${a.0}"]}, "a.0 -> a.0"),
    ],
)
def test_a_circle_is_one_error_that_shows_it(data: dict[str, Any], circle: str) -> None:
    with pytest.raises(UsageError, match="refers to itself") as caught:
        config_of(data).resolve({})
    assert circle in caught.value.what
    assert "values of the config" not in caught.value.what


def test_a_long_chain_is_an_error_and_a_deep_config_is_none() -> None:
    links: dict[str, Any] = {f"k{i}": f"${{k{i + 1}}}" for i in range(500)} | {"k500": 1}
    with pytest.raises(UsageError, match="a chain of more than"):
        config_of(links).resolve({})
    deep: Any = "${top}"
    for _ in range(48):
        deep = {"d": deep}
    assert config_of({"top": 1, "deep": deep}).resolve({}).data["top"] == 1


def test_references_that_double_with_every_line_end() -> None:
    texts = {"t0": "x" * 100} | {f"t{i}": f"${{t{i - 1}}}${{t{i - 1}}}" for i in range(1, 60)}
    with pytest.raises(UsageError, match="more than 16 MB of text"):
        config_of(texts).resolve({})
    lists: dict[str, Any] = {"l0": ["x"]} | {f"l{i}": [f"${{l{i - 1}}}"] * 2 for i in range(1, 60)}
    with pytest.raises(UsageError, match="more than 100000 values"):
        config_of(lists | {"sum": "${mul:${l59},2}"}).resolve({})
    wide: dict[str, Any] = {"base": ["x"] * 10_000} | {f"w{i}": "${base}" for i in range(30)}
    with pytest.raises(UsageError, match="the config has more than 100000 values"):
        config_of(wide).resolve({})


def test_two_threads_with_two_environments() -> None:
    config = config_of({"a": "${oc.env:WHO}-${mul:2,${n}}", "n": 3})
    found: dict[str, set[str]] = {}

    def work(who: str) -> None:
        found[who] = {config.resolve({"WHO": who}).data["a"] for _ in range(15)}

    threads = [threading.Thread(target=work, args=(who,)) for who in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": {"one-6"}, "two": {"two-6"}}


def test_no_resolver_is_registered_for_the_process() -> None:
    before = {name for name in ("add", "mul", "div", "max") if OmegaConf.has_resolver(name)}
    resolved("${mul:2,${n}}")
    assert {name for name in ("add", "mul", "div", "max") if OmegaConf.has_resolver(name)} == before


class TestKeep:
    def test_kept_expressions_stay_and_are_listed(self) -> None:
        data = {"m": "${art:base,path}", "ref": "${m}/x", "mount": "${auto_mount:git+https://h/r@v1,/opt}"}
        found = config_of(data).resolve({}, keep=("art", "auto_mount"))
        assert found.data == data | {"ref": "${art:base,path}/x"}
        assert [(late.key, late.reason, late.expression) for late in found.late] == [
            ("m", "art", "${art:base,path}"),
            ("ref", "art", "${art:base,path}"),
            ("mount", "auto_mount", "${auto_mount:git+https://h/r@v1,/opt}"),
        ]

    def test_what_they_refer_to_in_the_config_is_filled_in(self) -> None:
        data = {"run": {"name": "big model"}, "m": "${art:${run.name},${n}}", "n": 3}
        found = config_of(data).without("run").resolve({}, keep=("art",))
        assert found.data["m"] == "${art:'big model',3}"

    def test_all_of_the_environment_can_be_kept(self) -> None:
        found = config_of({"a": "${oc.env:HOME}/x", "b": "${oc.env:PWD,/d}"}).resolve(
            {"HOME": "/h"}, keep=("oc.env",)
        )
        assert found.data == {"a": "${oc.env:HOME}/x", "b": "${oc.env:PWD,/d}"}
        assert [(late.variable, late.reason) for late in found.late] == [
            ("HOME", "oc.env"),
            ("PWD", "oc.env"),
        ]

    def test_a_key_below_a_kept_value_keeps_the_whole_text(self) -> None:
        found = config_of({"info": "${art:base}", "p": "${info.path}/x"}).resolve({}, keep=("art",))
        assert found.data["p"] == "${info.path}/x"
        assert [late.key for late in found.late] == ["info", "p"]

    def test_without_keep_they_are_unknown(self) -> None:
        assert "there is no resolver 'art'" in refused("${art:base}").what


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS.filter(lambda text: "${" not in text and text != "???"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(data=PLAIN)
def test_a_config_without_interpolations_is_its_own_value(data: Any) -> None:
    found = config_of({"a": data}).resolve({})
    assert found == Resolved({"a": data})
    assert json.loads(json.dumps(found.data, allow_nan=False)) == found.data
