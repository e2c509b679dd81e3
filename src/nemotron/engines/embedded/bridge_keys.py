"""What the embedded engine makes of a Megatron-Bridge config: one table, read as that of `keys`."""

from __future__ import annotations

from nemotron.engines.embedded.keys import KeyRule, Table

_PARALLEL = "one process, no parallelism"
_FILES = "metrics are written to metrics.jsonl and drawn in curve.png"
_ROWS = "rows are read and put in order by the training process"

BRIDGE_TABLE = Table(
    KeyRule("recipe.**", "no_effect", "the shape is the checkpoint's; what is not set here has no effect"),
    *(
        KeyRule(f"train.{key}", "honoured")
        for key in ("train_iters", "train_samples", "global_batch_size", "micro_batch_size")
    ),
    KeyRule("train.exit_signal_handler", "no_effect", "a stop signal always makes the trainer save"),
    KeyRule("train.**", "no_effect", "the embedded engine has nothing like it"),
    *(KeyRule(f"validation.{key}", "honoured") for key in ("eval_interval", "eval_iters")),
    KeyRule("validation.**", "no_effect", "validation runs every eval_interval steps"),
    KeyRule("model.seq_length", "no_effect", "dataset.seq_length is the limit"),
    KeyRule("model.calculate_per_token_loss", "no_effect", "the loss is averaged over a batch's tokens"),
    KeyRule("model.recompute_**", "no_effect", "activations are kept"),
    KeyRule("model.**", "no_effect", _PARALLEL),
    *(
        KeyRule(f"dataset.{key}", "honoured")
        for key in ("dataset_root", "seq_length", "seed", "do_validation")
    ),
    *(
        KeyRule(f"dataset.packed_sequence_specs.{key}", "honoured")
        for key in ("packed_sequence_size", "packed_train_data_path", "packed_val_data_path")
    ),
    KeyRule("dataset.packed_sequence_specs.**", "no_effect", "rows need no padding here"),
    KeyRule("dataset.dataset_kwargs.**", "no_effect", "conversations are read by the tokenizer's template"),
    KeyRule("dataset.**", "no_effect", _ROWS),
    KeyRule("tokenizer.tokenizer_model", "honoured"),
    KeyRule("tokenizer.**", "no_effect", "the tokenizer is used as saved"),
    *(
        KeyRule(f"optimizer.{key}", "translated", "AdamW of torch")
        for key in ("lr", "min_lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps")
    ),
    KeyRule("optimizer.clip_grad", "honoured"),
    KeyRule("optimizer.**", "no_effect", _PARALLEL),
    *(
        KeyRule(f"scheduler.{key}", "translated", "warm-up and decay of the learning rate")
        for key in (
            *("lr_decay_style", "lr_decay_iters", "lr_decay_samples", "lr_warmup_iters", "lr_warmup_samples"),
            *("lr_warmup_fraction", "lr_warmup_init"),
        )
    ),
    *(
        KeyRule(f"scheduler.{key}", "no_effect", "optimizer.weight_decay counts")
        for key in ("start_weight_decay", "end_weight_decay")
    ),
    KeyRule("scheduler.**", "no_effect", "the embedded engine has nothing like it"),
    KeyRule("mixed_precision.**", "no_effect", "weights and arithmetic are in 32 bits"),
    KeyRule("mixed_precision", "no_effect", "weights and arithmetic are in 32 bits"),
    *(
        KeyRule(f"checkpoint.{key}", "honoured")
        for key in ("pretrained_checkpoint", "save", "save_interval", "most_recent_k")
    ),
    KeyRule("checkpoint.load", "no_effect", "a run goes on from what it saved itself"),
    KeyRule("checkpoint.**", "no_effect", "checkpoints are written whole, by our own converter"),
    KeyRule("rng.seed", "honoured"),
    KeyRule("rng.**", "no_effect", _PARALLEL),
    KeyRule("logger.**", "no_effect", _FILES),
    KeyRule("peft", "no_effect", "all weights are trained; refused when set"),
    *(
        KeyRule(f"{section}.**", "no_effect", _PARALLEL)
        for section in (
            *("ddp", "dist", "comm_overlap", "rerun_state_machine", "profiling", "ft", "straggler"),
            *("nvrx_straggler", "tensor_inspect", "inprocess_restart"),
        )
    ),
    *(
        KeyRule(section, "no_effect", _PARALLEL)
        for section in ("comm_overlap", "ft", "straggler", "nvrx_straggler", "tensor_inspect")
    ),
    KeyRule("embedded.device", "honoured"),
    KeyRule("embedded.threads", "honoured"),
)
