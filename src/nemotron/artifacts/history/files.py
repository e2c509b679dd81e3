"""Reading the files beside an artifact that nobody vouches for: bounded, no link followed out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from nemotron.artifacts.checks.files import not_text, read_bytes, read_json_object
from nemotron.artifacts.checks.report import Problem, shown
from nemotron.artifacts.history.yaml_text import BadYaml, read_yaml
from nemotron.artifacts.paths import printable
from nemotron.findings import Finding

_TEXT_LIMIT = 2 << 20
# A trainer_state.json keeps every logged step. Of empty lists alone, so much becomes 190 MB of objects.
_JSON_LIMIT = 8 << 20
_FINDINGS = 20

_Content = TypeVar("_Content")


class Folder:
    """A directory whose files tell of an artifact; what is wrong with one becomes a finding.

    source: the files that were read. findings: see `report`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source: list[str] = []
        self.findings: list[Finding] = []
        self._real = Path(os.path.realpath(root))

    def report(self, name: str, message: str, file: Path | None = None) -> None:
        """Add a warning `history.<name>`; the first twenty are kept."""
        if len(self.findings) < _FINDINGS:
            where = printable(file or self.root)
            self.findings.append(Finding(f"history.{name}", "warning", message, where))

    def has(self, file: Path) -> bool:
        """Whether there is a file of that name, links that lead out of the artifact left aside."""
        try:
            if not file.is_file():
                return False
        except (OSError, ValueError):
            return False
        if self._inside(file):
            return True
        self.report("link", "a symbolic link that leaves the artifact is not followed", file)
        return False

    def _inside(self, file: Path) -> bool:
        real = Path(os.path.realpath(file))
        if real.is_relative_to(self._real):
            return True
        # The hub's cache: snapshots/COMMIT/FILE is a link to ../../blobs/HASH.
        return self._real.parent.name == "snapshots" and real.parent == self._real.parent.parent / "blobs"

    def json(self, file: Path, limit: int = _JSON_LIMIT) -> dict[str, Any] | None:
        """The JSON object in a file, None when there is none; a damaged one is a finding."""
        if not self.has(file):
            return None
        found = read_json_object(file, limit=limit)
        return self._told(file, found)

    def text(self, file: Path) -> str | None:
        """The text of a file, None when there is none; one of more than two MiB is a finding."""
        if not self.has(file):
            return None
        found = read_bytes(file, limit=_TEXT_LIMIT)
        problem = found if isinstance(found, Problem) else not_text(found)
        if isinstance(found, Problem) or problem is not None:
            return self._told(file, problem)
        try:
            return self._told(file, found.decode("utf-8-sig"))
        except UnicodeDecodeError as exc:
            return self._told(file, Problem("not_utf8", f"not UTF-8 at byte {exc.start}"))

    def yaml(self, file: Path) -> dict[str, Any] | None:
        """The map in a YAML file, None when there is none."""
        text = self.text(file)
        return None if text is None else self.yaml_in(text, file)

    def yaml_in(self, text: str, file: Path) -> dict[str, Any] | None:
        """The map that `text`, a part of `file`, holds as YAML."""
        try:
            found = read_yaml(text)
        except BadYaml as problem:
            self.report("damaged", str(problem), file)
            return None
        if found.tags:
            what = f"{found.tags} values with YAML tags, which name code to run; the file is not believed"
            self.report("tags", what, file)
            return None
        if found.repeated:
            self.report("repeated", f"the key {shown(found.repeated[0])} stands twice, the last counts", file)
        if not isinstance(found.value, dict):
            self.report("damaged", "no map of keys", file)
            return None
        return found.value

    def _told(self, file: Path, found: _Content | Problem | None) -> _Content | None:
        if found is None or isinstance(found, Problem):
            self.report("damaged", found.message if found else "nothing in it", file)
            return None
        name = str(file.relative_to(self.root)) if file.is_relative_to(self.root) else str(file)
        if printable(name) not in self.source:
            self.source.append(printable(name))
        return found
