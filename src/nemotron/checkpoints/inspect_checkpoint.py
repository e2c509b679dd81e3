"""What a checkpoint is, told in milliseconds from headers and metadata, without torch and without trust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemotron.artifacts.checks.directory import directory_names
from nemotron.artifacts.checks.distributed import METADATA, read_metadata
from nemotron.artifacts.checks.files import read_bytes, read_json_object
from nemotron.artifacts.checks.megatron import layout_of
from nemotron.artifacts.checks.megatron_weights import check_distributed
from nemotron.artifacts.checks.model import CONFIG
from nemotron.artifacts.checks.report import Problem, Report, clipped
from nemotron.artifacts.checks.weights import MODEL, check_weights
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.dcp_read import model_tensors
from nemotron.checkpoints.hf_files import TOKENIZER_FILES, require_directory
from nemotron.checkpoints.places import RUN_CONFIG, iteration_directory, tokenizer_directory
from nemotron.checkpoints.saved_pickles import check_pickles
from nemotron.findings import Finding

_LIMIT = 16 << 20
_VOCABULARIES = tuple(name for name in TOKENIZER_FILES if "config" not in name and "chat" not in name)
_SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint holds.

    format: `hf` or `megatron`. place: the directory that holds it, an iteration for Megatron. dtypes:
    parameters by type. chunks: how many tensors are stored in so many chunks, Megatron only. parallel: sizes
    as its run was split, by name. tokenizer: its file. findings: what is wrong.
    """

    format: str
    place: Path
    model_type: str | None = None
    parameters: int = 0
    tensors: int = 0
    layers: int | None = None
    dtypes: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0
    bytes: int = 0
    chunks: Mapping[int, int] = field(default_factory=dict)
    parallel: Mapping[str, int] = field(default_factory=dict)
    vocabulary: int | None = None
    tokenizer: str | None = None
    chat_template: bool = False
    iteration: int | None = None
    optimizer: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return not any(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain = asdict(self) | {"place": printable(self.place)}
        plain["chunks"] = {str(count): tensors for count, tensors in self.chunks.items()}
        return plain | {"findings": [finding.as_dict() for finding in self.findings]}

    def text(self) -> str:
        """One line a fact, what is unknown left out."""
        dtypes = ", ".join(f"{name} {count:,}" for name, count in self.dtypes.items())
        chunks = ", ".join(f"{tensors} in {count}" for count, tensors in sorted(self.chunks.items()))
        optimizer = ("yes" if self.optimizer else "no") if self.format == "megatron" else None
        rows = {
            "format": self.format,
            "place": printable(self.place),
            "model": self.model_type,
            "iteration": self.iteration,
            "parameters": f"{self.parameters:,}",
            "tensors": self.tensors,
            "layers": self.layers,
            "dtypes": dtypes,
            "shards": f"{self.shards}, {self.bytes:,} bytes",
            "tensors by chunks": chunks,
            "parallel": ", ".join(f"{name} {size}" for name, size in self.parallel.items()),
            "vocabulary": self.vocabulary,
            "tokenizer": self.tokenizer or "none",
            "chat template": "yes" if self.chat_template else "no",
            "optimizer": optimizer,
        }
        lines = [f"{name:18} {value}" for name, value in rows.items() if value is not None and value != ""]
        return "\n".join([*lines, *(finding.render() for finding in self.findings)])


def inspect_checkpoint(path: Path, *, limit: int = 20) -> CheckpointFacts:
    """The facts of the Hugging Face or Megatron checkpoint at `path`; what is wrong with it is among them.

    limit: findings of each severity that are listed. Raises NotFound when there is nothing, CheckFailed when
    it has the layout of neither.
    """
    require_directory(path)
    report = Report(path, limit)
    names = directory_names(path, report) or frozenset()
    if CONFIG in names or layout_of(names) is None:
        return _hugging_face(path, names, report)
    place = iteration_directory(path)
    return _megatron(path, place, report)


def _hugging_face(path: Path, names: frozenset[str], report: Report) -> CheckpointFacts:
    read = read_json_object(path / CONFIG, limit=_LIMIT)
    config = {} if isinstance(read, Problem) else read
    if CONFIG not in names:
        report.add(Problem("checkpoint.no_config", f"no {CONFIG}"))
    elif isinstance(read, Problem):
        report.add(read, file=CONFIG)
    facts = check_weights(path, names, MODEL, report)
    return CheckpointFacts(
        format="hf",
        place=path,
        model_type=_text(config.get("model_type")),
        layers=_count(config.get("num_hidden_layers")),
        vocabulary=_count(config.get("vocab_size")),
        parameters=facts.get("parameters", 0),
        tensors=facts.get("tensors", 0),
        dtypes=facts.get("dtypes", {}),
        shards=facts.get("shards", 0),
        bytes=facts.get("weight_bytes", 0),
        tokenizer=_tokenizer(names),
        chat_template=_has_template(path, names),
        findings=report.checked("", {}).findings,
    )


def _megatron(path: Path, place: Path, report: Report) -> CheckpointFacts:
    below = "" if place == path else f"{place.relative_to(path).as_posix()}/"
    names = directory_names(place, report, below=below) or frozenset()
    for name in (METADATA, "metadata.json"):
        if name not in names:
            report.add(Problem("checkpoint.unfinished", f"{name} is missing"), file=below + name)
    facts = check_distributed(place, names, report, below=below)
    metadata = read_metadata(place / METADATA) if METADATA in names else None
    chunks: Counter[int] = Counter()
    known = None if isinstance(metadata, Problem) else metadata
    if known is not None:
        chunks.update(len(tensor.chunks) for tensor in model_tensors(known).values())
    check_pickles(place, names, known, report)
    tokenizer = tokenizer_directory(place)
    inside = directory_names(tokenizer, report) or frozenset() if tokenizer else frozenset()
    number = place.name.rpartition("_")[2]
    return CheckpointFacts(
        format="megatron",
        place=place,
        parameters=facts.get("parameters", 0),
        tensors=facts.get("tensors", 0),
        layers=facts.get("layers"),
        dtypes=facts.get("dtypes", {}),
        shards=facts.get("shards", 0),
        bytes=facts.get("weight_bytes", 0),
        chunks=dict(chunks),
        parallel=_parallel(place, names),
        vocabulary=facts.get("padded_vocab_size"),
        tokenizer=_tokenizer(inside),
        chat_template=tokenizer is not None and _has_template(tokenizer, inside),
        iteration=int(number) if number.isdecimal() and number.isascii() else None,
        optimizer=facts.get("has_optimizer", False),
        findings=report.checked("", {}).findings,
    )


def _parallel(place: Path, names: frozenset[str]) -> dict[str, int]:
    """Sizes from the run config, of which only lines that hold one number are read."""
    if RUN_CONFIG not in names:
        return {}
    data = read_bytes(place / RUN_CONFIG, limit=_LIMIT)
    found: dict[str, int] = {}
    text = "" if isinstance(data, Problem) else data.decode("utf-8", "replace")
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        if name in _SIZES and value.isdecimal() and value.isascii() and len(value) < 7:
            found.setdefault(name.removesuffix("_size").replace("_model", ""), int(value))
    return found


def _tokenizer(names: frozenset[str]) -> str | None:
    return next((name for name in _VOCABULARIES if name in names), None)


def _has_template(path: Path, names: frozenset[str]) -> bool:
    if "chat_template.jinja" in names:
        return True
    return bool(_object(path / "tokenizer_config.json").get("chat_template"))


def _object(file: Path) -> dict[str, Any]:
    found = read_json_object(file, limit=_LIMIT)
    return {} if isinstance(found, Problem) else found


def _text(value: object) -> str | None:
    return clipped(value) if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None
