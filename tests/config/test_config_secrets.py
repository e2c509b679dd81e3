"""A secret never gets into a resolved config, by whatever way it is referred to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron.config.config import Config, Origin
from nemotron.config.interpolation import Resolved
from nemotron.config.keys import leaves
from nemotron.config.resolvers import is_secret
from nemotron.errors import NemotronError

VALUE = "s3cr3t-v4lue"


class Guarded(Mapping[str, str]):
    """An environment that notices when a secret is read."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return VALUE if is_secret(name) else f"/{name.lower()}"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def resolve(data: dict[str, Any]) -> Resolved:
    config = Config()
    for key, value in data.items():
        config = config.set(key, value, Origin("engine"))
    environ = Guarded()
    found = config.resolve(environ)
    assert not any(map(is_secret, environ.read))
    assert VALUE not in json.dumps(found.data) + repr(found.late)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "PASSWD",
        "GCP_CREDENTIALS",
        "MY_CREDENTIAL",
        "OPENAI_APIKEY",
        "hf_token",
        "TOKEN2",
        "KEY_1",
        "x.key",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "HOME",
        "MAX_TOKENS",
        "TOKENIZER",
        "TOKENIZERS_PARALLELISM",
        "KEYBOARD",
        "MONKEY",
        "SECRETARY",
        "PWD",
        "",
    ],
)
def test_names_that_only_look_like_secrets(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("${oc.env:HF_TOKEN}", "${oc.env:HF_TOKEN}"),
        ("${oc.env:HF_TOKEN,/none}", "${oc.env:HF_TOKEN,/none}"),
        ("${oc.env:HF_TOKEN,null}", "${oc.env:HF_TOKEN,null}"),
        ("Bearer ${oc.env:HF_TOKEN}!", "Bearer ${oc.env:HF_TOKEN}!"),
        ("${oc.env:HOME}/${oc.env:HF_TOKEN}", "/home/${oc.env:HF_TOKEN}"),
        ("${oc.env:${which}}", "${oc.env:'HF_TOKEN'}"),
        ("${oc.env:HF_TOKEN,${which}}", "${oc.env:HF_TOKEN,'HF_TOKEN'}"),
        ("${oc.decode:${oc.env:HF_TOKEN}}", "${oc.decode:${oc.env:HF_TOKEN}}"),
        ("${oc.decode:'${oc.env:HF_TOKEN}'}", "${oc.decode:'${oc.env:HF_TOKEN}'}"),
        ("${oc.decode:'\\${oc.env:HF_TOKEN}'}", "${oc.env:HF_TOKEN}"),
        ("${oc.env:HOME,${oc.env:HF_TOKEN}}", "/home"),
        ("${oc.env:${oc.env:HF_TOKEN}}", "${oc.env:${oc.env:HF_TOKEN}}"),
        ("${mul:${oc.env:HF_TOKEN},2}", "${mul:${oc.env:HF_TOKEN},2}"),
        ("${oc.select:direct}", "${oc.env:HF_TOKEN}"),
        ("${oc.select:nope,${direct}}", "${oc.env:HF_TOKEN}"),
        ("${direct}", "${oc.env:HF_TOKEN}"),
        ("${twice}", "${oc.env:HF_TOKEN}"),
        ("x/${twice}", "x/${oc.env:HF_TOKEN}"),
        ("${section.inner}", "${oc.env:HF_TOKEN}"),
        ("\\${oc.env:HF_TOKEN}${direct}", "\\${oc.env:HF_TOKEN}${oc.env:HF_TOKEN}"),
    ],
)
def test_a_secret_stays_an_expression(text: str, stays: str) -> None:
    data = {
        "which": "HF_TOKEN",
        "direct": "${oc.env:HF_TOKEN}",
        "twice": "${direct}",
        "section": {"inner": "${direct}"},
    }
    found = resolve(data | {"a": text})
    assert found.data["a"] == stays
    listed = [late for late in found.late if late.key == "a"]
    if stays == "/home":
        assert not listed
    else:
        assert "HF_TOKEN" in [late.variable for late in listed]
        assert {late.reason for late in listed} == {"secret"}


def test_a_copied_section_takes_its_secrets_along_unread() -> None:
    found = resolve(
        {"wandb": {"key": "${oc.env:WANDB_API_KEY}", "n": [1]}, "copy": "${wandb}", "list": ["${wandb.key}"]}
    )
    assert found.data["copy"] == {"key": "${oc.env:WANDB_API_KEY}", "n": [1]}
    assert [late.key for late in found.late] == ["wandb.key", "copy.key", "list.0"]


def test_a_secret_twice_in_one_text_is_listed_once() -> None:
    found = resolve({"a": "${oc.env:HF_TOKEN}:${oc.env:HF_TOKEN}"})
    assert [late.key for late in found.late] == ["a"]


PARTS = st.sampled_from(
    [
        "${oc.env:HF_TOKEN}",
        "${oc.env:API_KEY,${oc.env:HF_TOKEN}}",
        "${b}",
        "${c}",
        "${s}",
        "${s.t}",
        "x",
        "'",
        "${oc.env:HOME}",
        "${oc.env:NONE,${b}}",
        "${oc.env:${b}}",
        "${oc.select:c}",
        "${oc.decode:${b}}",
        "\\",
        "\\${x}",
        "${mul:${b},1}",
    ]
)
TEXTS = st.lists(PARTS, min_size=1, max_size=4).map("".join)


@settings(max_examples=200, deadline=None)
@given(a=TEXTS, b=TEXTS, c=TEXTS, t=TEXTS)
def test_no_way_of_referring_reads_a_secret(a: str, b: str, c: str, t: str) -> None:
    try:
        found = resolve({"a": a, "b": b, "c": c, "s": {"t": t}})
    except NemotronError as error:
        assert VALUE not in error.render()
        return
    named = {late.key for late in found.late}
    for key, text in leaves(found.data):
        live = text.replace("\\\\", "").replace("\\${", "")
        assert ("${" in live) == (key in named)


@settings(max_examples=80, deadline=None)
@given(before=st.text("a$\\{}' ", max_size=6), after=st.text("a$\\{}' ", max_size=6))
def test_the_text_around_a_secret_reads_back_as_it_was(before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", VALUE)
        config = Config().set("a", "${x}${oc.env:HF_TOKEN}${y}", Origin("engine"))
        environ = {"BEFORE": before, "AFTER": after}
        config = config.set("x", "${oc.env:BEFORE}", Origin("engine")).set(
            "y", "${oc.env:AFTER}", Origin("engine")
        )
        found = config.resolve(environ).data["a"]
        assert OmegaConf.create({"a": found}).a == before + VALUE + after
