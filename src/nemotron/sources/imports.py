"""Which local modules a Python file needs, told from its import statements without running it.

What is imported by a name that is made while the program runs (`importlib.import_module(name)`) cannot be
seen. Imports for type checkers alone are passed over.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.artifacts.file_memory import FileMemory, state_of
from nemotron.errors import CheckFailed

MAX_FILE = 4 << 20


@dataclass(frozen=True)
class Closure:
    """Files that were asked about and all local modules they need, by way of others too.

    unread: files whose imports cannot be told, and why; they are among `files`.
    """

    files: frozenset[Path]
    unread: Mapping[Path, str] = field(default_factory=dict)


def import_closure(
    starts: Iterable[Path], roots: Sequence[Path], memory: FileMemory | None = None
) -> Closure:
    """The closure of `starts` over the modules below `roots`, the first of which that has a module counts.

    memory: what files were found to import before; parsing one takes a millisecond.
    """
    memory = FileMemory() if memory is None else memory
    found: set[Path] = set()
    unread: dict[Path, str] = {}
    pending = list(starts)
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        try:
            imports = _imports_of(path, memory)
        except SyntaxError as problem:
            unread[path] = f"line {problem.lineno}: {problem.msg}"
        except (OSError, ValueError, RecursionError, MemoryError) as problem:
            unread[path] = str(problem) or type(problem).__name__
        else:
            for level, names in imports:
                inside = 0 < level <= len(path.parents)
                pending += _modules(names, (path.parents[level - 1],) if inside else roots)
    memory.save()
    return Closure(frozenset(found), unread)


def _imports_of(path: Path, memory: FileMemory) -> list[tuple[int, list[str]]]:
    """Dots before the name, and its parts, of each import of a file that may be local."""
    state = state_of(path)
    known = memory.recall(path, state)
    if known is not None and isinstance(known.get("imports"), list):
        return known["imports"]  # type: ignore[return-value]
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"longer than {MAX_FILE >> 20} MiB")
    imports = list(_imported(ast.parse(path.read_bytes(), filename=path.name)))
    memory.remember(path, state, {"imports": imports})
    return imports


def require_readable(script: Path, closure: Closure) -> None:
    """Raise CheckFailed when the imports of the script itself cannot be told: it would fail at once."""
    if script in closure.unread:
        raise CheckFailed(f"the step's script is no Python: {closure.unread[script]}", where=str(script))


def _imported(tree: ast.Module) -> Iterator[tuple[int, list[str]]]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names = alias.name.split(".")
                if names[0] not in sys.stdlib_module_names:
                    yield 0, names
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level == 0 and base[0] in sys.stdlib_module_names:
                continue
            for alias in node.names:
                yield node.level, [*base, alias.name]


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _is_for_types(node.test):
            pending += node.orelse
        elif not isinstance(node, ast.expr):  # an import is a statement
            pending += ast.iter_child_nodes(node)


def _is_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _modules(names: list[str], roots: Sequence[Path]) -> list[Path]:
    """The files of a module and of the packages it is in, from the first root that has any of them."""
    for root in roots:
        found, place = list[Path](), root
        for name in names:
            module, package = place / f"{name}.py", place / name / "__init__.py"
            if package.is_file():
                found.append(package)
            elif module.is_file():
                found.append(module)
                break
            elif not (place / name).is_dir():
                break
            place = place / name
        if found:
            return found
    return []
