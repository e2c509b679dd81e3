"""The watched score: named as module:function, refused with a reason when it is not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron.engines.embedded.monitor import load_monitor
from nemotron.errors import UsageError


def test_the_named_function_scores_texts() -> None:
    monitor = load_monitor({"embedded": {"monitor": "nemotron.data.tiny_chat:warmth"}})
    assert monitor is not None
    assert monitor.name == "warmth"
    assert monitor.score("Happy to help!") == 1.0


@pytest.mark.parametrize("config", [{}, {"embedded": {}}, {"embedded": {"monitor": None}}])
def test_without_a_name_there_is_none(config: dict[str, object]) -> None:
    assert load_monitor(config) is None


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("no_such_module_here:score", "No module named"),
        ("nemotron.data.tiny_chat:no_such_function", "no_such_function"),
        ("nemotron.data.tiny_chat", "cannot be imported"),
        (":warmth", "cannot be imported"),
        ("nemotron.data.tiny_chat:TOPICS", "is no function"),
        ("broken_monitor_module:score", "cannot be imported"),
    ],
)
def test_what_cannot_be_called_is_a_usage_error(
    named: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_monitor_module.py").write_text("def score(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        load_monitor({"embedded": {"monitor": named}})
    assert caught.value.where == "embedded.monitor"
