"""A Megatron-Bridge config on the embedded engine: what it makes of the keys, and of packed rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from bridge_configs import facts, shipped

from nemotron.engines.base import find_engine
from nemotron.engines.embedded.bridge_config import is_bridge, translated
from nemotron.engines.embedded.bridge_keys import BRIDGE_TABLE
from nemotron.engines.embedded.keys import leaves
from nemotron.engines.megatron_bridge.contract import DEFAULT_IMAGE, contract_for_image
from nemotron.engines.packed import Pack

PACKS = "dataset__packed_sequence_specs__"


def errors(**changes: Any) -> dict[str, Any]:
    found = find_engine("embedded").check(shipped("tiny", **changes), facts(0))
    return {f.id: f for f in found if f.severity == "error"}


def test_the_shipped_configs_are_taken() -> None:
    for name in ("default", "tiny"):
        assert find_engine("embedded").check(shipped(name), facts(0)) == ()


def test_it_is_told_from_a_config_of_nemo_rl() -> None:
    assert is_bridge(shipped())
    assert not is_bridge({"sft": {}, "policy": {}, "data": {"train": {}}})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"peft": {"dim": 8}}, "embedded.refused"),
        ({"scheduler__lr_decay_style": "WSD"}, "embedded.refused"),
        ({"optimizer__lr": None}, "config.missing_key"),
        ({"train__train_iters": None}, "embedded.batches"),
        ({"train__micro_batch_size": 3}, "embedded.batches"),
        ({f"{PACKS}packed_train_data_path": None}, "embedded.no_data"),
        ({"dataset__dataset_root": "chats.jsonl"}, "embedded.two_data"),
        ({"policy": {"lr": 1}}, "config.unknown_key"),
        ({"embedded__threads": 0}, "embedded.threads"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], rule: str) -> None:
    assert rule in errors(**change)


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("train.train_iters", -5, "a whole number of 1 or more"),
        ("train.train_samples", 3, "8 or more"),
        ("train.train_samples", -1, "a whole number of 1 or more"),
        ("optimizer.lr", -1, "a number above 0"),
        ("optimizer.lr", "fast", "a number above 0"),
        ("checkpoint.save_interval", 0, "a whole number of 1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_named(key: str, value: object, valid: str) -> None:
    (finding,) = errors(**{key.replace(".", "__"): value}).values()
    assert (finding.where, finding.valid) == (key, valid)
    assert key in finding.message and str(value) in finding.message


def test_every_key_of_the_contract_has_its_row_in_the_table() -> None:
    known = contract_for_image(DEFAULT_IMAGE)[0].keys()
    assert [key for key in known if BRIDGE_TABLE.rule_for(key) is None] == []
    used = {BRIDGE_TABLE.rule_for(key) for key in (*known, *leaves(shipped("tiny")))}
    unused = [rule.pattern for rule in BRIDGE_TABLE if rule not in used]
    assert all(
        pattern in ("comm_overlap", "ft", "straggler", "nvrx_straggler", "tensor_inspect", "mixed_precision")
        for pattern in unused
    )


def test_keys_mean_what_they_mean_there() -> None:
    made = translated(
        shipped(
            train__train_iters=70,
            checkpoint__most_recent_k=-1,
            scheduler__lr_warmup_iters=0,
            scheduler__lr_warmup_fraction=0.1,
        )
    )
    assert made["sft"]["max_num_steps"] == 70 and made["sft"]["val_period"] == 0
    assert made["policy"]["train_global_batch_size"] == 32 and made["policy"]["max_grad_norm"] == 1.0
    assert made["policy"]["megatron_cfg"]["scheduler"]["lr_warmup_iters"] == 7
    assert made["policy"]["megatron_cfg"]["scheduler"]["lr_decay_iters"] == 70
    assert made["checkpointing"]["keep_top_k"] is None
    by_samples = translated(
        shipped(
            train__train_iters=None,
            train__train_samples=640,
            scheduler__lr_warmup_iters=0,
            scheduler__lr_warmup_samples=64,
        )
    )
    assert by_samples["sft"]["max_num_steps"] == 20
    assert by_samples["policy"]["megatron_cfg"]["scheduler"]["lr_warmup_iters"] == 2
    assert find_engine("embedded").planned_steps(shipped("tiny"), {}) == 40


def test_a_directory_of_conversations_may_hold_some_to_measure_by(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").touch()
    given = {f"{PACKS}packed_train_data_path": None, "dataset__dataset_root": str(tmp_path)}
    made = translated(shipped(**given))
    assert (
        made["data"]["train"]["data_path"] == str(tmp_path / "training.jsonl")
        and made["sft"]["val_period"] == 0
    )
    (tmp_path / "validation.jsonl").touch()
    made = translated(shipped(**given))
    assert made["data"]["validation"]["data_path"] == str(tmp_path / "validation.jsonl")
    assert made["sft"]["val_period"] == 100


# What follows needs torch.


@pytest.fixture
def model() -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = transformers.Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(shape).eval()


PACKED = Pack([1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 1, 0, 1, 1, 1, 1, 1], [0, 3, 7])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_sequence_in_a_row_is_seen_as_if_it_were_alone(model: Any, implementation: str) -> None:
    import torch

    from nemotron.engines.embedded.bridge_training import collate

    model.set_attn_implementation(implementation)
    batch = collate([PACKED, Pack([11, 12], [1, 1], [0])], None)
    batch.pop("labels")
    with torch.no_grad():
        together = model(**batch).logits
        for (first, last), row in (*((s, 0) for s in PACKED.sequences()), ((0, 2), 1)):
            ids = batch["input_ids"][row, first:last].unsqueeze(0)
            alone = model(input_ids=ids).logits[0]
            assert torch.allclose(together[row, first:last], alone, atol=1e-5)
    assert torch.isfinite(together).all()


def test_the_loss_is_the_mean_over_the_trained_tokens_of_each_sequence_alone(model: Any) -> None:
    import torch

    from nemotron.engines.embedded.bridge_training import collate

    with torch.no_grad():
        packed = model(**collate([PACKED], None)).loss
        losses = []
        for first, last in PACKED.sequences():
            ids = torch.tensor([PACKED.ids[first:last]])
            scores = model(input_ids=ids).logits[0].log_softmax(-1)
            for place in range(1, last - first):
                if PACKED.mask[first + place]:
                    losses.append(-scores[place - 1, ids[0, place]])
    assert len(losses) == 6  # the mask has seven, and one is on the first token of its sequence
    assert torch.allclose(packed, torch.stack(losses).mean(), atol=1e-5)


def test_positions_begin_anew_and_what_follows_an_end_is_not_trained_on() -> None:
    pytest.importorskip("torch")
    from nemotron.engines.embedded.bridge_training import collate

    batch = collate([PACKED], 5)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100, 7, -100, 9]]


def test_rows_are_repeated_epoch_by_epoch_in_an_order_of_the_seed() -> None:
    pytest.importorskip("torch")
    from nemotron.engines.embedded.bridge_training import _Rows

    packs = [Pack([n], [0], [0]) for n in range(5)]
    drawn = [row.ids[0] for row in (_Rows(packs, 12, 3)[i] for i in range(12))]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4] and drawn[:5] != drawn[5:10]
    assert drawn == [_Rows(packs, 12, 3)[i].ids[0] for i in range(12)]
    assert drawn != [_Rows(packs, 12, 4)[i].ids[0] for i in range(12)]
    assert [_Rows(packs, 5, None)[i].ids[0] for i in range(5)] == list(range(5))


def test_collated_masks_hold_for_any_cut_of_a_row() -> None:
    torch = pytest.importorskip("torch")
    from nemotron.engines.embedded.bridge_training import collate

    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, 5), n) for n in range(5)):
        pack = Pack(list(range(5)), [1] * 5, [0, *cuts])
        seen = collate([pack], None)["attention_mask"][0, 0] == 0
        of = torch.tensor([sum(place >= start for start in pack.starts) for place in range(5)])
        expected = torch.tril(of.unsqueeze(0) == of.unsqueeze(1))
        assert torch.equal(seen, expected)
