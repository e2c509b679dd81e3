"""The code of a step as it travels with a run: the step's own files and the local modules it imports.

Never a whole working tree: what nobody names stays, and so do files that git ignores, data that git does not
track, and whatever is named like a secret (`private`). Local is what lies in the step's directory, its
catalog, or the project these are in; for a step of our own catalog, this package too, so that its script runs
where the package is not installed. What is installed is the container's. See `imports` for what an import
cannot tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_bytes
from nemotron.artifacts.digest import digest_json
from nemotron.artifacts.file_memory import FileMemory
from nemotron.artifacts.paths import printable
from nemotron.errors import CheckFailed, Conflict
from nemotron.sources.checkout import Changes, changed_entries, changes_of
from nemotron.sources.git import (
    Checkout,
    dot_git_above,
    find_checkout,
    is_ignored,
    new_files,
    stored_files,
    tracked_files,
)
from nemotron.sources.imports import import_closure, require_readable
from nemotron.sources.private import is_private

MAX_BYTES = 32 << 20
"""Code is small; what is larger is data, and data are inputs."""

DIFF_FILE = "code.diff"
_MANIFEST = "step.toml"
_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_SHOWN = 3


@dataclass(frozen=True)
class CodeBundle:
    """The code of one step, not yet written anywhere.

    files: path in the bundle to the file it comes from.
    digest: `blake3:...` over paths and bytes; where the files come from does not count.
    script: the step's script, as a path in the bundle; None for a step without one.
    search: directories of the bundle that PYTHONPATH has to name, `.` for the bundle itself.
    commit: of the checkout they come from, None without one. dirty: digest of what differs from it among
    these files, None where nothing does; diff: the differences as text.
    left_out: `path: why`, for files that the step has or names and that do not travel.
    """

    files: Mapping[str, Path]
    digest: str
    script: str | None = None
    search: tuple[str, ...] = ()
    commit: str | None = None
    dirty: str | None = None
    diff: str = ""
    left_out: tuple[str, ...] = ()


def bundle_code(
    step_directory: Path, script: Path | None, project: Path | None = None, *, catalog: Path | None = None
) -> CodeBundle:
    """The code of the step in `step_directory`, whose script is `script`.

    project: the directory of what belongs together; without one it is the nearest above the step that holds
    `.git` or `pyproject.toml`. catalog: the root of the step's catalog. Neither counts where the step does
    not lie in it.

    Raises CheckFailed for a link that leads out of the project, a script that is no Python and code of more
    than `MAX_BYTES`; see also `find_checkout` and `os_error`.
    """
    directory = step_directory.resolve()
    home, roots = _home(directory, project, catalog)
    selection = _Selection(directory, home)
    own = list(selection.own_files())
    starts = [path for path in own if path.suffix == ".py"]
    main = None
    if script is not None:
        main = script.resolve()
        starts.append(main)
    closure = import_closure(starts, roots)
    if main is not None:
        require_readable(main, closure)
    files = selection.admitted([*own, *closure.files])
    for path, why in closure.unread.items():
        selection.leave_out(path, f"travels, but its imports cannot be told: {why}", of="imports of ")
    if main is not None and main not in files.values():
        what = "the step's script does not travel, so the step cannot run anywhere else"
        raise CheckFailed(
            what, where=printable(main), next="see why: " + "; ".join(sorted(selection.left_out))
        )
    _require_small(files)
    search = [root for root in roots[1:] if any(path.is_relative_to(root) for path in files.values())]
    changes = selection.changes(files)
    return CodeBundle(
        files=files,
        digest=_digest(files),
        script=None if main is None else main.relative_to(home).as_posix(),
        search=tuple(root.relative_to(home).as_posix() for root in search),
        commit=None if selection.checkout is None else selection.checkout.commit,
        dirty=changes.digest,
        diff=changes.text,
        left_out=tuple(sorted(selection.left_out)),
    )


def code_files(
    step_directory: Path,
    script: Path | None,
    *,
    catalog: Path | None = None,
    memory: FileMemory | None = None,
) -> dict[str, Path]:
    """The Python files that decide what a step does, by a name that says no place; git is not asked.

    The step's own, and the local modules they import, as `bundle_code` finds them. memory: see
    `import_closure`.
    """
    directory = step_directory.resolve()
    _, roots = _home(directory, None, catalog)
    starts = [path for path in _walk(directory) if path.suffix == ".py"]
    starts += [script.resolve()] if script is not None else []
    found = {}
    for path in sorted(import_closure(starts, roots, memory).files):
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        found[path.relative_to(root).as_posix()] = path
    return found


def write_code(bundle: CodeBundle, directory: Path) -> None:
    """Write the files of a bundle into `directory`, and what differs from the commit beside it.

    Raises Conflict when a file is no longer what it was when the bundle was made; see also `os_error`.
    """
    digests = {}
    for name, path in bundle.files.items():
        target = directory / name
        try:
            data = path.read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        except OSError as problem:
            raise os_error(problem, problem.filename or target) from problem
        digests[name] = _content(data)
    if digest_json(digests) != bundle.digest:
        raise Conflict(
            "the step's code changed between planning and launching",
            where=printable(directory),
            next="plan again, and launch that",
        )
    if bundle.diff:
        write_bytes(directory.parent / DIFF_FILE, bundle.diff.encode("utf-8", "surrogateescape"))


def _home(directory: Path, project: Path | None, catalog: Path | None) -> tuple[Path, tuple[Path, ...]]:
    """What paths in the bundle are relative to, and where modules are looked for, the step first."""
    if directory.is_relative_to(_PACKAGE):
        return _PACKAGE.parent, (directory, _PACKAGE.parent)
    given = [each.resolve() for each in (project, catalog) if each is not None]
    places = [directory, *(each for each in given if directory.is_relative_to(each))]
    if not _is_installed(directory) and (project is None or project.resolve() not in places):
        places += _project_of(directory)
    home = min(places, key=lambda place: len(place.parts))
    nearest = sorted(set(places), key=lambda place: -len(place.parts))
    return home, tuple(dict.fromkeys([*nearest, home / "src"]))


def _project_of(directory: Path) -> list[Path]:
    """The nearest checkout around the step, else the nearest Python project; empty without one."""
    marked = dot_git_above(directory)
    if marked is not None:
        return [marked]
    return [place for place in directory.parents if (place / "pyproject.toml").is_file()][:1]


def _is_installed(directory: Path) -> bool:
    return not _INSTALLED.isdisjoint(directory.parts)


class _Selection:
    """Which files may travel, as git, their names and their links tell."""

    def __init__(self, directory: Path, home: Path) -> None:
        self._directory = directory
        self._home = home
        self._is_ours = home == _PACKAGE.parent
        self.left_out: set[str] = set()
        self.checkout: Checkout | None = None
        self._why_no_data: str | None = None
        if not _is_installed(directory):
            self._look_around()
        self._tracked: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()

    def own_files(self) -> Iterator[Path]:
        """The files of the step's directory that are its code, and the data that git tracks beside it."""
        if self.checkout is not None:
            self._learn([self._directory])
        for path in sorted(_walk(self._directory)):
            why = self._why_not_data(path) if path.suffix != ".py" else None
            if why is None and not path.is_file():
                why = "it is no regular file"
            if why is None:
                yield path
            else:
                self.leave_out(path, why)

    def admitted(self, paths: Sequence[Path]) -> dict[str, Path]:
        """Those of the files that may travel, by path in the bundle; the others are left out."""
        if self.checkout is not None:
            self._learn([p for p in paths if not p.is_relative_to(self._directory)])
        found = {}
        for path in sorted(set(paths)):
            why = self._why_not(path)
            if why is not None:
                self.leave_out(path, why)
            else:
                found[path.relative_to(self._home).as_posix()] = path
        return found

    def leave_out(self, path: Path, why: str, *, of: str = "") -> None:
        self.left_out.add(f"{of}{printable(path.relative_to(self._home))}: {why}")

    def changes(self, files: Mapping[str, Path]) -> Changes:
        """What differs from the commit among these files, and which files of the step are gone."""
        if self.checkout is None:
            return Changes()
        top = self.checkout.top
        mine = [path for path in files.values() if dot_git_above(path.parent) == top]
        names = {str(path.relative_to(top)) for path in mine}
        stored = stored_files(self.checkout, [self._directory, *mine])
        relevant = {n: each for n, each in stored.items() if n in names or not os.path.lexists(top / n)}
        return changes_of(changed_entries(self.checkout, relevant, sorted(names)))

    def _look_around(self) -> None:
        """Find the checkout; where it does not know the step's files, data beside the code stay here."""
        found = find_checkout(self._directory)
        if found is None:
            if not self._is_ours and dot_git_above(self._directory) is not None:
                self._why_no_data = "git cannot be asked about it"
        elif self._is_ours:
            # Else it lies in somebody's checkout and is no part of it.
            self.checkout = found if tracked_files(found, [_PACKAGE / "__init__.py"]) else None
        elif is_ignored(found, self._directory):
            self._why_no_data = "git ignores the step"
        else:
            self.checkout = found

    def _learn(self, paths: Sequence[Path]) -> None:
        assert self.checkout is not None
        places = [path for path in paths if path.is_relative_to(self.checkout.top)]
        if places:
            tracked = tracked_files(self.checkout, places)
            self._tracked |= tracked
            self._known |= tracked | new_files(self.checkout, places)

    def _why_not_data(self, path: Path) -> str | None:
        if self.checkout is None:
            return None if path.name == _MANIFEST else self._why_no_data
        is_tracked = str(path.relative_to(self.checkout.top)) in self._tracked
        return None if is_tracked else "git does not track it"

    def _why_not(self, path: Path) -> str | None:
        real = path.resolve()
        if not self._is_ours and not real.is_relative_to(self._home):
            raise CheckFailed(
                f"a link leads out of the project, to {printable(real)}",
                where=printable(path),
                next="put a copy of the target in its place",
            )
        names = [p.relative_to(self._home).as_posix() for p in (path, real) if p.is_relative_to(self._home)]
        if any(is_private(name) for name in names):
            return "it is named like a file that holds secrets"
        return next((why for p in {path, real} if (why := self._why_ignored(p)) is not None), None)

    def _why_ignored(self, path: Path) -> str | None:
        top = None if self.checkout is None else dot_git_above(path.parent)
        if self.checkout is None or top is None:
            return None
        if top == self.checkout.top:
            if str(path.relative_to(top)) in self._known:
                return None
            # Known are the files that were asked about, a link's target is not one of them.
            return "git ignores it" if is_ignored(self.checkout, path) else None
        inner = find_checkout(path.parent)
        if inner is None or is_ignored(inner, path):
            return "git ignores it"
        self.leave_out(path, "it is another checkout's, which is not recorded", of="commit of ")
        return None


def _walk(directory: Path) -> Iterator[Path]:
    """The files of a step, without hidden ones, caches, environments and the steps below it."""

    def fail(problem: OSError) -> None:
        raise os_error(problem, problem.filename) from problem

    for place, directories, names in os.walk(directory, onerror=fail):
        here = Path(place)
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name != "__pycache__"
            and not (here / name / _MANIFEST).exists()
            and not (here / name / "pyvenv.cfg").exists()
        ]
        links = [name for name in directories if (here / name).is_symlink()]
        yield from (here / name for name in (*names, *links) if not name.startswith("."))


def _require_small(files: Mapping[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:_SHOWN]
        listed = ", ".join(f"{printable(name)} ({sizes[name] / (1 << 20):.1f} MiB)" for name in largest)
        raise CheckFailed(
            f"the step's code is {total / (1 << 20):.1f} MiB; the largest files are {listed}",
            valid=(f"at most {MAX_BYTES >> 20} MiB",),
            next="make data an input of the step, or let git ignore them",
        )


def _digest(files: Mapping[str, Path]) -> str:
    digests = {}
    for name, path in files.items():
        try:
            digests[name] = _content(path.read_bytes())
        except OSError as problem:
            raise os_error(problem, path) from problem
    return digest_json(digests)


def _content(data: bytes) -> str:
    from blake3 import blake3

    return blake3(data).hexdigest()
