"""A lineage as one HTML file that needs nothing else: no network, no server, no build.

page.html, page.css and the scripts beside this module are its parts. Whatever the lineage says travels as
JSON in a block that browsers do not run, and the script shows it as text only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nemotron.artifacts.lineage import ArtifactNode, Edge, Lineage, RunNode
from nemotron.artifacts.paths import printable
from nemotron.artifacts.views.graph import Graph
from nemotron.artifacts.views.layout import Box, Point, lay_out
from nemotron.artifacts.views.wording import (
    artifact_label,
    duration_text,
    family,
    headline,
    moment_text,
    run_title,
    short_id,
    size_text,
)

SCRIPTS = ("graph.js", "panel.js", "search.js")
_DEEPEST = 8  # levels of facts that are shown
_EXACT = 2**53  # larger integers are rounded by JavaScript
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page_html(lineage: Lineage, title: str) -> str:
    """The page that shows the lineage, as the text of one HTML file in UTF-8.

    title: of the page and of its window.
    """
    import html  # 2 ms that only this view needs

    here = Path(__file__).parent
    style = (here / "page.css").read_text(encoding="utf-8")
    script = "".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "policy": (
            f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        "title": html.escape(printable(title)),
        "style": style,
        "script": script,
        "data": _as_json(_data(lineage, title)),
    }
    template = (here / "page.html").read_text(encoding="utf-8")
    # In one pass, so that nothing inside a part is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _source(text: str) -> str:
    """How a content security policy names an inline style or script."""
    import base64
    import hashlib

    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _as_json(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def _data(lineage: Lineage, title: str) -> dict[str, Any]:
    layout = lay_out(lineage)
    tainted_by = Graph.of(lineage).tainted_by()
    number = {("artifact", each): n for n, each in enumerate(lineage.artifacts)}
    number |= {("run", each): n + len(lineage.artifacts) for n, each in enumerate(lineage.runs)}
    nodes = [
        _artifact(each, layout.artifacts[each.id], number.get(("artifact", tainted_by.get(each.id, ""))))
        for each in lineage.artifacts.values()
    ]
    nodes += [_run(each, layout.runs[each.id]) for each in lineage.runs.values()]
    return {
        "title": printable(title),
        "focus": number["artifact", lineage.focus],
        "cut": [number["artifact", each] for each in lineage.cut],
        "width": layout.width,
        "height": layout.height,
        "nodes": nodes,
        "edges": [
            _edge(edge, route, number) for edge, route in zip(lineage.edges, layout.routes, strict=True)
        ],
    }


def _artifact(node: ArtifactNode, box: Box, tainted_by: int | None) -> dict[str, Any]:
    return {
        **_placed(box),
        "kind": "artifact",
        "title": artifact_label(node),
        "short": short_id(node.id),
        "family": family(node.type),
        "size": size_text(node.bytes),
        "at": moment_text(node.at),
        "tainted_by": tainted_by,
        "about": _about(node),
    }


def _run(node: RunNode, box: Box) -> dict[str, Any]:
    return {
        **_placed(box),
        "kind": "run",
        "title": run_title(node),
        "short": "" if node.state == "elsewhere" else printable(node.id),
        "took": duration_text(node),
        "started": moment_text(node.started),
        "ended": moment_text(node.ended),
        "best": headline(node.metrics),
        "ports": [[direction, printable(port), y] for (direction, port), y in box.ports.items()],
        "about": _about(node),
    }


def _placed(box: Box) -> dict[str, float]:
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}


def _edge(edge: Edge, route: tuple[Point, ...], number: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    ends = (number["artifact", edge.artifact], number["run", edge.run])
    source, target = ends if edge.direction == "input" else ends[::-1]
    return {"from": source, "to": target, "port": printable(edge.port), "path": _curve(route)}


def _curve(route: tuple[Point, ...]) -> str:
    """An SVG path along a route: straight across the layers, curved between them."""
    (x, y), *rest = route
    path = f"M{x:g} {y:g}"
    for n, (to_x, to_y) in enumerate(rest):
        middle = (x + to_x) / 2
        if n % 2 == 0 and to_y != y:
            path += f"C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
        else:
            path += f"H{to_x:g}"
        x, y = to_x, to_y
    return path


def _about(node: ArtifactNode | RunNode) -> dict[str, Any]:
    """All that is known of it, by field."""
    return {each.name: _shown(getattr(node, each.name)) for each in fields(node)}


def _shown(value: Any, depth: int = 0) -> Any:
    """A value that any browser reads as it stands here: printable, finite, exact, not too deep."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping | list | tuple) and depth == _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        # Pairs, for in an object of JavaScript some names mean something.
        return {"pairs": [[printable(str(k)), _shown(v, depth + 1)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_shown(each, depth + 1) for each in value]
    return printable(str(value))
