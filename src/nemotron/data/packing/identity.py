"""What packed data remember of the tokenizer and template that made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.checks.report import Report
from nemotron.artifacts.checks.tokenizer import check_tokenizer
from nemotron.errors import CheckFailed


def tokenizer_identity(directory: Path, template: str) -> dict[str, str | int]:
    """`tokenizer_digest` and `tokenizer_size` of the tokenizer in a model directory, as `artifacts check`
    tells them, and the `chat_template_digest` of the template that was used.

    Raises `CheckFailed` for a directory without a tokenizer that can be identified.
    """
    try:
        names = frozenset(entry.name for entry in directory.iterdir())
    except OSError as exc:
        raise os_error(exc, directory) from exc
    report = Report(directory, 1)
    facts = check_tokenizer(directory, names, report)
    if "tokenizer_digest" not in facts:
        raise CheckFailed("no tokenizer that can be identified", where=str(directory))
    digest = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
    told: dict[str, str | int] = {
        "tokenizer_digest": facts["tokenizer_digest"],
        "chat_template_digest": f"sha256:{digest}",
    }
    if facts.get("tokenizer_size"):
        told["tokenizer_size"] = facts["tokenizer_size"]
    return told
