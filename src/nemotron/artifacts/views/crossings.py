"""In which order the nodes of each layer lie, so that few of the links between layers cross."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

_SWEEPS = 24
_PATIENCE = 6  # sweeps without a better order before it gives up


def order_layers(layer: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each layer its nodes from top to bottom.

    layer: that of each node. links: (node, node one layer to the right). The order is found by sweeps to and
    fro that put every node at the mean place of its neighbours; the best order seen is kept.
    """
    before: list[list[int]] = [[] for _ in layer]
    after: list[list[int]] = [[] for _ in layer]
    for left, right in links:
        before[right].append(left)
        after[left].append(right)
    order = _first_order(layer, before, after)
    best, fewest, idle = order, count_crossings(order, after), 0
    for sweep in range(_SWEEPS):
        if not fewest or idle == _PATIENCE:
            break
        order = _swept(order, before, after, rightwards=sweep % 2 == 0)
        crossings = count_crossings(order, after)
        idle += 1
        if crossings < fewest:
            best, fewest, idle = order, crossings, 0
    return best


def _first_order(
    layer: Sequence[int], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Depth first from the left, so that what belongs together starts together."""
    order: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    seen = [False] * len(layer)
    for start in sorted(range(len(layer)), key=layer.__getitem__):
        todo = [start]
        while todo:
            node = todo.pop()
            if seen[node]:
                continue
            seen[node] = True
            order[layer[node]].append(node)
            todo += [*before[node][::-1], *after[node][::-1]]
    return order


def _swept(
    order: list[list[int]],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    *,
    rightwards: bool,
) -> list[list[int]]:
    swept = [list(nodes) for nodes in order]
    place = {node: float(n) for nodes in swept for n, node in enumerate(nodes)}
    neighbours = before if rightwards else after
    for nodes in swept if rightwards else reversed(swept):
        # What has no neighbours on this side stays where it is among the rest.
        wanted = {
            node: sum(place[n] for n in neighbours[node]) / len(neighbours[node])
            if neighbours[node]
            else place[node]
            for node in nodes
        }
        nodes.sort(key=wanted.__getitem__)
        place.update((node, float(n)) for n, node in enumerate(nodes))
    return swept


def count_crossings(order: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    """How many pairs of links cross; after: the right ends of each node's links."""
    total = 0
    for nodes, right in pairwise(order):
        place = {node: n for n, node in enumerate(right)}
        passed: list[int] = []
        for node in nodes:
            ends = sorted(place[target] for target in after[node])
            # A link crosses those that started above it and end below it.
            total += sum(len(passed) - bisect_left(passed, end + 1) for end in ends)
            for end in ends:
                insort(passed, end)
    return total
