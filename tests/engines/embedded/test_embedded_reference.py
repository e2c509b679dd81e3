"""DPO against a reference that is not the policy itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def other_reference(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with other weights."""
    where = tmp_path / "reference"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    model.save_pretrained(where)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(where)
    return where


def test_the_policy_is_held_to_the_reference_that_is_given(
    training_config: Callable[..., dict[str, Any]],
    train: Callable[..., int],
    metrics_of: Callable[[Path], list[dict[str, Any]]],
    tiny_model: Path,
    other_reference: Path,
    tmp_path: Path,
) -> None:
    losses = {}
    for name, reference in (("none", None), ("itself", tiny_model), ("other", other_reference)):
        given = {"embedded.reference_model": str(reference) if reference else None}
        assert train(training_config("dpo", {"dpo.max_num_steps": 1, **given}), tmp_path / name) == 0
        losses[name] = next(row["train/loss"] for row in metrics_of(tmp_path / name) if "train/loss" in row)
    # Before the first update the policy is its own reference, and both answers are as likely as they were.
    assert losses["none"] == pytest.approx(math.log(2), abs=1e-5)
    assert losses["itself"] == pytest.approx(losses["none"], abs=1e-6)
    assert abs(losses["other"] - math.log(2)) > 1e-3


def test_a_reference_that_is_not_there_is_named(
    training_config: Callable[..., dict[str, Any]], train: Callable[..., int], tmp_path: Path
) -> None:
    config = training_config("dpo", {"embedded.reference_model": str(tmp_path / "gone")})
    assert train(config, tmp_path / "run") == 3
    assert "embedded.reference_model" in (tmp_path / "run" / "failure.json").read_text(encoding="utf-8")
