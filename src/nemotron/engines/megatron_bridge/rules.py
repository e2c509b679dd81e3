"""Preflight rules: what Megatron-Bridge would find out with all GPUs allocated, or never.

Each rule is one function of a config and the GPUs it gets. Sums are checked where every number in them is
known; a value of the wrong type is the contract's to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nemotron.engines.megatron_bridge.values import Values
from nemotron.findings import Finding

PACKS = "dataset.packed_sequence_specs"
TRAIN_DATA, VALIDATION_DATA = f"{PACKS}.packed_train_data_path", f"{PACKS}.packed_val_data_path"
FILES = "dataset.dataset_root"
PRETRAINED = "checkpoint.pretrained_checkpoint"


@dataclass(frozen=True)
class Setting:
    """What rules look at: the config, the GPUs of the allocation, and rows and pack size where known."""

    values: Values
    world: int
    rows: int | None = None
    pack_size: int | None = None


def check(setting: Setting) -> Iterator[Finding]:
    """The findings of all rules, most basic first."""
    for rule in RULES:
        yield from rule(setting)


def _error(rule: str, key: str, what: str, valid: str | None = None, fix: str | None = None) -> Finding:
    return Finding(f"megatron_bridge.{rule}", "error", what, where=key, valid=valid, fix=fix)


def _warning(rule: str, key: str, what: str, valid: str | None = None, fix: str | None = None) -> Finding:
    return Finding(f"megatron_bridge.{rule}", "warning", what, where=key, valid=valid, fix=fix)


def _world(s: Setting) -> Iterator[Finding]:
    v = s.values
    sizes = [v.size(f"model.{name}_parallel_size") for name in ("tensor_model", "pipeline_model", "context")]
    if v.data_parallel(s.world) is None:
        yield _error(
            "world_size",
            "model.tensor_model_parallel_size",
            f"tensor {sizes[0]} x pipeline {sizes[1]} x context {sizes[2]} parallel = {v.model_parallel} "
            f"GPUs hold one copy of the model, and the {s.world} GPUs are no multiple of that",
            valid=f"sizes whose product divides {s.world}",
        )
    expert = v.size("model.expert_model_parallel_size")
    tensor = v.size("model.expert_tensor_parallel_size", sizes[0])
    product = expert * tensor * sizes[1]
    if expert > 1 and s.world % product:
        yield _error(
            "expert_parallel",
            "model.expert_model_parallel_size",
            f"expert {expert} x expert tensor {tensor} x pipeline {sizes[1]} parallel = {product}, and the "
            f"{s.world} GPUs are no multiple of that",
            valid=f"sizes whose product divides {s.world}",
        )


def _batches(s: Setting) -> Iterator[Finding]:
    v = s.values
    size, micro = v.whole("train.global_batch_size"), v.size("train.micro_batch_size")
    if v.packed and micro != 1:
        yield _error(
            "micro_batch",
            "train.micro_batch_size",
            f"train.micro_batch_size is {micro}: with packed rows Megatron-Bridge takes one at a time",
            valid="1, with longer rows in place of more of them",
            fix="train.micro_batch_size=1",
        )
    copies = v.data_parallel(s.world)
    if size is None or copies is None:
        return
    if size < 1 or size % (micro * copies):
        step = micro * copies
        fit = max(1, size // step) * step
        yield _error(
            "global_batch",
            "train.global_batch_size",
            f"train.global_batch_size is {size}, no multiple of micro batch {micro} x {copies} copies of the "
            f"model ({s.world} GPUs / {v.model_parallel})",
            valid=f"a multiple of {step}",
            fix=f"train.global_batch_size={fit}",
        )
    if s.rows is not None and s.rows < size:
        yield _warning(
            "few_rows",
            "train.global_batch_size",
            f"{s.rows} rows are fewer than one batch of {size}: a batch holds some of them several times",
            fix=f"train.global_batch_size={max(1, s.rows // (micro * copies)) * micro * copies}",
        )


def _lengths(s: Setting) -> Iterator[Finding]:
    v = s.values
    model, data = v.whole("model.seq_length"), v.whole("dataset.seq_length")
    packed = v.whole(f"{PACKS}.packed_sequence_size") if v.packed else None
    if model is not None and data is not None and model != data:
        what = f"model.seq_length is {model} and dataset.seq_length is {data}: they have to be the same"
        yield _error("seq_length", "dataset.seq_length", what, fix=f"dataset.seq_length={model}")
    if packed is not None and data is not None and packed != data:
        yield _error(
            "packed_length",
            f"{PACKS}.packed_sequence_size",
            f"{PACKS}.packed_sequence_size is {packed} and dataset.seq_length is {data}: the model is built "
            "for the one and fed the other",
            valid=str(data),
            fix=f"{PACKS}.packed_sequence_size={data}",
        )
    if s.pack_size is not None and packed is not None and s.pack_size > packed:
        yield _error(
            "packed_length",
            f"{PACKS}.packed_sequence_size",
            f"the data are packed to {s.pack_size} tokens a row, and the config reads {packed}",
            valid=f"{s.pack_size} or more, in model.seq_length and dataset.seq_length too",
            fix=f"pack with packing.pack_size={packed}",
        )
    length, tensor = model or data, v.size("model.tensor_model_parallel_size")
    if v.on("model.sequence_parallel"):
        if tensor == 1:
            what = "model.sequence_parallel splits rows among tensor parallel GPUs, and there is one"
            yield _error(
                "sequence_parallel", "model.sequence_parallel", what, fix="model.sequence_parallel=false"
            )
        elif length is not None and length % tensor:
            what = f"a row of {length} tokens cannot be split among {tensor} tensor parallel GPUs"
            yield _error("sequence_parallel", "model.seq_length", what, valid=f"a multiple of {tensor}")


def _context(s: Setting) -> Iterator[Finding]:
    v = s.values
    context = v.size("model.context_parallel_size")
    if context == 1:
        return
    pieces, length = 2 * context, v.whole("model.seq_length")
    if length is not None and length % pieces:
        what = f"model.seq_length is {length}: context parallel {context} splits a row into {pieces} pieces"
        yield _error("context_parallel", "model.seq_length", what, valid=f"a multiple of {pieces}")
    if not v.on("model.calculate_per_token_loss"):
        what = "with context parallelism a GPU may hold no trained token, and a mean of none is no number"
        fix = "model.calculate_per_token_loss=true"
        yield _error("context_parallel", "model.calculate_per_token_loss", what, fix=fix)
    if v.on("ddp.average_in_collective"):
        what = "with context parallelism losses are summed, not averaged, among GPUs"
        yield _error(
            "context_parallel", "ddp.average_in_collective", what, fix="ddp.average_in_collective=false"
        )
    multiple = v.size(f"{PACKS}.pad_seq_to_mult")
    if v.packed and multiple % pieces:
        what = f"each conversation of a row is split into {pieces} pieces too, so it is padded to a multiple"
        yield _error(
            "context_parallel", f"{PACKS}.pad_seq_to_mult", what, fix=f"{PACKS}.pad_seq_to_mult={pieces}"
        )


def _schedule(s: Setting) -> Iterator[Finding]:
    v = s.values
    iters, samples = v.whole("train.train_iters"), v.whole("train.train_samples")
    if (iters is None) == (samples is None):
        said = "neither is set" if iters is None else "both are set"
        what = f"train.train_iters or train.train_samples says how long to train, and {said}"
        fix = "train.train_iters=1000" if iters is None else "train.train_samples=null"
        yield _error("train_length", "train.train_iters", what, valid="one of the two", fix=fix)
        return
    unit, other = ("iters", "samples") if samples is None else ("samples", "iters")
    total = iters if samples is None else samples
    for name in (f"lr_decay_{other}", f"lr_warmup_{other}", f"lr_wsd_decay_{other}"):
        if v.whole(f"scheduler.{name}"):
            what = f"scheduler.{name} is set, and train.train_{unit} counts {unit}"
            yield _error(
                "schedule_unit", f"scheduler.{name}", what, valid=f"scheduler.{name.replace(other, unit)}"
            )
    yield from _weight_decay(v)
    decay = v.whole(f"scheduler.lr_decay_{unit}")
    warmup, share = v.whole(f"scheduler.lr_warmup_{unit}") or 0, v.get("scheduler.lr_warmup_fraction")
    end = decay if decay is not None else total
    if share is not None and warmup:
        what = f"scheduler.lr_warmup_fraction and lr_warmup_{unit} both say how long the warm-up is"
        yield _error("warmup", "scheduler.lr_warmup_fraction", what, fix="scheduler.lr_warmup_fraction=null")
    if end is not None and warmup >= end > 0:
        yield _error(
            "warmup",
            f"scheduler.lr_warmup_{unit}",
            f"the warm-up of {warmup} {unit} is not over before the decay ends at {end}",
            valid=f"fewer than {end}",
            fix=f"scheduler.lr_warmup_{unit}={end // 10}",
        )
    if decay is not None and total is not None and decay < total:
        what = f"the learning rate is at its lowest from {unit[:-1]} {decay} on, and training goes to {total}"
        yield _warning("lr_decay", f"scheduler.lr_decay_{unit}", what, fix=f"scheduler.lr_decay_{unit}=null")


def _weight_decay(v: Values) -> Iterator[Finding]:
    """Megatron sets the optimizer's weight decay anew in each step, from the scheduler's numbers."""
    written = v.get("optimizer.weight_decay")
    for name in ("start", "end"):
        key = f"scheduler.{name}_weight_decay"
        counts = v.get(key)
        if written is not None and counts != written:
            said = "the recipe's" if counts is None else f"{key} {counts}"
            what = f"optimizer.weight_decay {written} has no effect: {said} counts"
            yield _warning("weight_decay", key, what, fix=f"{key}={written}")


def _saving(s: Setting) -> Iterator[Finding]:
    v = s.values
    save, load = v.text("checkpoint.save"), v.text("checkpoint.load")
    every, total = v.whole("checkpoint.save_interval"), v.train_iters
    if not every:
        what = "checkpoint.save_interval is not set: the training would leave nothing"
        yield _error("save_interval", "checkpoint.save_interval", what, fix="checkpoint.save_interval=100")
    elif total is not None and every > total:
        yield _warning(
            "save_interval",
            "checkpoint.save_interval",
            f"checkpoint.save_interval is {every} and training ends at {total}: whatever interrupts it "
            "before, all of it is lost",
            fix=f"checkpoint.save_interval={max(1, total // 10)}",
        )
    if load is not None and load != save:
        yield _error(
            "load",
            "checkpoint.load",
            "checkpoint.load is not checkpoint.save: a run that goes on in another allocation would begin "
            "anew",
            valid=f"checkpoint.load = checkpoint.save; where to start from is {PRETRAINED}",
            fix="checkpoint.load='${checkpoint.save}'",
        )
    elif load is None and save is not None:
        what = "checkpoint.load is null: a run that goes on in another allocation would begin anew"
        yield _warning("load", "checkpoint.load", what, fix="checkpoint.load='${checkpoint.save}'")
    if v.on("checkpoint.finetune"):
        what = "checkpoint.finetune drops iteration and optimizer whenever it loads, when a run goes on too"
        yield _error(
            "finetune",
            "checkpoint.finetune",
            what,
            valid=f"{PRETRAINED} alone",
            fix="checkpoint.finetune=false",
        )
    form = v.text("checkpoint.ckpt_format")
    if form is not None and form != "torch_dist":
        what = f"checkpoint.ckpt_format is {form}, and a checkpoint_megatron is of torch_dist"
        yield _error("ckpt_format", "checkpoint.ckpt_format", what, fix="checkpoint.ckpt_format=torch_dist")


def _start(s: Setting) -> Iterator[Finding]:
    if s.values.get(PRETRAINED) is None:
        what = f"{PRETRAINED} is null: fine-tuning starts from a model"
        yield _error(
            "pretrained_checkpoint", PRETRAINED, what, valid="a checkpoint_megatron", fix="-i model=PATH"
        )
    if s.values.get("peft") is not None:
        what = "peft leaves an adapter, and this step a whole model"
        yield _error("peft", "peft", what, valid="null", fix="peft=null")


def _data(s: Setting) -> Iterator[Finding]:
    v = s.values
    files, packs = v.get(FILES), v.get(TRAIN_DATA)
    if files is None and packs is None:
        yield _error(
            "no_data",
            TRAIN_DATA,
            f"neither {TRAIN_DATA} nor {FILES} names data to train on",
            valid="-i packed=... (packed rows) or -i data=... (conversations)",
        )
    if packs is not None and not v.packed:
        what = f"{TRAIN_DATA} is not read: {PACKS}.packed_sequence_size switches packing off"
        length = v.size("dataset.seq_length", 4096)
        yield _error(
            "no_packing", f"{PACKS}.packed_sequence_size", what, fix=f"{PACKS}.packed_sequence_size={length}"
        )
    if files is not None and packs is not None:
        what = f"{FILES} and {TRAIN_DATA} both name data, and only the packed rows would be trained on"
        yield _error(
            "two_data", FILES, what, valid="one of -i packed=... and -i data=...", fix=f"{FILES}=null"
        )
    kwargs = v.get("dataset.dataset_kwargs", {})
    chat = isinstance(kwargs, Mapping) and kwargs.get("chat") is True
    if files is not None and packs is None and not chat:
        what = "without dataset.dataset_kwargs.chat rows are read as input and output, not as messages"
        yield _warning("no_chat", "dataset.dataset_kwargs", what, fix="+dataset.dataset_kwargs.chat=true")


RULES: tuple[Callable[[Setting], Iterator[Finding]], ...] = (
    _start,
    _data,
    _world,
    _batches,
    _lengths,
    _context,
    _schedule,
    _saving,
)
