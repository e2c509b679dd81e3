"""Finds every step of every root, and never lets one broken file hide another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.catalog.cache import ParsedFiles, cache_file
from nemotron.catalog.manifest import read_step
from nemotron.catalog.roots import OWN_ROOT, Root, find_roots
from nemotron.catalog.step import BrokenStep, Step
from nemotron.catalog.toml_source import ManifestError
from nemotron.catalog.types import TypeGraph, read_types
from nemotron.errors import CheckFailed, NotFound, nearest


@dataclass(frozen=True, eq=False)
class Catalog:
    """Every step that was found.

    roots: in order of precedence.
    steps: what a bare id reaches, sorted by id.
    broken: manifests and roots that cannot be used, with the reason.
    shadowed: steps whose id an earlier root has; `ROOT:ID` reaches them.
    types: the types of our own root.
    graphs: the types of every root, by root name; a root without `types.toml` has ours.
    """

    roots: tuple[Root, ...]
    steps: tuple[Step, ...]
    broken: tuple[BrokenStep, ...]
    shadowed: tuple[Step, ...]
    types: TypeGraph
    graphs: Mapping[str, TypeGraph] = field(default_factory=dict, repr=False)

    def type_names(self) -> set[str]:
        """The names of the types of every root."""
        return {name for graph in (*self.graphs.values(), self.types) for name in graph.names}

    def types_of(self, step: Step) -> TypeGraph:
        """The types that the step's manifest speaks of: those of its root."""
        return self.graphs.get(step.root, self.types)

    def get(self, step_id: str) -> Step:
        """The step of this id: a bare id, or `ROOT:ID` for the one of that root.

        Raises NotFound with the nearest ids, and CheckFailed if the step is there but broken.
        """
        root, colon, bare = step_id.rpartition(":")
        if colon and root not in {known.name for known in self.roots}:
            names = [known.name for known in self.roots]
            raise NotFound(f"no catalog root is named {root!r}", nearest=nearest(root, names), valid=names)
        for step in (*self.steps, *(self.shadowed if colon else ())):
            if step.id == bare and (not colon or step.root == root):
                return step
        for broken in self.broken:
            if broken.id in (bare, f"{root}:*") and (not colon or broken.root == root):
                raise CheckFailed(
                    f"step {step_id} is broken: {broken.problem}",
                    where=broken.where,
                    next=f"correct it, then: nemotron steps check {step_id}",
                )
        ids = [step.id for step in (*self.steps, *self.shadowed) if not colon or step.root == root]
        close = [f"{root}:{near}" if colon else near for near in nearest(bare, ids)]
        raise NotFound(f"there is no step {step_id!r}", nearest=close, next="nemotron steps list")

    def producers_of(self, artifact_type: str) -> tuple[Step, ...]:
        """The steps with an output that may stand in for this type."""
        return tuple(step for step in self.steps if self._leaves(step, artifact_type))

    def select(
        self,
        *,
        category: str | None = None,
        consumes: str | None = None,
        produces: str | None = None,
        text: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> tuple[Step, ...]:
        """The steps that meet every condition given.

        Parameters
        ----------
        category: exactly this category.
        consumes: takes an artifact of this type, as itself or as a more general one.
        produces: leaves an artifact that may stand in for this type.
        text: every word of it is in the id, name, description or tags; case does not matter.
        tags: has all of them.

        Raises NotFound, with the nearest, for a category, type or tag that nothing has.
        """
        self._require("category", category, {step.category for step in self.steps})
        known_types = self.type_names()
        self._require("artifact type", consumes, known_types)
        self._require("artifact type", produces, known_types)
        for tag in tags or ():
            self._require("tag", tag, {tag for step in self.steps for tag in step.tags})
        words = (text or "").casefold().split()
        return tuple(
            step
            for step in self.steps
            if (category is None or step.category == category)
            and (consumes is None or self._takes(step, consumes))
            and (produces is None or self._leaves(step, produces))
            and set(tags or ()) <= set(step.tags)
            and all(word in _searchable(step) for word in words)
        )

    def as_dict(self) -> dict[str, object]:
        """Everything, as `--json` prints it."""
        return {
            "roots": [{"name": r.name, "path": str(r.path), "problem": r.problem} for r in self.roots],
            "steps": [step.as_dict() for step in self.steps],
            "broken": [broken.as_dict() for broken in self.broken],
            "shadowed": [step.as_dict() for step in self.shadowed],
        }

    def _takes(self, step: Step, have: str) -> bool:
        graph = self._graph_that_knows(have, step)
        return any(graph.is_a(have, want) for port in step.consumes for want in port.type)

    def _leaves(self, step: Step, want: str) -> bool:
        graph = self.types_of(step)
        return any(graph.is_a(have, want) for port in step.produces for have in port.type)

    def _graph_that_knows(self, name: str, step: Step) -> TypeGraph:
        """The step's own types; ours for a type that its root has never heard of."""
        graph = self.types_of(step)
        return graph if name in graph else self.types

    @staticmethod
    def _require(what: str, value: str | None, known: set[str]) -> None:
        if value is not None and value not in known:
            choices = sorted(known)
            raise NotFound(
                f"there is no {what} {value!r}",
                nearest=nearest(value, choices),
                valid=choices if len(choices) <= 30 else (),
            )


def load_catalog(environ: Mapping[str, str] = os.environ) -> Catalog:
    """Reads every root. Nothing a manifest holds makes this fail: see `Catalog.broken`.

    `environ` gives NEMOTRON_CATALOG, and XDG_CACHE_HOME or HOME for the cache of parsed manifests.
    """
    roots = find_roots(environ)
    files = ParsedFiles(cache_file(environ))
    graphs: dict[str, TypeGraph] = {}
    steps: list[Step] = []
    shadowed: list[Step] = []
    broken: list[BrokenStep] = []
    claimed: set[str] = set()
    for root in roots:
        found, unusable = _read_root(root, files)
        types = _read_root_types(root, files)
        if isinstance(types, TypeGraph):
            graphs[root.name] = types
        elif types:
            graphs[root.name] = TypeGraph()
            unusable.append(types)
        for step in found:
            (shadowed if step.id in claimed else steps).append(step)
        # A broken step keeps its id: a later root's step must not run in its place unnoticed.
        claimed.update([*(step.id for step in found), *(step.id for step in unusable)])
        broken += unusable
    files.save()
    own = graphs.get(OWN_ROOT, TypeGraph())
    return Catalog(
        roots=roots,
        steps=tuple(sorted(steps, key=lambda step: step.id)),
        broken=tuple(broken),
        shadowed=tuple(sorted(shadowed, key=lambda step: (step.id, step.root))),
        types=own,
        graphs={root.name: graphs.get(root.name, own) for root in roots},
    )


def _read_root(root: Root, files: ParsedFiles) -> tuple[list[Step], list[BrokenStep]]:
    if root.problem:
        return [], [BrokenStep(f"{root.name}:*", root.path, None, root.problem, root.name)]
    steps: list[Step] = []
    directories, broken = _walk(root)
    for directory in directories:
        try:
            steps.append(read_step(directory, root.path, root.name, files))
        except ManifestError as error:
            step_id = _id_of_broken(directory, root, files)
            broken.append(BrokenStep(step_id, error.path, error.line, error.what, root.name))
    return _without_duplicates(steps, broken)


def _without_duplicates(steps: list[Step], broken: list[BrokenStep]) -> tuple[list[Step], list[BrokenStep]]:
    by_id: dict[str, list[Step]] = {}
    for step in steps:
        by_id.setdefault(step.id, []).append(step)
    for step_id, same in by_id.items():
        for step in same if len(same) > 1 else ():
            others = ", ".join(str(other.path) for other in same if other is not step)
            problem = f"step id {step_id} is also that of {others}"
            line = step.manifest.source.line_of(("step", "id"))
            broken.append(BrokenStep(step_id, step.path, line, problem, step.root))
    return [same[0] for same in by_id.values() if len(same) == 1], broken


def _walk(root: Root) -> tuple[list[Path], list[BrokenStep]]:
    """Every directory with a `step.toml`, sorted, and the directories that cannot be read.

    Hidden directories are left out. A linked directory is entered after all real ones, and no directory
    twice: so loops end, and a link to a step of the same root does not make it a second one.
    """
    found: list[Path] = []
    broken: list[BrokenStep] = []
    ahead = [str(root.path)]
    links: list[str] = []
    seen: set[tuple[int, int]] = set()
    while ahead or links:
        directory = ahead.pop() if ahead else links.pop()
        try:
            info = Path(directory).stat()
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            where = Path(directory)
            problem = f"directory cannot be read: {error.strerror}"
            broken.append(BrokenStep(_relative_id(where, root), where, None, problem, root.name))
            continue
        for entry in entries:
            if entry.name == "step.toml":
                found.append(Path(directory))
            elif entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            elif entry.is_dir(follow_symlinks=False):
                ahead.append(entry.path)
            elif entry.is_symlink() and _leads_to_directory(entry):
                links.append(entry.path)
    return sorted(found), broken


def _leads_to_directory(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except PermissionError:  # entered, and so reported as unreadable
        return True
    except OSError:  # a link to itself
        return False


def _id_of_broken(directory: Path, root: Root, files: ParsedFiles) -> str:
    """The id that a broken manifest declares, as far as it can be read; else where it is in its root."""
    try:
        about = files.toml(directory / "step.toml").data.get("step")
    except ManifestError:
        about = None
    declared = about.get("id") if isinstance(about, dict) else None
    return declared if isinstance(declared, str) and declared else _relative_id(directory, root)


def _relative_id(directory: Path, root: Root) -> str:
    if directory == root.path:
        return f"{directory.parent.name}/{directory.name}"
    return directory.relative_to(root.path).as_posix()


def _read_root_types(root: Root, files: ParsedFiles) -> TypeGraph | BrokenStep | None:
    path = root.path / "types.toml"
    try:
        path.lstat()
    except OSError:
        return None
    try:
        return read_types(path, files, is_own=root.is_own)
    except ManifestError as error:
        return BrokenStep(f"{root.name}:types.toml", path, error.line, error.what, root.name)


def _searchable(step: Step) -> str:
    return " ".join((step.id, step.name, step.description, *step.tags)).casefold()
