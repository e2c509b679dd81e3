"""What manifests hold, remembered between processes: tomllib needs 20 ms for 25 of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemotron.artifacts.file_memory import FileMemory, State, memory_file, state_of
from nemotron.catalog.runspec import header_text, read_runspec
from nemotron.catalog.toml_source import TomlSource, parse_toml, read_text


class ParsedFiles:
    """Reads manifests and script headers, each file once for each state it was ever in.

    What a file holds is remembered once the reader has found nothing wrong in it and called `accept`.

    Parameters
    ----------
    path: the file of the memory, see `FileMemory`; None reads everything afresh.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._memory = FileMemory(path)
        self._fresh: dict[str, tuple[State | None, Mapping[str, object]]] = {}

    def toml(self, path: Path) -> TomlSource:
        """A `step.toml` or `types.toml`. Raises ManifestError."""
        state = state_of(path)
        data = self._memory.recall(path, state)
        if data is None:
            data = parse_toml(read_text(path), path)
            self._fresh[str(path)] = state, data
        return TomlSource(path, data, lambda: (read_text(path), 0))

    def header(self, script: Path) -> TomlSource | None:
        """The `[tool.runspec]` header of a script, None where there is none. Raises ManifestError."""
        state = state_of(script)
        data = self._memory.recall(script, state)
        if data is None:
            data = {"runspec": read_runspec(script)}
            self._fresh[str(script)] = state, data
        header = data.get("runspec")
        source = TomlSource(
            script, header if isinstance(header, dict) else {}, lambda: header_text(script) or ("", 0)
        )
        if isinstance(header, dict):
            return source
        self.accept(source)
        return None

    def is_accepted(self, source: TomlSource) -> bool:
        """Whether an earlier reader found nothing wrong in this very state of the file."""
        return self._memory.is_known(source.path)

    def accept(self, source: TomlSource) -> None:
        """Nothing is wrong in the file: it may be remembered."""
        fresh = self._fresh.pop(str(source.path), None)
        if fresh is not None:
            self._memory.remember(source.path, *fresh)

    def save(self) -> None:
        """Write what is new, and only what this process used."""
        self._memory.save()


def cache_file(environ: Mapping[str, str]) -> Path | None:
    """Where the memory of manifests is."""
    return memory_file(environ, "catalog.json")
