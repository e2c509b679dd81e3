"""The tokenizer and chat template of a Hugging Face directory, known by digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_bytes, read_json_object
from .report import Problem, Report, kind

_LIMIT = 256 << 20
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
# Settings of the last use, not of the tokenizer: they differ after every training run.
_TRANSIENT = ("truncation", "padding")


def check_tokenizer(directory: Path, names: frozenset[str], report: Report) -> dict[str, Any]:
    """The facts tokenizer (its file), tokenizer_digest, tokenizer_size, chat_template (whether there is one),
    chat_template_digest and special_tokens.

    Two tokenizers with the same digest turn every text into the same ids: for `tokenizer.json` the digest is
    SHA-256 over its canonical JSON without the settings of the last use, and with merges in one notation.
    """
    files = next((option for option in _FILES if names.issuperset(option)), ())
    facts: dict[str, Any] = {"tokenizer": files[0] if files else None}
    if not files:
        what = "no tokenizer beside the weights"
        fix = "save the tokenizer into the same directory"
        report.add(Problem("checkpoint.no_tokenizer", what, "warning", valid="tokenizer.json", fix=fix))
    elif files[0] == "tokenizer.json":
        facts |= _fast(directory / files[0], report)
    else:
        facts |= _plain(directory, files, report)
    config = _optional(directory, _CONFIG, names, report)
    template = _template(directory, names, config, report)
    facts["chat_template"] = template is not None
    if template is not None:
        facts["chat_template_digest"] = _sha256(template.encode("utf-8", "surrogatepass"))
    facts["special_tokens"] = _special({**_optional(directory, _MAP, names, report), **config})
    return facts


def _fast(path: Path, report: Report) -> dict[str, Any]:
    found = read_json_object(path, limit=_LIMIT)
    if isinstance(found, Problem):
        report.add(found, file=path.name)
        return {}
    model = found.get("model")
    if not isinstance(model, dict):
        what = "tokenizer.json has no model"
        report.add(Problem("checkpoint.broken_tokenizer", what), file=path.name)
        return {}
    kept = {key: value for key, value in found.items() if key not in _TRANSIENT}
    merges = model.get("merges")
    if isinstance(merges, list):
        # Written as "a b" before tokenizers 0.20 and as ["a", "b"] since.
        split = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
        kept["model"] = {**model, "merges": split}
    try:
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:  # what the parser just managed to read
        report.add(Problem("data.too_deep", "nested too deeply to be read"), file=path.name)
        return {}
    digest = _sha256(text.encode("utf-8", "surrogatepass"))
    return {
        "tokenizer_digest": digest,
        "tokenizer_size": _size(model.get("vocab"), found.get("added_tokens")),
    }


def _size(vocab: Any, added: Any) -> int:
    """One more than the highest token id."""
    if isinstance(vocab, dict):
        ids = [value for value in vocab.values() if isinstance(value, int)]
    else:
        ids = list(range(len(vocab))) if isinstance(vocab, list) else []
    if isinstance(added, list):
        ids += [a["id"] for a in added if isinstance(a, dict) and isinstance(a.get("id"), int)]
    return max(ids, default=-1) + 1


def _plain(directory: Path, files: tuple[str, ...], report: Report) -> dict[str, Any]:
    hasher = hashlib.sha256()
    for name in files:
        data = read_bytes(directory / name, limit=_LIMIT)
        if isinstance(data, Problem):
            report.add(data, file=name)
            return {}
        hasher.update(f"{name} {len(data)}\n".encode() + data)
    return {"tokenizer_digest": f"sha256:{hasher.hexdigest()}"}


def _optional(directory: Path, name: str, names: frozenset[str], report: Report) -> dict[str, Any]:
    if name not in names:
        return {}
    found = read_json_object(directory / name, limit=_LIMIT)
    if isinstance(found, Problem):
        report.add(found, file=name)
        return {}
    return found


def _template(directory: Path, names: frozenset[str], config: dict[str, Any], report: Report) -> str | None:
    """The chat template that loaders take: the file of its own, else the one in the tokenizer's config."""
    if _TEMPLATE_FILE in names:
        data = read_bytes(directory / _TEMPLATE_FILE, limit=_TEMPLATE_LIMIT)
        if isinstance(data, Problem):
            report.add(data, file=_TEMPLATE_FILE)
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            report.add(Problem("artifact.not_utf8", f"not UTF-8 at byte {exc.start}"), file=_TEMPLATE_FILE)
            return None
    value = config.get("chat_template")
    if isinstance(value, list):  # several templates by name
        by_name = {e.get("name"): e.get("template") for e in value if isinstance(e, dict)}
        value = by_name.get("default")
    if value is not None and not isinstance(value, str):
        what = f"chat_template is {kind(value)}, not a string"
        report.add(Problem("data.wrong_type", what), file=_CONFIG)
        return None
    return value


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            found[name] = content
    return found


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
