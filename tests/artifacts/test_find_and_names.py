"""What a person types or pastes finds the artifact; names, aliases and taint are records like any other."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from nemotron.artifacts.collection import Artifacts, split_label
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.naming import name_artifact
from nemotron.artifacts.records import ArtifactRecord, AttemptRecord, read_records, write_record
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError

AT = "2026-05-01T10:00:00.000Z"
RUN = "sft-nemo_rl-20260501-100000-abcd"
OTHER = "sft-nemo_rl-20260502-100000-abcd"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """data (a file) -> RUN -> policy and notes; policy -> OTHER, which left nothing."""
    store = Store(tmp_path / "store")
    made: dict[str, str] = {}
    for name in ("data", "policy", "notes"):
        place = tmp_path / name
        place.mkdir()
        (place / "rows.jsonl").write_text(f'{{"{name}": 1}}\n', encoding="utf-8")
        made[name] = digest_path(place).value
    common = {"attempt": 1, "phase": "ended", "at": AT, "exit_code": 0}
    runs = {RUN: {"data": {"digest": made["data"]}}, OTHER: {"policy": {"digest": made["policy"]}}}
    for run, inputs in runs.items():
        write_record(store.records_dir, AttemptRecord(run_id=run, inputs=inputs, **common))  # type: ignore[arg-type]
    for name in ("policy", "notes"):
        record = ArtifactRecord(
            id=f"{RUN}.{name}", type="checkpoint_hf", path=str(tmp_path / name), at=AT, digest=made[name],
            made_by={"run_id": RUN, "port": name},
        )  # fmt: skip
        write_record(store.records_dir, record)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return Artifacts(store, environ=environ, cwd=tmp_path)


def digest(artifacts: Artifacts, name: str) -> str:
    return digest_path(artifacts.cwd / name).value


def test_an_artifact_is_found_by_whatever_names_it(artifacts: Artifacts, tmp_path: Path) -> None:
    policy = digest(artifacts, "policy")
    artifacts.name(policy, "policies/warm")
    artifacts.alias(policy, "policies/warm", "best")
    hexadecimal = policy.removeprefix("blake3:")
    for text in (
        policy,
        hexadecimal,
        hexadecimal[:4],
        policy[:20],
        f"{RUN}.policy",
        f"run://{RUN}/policy",
        f"run://{RUN[:-3]}/policy",
        "policy",
        "./policy",
        str(tmp_path / "policy"),
        f"file://{tmp_path}/policy",
        "policy/rows.jsonl",
        "policies/warm",
        "policies/warm:v1",
        "policies/warm:best",
        "art://policies/warm:latest",
        f"art://policies/warm@{hexadecimal[:10]}",
    ):
        assert artifacts.find(text).idents == (policy,), text


def test_a_run_means_all_that_it_left(artifacts: Artifacts) -> None:
    assert set(artifacts.find(RUN).idents) == {digest(artifacts, "policy"), digest(artifacts, "notes")}
    with pytest.raises(UsageError) as caught:
        artifacts.find(RUN).one()
    assert len(caught.value.valid) == 2


def test_a_copy_of_known_content_is_found_by_its_content(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "rows.jsonl").write_bytes((tmp_path / "data" / "rows.jsonl").read_bytes())
    found = artifacts.find("copy")
    assert (found.idents, found.how) == ((digest(artifacts, "data"),), "content")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("nothing", NotFound, "nothing is recorded of nothing"),
        ("art://policies/wram", NotFound, "policies/warm"),
        ("policies/warm:v7", NotFound, "has no v7"),
        ("policies/warm:bset", NotFound, "best"),
        ("run://sft-nemo_rl-2026/policy", UsageError, "several runs"),
        ("run://nope/policy", NotFound, "no run nope"),
        (f"run://{RUN}/polciy", NotFound, "policy"),
        (f"run://{OTHER}/policy", NotFound, "left nothing"),
        ("step://sft/nemo_rl?config=tiny", UsageError, "steps run sft/nemo_rl -d"),
        ("hf://org/unknown", NotFound, "hf://org/unknown"),
        ("/nowhere/at/all", NotFound, "/nowhere/at/all"),
        ("\x1b[31mred", NotFound, "\\x1b[31mred"),
    ],
)
def test_what_is_not_there_is_told_with_what_is_near(
    artifacts: Artifacts, text: str, kind: type[NemotronError], said: str
) -> None:
    artifacts.alias(digest(artifacts, "policy"), "policies/warm", "best")
    with pytest.raises(kind) as caught:
        artifacts.find(text)
    assert said in caught.value.render()


def test_an_ambiguous_beginning_of_a_digest_lists_the_choices(artifacts: Artifacts) -> None:
    for number in range(20):
        record = ArtifactRecord(
            id=f"r{number}", type="t", path=f"/x/{number}", at=AT, digest=f"blake3:beef{number:060x}"
        )
        write_record(artifacts.store.records_dir, record)
    with pytest.raises(UsageError) as caught:
        artifacts.find("beef")
    assert caught.value.valid[-1] == "..."


def test_versions_count_up_and_the_same_content_keeps_its_version(artifacts: Artifacts) -> None:
    names = [digest(artifacts, name) for name in ("policy", "notes", "policy", "data")]
    assert [artifacts.name(ident, "n") for ident in names] == [1, 2, 1, 3]
    assert artifacts.find("n").idents == (names[3],)


@pytest.mark.parametrize("name", ["", ".", "a//b", "-a", "a b", "a:b", "x" * 200, "a/../b", "é", "$(x)"])
def test_a_word_that_cannot_be_a_name_is_refused(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(UsageError):
        name_artifact(artifacts.store, artifacts.index, digest(artifacts, "policy"), name)
    assert not (artifacts.store.root / "claims").exists()


@pytest.mark.parametrize("alias", ["v3", "latest", "1st", "-x", "a b", "a/b", "x" * 200])
def test_a_word_that_cannot_be_an_alias_is_refused(artifacts: Artifacts, alias: str) -> None:
    with pytest.raises(UsageError):
        artifacts.alias(digest(artifacts, "policy"), "n", alias)


def test_an_alias_moves_and_can_be_taken_away(artifacts: Artifacts) -> None:
    first, second = digest(artifacts, "policy"), digest(artifacts, "notes")
    artifacts.alias(first, "n", "production", reason="won the review")
    assert artifacts.alias(second, "n", "production") == 2
    assert artifacts.find("n:production").idents == (second,)
    artifacts.remove_alias("n", "production")
    with pytest.raises(NotFound):
        artifacts.find("n:production")
    with pytest.raises(NotFound):
        artifacts.remove_alias("n", "production")
    assert artifacts.find("n:v1").idents == (first,)


def test_taint_reaches_descendants_blocks_promotion_and_can_be_lifted(artifacts: Artifacts) -> None:
    data, policy = digest(artifacts, "data"), digest(artifacts, "policy")
    affected = artifacts.taint("data", "holds test questions")
    assert {policy, digest(artifacts, "notes")} <= set(affected.artifacts)
    with pytest.raises(CheckFailed) as caught:
        artifacts.alias(policy, "n", "production")
    said = caught.value.render()
    assert "holds test questions" in said and data[:19] in said and "--waive artifact.tainted" in said
    assert artifacts.index.versions("n") == ()
    with pytest.raises(NotFound, match="nothing was said against this artifact itself"):
        artifacts.lift_taint(policy)
    assert artifacts.lift_taint("data", "a mistake") == data
    assert artifacts.alias(policy, "n", "production") == 1


def test_a_waived_taint_is_recorded_with_the_promotion(artifacts: Artifacts) -> None:
    artifacts.taint("data", "wrong")
    artifacts.alias(digest(artifacts, "policy"), "n", "best", waived=["artifact.tainted"])
    records = [r for r in read_records(artifacts.store.records_dir) if getattr(r, "event", "") == "alias"]
    (record,) = records
    assert "artifact.tainted" in record.waived  # type: ignore[union-attr]


def test_a_taint_without_a_reason_is_refused(artifacts: Artifacts) -> None:
    with pytest.raises(UsageError):
        artifacts.taint("data", " ")


def test_names_claimed_at_once_get_different_versions(artifacts: Artifacts) -> None:
    idents = [f"blake3:{number:064x}" for number in range(12)]
    for number, ident in enumerate(idents):
        record = ArtifactRecord(id=f"r{number}", type="t", path=f"/x/{number}", at=AT, digest=ident)
        write_record(artifacts.store.records_dir, record)
    arguments = [(artifacts.store, dict(artifacts.environ), ident) for ident in idents]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        numbers = pool.starmap(_named, arguments)
    assert sorted(numbers) == list(range(1, 13))
    found = {
        v.version: v.subject
        for v in Artifacts(artifacts.store, environ=artifacts.environ).index.versions("n")
    }
    assert [found[n] for n in numbers] == idents


def _named(store: Store, environ: dict[str, str], ident: str) -> int:
    return Artifacts(store, environ=environ, cwd=Path("/")).name(ident, "n")


def test_labels_are_split_at_the_colon() -> None:
    assert split_label("art://a/b:c") == ("a/b", "c")
    assert split_label("a/b") == ("a/b", None)
    with pytest.raises(UsageError):
        split_label("a:")
