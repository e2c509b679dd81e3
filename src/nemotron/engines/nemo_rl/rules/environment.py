"""Services a run reports to or downloads from, and the variables that let it in."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.rule import EVERY, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View


def wandb_key(view: View) -> Iterator[Problem]:
    """Weights & Biases asks for a key on the node, where nobody answers."""
    key = "logger.wandb_enabled"
    if view.on(key) and view.environ is not None and not view.environ.get("WANDB_API_KEY"):
        yield Problem(
            key,
            "Weights & Biases is on and WANDB_API_KEY is not set for the job",
            "WANDB_API_KEY, or false",
            f"{key}=false",
            severity="warning",
        )


def mlflow_server(view: View) -> Iterator[Problem]:
    """Without an address MLflow's client calls the node it runs on."""
    key = "logger.mlflow.tracking_uri"
    set_by_variable = (view.environ or {}).get("MLFLOW_TRACKING_URI")
    if view.on("logger.mlflow_enabled") and not view.get(key) and not set_by_variable:
        yield Problem(
            key,
            "MLflow is on and has no address: it would call http://localhost:5000 on the node",
            "the address of the MLflow server",
            f"+{key}=http://HOST:5000",
            severity="warning",
        )


def hub_token(view: View) -> Iterator[Problem]:
    """A model that is named by a hub id may be gated."""
    name = view.text("policy.model_name")
    if not name or view.environ is None or view.environ.get("HF_TOKEN") or not _is_hub_id(name):
        return
    yield Problem(
        "policy.model_name",
        f"{name} comes from the Hugging Face hub and HF_TOKEN is not set for the job: "
        "a gated model would be refused",
        "HF_TOKEN, or a directory",
        severity="warning",
    )


def nothing_on_disk(view: View) -> Iterator[Problem]:
    """NeMo-RL writes scalars through its loggers only: with none of them on, no curve is left."""
    loggers = ("tensorboard", "wandb", "mlflow", "swanlab")
    if not any(view.on(f"logger.{name}_enabled") for name in loggers):
        yield Problem(
            "logger.tensorboard_enabled",
            "no logger is on: the run would leave no metrics",
            "true",
            "logger.tensorboard_enabled=true",
            severity="warning",
        )


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and "://" not in name


RULES = (
    Rule("nemo_rl.wandb_key", EVERY, wandb_key),
    Rule("nemo_rl.mlflow_server", EVERY, mlflow_server),
    Rule("nemo_rl.hub_token", EVERY, hub_token),
    Rule("nemo_rl.no_logger", EVERY, nothing_on_disk),
)
