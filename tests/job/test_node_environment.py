"""What a node's processes find in their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron.job.nodes.environment import node_environment


def test_all_nodes_agree_on_whether_ray_wants_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    ray = {"launch": "ray", "environment": {}}
    assert node_environment(tmp_path, ray)["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_MODE" not in node_environment(tmp_path, {**ray, "launch": "torchrun"})
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert node_environment(tmp_path, ray)["RAY_AUTH_MODE"] == "token", "who asks for it gets it"
