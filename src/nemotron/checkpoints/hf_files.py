"""The tensors of a Hugging Face directory: where each lies, and new files of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import json_text
from nemotron.artifacts.checks.directory import directory_names
from nemotron.artifacts.checks.files import read_json_object
from nemotron.artifacts.checks.model import ADAPTER_CONFIG, CONFIG
from nemotron.artifacts.checks.report import Problem, Report
from nemotron.artifacts.checks.safetensors import read_header
from nemotron.artifacts.checks.weights import MODEL, WeightNames, check_weights
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.whole import SyncedFile, write_synced
from nemotron.errors import CheckFailed, NotFound
from nemotron.findings import errors_in

_CONFIG_LIMIT = 16 << 20
_ALIGNMENT = 8
_SHOWN = 5
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tekken.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tiktoken.model", "chat_template.jinja", "chat_template.json"),
)


@dataclass(frozen=True, slots=True)
class HfTensor:
    """A tensor and where its bytes lie. dtype: as safetensors names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: Path
    start: int


@dataclass(frozen=True)
class HfWeights:
    """A model directory whose files are whole: its config, and its tensors in the order of the disk."""

    path: Path
    names: frozenset[str]
    config: Mapping[str, Any]
    tensors: Mapping[str, HfTensor]

    @property
    def bytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def read_weights(path: Path, kind: WeightNames = MODEL) -> HfWeights:
    """The tensors of a model's or an adapter's directory. Raises CheckFailed with all that is wrong."""
    require_directory(path)
    report = Report(path, _SHOWN)
    names = directory_names(path, report) or frozenset()
    config = _object(path / (CONFIG if kind is MODEL else ADAPTER_CONFIG))
    check_weights(path, names, kind, report)
    refuse(report, f"{path.name} is no whole checkpoint")
    tensors: dict[str, HfTensor] = {}
    for shard in _shards(path, names, kind):
        header = read_header(path / shard)
        if isinstance(header, Problem):
            raise CheckFailed(header.message, where=printable(path / shard), next=header.fix)
        for name, held in sorted(header.tensors.items(), key=lambda item: item[1].start):
            size = _bytes_of(held.dtype, held.shape, path / shard, name)
            tensors[name] = HfTensor(name, held.dtype, held.shape, size, path / shard, held.start)
    return HfWeights(path, names, config, tensors)


def require_directory(path: Path) -> None:
    """Raises NotFound when there is no directory at `path`."""
    if not path.is_dir():
        raise NotFound("no such directory", where=printable(path))


def refuse(report: Report, what: str) -> None:
    """Raises CheckFailed with the errors that were reported, if any."""
    found = errors_in(report.checked("", {}).findings)
    if found:
        raise CheckFailed(
            f"{what}: {found[0].message}", where=found[0].where, next=found[0].fix, findings=found
        )


def _object(file: Path) -> dict[str, Any]:
    found = read_json_object(file, limit=_CONFIG_LIMIT)
    if isinstance(found, Problem):
        raise CheckFailed(f"{file.name}: {found.message}", where=printable(file), next=found.fix)
    return found


def _shards(path: Path, names: frozenset[str], kind: WeightNames) -> Iterable[str]:
    if kind.index in names:
        return sorted(set(_object(path / kind.index)["weight_map"].values()))
    if kind.single in names:
        return [kind.single]
    return sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("."))


_ITEM = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2"), 1),
}


def _bytes_of(dtype: str, shape: tuple[int, ...], file: Path, name: str) -> int:
    if dtype not in _ITEM:
        raise CheckFailed(f"{name} is of type {dtype}, which is not known here", where=printable(file))
    return prod(shape) * _ITEM[dtype]


def tokenizer_files(path: Path) -> Iterator[Path]:
    """The files of a tokenizer and its chat templates in a directory."""
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            yield path / name
    more = path / "additional_chat_templates"
    if more.is_dir():
        yield from sorted(file for file in more.iterdir() if file.suffix == ".jinja" and file.is_file())


def copy_small(files: Iterable[Path], above: Path, target: Path) -> None:
    """Copy files that lie below `above` to the same places below `target`."""
    for file in files:
        write_synced(target / file.relative_to(above), file.read_bytes())


class SafetensorsWriter:
    """New weight files in `directory`, as many as `shard_bytes` asks for; tensors may be filled in any order.

    tensors: name to type and shape, in the order of the files. names: what the files are called. A context:
    at its end all is on the disk.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        shard_bytes: int,
        names: WeightNames = MODEL,
    ) -> None:
        shards = _split(tensors, shard_bytes)
        self._files: list[SyncedFile] = []
        self._places: dict[str, tuple[SyncedFile, int]] = {}
        total = sum(_size(*held) for held in tensors.values())
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = names.single
            if len(shards) > 1:
                name = f"{Path(name).stem}-{number:05}-of-{len(shards):05}.safetensors"
            weight_map |= dict.fromkeys(shard, name)
            self._open(directory / name, {key: tensors[key] for key in shard})
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_synced(directory / names.index, json_text(index).encode())

    def _open(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at, places = 0, {}
        for name, (dtype, shape) in tensors.items():
            end = at + _size(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            places[name], at = at, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        file = SyncedFile(path)
        self._files.append(file)
        file.write(struct.pack("<Q", len(text)) + text)
        self._places |= {name: (file, file.at + place) for name, place in places.items()}

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files:
            file.close(sync=kind is None)

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Put bytes into a tensor, `offset` bytes from its beginning."""
        file, start = self._places[name]
        file.write_at(start + offset, data)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * _ITEM[dtype]


def _split(tensors: Mapping[str, tuple[str, tuple[int, ...]]], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, what in tensors.items():
        size = _size(*what)
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards
