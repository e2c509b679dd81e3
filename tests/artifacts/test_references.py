from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron.artifacts.references import FORMS, Reference, bare_hub_id, parse_reference
from nemotron.errors import UsageError

CWD = Path("/home/ann/here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/train.jsonl", Reference("path", "/home/ann/here/data/train.jsonl")),
        ("./a b.jsonl", Reference("path", "/home/ann/here/a b.jsonl")),
        ("/data/x", Reference("path", "/data/x")),
        ("../x", Reference("path", "/home/ann/here/../x")),
        ("~/x", Reference("path", str(Path.home() / "x"))),
        ("a:b@c?d=e", Reference("path", "/home/ann/here/a:b@c?d=e")),
        ("file:///data/a%20b", Reference("path", "/data/a b")),
        ("s3://bucket/a b/key?versionId=1", Reference("url", "s3://bucket/a b/key?versionId=1")),
        ("https://host/x#y", Reference("url", "https://host/x#y")),
        ("run://rlhf-2026", Reference("run", "rlhf-2026")),
        ("run://rlhf-2026-/policy", Reference("run", "rlhf-2026-", port="policy")),
        ("hf://nvidia/Nemotron-Nano", Reference("hf", "nvidia/Nemotron-Nano")),
        ("hf://a/b@refs/pr/1", Reference("hf", "a/b", version="refs/pr/1")),
        ("art://reward", Reference("art", "reward")),
        ("art://team/reward:v3", Reference("art", "team/reward", version="v3")),
        ("art://reward:best", Reference("art", "reward", version="best")),
        ("art://reward@blake3:0123abcd", Reference("art", "reward", digest="blake3:0123abcd")),
        ("art://reward@0123abcd", Reference("art", "reward", digest="blake3:0123abcd")),
        ("step://rl/nemo_rl/rlhf", Reference("step", "rl/nemo_rl/rlhf")),
        ("step://theirs:sft?config=tiny", Reference("step", "theirs:sft", config="tiny")),
        (
            "step://sft/automodel?b=1&config=tiny&output=policy&engine=embedded&+a.c=x%26y%3D%25+z&b=",
            Reference(
                "step",
                "sft/automodel",
                port="policy",
                config="tiny",
                engine="embedded",
                overrides=("b=1", "+a.c=x&y=%+z", "b="),
            ),
        ),
        ("step://sft?a=[1,2]&b={x: 1}", Reference("step", "sft", overrides=("a=[1,2]", "b={x: 1}"))),
        ("step://sft?c=a=b", Reference("step", "sft", overrides=("c=a=b",))),
    ],
)
def test_every_form_is_read_and_written_back(text: str, expected: Reference) -> None:
    reference = parse_reference(text, cwd=CWD)
    assert reference == expected
    assert parse_reference(str(reference), cwd=Path("/elsewhere")) == reference


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "NUL"),
        ("step://sft?a=%00", "NUL"),
        ("step://", "step is missing"),
        ("step://?config=tiny", "step is missing"),
        ("step:///sft", "no step id"),
        ("step://sft/?config=tiny", "no step id"),
        ("step://a//b", "no step id"),
        ("step://../x", "no step id"),
        ("step://sft?config", "KEY=VALUE"),
        ("step://sft?config=tiny&", "KEY=VALUE"),
        ("step://sft?=1", "KEY=VALUE"),
        ("step://sft?+=1", "KEY=VALUE"),
        ("step://sft?config=", "empty"),
        ("step://sft?config=a&config=b", "twice"),
        ("step://sft?a%3Db=1", "equals"),
        ("step://sft?a=100%", "percent"),
        ("step://sft?a=%ff", "not UTF-8"),
        ("run://", "run is missing"),
        ("run:///policy", "run is missing"),
        ("run://x/", "at most one port"),
        ("run://x/a/b", "at most one port"),
        ("run://../policy", "at most one port"),
        ("hf://nvidia", "ORG/NAME"),
        ("hf://", "ORG/NAME"),
        ("hf://datasets/nvidia/x", "ORG/NAME"),
        ("hf://a/b@", "revision"),
        ("hf://a/b@x y", "revision"),
        ("art://", "name is missing"),
        ("art://:v3", "name is missing"),
        ("art://reward:", "version"),
        ("art://reward@", "digest"),
        ("art://reward@xyz", "digest"),
        ("art://reward@sha256:0123abcd", "digest"),
        ("art://reward:v3@0123abcd", "at once"),
        ("art://a b", "artifact name"),
        ("s3://", "nothing after"),
        ("file://host/x", "absolute path"),
        (" hf://a/b", "blanks"),
        ("~no-such-user-at-all/x", "home directory"),
        ("a\ud800", "no file can have this name"),
    ],
)
def test_a_malformed_reference_says_what_is_wrong_and_what_is_valid(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text, cwd=CWD)
    assert says in caught.value.what
    assert caught.value.valid == FORMS
    caught.value.render().encode("utf-8")


@pytest.mark.parametrize(
    ("text", "near"),
    [("stpe://sft", "step://"), ("HF://a/b", "hf://"), ("htps://x/y", "https://"), ("s3a://b/k", "s3://")],
)
def test_an_unknown_scheme_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text, cwd=CWD)
    assert near in caught.value.nearest


@pytest.mark.parametrize(
    ("text", "meant"),
    [("s3:/bucket/x", "s3://bucket/x"), ("step:rl/rlhf", "step://rl/rlhf"), ("hf:a/b", "hf://a/b")],
)
def test_a_missing_slash_does_not_become_a_directory_named_like_a_scheme(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text, cwd=CWD)
    assert caught.value.nearest == (meant,)
    assert parse_reference(f"./{text}", cwd=CWD).kind == "path"


words = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,8}[A-Za-z0-9_])?", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
keys = values.map(lambda text: text.replace("=", "")).filter(
    lambda key: key.lstrip("+~") and key not in ("config", "output", "engine")
)
steps = st.builds(
    Reference,
    st.just("step"),
    st.lists(words, min_size=1, max_size=3).map("/".join),
    port=st.none() | values.filter(bool),
    config=st.none() | values.filter(bool),
    engine=st.none() | values.filter(bool),
    overrides=st.lists(st.tuples(keys, values).map("=".join), max_size=4).map(tuple),
)
names = st.lists(words, min_size=1, max_size=3).map("/".join)
hub_ids = st.tuples(words, words).map("/".join)
others = st.one_of(
    st.builds(Reference, st.just("run"), words, port=st.none() | words),
    st.builds(
        Reference,
        st.just("hf"),
        hub_ids,
        version=st.none() | st.sampled_from(["main", "refs/pr/1", "0" * 40]),
    ),
    st.builds(Reference, st.just("art"), names, version=st.none() | words),
    st.builds(
        Reference, st.just("art"), names, digest=st.from_regex(r"blake3:[0-9a-f]{8,64}", fullmatch=True)
    ),
)


@given(steps | others)
def test_a_reference_survives_its_text(reference: Reference) -> None:
    text = str(reference)
    assert parse_reference(text, cwd=CWD) == reference
    assert text.isprintable()


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = parse_reference(text, cwd=CWD)
    except UsageError as error:
        error.render().encode("utf-8")
    else:
        assert parse_reference(str(reference), cwd=Path("/elsewhere")) == reference


def test_a_bare_hub_id_is_one_only_where_no_such_path_exists(tmp_path: Path) -> None:
    assert bare_hub_id("nvidia/Nemotron", cwd=tmp_path) == Reference("hf", "nvidia/Nemotron")
    assert bare_hub_id("nvidia/Nemotron@v1", cwd=tmp_path) == Reference("hf", "nvidia/Nemotron", version="v1")
    (tmp_path / "nvidia" / "Nemotron").mkdir(parents=True)
    assert bare_hub_id("nvidia/Nemotron", cwd=tmp_path) is None


@pytest.mark.parametrize(
    "text", ["gpt2", "a/b/c", "./a/b", "/a/b", "~/b", "a/", "a/b@", "hf://a/b", "a/b c", "../b"]
)
def test_what_is_no_hub_id_stays_a_path(tmp_path: Path, text: str) -> None:
    assert bare_hub_id(text, cwd=tmp_path) is None
