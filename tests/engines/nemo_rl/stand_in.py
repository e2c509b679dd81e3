"""A STAND-IN for `uv run` and NeMo-RL's example scripts: behaves as they do from outside, and trains nothing.

    stand_in.py run --directory CHECKOUT examples/run_sft.py --config CONFIG [OVERRIDE...]

It reads the config with the framework's loader semantics (OmegaConf, the resolvers of that very script and
no others), refuses what the contract of its version refuses, joins no cluster, counts its rows, and writes
what the framework writes: `exp_NNN/tensorboard`, `step_N` by way of `tmp_step_N`, `training_info.json`. It
resumes from the highest step, keeps the best, and leaves when `checkpoint_must_save_by` is near.

STAND_IN_STEP_SECONDS: how long a step takes. STAND_IN_FAIL_AT: the step in which it fails, with exit code 3.
STAND_IN_VERSION: the framework's version.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nemotron.engines.nemo_rl.contract import load_contract
from nemotron.job.stub.types import Wanted, stub_content

sys.path.append(str(Path(__file__).resolve().parents[2] / "job"))
from tensorboard_writer import EventWriter

RESOLVERS = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": max,
}
# What Gym's own genrm_compare.yaml says where a config says nothing.
SHIPPED_COHORT = 16


def main(words: list[str]) -> int:
    """What uv and the script do together."""
    assert words[:2] == ["run", "--directory"], words
    assert Path(words[2]).is_absolute(), "uv is told where the project is"
    script, option, config_file, *overrides = words[3:]
    assert option == "--config", words
    contract = load_contract(os.environ.get("STAND_IN_VERSION", "v0.6.0"))
    entry = next(name for name in contract.entry_points if contract.script(name) == script)
    config = load(Path(config_file), overrides, contract.resolvers(entry))
    refuse(contract, entry, config)
    return Training(config, entry).run()


def load(path: Path, overrides: list[str], resolvers: tuple[str, ...]) -> dict[str, Any]:
    """The config as the loader gives it: struct, overrides applied, resolved."""
    for name in resolvers:
        OmegaConf.register_new_resolver(name, RESOLVERS[name])
    config = OmegaConf.load(path)
    assert "defaults" not in config, "one file, so that nothing beside it counts"
    OmegaConf.set_struct(config, True)
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if text.startswith("~"):
            parent, _, name = key.rpartition(".")
            OmegaConf.set_struct(config, False)
            del OmegaConf.select(config, parent)[name]
            OmegaConf.set_struct(config, True)
        else:
            OmegaConf.update(config, key, json.loads(value), force_add=text.startswith("+"))
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return plain


def refuse(contract: Any, entry: str, config: Mapping[str, Any]) -> None:
    """What ends the framework before or in its first step, or hangs it."""
    errors = [f.render() for f in contract.check(entry, config) if f.severity == "error"]
    assert not errors, "\n".join(errors)
    for section, key in (("checkpointing", "checkpoint_dir"), ("logger", "log_dir")):
        assert Path(config[section][key]).is_absolute(), f"{section}.{key} would lie in the checkout"
    if entry == "grpo_nemo_gym":
        assert config["grpo"]["max_val_samples"] is None
        judge(config)


def judge(config: Mapping[str, Any]) -> dict[str, str]:
    """The judge as Gym merges it; asserts where a cohort would wait for ever or no verdict be read."""
    gym = config["env"]["nemo_gym"]
    assert any("genrm_compare.yaml" in path for path in gym["config_paths"])
    called = {
        table["responses_api_agents"]["simple_agent"]["resources_server"]["name"]
        for name, table in gym.items()
        if name.startswith("genrm_simple_agent")
    } or {"genrm_compare_resources_server"}
    [server] = called
    compare = gym.get(server, {}).get("resources_servers", {}).get("genrm_compare", {})
    group = config["grpo"]["num_generations_per_prompt"]
    assert compare.get("num_rollouts_per_prompt", SHIPPED_COHORT) == group, "the judge waits for ever"
    validation = config["data"]["validation"]
    assert validation is None or validation["repeat"] == group, "validation waits for ever"
    name = compare.get("genrm_model_server", {}).get("name", "genrm_model")
    [(kind, model)] = gym[name]["responses_api_models"].items()
    assert kind == "genrm_model", "the judge sees no answers"
    assert gym.get("genrm_model_name", model["model"]) == model["model"]
    return {"server": name, "model": model["model"]}


class Training:
    """The loop."""

    def __init__(self, config: Mapping[str, Any], entry: str) -> None:
        self.algorithm = "grpo" if entry.startswith("grpo") else entry
        self.config = config
        self.loop = config[self.algorithm]
        self.saving = config["checkpointing"]
        self.root = Path(self.saving["checkpoint_dir"])
        self.seconds = float(os.environ.get("STAND_IN_STEP_SECONDS", "0"))
        self.slowest = 0.0

    def run(self) -> int:
        begun = time.time()
        self.writer = EventWriter(self._next_experiment() / "tensorboard", begun)
        limit = seconds(self.saving["checkpoint_must_save_by"])
        first, total = max(self._steps(), default=0), self._total()
        print(f"steps {first + 1} to {total}", flush=True)
        if self.loop.get("val_at_start") and first == 0 and self.config["data"].get("validation"):
            self._log(0, {"validation/accuracy": 0.0})
        for step in range(first + 1, total + 1):
            at = time.time()
            time.sleep(self.seconds)
            if str(step) == os.environ.get("STAND_IN_FAIL_AT"):
                print("ray.exceptions.RayTaskError(ValueError): the stand-in was told to fail", flush=True)
                return 3
            info = self._train(step, is_last=step == total)
            self.slowest = max(self.slowest, time.time() - at)
            late = time.time() - begun + self.slowest >= limit
            if self.saving["enabled"] and (late or step == total or step % self.saving["save_period"] == 0):
                self._save(step, info)
            if late and step < total:
                print("Timeout has been reached, stopping training early", flush=True)
                return 0
        return 0

    def _train(self, step: int, *, is_last: bool) -> dict[str, Any]:
        """What a checkpoint of this step knows."""
        self._log(
            step, {"train/loss": 1 / step, "train/reward": step / 10, "timing/train/total_step_time": 1.0}
        )
        self._log(step * 10, {"ray/node.0.gpu.0.util": 50.0})
        info: dict[str, Any] = {"step": step, "total_steps": step, "consumed_samples": step * self._batch()}
        period = self.loop["val_period"]
        if self.config["data"].get("validation") and ((period > 0 and step % period == 0) or is_last):
            # Best in the middle, so that the best is not the last.
            value = 1 / (1 + abs(step - 4))
            metric = self.saving["metric_name"]
            self._log(step, {f"validation/{metric.partition(':')[2]}": value})
            info[metric] = value if self.saving["higher_is_better"] else -value
        return info

    def _save(self, step: int, info: Mapping[str, Any]) -> None:
        temporary = self.root / f"tmp_step_{step}"
        shutil.rmtree(temporary, ignore_errors=True)
        weights, tokenizer = temporary / "policy" / "weights", temporary / "policy" / "tokenizer"
        kind = "checkpoint_megatron"
        if not self.config["policy"]["megatron_cfg"]["enabled"]:
            kind = "reward_model_hf" if self.algorithm == "rm" else "checkpoint_hf"
            assert self.saving["model_save_format"] == "safetensors" and self.saving["save_consolidated"]
            weights = weights / "model" / "consolidated"
        content = stub_content(Wanted(kind, weights))
        assert isinstance(content, Mapping)
        for name, data in content.items():
            # A model's tokenizer lies apart.
            root = tokenizer if "/" not in name and "tokenizer" in name else weights
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        (temporary / "training_info.json").write_text(json.dumps(info), encoding="utf-8")
        (temporary / "config.yaml").write_text(OmegaConf.to_yaml(dict(self.config)), encoding="utf-8")
        temporary.rename(self.root / f"step_{step}")
        self._remove_worst()

    def _remove_worst(self) -> None:
        steps, keep = sorted(self._steps()), self.saving["keep_top_k"]
        metric, sign = self.saving["metric_name"], 1 if self.saving["higher_is_better"] else -1

        def rank(step: int) -> tuple[float, int]:
            info = json.loads((self.root / f"step_{step}" / "training_info.json").read_text(encoding="utf-8"))
            value = info.get(metric) if metric else step
            return (-math.inf if value is None else sign * value, step)

        best = sorted(steps, key=rank, reverse=True)[: keep or len(steps)]
        for step in steps[:-1]:
            if step not in best:
                shutil.rmtree(self.root / f"step_{step}")

    def _steps(self) -> list[int]:
        names = [re.fullmatch(r"step_(\d+)", path.name) for path in self.root.glob("step_*")]
        return [int(name[1]) for name in names if name]

    def _total(self) -> int:
        path = Path(self.config["data"]["train"]["data_path"])
        rows = sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line)
        return int(min(self.loop["max_num_steps"], self.loop["max_num_epochs"] * (rows // self._batch())))

    def _batch(self) -> int:
        if self.algorithm == "grpo":
            return int(self.loop["num_prompts_per_step"])
        return int(self.config["policy"]["train_global_batch_size"])

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self.writer.scalar(tag, value, step, time.time())

    def _next_experiment(self) -> Path:
        base = Path(self.config["logger"]["log_dir"])
        taken = [int(path.name[4:]) for path in base.glob("exp_*")]
        return base / f"exp_{max(taken, default=0) + 1:03d}"


def seconds(text: str | None) -> float:
    """The seconds of DD:HH:MM:SS, without end for null."""
    if text is None:
        return math.inf
    days, hours, minutes, rest = map(int, text.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
