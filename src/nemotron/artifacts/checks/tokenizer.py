"""The tokenizer and chat template of a Hugging Face directory, known by digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .files import open_regular, read_bytes, read_json_object, unreadable
from .report import Problem, Report, clipped, kind
from .tokenizer_json import read_tokenizer_json

_LIMIT = 256 << 20
_CONFIG_LIMIT = 16 << 20
_TEMPLATE_LIMIT = 4 << 20
# Any one of these sets of files is a tokenizer; the first that is there is the one that loaders take.
_FILES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tekken.json",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tiktoken.model",),
    ("vocab.json",),
)
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_TEMPLATE_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_PIECE = 1 << 20


def check_tokenizer(
    directory: Path, names: frozenset[str], report: Report, *, below: str = ""
) -> dict[str, Any]:
    """The facts tokenizer (its file), tokenizer_digest, tokenizer_size, chat_template (whether there is one),
    chat_template_digest and special_tokens.

    Two tokenizers with the same digest turn every text into the same ids: for `tokenizer.json` see
    `TokenizerJson`, else it is over the bytes. below: where `directory` lies below the place of the report.
    """
    files = next((option for option in _FILES if names.issuperset(option)), ())
    facts: dict[str, Any] = {"tokenizer": files[0] if files else None}
    if not files:
        what = "no tokenizer beside the weights"
        fix = "save the tokenizer into the same directory"
        report.add(Problem("checkpoint.no_tokenizer", what, "warning", valid="tokenizer.json", fix=fix))
    elif files[0] == "tokenizer.json":
        facts |= _fast(directory / files[0], below + files[0], report)
    else:
        facts |= _plain(directory, files, below, report)
    config = _optional(directory, _CONFIG, names, below, report)
    template = _template(directory, names, config, below, report)
    facts["chat_template"] = template is not None
    if template is not None:
        facts["chat_template_digest"] = _sha256(template.encode("utf-8", "surrogatepass"))
    facts["special_tokens"] = _special({**_optional(directory, _MAP, names, below, report), **config})
    return facts


def _fast(path: Path, place: str, report: Report) -> dict[str, Any]:
    found = read_tokenizer_json(path)
    if isinstance(found, Problem):
        report.add(found, file=place)
        return {}
    return {"tokenizer_digest": found.digest, "tokenizer_size": found.size}


def _plain(directory: Path, files: tuple[str, ...], below: str, report: Report) -> dict[str, Any]:
    hasher = hashlib.sha256()
    for name in files:
        problem = _feed(directory / name, hasher.update)
        if problem:
            report.add(problem, file=below + name)
            return {}
    return {"tokenizer_digest": f"sha256:{hasher.hexdigest()}"}


def _feed(path: Path, update: Callable[[bytes], None]) -> Problem | None:
    """Hash name, size and bytes of a file."""
    file = open_regular(path)
    if isinstance(file, Problem):
        return file
    with file:
        try:
            size = file.seek(0, 2)
            if size > _LIMIT:
                return Problem("artifact.too_large", f"larger than {_LIMIT >> 20} MiB, not read")
            file.seek(0)
            update(f"{path.name} {size}\n".encode())
            while data := file.read(_PIECE):
                update(data)
        except OSError as exc:
            return unreadable(exc)
    return None


def _optional(
    directory: Path, name: str, names: frozenset[str], below: str, report: Report
) -> dict[str, Any]:
    if name not in names:
        return {}
    found = read_json_object(directory / name, limit=_CONFIG_LIMIT)
    if isinstance(found, Problem):
        report.add(found, file=below + name)
        return {}
    return found


def _template(
    directory: Path, names: frozenset[str], config: dict[str, Any], below: str, report: Report
) -> str | None:
    """The chat template that loaders take: the file of its own, else the one in the tokenizer's config."""
    if _TEMPLATE_FILE in names:
        data = read_bytes(directory / _TEMPLATE_FILE, limit=_TEMPLATE_LIMIT)
        if isinstance(data, Problem):
            report.add(data, file=below + _TEMPLATE_FILE)
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            what = f"not UTF-8 at byte {exc.start}"
            report.add(Problem("artifact.not_utf8", what), file=below + _TEMPLATE_FILE)
            return None
    value = config.get("chat_template")
    if isinstance(value, list):  # several templates by name
        named = [e.get("template") for e in value if isinstance(e, dict) and e.get("name") == "default"]
        value = named[-1] if named else None
    if value is not None and not isinstance(value, str):
        what = f"chat_template is {kind(value)}, not a string"
        report.add(Problem("data.wrong_type", what), file=below + _CONFIG)
        return None
    return value


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            found[name] = clipped(content)
    return found


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
