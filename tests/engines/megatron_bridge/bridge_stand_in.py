"""A `megatron.bridge` with the calls that our scripts make of it, and nothing behind them.

Names and arguments are those of release 0.4.0. What it was called with goes to `calls.json` of the working
directory; `finetune` leaves a tracker that says that `STAND_IN_ITERATION` was saved.
"""

from __future__ import annotations

from pathlib import Path

_CALLS = """
import json, os
from pathlib import Path

def call(name, **given):
    path = Path(f"calls-{os.environ.get('RANK', '0')}.json")
    held = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*held, [name, given]], default=str))
"""
_FILES = {
    "calls.py": _CALLS,
    "__init__.py": """
import shutil, os
from pathlib import Path
from .calls import call

class AutoBridge:
    def __init__(self, model):
        self.model = model

    @classmethod
    def from_hf_pretrained(cls, path):
        return cls(path)

    @classmethod
    def import_ckpt(cls, hf_model_id, megatron_path):
        call("import_ckpt", hf_model_id=hf_model_id, megatron_path=megatron_path)
        shutil.copytree(os.environ["STAND_IN_RESULT"], megatron_path, dirs_exist_ok=True)
        if os.environ.get("STAND_IN_FAILS"):
            raise RuntimeError("out of memory")

    def export_ckpt(self, megatron_path, hf_path, show_progress=True):
        call("export_ckpt", model=self.model, megatron_path=megatron_path, hf_path=hf_path)
        shutil.copytree(os.environ["STAND_IN_RESULT"], hf_path, dirs_exist_ok=True)
""",
    "recipes/__init__.py": "",
    "recipes/qwen/__init__.py": "",
    "recipes/qwen/qwen3.py": """
from types import SimpleNamespace as S

def qwen3_8b_sft_config():
    model = S(num_layers=3, hidden_size=32, seq_length=2048, tensor_model_parallel_size=1)
    more = {name: S() for name in ("train", "checkpoint", "tokenizer")}
    return S(model=model, dataset="squad", peft="lora", **more)
""",
    "data/__init__.py": "",
    "data/datasets/__init__.py": "",
    "data/datasets/packed_sequence.py": """
class PackedSequenceSpecs:
    def __init__(self, packed_sequence_size=-1, packed_train_data_path=None, packed_val_data_path=None,
                 pad_seq_to_mult=1):
        self.__dict__.update(locals())
""",
    "training/__init__.py": "",
    "training/config.py": """
class FinetuningDatasetConfig:
    def __init__(self, *, seq_length, dataset_root=None, packed_sequence_specs=None, **more):
        self.__dict__.update(locals())
""",
    "training/gpt_step.py": "def forward_step(state, data_iterator, model): ...\n",
    "training/utils/__init__.py": "",
    "training/utils/omegaconf_utils.py": """
import yaml

def process_config_with_overrides(config, config_filepath=None, cli_overrides=None):
    for section, keys in yaml.safe_load(open(config_filepath)).items():
        if isinstance(keys, dict):
            held = getattr(config, section, None)
            if held is None:
                from types import SimpleNamespace
                held = SimpleNamespace()
                setattr(config, section, held)
            held.__dict__.update(keys)
        else:
            setattr(config, section, keys)
    return config
""",
    "training/finetune.py": """
import os, sys
from pathlib import Path
from ..calls import call

def finetune(config, forward_step_func, callbacks=None):
    specs = config.dataset.packed_sequence_specs
    call("finetune", step=forward_step_func.__name__, iters=config.train.train_iters, peft=config.peft,
         seq_length=config.model.seq_length, tensor=config.model.tensor_model_parallel_size,
         packed=specs.packed_train_data_path, root=config.dataset.dataset_root,
         tokenizer=config.tokenizer.tokenizer_model, precision=config.mixed_precision)
    Path(config.checkpoint.save).mkdir(parents=True, exist_ok=True)
    (Path(config.checkpoint.save) / "latest_checkpointed_iteration.txt").write_text(
        os.environ.get("STAND_IN_ITERATION", str(config.train.train_iters)))
    if os.environ.get("STAND_IN_EXIT"):
        sys.exit(int(os.environ["STAND_IN_EXIT"]))
""",
}


def write_stand_in(root: Path) -> Path:
    """Write the package below `root`, which PYTHONPATH has to name."""
    for name, text in _FILES.items():
        path = root / "megatron" / "bridge" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
