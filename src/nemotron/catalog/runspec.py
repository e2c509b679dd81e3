"""The `[tool.runspec]` header of a step's script: a PEP 723 block, read without importing the script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nemotron.catalog.toml_source import ManifestError, parse_toml

_BLOCK = r"(?m)^# /// script\s*\n((?:#[^\n]*\n)*?)# ///[ \t]*$"

HEADER_KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset({"schema", "name", "docs", "setup", "image", "run", "config", "resources", "env"}),
    "run": frozenset({"launch", "cmd", "workdir"}),
    "config": frozenset({"dir", "default", "format"}),
    "resources": frozenset({"nodes", "gpus_per_node"}),
}
"""The keys of the header and of its tables; what the `env` table holds is free."""


def read_runspec(step_py: Path) -> dict[str, object] | None:
    """The `[tool.runspec]` table of a script, or None where the script or the table is missing.

    Raises ManifestError, with the line in the script, if the header is no TOML or no table.
    """
    found = header_text(step_py)
    if found is None:
        return None
    text, lines_before = found
    tool = parse_toml(text, step_py, lines_before).get("tool", {})
    header = tool.get("runspec") if isinstance(tool, dict) else tool
    if header is None or isinstance(header, dict):
        return header
    from nemotron.catalog.toml_lines import key_lines, line_of

    line = line_of(key_lines(text), ("tool", "runspec")) or 0
    raise ManifestError("tool.runspec in the script header must be a table", step_py, lines_before + line)


def header_text(step_py: Path) -> tuple[str, int] | None:
    """The TOML inside a script's header, and how many lines of the script come before it."""
    if not step_py.is_file():
        return None
    try:
        # A script may have another encoding; the header is compared as ASCII.
        script = step_py.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ManifestError(f"{step_py.name} cannot be read: {error.strerror}", step_py) from error
    block = re.search(_BLOCK, script)
    if not block:
        return None
    lines = [line.removeprefix("# ") if line.startswith("# ") else line[1:] for line in block[1].splitlines()]
    return "\n".join(lines), script.count("\n", 0, block.start(1))
