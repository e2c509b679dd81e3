"""Lepton that does not answer: no job is lost, none is submitted twice, and what is not known is said so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lepton_stand_in import _Handler
from lepton_worlds import Place, lepton_place, needs_namespaces

from nemotron.artifacts.submissions import Journal

pytestmark = needs_namespaces
STEP = ("steps", "run", "make/rows", "-b", "lep")
GATEWAY = (504, {"message": "gateway timeout"})


@pytest.fixture
def place(world: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with lepton_place(world, monkeypatch) as made:
        yield made


def is_run(method: str, words: list[str], body: Any) -> bool:
    return (method, *words) == ("POST", "jobs") and "busybox" not in body["spec"]["container"]["image"]


def answering(monkeypatch: pytest.MonkeyPatch, *, creates: bool, tells: bool) -> None:
    """Have the call that creates a run's job go unanswered; tells: whether jobs are shown afterwards."""
    answer = _Handler._answer

    def lost(handler: Any, method: str, words: list[str], query: dict[str, str], body: Any) -> Any:
        if is_run(method, words, body):
            if creates:
                answer(handler, method, words, query, body)
            return GATEWAY
        if method == "GET" and words[0] == "jobs" and not tells and "-m1" not in words[-1]:
            return GATEWAY
        return answer(handler, method, words, query, body)

    monkeypatch.setattr(_Handler, "_answer", lost)


def test_silence_before_a_job_is_asked_for_leaves_nothing_to_find_out(place: Place) -> None:
    place.lepton.refuse[("GET", "/dedicated-node-groups")] = GATEWAY
    done = place.run(*STEP)
    assert done.code == 6
    assert "gateway timeout" in done.err and "not known" not in done.err
    (run,) = place.world.runs()
    assert not Journal(run).unanswered() and not place.posted()
    del place.lepton.refuse[("GET", "/dedicated-node-groups")]
    assert place.run(*STEP).code == 0, "the same command goes on"
    assert len(place.posted()) == 1


def test_a_job_that_was_created_by_a_call_without_an_answer_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, creates=True, tells=True)
    done = place.run(*STEP)
    assert done.code == 0, done.err
    assert len(place.posted()) == 1
    assert place.run("runs", "wait", done.out.strip()).code == 0


def test_a_job_of_which_nothing_is_known_is_found_later_and_not_submitted_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as silence:
        answering(silence, creates=True, tells=False)
        done = place.run(*STEP)
        assert done.code == 6
        assert "is not known" in done.err and "runs show" in done.err
        again = place.run(*STEP)
        assert again.code in (5, 6)
    (run,) = place.world.runs()
    assert len(place.posted()) == 1
    waited = place.run("runs", "wait", run.name)
    assert waited.code == 0, waited.err
    assert len(place.posted()) == 1 and len(Journal(run).submitted()) == 1


def test_a_job_that_was_never_created_counts_as_such_after_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as silence:
        answering(silence, creates=False, tells=False)
        assert place.run(*STEP).code == 6
    (run,) = place.world.runs()
    assert place.run(*STEP).code == 5, "its call may still arrive"
    journal = run / "submissions.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps({**x, "at": "2020-01-01T00:00:00.000Z"}) + "\n" for x in lines))
    done = place.run(*STEP)
    assert done.code == 0, done.err
    assert len(place.posted()) == 2 and len(place.world.runs()) == 1
