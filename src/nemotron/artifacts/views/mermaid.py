"""A lineage as a Mermaid flowchart, for READMEs, issues and model cards."""

from __future__ import annotations

import re

from nemotron.artifacts.lineage import ArtifactNode, Lineage, RunNode
from nemotron.artifacts.paths import printable
from nemotron.artifacts.views.graph import Graph
from nemotron.artifacts.views.wording import artifact_label, headline, run_title, short_id, shorten, size_text

# Mermaid strips comments, directives and style lines with regular expressions before it parses, also inside
# quotes. Nothing but these ever reaches it as itself.
_UNSAFE = re.compile(r"[^A-Za-z0-9 ,./_+-]")
_LONGEST = 60
_STYLES = (
    "classDef artifact fill:#eef4fb,stroke:#5b7fa6,color:#10243a",
    "classDef run fill:#f4f4f2,stroke:#77776f,color:#22221e",
    "classDef focus stroke:#3d7a00,stroke-width:4px",
    "classDef tainted fill:#fde7e7,stroke:#c81e1e,color:#7a0c0c",
    "classDef suspect stroke:#c81e1e,stroke-dasharray:5 3",
    "classDef failed fill:#fde7e7,stroke:#c81e1e,stroke-dasharray:2 3,color:#7a0c0c",
)


def mermaid_text(lineage: Lineage) -> str:
    """The lineage as a Mermaid flowchart, from left to right, with a newline at its end.

    Mermaid itself refuses more than 500 edges unless its `maxEdges` is raised.
    """
    tainted_by = Graph.of(lineage).tainted_by()
    artifacts = {each: f"a{number}" for number, each in enumerate(lineage.artifacts)}
    runs = {each: f"r{number}" for number, each in enumerate(lineage.runs)}
    lines = ["flowchart LR"]
    for artifact in lineage.artifacts.values():
        marks = ["focus"] if artifact.id == lineage.focus else []
        if artifact.tainted is not None:
            marks.append("tainted")
        elif artifact.id in tainted_by:
            marks.append("suspect")
        key = artifacts[artifact.id]
        lines.append(f'{key}["{_label(_artifact_lines(artifact, lineage))}"]:::artifact')
        lines += [f"class {key} {mark}" for mark in marks]
    for run in lineage.runs.values():
        key = runs[run.id]
        lines.append(f'{key}(["{_label(_run_lines(run))}"]):::run')
        if run.state == "failed":
            lines.append(f"class {key} failed")
    for edge in lineage.edges:
        ends = (artifacts[edge.artifact], runs[edge.run])
        source, target = ends if edge.direction == "input" else ends[::-1]
        port = f'|"{_label([edge.port])}"|' if edge.port.strip() else ""
        lines.append(f"{source} -->{port} {target}")
    return "\n  ".join([*lines, *_STYLES]) + "\n"


def _artifact_lines(artifact: ArtifactNode, lineage: Lineage) -> list[str]:
    about = [artifact_label(artifact), artifact.type or "unknown type"]
    size = size_text(artifact.bytes)
    if short_id(artifact.id) != about[0]:
        about.append(short_id(artifact.id))
    if size:
        about[-1] += f", {size}"
    if artifact.tainted is not None:
        about.append(f"TAINTED: {artifact.tainted}")
    if artifact.id in lineage.cut:
        about.append("... and more")
    return about


def _run_lines(run: RunNode) -> list[str]:
    about = [run_title(run)]
    if run.state != "elsewhere":
        about.append(run.id if run.step else "")
        best = headline(run.metrics)
        about.append(f"{run.state}, {best}" if best else run.state)
    return [each for each in about if each]


def _label(lines: list[str]) -> str:
    return "<br/>".join(_UNSAFE.sub(_entity, shorten(printable(each), _LONGEST)) for each in lines)


def _entity(match: re.Match[str]) -> str:
    return f"#{ord(match[0])};"
