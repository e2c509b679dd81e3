"""A lineage with its neighbours at hand, and what follows from its shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nemotron.artifacts.lineage import Edge, Lineage

Edges = tuple[Edge, ...]


@dataclass(frozen=True)
class Graph:
    """The edges of a lineage by what they touch: looked up, not searched for."""

    lineage: Lineage
    makers: Mapping[str, Edges]
    users: Mapping[str, Edges]
    inputs: Mapping[str, Edges]
    outputs: Mapping[str, Edges]

    @classmethod
    def of(cls, lineage: Lineage) -> Graph:
        """The graph of a lineage."""
        makers: dict[str, list[Edge]] = {}
        users: dict[str, list[Edge]] = {}
        inputs: dict[str, list[Edge]] = {}
        outputs: dict[str, list[Edge]] = {}
        for edge in lineage.edges:
            by_artifact, by_run = (users, inputs) if edge.direction == "input" else (makers, outputs)
            by_artifact.setdefault(edge.artifact, []).append(edge)
            by_run.setdefault(edge.run, []).append(edge)
        return cls(
            lineage, *({k: tuple(v) for k, v in each.items()} for each in (makers, users, inputs, outputs))
        )

    def before(self, artifact: str) -> list[str]:
        """What the runs that made an artifact took."""
        return [i.artifact for made in self.makers.get(artifact, ()) for i in self.inputs.get(made.run, ())]

    def after(self, artifact: str) -> list[str]:
        """What the runs that took an artifact made."""
        return [o.artifact for used in self.users.get(artifact, ()) for o in self.outputs.get(used.run, ())]

    def tainted_by(self) -> dict[str, str]:
        """For each artifact with a tainted ancestor here, the nearest such ancestor."""
        tainted = [a.id for a in self.lineage.artifacts.values() if a.tainted is not None]
        source = {each: each for each in tainted}
        for found, origin in _spread(tainted, self.after):
            source[found] = source[origin]
        return {artifact: origin for artifact, origin in source.items() if artifact != origin}

    def distance(self, *, up: bool) -> dict[str, int]:
        """How many runs lie between the focus and each of its ancestors (`up`) or descendants."""
        far = {self.lineage.focus: 0}
        for found, origin in _spread([self.lineage.focus], self.before if up else self.after):
            far[found] = far[origin] + 1
        return far


def _spread(start: Iterable[str], onward: Callable[[str], list[str]]) -> Iterable[tuple[str, str]]:
    """Breadth first: each artifact reached, with the one it was first reached from."""
    queue = deque(start)
    seen = set(queue)
    while queue:
        origin = queue.popleft()
        for found in onward(origin):
            if found not in seen:
                seen.add(found)
                queue.append(found)
                yield found, origin
