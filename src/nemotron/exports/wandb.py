"""A run in Weights & Biases: config, metrics, and artifacts as references to where they are.

Nothing is copied or uploaded but what is written here: an artifact there is a name, our digest, and the
addresses of its files. Its collection is named by type and content, so that what one run makes and another
uses is one node of the graph there, as it is here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.runs import Run, digest_tail
from nemotron.artifacts.secret_names import names_secret
from nemotron.errors import NemotronError
from nemotron.exports.history import Item, history_of, shown_url

if TYPE_CHECKING:
    import wandb

# How far the run was told, so that a resumed one is not told twice.
STATE_FILE = "wandb.json"
_OFFLINE = frozenset({"offline", "dryrun", "disabled"})
EXIT_CODES = {"succeeded": 0, "failed": 1, "interrupted": 130}
# Engines whose trainer tells W&B itself, from where it runs.
_LOG_THEMSELVES = frozenset({"nemo_rl"})
# What W&B takes of a name; an id may be longer with us.
_NAME_LENGTH = 96


@dataclass(frozen=True)
class Target:
    """Where a run goes: `logger.wandb` of its config, with W&B's names."""

    project: str
    name: str
    id: str
    job_type: str
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


def wants_wandb(config: Mapping[str, Any], engine: str) -> bool:
    """Whether a run of this config is to be told to W&B by us."""
    logger = config.get("logger")
    asked = isinstance(logger, Mapping) and logger.get("wandb_enabled") is True
    return asked and engine not in _LOG_THEMSELVES


def target_of(run: Run) -> Target:
    """Where a run goes; project `nemotron` and the run's id where its config says nothing."""
    recipe = run.plan.get("recipe") or {}
    logger = (recipe.get("config") or {}).get("logger")
    found = logger.get("wandb") if isinstance(logger, Mapping) else None
    section = found if isinstance(found, Mapping) else {}
    tags = section.get("tags")
    return Target(
        project=str(section.get("project") or "nemotron"),
        name=str(section.get("name") or run.id),
        id=_name(run.id),
        job_type=str(recipe.get("step") or "step")[:64],
        entity=_text(section.get("entity")),
        group=_text(section.get("group")),
        tags=tuple(map(str, tags)) if isinstance(tags, list | tuple) else (),
    )


class WandbRun:
    """One run of ours, open in W&B. Everything here may raise what W&B raises."""

    def __init__(self, run: Run, seconds: float) -> None:
        """Open it. seconds: how long W&B may take to answer. ImportError where it is not installed."""
        import wandb

        self._run = run
        self._target = target = target_of(run)
        settings = wandb.Settings(
            init_timeout=seconds,
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            save_code=False,
            # Of this process, which does nothing; the trainer is another.
            x_disable_meta=True,
            x_disable_stats=True,
        )
        mode: Any = os.environ.get("WANDB_MODE") or _mode(wandb.setup().settings.base_url)
        self.is_offline = mode in _OFFLINE
        self.mode: str = mode
        self._link = wandb.init(
            project=target.project,
            entity=target.entity,
            name=target.name,
            id=target.id,
            group=target.group,
            tags=target.tags,
            job_type=target.job_type,
            dir=run.directory,
            config=_config(run),
            mode=mode,
            resume=None if self.is_offline else "allow",
            settings=settings,
        )
        before = _state(run)
        same = before.get("mode") == mode and before.get("target") == self._key()
        # Rows before this one were told by an earlier attempt; a resumed run ends with the same rows.
        self.told_rows = before.get("rows", 0) if same else 0

    @property
    def where(self) -> str:
        """Its address, or the directory that holds it."""
        if self.mode == "disabled":
            return "nowhere: WANDB_MODE is disabled"
        return str(Path(self._link.settings.sync_dir) if self.is_offline else self._link.url)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl: its numbers, at its step."""
        step = row.get("step")
        numbers = {k: v for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        if numbers:
            self._link.log(numbers, step=step if type(step) is int else None)

    def close(self, state: str, rows: int, records_dir: Path) -> None:
        """What went in, what came out, and the end. rows: how many of its rows W&B knows now."""
        history = history_of(self._run, records_dir)
        inputs = history.attempts[-1].inputs if history.attempts else ()
        for item in inputs:
            self._use(self._artifact(item))
        for attempt in history.attempts:
            for item in attempt.outputs:
                alias = _name(f"{self._run.id}.{item.port}")
                self._link.log_artifact(self._artifact(item), aliases=["latest", alias])
        self._link.finish(exit_code=EXIT_CODES[state])
        told = {"mode": self.mode, "target": self._key(), "where": self.where, "rows": rows}
        try:
            write_json(self._run.directory / STATE_FILE, told)
        except NemotronError:
            return  # somebody else's run: without the note its rows are told again, and W&B drops them

    def _use(self, artifact: wandb.Artifact) -> None:
        if not self.is_offline:
            self._link.use_artifact(artifact)
        elif self.mode != "disabled":
            # The public method wants a server even for what is new; this is what it does then, and
            # `wandb sync` makes the edge of it.
            self._link._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def _artifact(self, item: Item) -> wandb.Artifact:
        import wandb

        about = {
            "digest": item.digest,
            "type": item.type,
            "path": item.path,
            "reference": item.reference,
            "made_by": item.made_by,
            "step_of_training": item.step_of_training,
            "files": item.files,
            "bytes": item.bytes,
            "facts": dict(item.facts),
        }
        known = {key: value for key, value in about.items() if value not in (None, {})}
        artifact = wandb.Artifact(artifact_name(item), type=_name(item.type), metadata=known)
        if "://" in item.path:
            artifact.add_reference(item.path, checksum=False)
        elif Path(item.path).exists():
            artifact.add_reference(Path(item.path).as_uri(), checksum=False)
        # What is gone since has no files to point at; name and digest still make the graph.
        return artifact

    def _key(self) -> str:
        return "/".join((self._target.entity or "", self._target.project, self._target.id))


def artifact_name(item: Item) -> str:
    """The collection that holds an artifact: type and the beginning of its digest."""
    tail = digest_tail(item.digest) if item.digest else hashlib.sha256(item.path.encode()).hexdigest()[:12]
    return _name(f"{item.type}-{tail}")


def public(config: Any) -> Any:
    """A config without what looks like a secret: values by their key's name, and logins in URLs."""
    if isinstance(config, Mapping):
        return dict(_public_entries(config))
    if isinstance(config, list | tuple):
        return [public(value) for value in config]
    return shown_url(config) if isinstance(config, str) else config


def _public_entries(config: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        texts = value if isinstance(value, list | tuple) else (value,)
        told = names_secret(str(key)) and any(isinstance(v, str) and not v.startswith("${") for v in texts)
        yield str(key), "..." if told else public(value)


def _config(run: Run) -> dict[str, Any]:
    recipe = run.plan.get("recipe") or {}
    ours = {
        "run": run.id,
        "step": recipe.get("step"),
        "engine": recipe.get("engine"),
        "engine_version": recipe.get("engine_version"),
        "recipe_digest": run.recipe_digest,
        "inputs": recipe.get("inputs"),
    }
    return {**public(recipe.get("config") or {}), "nemotron": ours}


def _mode(base_url: str) -> str:
    """`online` where a key for the server is at hand; asking for one would stop a run."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    import netrc
    from urllib.parse import urlsplit

    named = os.environ.get("NETRC")
    places = [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for place in places:
        try:
            if netrc.netrc(place).authenticators(urlsplit(base_url).netloc):
                return "online"
        except (OSError, netrc.NetrcParseError):
            continue
    return "offline"


def _state(run: Run) -> dict[str, Any]:
    import json

    try:
        found = json.loads((run.directory / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and type(found.get("rows")) is int else {}


def _name(text: str) -> str:
    """`text` as an id or a name of W&B: plain, and no longer than it takes."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    if len(plain) <= _NAME_LENGTH:
        return plain
    return f"{plain[: _NAME_LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _text(value: object) -> str | None:
    return str(value) if value else None
