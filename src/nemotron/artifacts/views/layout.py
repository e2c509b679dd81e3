"""Where the nodes of a lineage lie on a plane: in layers from left to right, few crossings, straight edges.

Artifacts and runs take turns: even layers hold artifacts, odd ones runs. An edge over several layers passes
each between the nodes, at a bend that takes part in the layout as a small node of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nemotron.artifacts.lineage import Lineage
from nemotron.artifacts.views.crossings import order_layers

ARTIFACT_WIDTH, ARTIFACT_HEIGHT = 190.0, 66.0
RUN_WIDTH, RUN_HEAD, PORT_HEIGHT, RUN_FOOT = 196.0, 50.0, 19.0, 7.0
GAP_X, GAP_Y, BEND_GAP = 52.0, 22.0, 12.0
_ROUNDS = 12  # of pulling the layers straight; more moves nothing by a pixel

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """Where a node is: its upper left corner and its size, in CSS pixels.

    ports: for runs the height below the corner at which each port's edges end, by (direction, port).
    """

    x: float
    y: float
    width: float
    height: float
    ports: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Layout:
    """Boxes by id; a route for each edge of the lineage, in their order, from its source to its target."""

    artifacts: Mapping[str, Box]
    runs: Mapping[str, Box]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def lay_out(lineage: Lineage) -> Layout:
    """The layout of a lineage; the same for the same lineage."""
    return _Plane(lineage).layout()


class _Plane:
    """Nodes are numbers: artifacts first, then runs, then bends."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._ids = [*lineage.artifacts, *lineage.runs]
        self._artifacts = len(lineage.artifacts)
        number_of_artifact = {name: n for n, name in enumerate(lineage.artifacts)}
        number_of_run = {name: n + self._artifacts for n, name in enumerate(lineage.runs)}
        self._arcs = [
            (number_of_artifact[e.artifact], number_of_run[e.run])
            if e.direction == "input"
            else (number_of_run[e.run], number_of_artifact[e.artifact])
            for e in lineage.edges
        ]
        self._forward = _without_cycles(len(self._ids), self._arcs)
        self._layer = _layers(len(self._ids), self._artifacts, self._forward)
        self._chains = self._add_bends()
        self._links = [pair for chain in self._chains for pair in pairwise(chain)]
        self._order = order_layers(self._layer, self._links)
        self._ports = self._place_ports()

    def _add_bends(self) -> list[list[int]]:
        """For each arc the nodes that it passes, bends included, from its left end to its right one."""
        chains = []
        for left, right in self._forward:
            chain = [left]
            for layer in range(self._layer[left] + 1, self._layer[right]):
                chain.append(len(self._layer))
                self._layer.append(layer)
            chains.append([*chain, right])
        return chains

    def _place_ports(self) -> list[dict[tuple[str, str], float]]:
        """For each node the height of each of its ports: in the order of what they lead to."""
        place = {node: n for nodes in self._order for n, node in enumerate(nodes)}
        towards: list[dict[tuple[str, str], list[int]]] = [{} for _ in self._layer]
        for edge, chain in zip(self._lineage.edges, self._chains, strict=True):
            at_left = chain[0] >= self._artifacts and chain[0] < len(self._ids)
            run, neighbour = (chain[0], chain[1]) if at_left else (chain[-1], chain[-2])
            towards[run].setdefault((edge.direction, edge.port), []).append(place[neighbour])
        ports: list[dict[tuple[str, str], float]] = []
        for found in towards:
            ordered = sorted(found, key=lambda key: (sum(found[key]) / len(found[key]), key))
            rows = {"input": 0, "output": 0}
            heights = {}
            for direction, port in ordered:
                heights[direction, port] = RUN_HEAD + PORT_HEIGHT * (rows[direction] + 0.5)
                rows[direction] += 1
            ports.append(heights)
        return ports

    def layout(self) -> Layout:
        heights = [self._height(node) for node in range(len(self._layer))]
        tops = self._tops(heights)
        lefts = _columns(self._layer, len(self._ids))
        boxes = [
            Box(lefts[self._layer[n]], tops[n], self._width(n), heights[n], self._ports[n])
            for n in range(len(self._ids))
        ]
        routes = tuple(self._route(n, boxes, tops, lefts) for n in range(len(self._arcs)))
        return Layout(
            dict(zip(self._ids[: self._artifacts], boxes[: self._artifacts], strict=True)),
            dict(zip(self._ids[self._artifacts :], boxes[self._artifacts :], strict=True)),
            routes,
            max(box.x + box.width for box in boxes),
            max([box.y + box.height for box in boxes] + [tops[n] for n in range(len(self._ids), len(tops))]),
        )

    def _is_bend(self, node: int) -> bool:
        return node >= len(self._ids)

    def _height(self, node: int) -> float:
        if self._is_bend(node):
            return 0.0
        if node < self._artifacts:
            return ARTIFACT_HEIGHT
        sides = [sum(1 for direction, _ in self._ports[node] if direction == d) for d in ("input", "output")]
        return RUN_HEAD + PORT_HEIGHT * max(sides) + RUN_FOOT

    def _width(self, node: int) -> float:
        return ARTIFACT_WIDTH if node < self._artifacts else RUN_WIDTH

    def _end_height(self, node: int, edge: int, heights: Sequence[float]) -> float:
        """How far below a node's top an edge ends at it."""
        if node < self._artifacts or self._is_bend(node):
            return heights[node] / 2
        each = self._lineage.edges[edge]
        return self._ports[node][each.direction, each.port]

    def _tops(self, heights: list[float]) -> list[float]:
        """The top of each node: near to where its edges are straight, as far as the nodes leave room."""
        # For each node its neighbours on either side: (neighbour, how much lower its top should be, weight).
        pulls: tuple[list[list[tuple[int, float, float]]], ...] = (
            [[] for _ in heights],
            [[] for _ in heights],
        )
        for edge, chain in enumerate(self._chains):
            for left, right in pairwise(chain):
                lower = self._end_height(left, edge, heights) - self._end_height(right, edge, heights)
                weight = (1.0, 3.0, 8.0)[self._is_bend(left) + self._is_bend(right)]
                pulls[0][right].append((left, lower, weight))
                pulls[1][left].append((right, -lower, weight))
        tops = [0.0] * len(heights)
        for nodes in self._order:
            for n, node in enumerate(nodes[1:], 1):
                tops[node] = tops[nodes[n - 1]] + self._apart(nodes[n - 1], node, heights)
        for turn in range(_ROUNDS):
            sides = (0, 1) if turn >= _ROUNDS - 2 else (turn % 2,)
            for nodes in self._order if turn % 2 == 0 else self._order[::-1]:
                wanted, weights = [], []
                for node in nodes:
                    around = [pull for side in sides for pull in pulls[side][node]]
                    weight = sum(w for _, _, w in around)
                    wanted.append(
                        sum((tops[other] + lower) * w for other, lower, w in around) / weight
                        if weight
                        else tops[node]
                    )
                    weights.append(weight or 0.01)
                apart = [self._apart(a, b, heights) for a, b in pairwise(nodes)]
                for node, top in zip(nodes, _spaced(wanted, weights, apart), strict=True):
                    tops[node] = top
        highest = min(tops)
        return [round(top - highest, 1) for top in tops]

    def _apart(self, upper: int, lower: int, heights: Sequence[float]) -> float:
        bends = self._is_bend(upper) and self._is_bend(lower)
        return heights[upper] + (BEND_GAP if bends else GAP_Y)

    def _route(
        self, number: int, boxes: Sequence[Box], tops: Sequence[float], lefts: Sequence[float]
    ) -> tuple[Point, ...]:
        """From the right edge of the left node to the left edge of the right one; straight across layers."""
        chain = self._chains[number]
        heights = [box.height for box in boxes]
        first, last = boxes[chain[0]], boxes[chain[-1]]
        points = [(first.x + first.width, first.y + self._end_height(chain[0], number, heights))]
        for bend in chain[1:-1]:
            layer = self._layer[bend]
            width = ARTIFACT_WIDTH if layer % 2 == 0 else RUN_WIDTH
            points += [(lefts[layer], tops[bend]), (lefts[layer] + width, tops[bend])]
        points.append((last.x, last.y + self._end_height(chain[-1], number, heights)))
        turned = self._forward[number] != self._arcs[number]
        return tuple(points[::-1] if turned else points)


def _columns(layer: Sequence[int], nodes: int) -> list[float]:
    """The left edge of each layer; one without nodes takes no room."""
    lefts, x = [], 0.0
    held = set(layer[:nodes])
    for each in range(max(layer) + 1):
        lefts.append(x)
        if each in held:
            x += (ARTIFACT_WIDTH if each % 2 == 0 else RUN_WIDTH) + GAP_X
    return lefts


def _without_cycles(count: int, arcs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The arcs, those turned around that lead back: a run may make the very content that it was given."""
    after: list[list[int]] = [[] for _ in range(count)]
    for number, (source, _) in enumerate(arcs):
        after[source].append(number)
    turned: set[int] = set()
    state = [0] * count  # 1 while its descendants are being looked at, 2 when they have been
    for start in range(count):
        path = [(start, 0)] if state[start] == 0 else []
        while path:
            node, tried = path.pop()
            state[node] = 1
            if tried == len(after[node]):
                state[node] = 2
                continue
            path.append((node, tried + 1))
            target = arcs[after[node][tried]][1]
            if state[target] == 1:
                turned.add(after[node][tried])
            elif state[target] == 0:
                path.append((target, 0))
    return [(b, a) if n in turned else (a, b) for n, (a, b) in enumerate(arcs)]


def _layers(count: int, artifacts: int, arcs: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each node: right of all that it comes from, and close to its neighbours."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in arcs:
        before[target].append(source)
        after[source].append(target)
    layer = [0 if node < artifacts else 1 for node in range(count)]
    waiting = [len(each) for each in before]
    ready = [node for node in range(count) if not waiting[node]]
    for node in ready:  # grows while it is walked
        for target in after[node]:
            layer[target] = max(layer[target], layer[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for node in reversed(ready):
        # What has fewer edges behind than ahead moves ahead, such as data that only a late run took.
        if len(after[node]) > len(before[node]):
            layer[node] = min(layer[target] for target in after[node]) - 1
    lowest = min(layer) // 2 * 2
    return [each - lowest for each in layer]


def _spaced(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The places nearest to those wanted (least squares) that keep the order and the distances `apart`."""
    if not wanted:
        return []
    shift = [0.0]
    for each in apart:
        shift.append(shift[-1] + each)
    blocks: list[tuple[float, float, int]] = []  # mean place, weight, number of nodes
    for place, weight, offset in zip(wanted, weights, shift, strict=True):
        block = (place - offset, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, heavy, many = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, many + block[2])
        blocks.append(block)
    places = [mean for mean, _, many in blocks for _ in range(many)]
    return [place + offset for place, offset in zip(places, shift, strict=True)]
