"""Lineages as text: the tree on the terminal, the Mermaid flowchart, and where the page's nodes lie."""

from __future__ import annotations

import re
import time
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lineage_samples import (
    BASE,
    BROKEN,
    DATA,
    DPO,
    EVAL,
    HOSTILE,
    JUDGE,
    RLHF,
    SFT,
    digest,
    hostile,
    lineage_of,
    made,
    rlhf_chain,
    sweep,
    took,
)

from nemotron.artifacts.lineage import ArtifactNode, Lineage, RunNode
from nemotron.artifacts.views.crossings import count_crossings, order_layers
from nemotron.artifacts.views.layout import lay_out
from nemotron.artifacts.views.mermaid import mermaid_text
from nemotron.artifacts.views.tree import tree_text
from nemotron.artifacts.views.wording import duration_text, headline, moment_text, size_text

ANSI = re.compile(r"\x1b\[\d+(;\d+)*m")
RAILS = re.compile(r"^[ \u2502\u251c\u2514\u2500]*")


def shown(
    lineage: Lineage, *, up: bool = True, down: bool = True, width: int = 0, color: bool = False
) -> str:
    return tree_text(lineage, up=up, down=down, width=width, color=color)


def line_of(text: str, *words: str) -> str:
    """The one line that has all the words."""
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, found
    return found[0]


def depth_of(line: str) -> int:
    return len(RAILS.match(line)[0]) // 3  # type: ignore[index]


@st.composite
def lineages(draw: st.DrawFn) -> Lineage:
    """Any lineage, also with cycles, repeated edges and parts that hang together with nothing."""
    artifacts = [ArtifactNode(f"blake3:{n:064x}", "checkpoint_hf") for n in range(draw(st.integers(1, 9)))]
    runs = [RunNode(f"run-{n}") for n in range(draw(st.integers(0, 7)))]
    edges = []
    for _ in range(draw(st.integers(0, 24)) if runs else 0):
        run = draw(st.sampled_from(runs)).id
        artifact = draw(st.sampled_from(artifacts)).id
        edge = (took if draw(st.booleans()) else made)(run, **{draw(st.sampled_from("pqr")): ""})[0]
        edges.append(replace(edge, artifact=artifact))
    cut = draw(st.sets(st.sampled_from([a.id for a in artifacts])))
    # What the depth limit cut can be reached from the focus; the focus itself is enough here.
    return lineage_of(artifacts[0].id, artifacts, runs, edges, [a for a in cut if a == artifacts[0].id])


def test_tree_says_what_the_artifact_is() -> None:
    lines = shown(rlhf_chain()).splitlines()
    assert lines[0] == "helpful:v2  (helpful:candidate)  checkpoint_hf"
    assert digest("policy") in lines[2]
    assert f"/data/team/nemotron/runs/{RLHF}/checkpoints/step_30/policy" in lines[3]
    assert lines[4].strip() == "2026-11-21 11:22 UTC, 2.9 MiB, 740,160 parameters"


def test_tree_leads_from_the_policy_back_to_the_scratch_data() -> None:
    text = shown(rlhf_chain(), down=False)
    assert line_of(text, "made by", RLHF) == (
        f"made by {RLHF}  succeeded in 41 s  rl/nemo_rl/rlhf on embedded  validation/accuracy 1"
    )
    assert depth_of(line_of(text, "reward_model:")) == 1
    assert depth_of(line_of(text, "made by", JUDGE)) == 1
    assert depth_of(line_of(text, "data:", digest("chat")[7:19])) == 2
    assert line_of(text, "policy:", digest("base")[7:19]) in text
    assert f"made by {BASE}" in text
    assert EVAL not in text


def test_tree_leads_on_to_what_came_of_it() -> None:
    text = shown(rlhf_chain("sft"), up=False)
    assert BASE not in text and DATA not in text
    assert line_of(text, JUDGE, "as policy").startswith("\u251c\u2500 ")
    assert depth_of(line_of(text, "made reward_model:")) == 1
    assert depth_of(line_of(text, "made policy: helpful:v2")) == 2
    assert depth_of(line_of(text, EVAL, "as model")) == 3
    assert line_of(text, DPO, "as policy").startswith("\u2514\u2500 ")


def test_what_was_told_is_not_told_again() -> None:
    text = shown(rlhf_chain(), down=False)
    mentions = [line for line in text.splitlines() if f"made by {DATA}" in line]
    assert len(mentions) == 5
    assert [line.endswith("(above)") for line in mentions] == [False, True, True, True, True]
    assert line_of(text, "tiny-sft:v1", "(above)").endswith("policy: tiny-sft:v1  (above)")
    assert text.count(SFT) == 1


def test_taint_and_its_descent_and_failed_runs_stand_out() -> None:
    text = shown(rlhf_chain("sft"), color=True)
    assert "\x1b[1;31m  FAILED after 42 s\x1b[0m" in line_of(text, BROKEN, "as reward_model")
    assert "\x1b[1;31m  of tainted descent\x1b[0m" in line_of(text, "made policy:", "helpful:v2")
    text = shown(rlhf_chain())
    assert line_of(text, "DESCENDS FROM TAINTED", digest("preferences")[7:19], "a third of the rejected")
    assert line_of(text, "data:", "TAINTED: a third of the rejected")
    assert "TAINTED" in shown(rlhf_chain("preferences")).splitlines()[1]
    # The SFT model comes from no tainted data.
    assert "TAINTED" not in shown(rlhf_chain("sft"), down=False)


def test_colour_changes_nothing_but_colour() -> None:
    plain = shown(rlhf_chain("sft"), width=90)
    assert "\x1b" not in plain
    coloured = shown(rlhf_chain("sft"), width=90, color=True)
    assert [ANSI.sub("", line).rstrip() for line in coloured.splitlines()] == plain.splitlines()


def test_depth_limit_says_where_there_is_more_and_how_to_see_it() -> None:
    whole = rlhf_chain("sft")
    text = shown(replace(whole, cut=(digest("base"), digest("scores"))))
    base = text.splitlines().index(line_of(text, "policy:", digest("base")[7:19]))
    assert any("... more before this, --depth 2" in line for line in text.splitlines()[base : base + 3])
    # Two runs lie between: the RLHF run and the evaluation.
    assert line_of(text, "... more after this, --depth 4")
    assert depth_of(line_of(text, "... more after this")) == 4
    alone = lineage_of("blake3:1", [ArtifactNode("blake3:1")], [], [], ["blake3:1"])
    assert shown(alone).count("--depth 1") == 2


def test_no_history_is_said() -> None:
    text = shown(lineage_of("ref:hf://org/model", [ArtifactNode("ref:hf://org/model")], [], []))
    assert text.splitlines()[0] == "hf://org/model  unknown type"
    assert "made by no run on record" in text and "used by no run on record" in text
    assert "on record" not in shown(rlhf_chain(), up=False, down=False)


def test_run_that_left_what_it_took_ends() -> None:
    edges = [*took("filter", rows="a"), *made("filter", rows="a")]
    text = shown(lineage_of(digest("a"), [ArtifactNode(digest("a"))], [RunNode("filter")], edges))
    assert line_of(text, "rows:", "(above)")
    assert text.count("filter") == 2


def test_making_elsewhere_is_no_run_of_ours() -> None:
    run = RunNode(f"elsewhere:{digest('a')}", state="elsewhere")
    edges = [*took(run.id, base="b"), *made(run.id, model="a")]
    text = shown(lineage_of(digest("a"), [ArtifactNode(digest(n)) for n in "ab"], [run], edges))
    assert line_of(text, "made elsewhere") == "made elsewhere"
    assert digest("a") in text and "elsewhere:" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    def columns(line: str) -> int:
        return sum(
            0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
            for c in line
        )

    for lineage in (rlhf_chain(), rlhf_chain("chat"), hostile(), chain_of(60)):
        text = ANSI.sub("", shown(lineage, width=width, color=True))
        assert max(columns(line) for line in text.splitlines()) <= max(width, 40)


def chain_of(length: int) -> Lineage:
    """A model trained again and again."""
    runs = [RunNode(f"run-{n}") for n in range(length)]
    edges = [
        e
        for n in range(length)
        for e in (*took(f"run-{n}", policy=f"{n}"), *made(f"run-{n}", policy=f"{n + 1}"))
    ]
    return lineage_of(
        digest(f"{length}"), [ArtifactNode(digest(f"{n}")) for n in range(length + 1)], runs, edges
    )


def test_a_chain_deeper_than_the_call_stack_is_shown_to_its_end() -> None:
    text = shown(chain_of(3000))
    assert text.splitlines()[-3].endswith(f"policy: {digest('0')[7:19]}  unknown type")
    assert text.count("made by run-") == 3000
    assert len(mermaid_text(chain_of(3000))) < 1_000_000


def test_hostile_names_neither_break_a_line_nor_move_the_cursor() -> None:
    lineage = hostile()
    for text in (shown(lineage), mermaid_text(lineage)):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert max(map(len, text.splitlines())) < 4_000
    plain = shown(lineage)
    assert "\\x1b[2J" in plain and "\\u202egpj.exe" in plain
    # A line for each edge is all: no name has made one of its own.
    lines = len(plain.splitlines())
    harmless = {bad: f"name {n}" for n, bad in enumerate(HOSTILE)}
    assert lines == len(shown(renamed(lineage, harmless)).splitlines())


def renamed(lineage: Lineage, names: dict[str, str]) -> Lineage:
    """The lineage with other texts in place of hostile ones."""

    def mild(text: str) -> str:
        for bad, good in names.items():
            text = text.replace(bad, good)
        return text

    artifacts = [
        replace(
            a,
            id=mild(a.id),
            type="t",
            at=a.at and "x",
            paths=a.paths and ("p", "q"),
            names=a.names and ("n", "m"),
        )
        for a in lineage.artifacts.values()
    ]
    runs = [replace(r, id=mild(r.id), step="s", engine="e") for r in lineage.runs.values()]
    edges = [replace(e, artifact=mild(e.artifact), run=mild(e.run), port=mild(e.port)) for e in lineage.edges]
    return lineage_of(mild(lineage.focus), artifacts, runs, edges, map(mild, lineage.cut))


@settings(max_examples=150, deadline=None)
@given(lineages())
def test_any_lineage_is_shown_and_each_run_told_once(lineage: Lineage) -> None:
    text = shown(lineage)
    for run in lineage.runs:
        told = [line for line in text.splitlines() if f"{run} " in line and "(above)" not in line]
        assert len(told) <= 1


# Mermaid: quoted labels of nothing but these characters and numbered entities cannot end early.
LABEL = r'"(?:[A-Za-z0-9 ,./_+-]|#\d+;|<br/>)*"'
STATEMENTS = re.compile(
    rf"flowchart LR|  (?:a\d+\[{LABEL}\]:::artifact|r\d+\(\[{LABEL}\]\):::run|class [ar]\d+ [a-z]+"
    rf"|a\d+ -->(?:\|{LABEL}\|)? r\d+|r\d+ -->(?:\|{LABEL}\|)? a\d+|classDef [a-z]+ [a-z0-9:#,\- ]+)"
)


@pytest.mark.parametrize("lineage", [rlhf_chain(), hostile(), sweep(60)], ids=["chain", "hostile", "sweep"])
def test_mermaid_is_made_of_known_statements_only(lineage: Lineage) -> None:
    text = mermaid_text(lineage)
    assert [line for line in text.splitlines() if not STATEMENTS.fullmatch(line)] == []
    assert text.count("-->") == len(lineage.edges)
    assert text.count(":::artifact") == len(lineage.artifacts)
    assert text.count(":::run") == len(lineage.runs)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_mermaid_labels_hold_any_text(text: str) -> None:
    node = ArtifactNode("blake3:1", text, names=(text,), tainted=text)
    edge = replace(took("run", x="")[0], artifact=node.id, port=text)
    for line in mermaid_text(lineage_of(node.id, [node], [RunNode("run", text)], [edge])).splitlines():
        assert STATEMENTS.fullmatch(line), line


def test_mermaid_shows_the_way_of_the_data_and_what_is_wrong() -> None:
    text = mermaid_text(rlhf_chain())
    ids = {m[2]: m[1] for m in re.finditer(r"^  ([ar]\d+)(?:\(\[|\[)\"(.*?)\"", text, re.MULTILINE)}
    policy = next(key for label, key in ids.items() if label.startswith("helpful#58;v2<br/>checkpoint_hf"))
    rlhf = next(key for label, key in ids.items() if RLHF in label)
    broken = next(key for label, key in ids.items() if BROKEN in label)
    preferences = next(key for label, key in ids.items() if "TAINTED" in label)
    assert f'{rlhf} -->|"policy"| {policy}' in text
    for line in (f"class {policy} focus", f"class {policy} suspect", f"class {broken} failed"):
        assert f"  {line}\n" in text
    assert f"class {preferences} tainted" in text


def test_words_for_sizes_times_and_metrics() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 2998301, 150 << 30, None)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "2.9 MiB",
        "150 GiB",
        None,
    ]
    assert moment_text("2026-11-21T13:22:14.815+02:00") == "2026-11-21 11:22 UTC"
    assert moment_text("yesterday\n") == "yesterday\\n"

    def took_time(ended: str) -> str | None:
        return duration_text(RunNode("r", started="2026-11-21T11:00:00Z", ended=ended))

    assert took_time("2026-11-21T11:00:09.5Z") == "9.5 s"
    assert took_time("2026-11-21T14:12:00Z") == "3 h 12 min"
    assert took_time("2026-11-24T12:00:00Z") == "3 d 1 h"
    assert took_time("2026-11-21T10:00:00Z") is None
    assert headline({"train/loss": 0.1, "validation/val_loss": 0.2, "validation/accuracy": 0.9}) == (
        "validation/accuracy 0.9"
    )
    assert headline({"train/loss": float("nan"), "validation/accuracy": 0.9}) == "train/loss nan"
    assert headline({"step": 30, "note": "fine", "train/lr": 0.1, "ok": True}) is None


def boxes_of(lineage: Lineage) -> list[tuple[float, float, float, float]]:
    layout = lay_out(lineage)
    boxes = [*layout.artifacts.values(), *layout.runs.values()]
    assert len(layout.artifacts) == len(lineage.artifacts) and len(layout.runs) == len(lineage.runs)
    return [(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]


def check_layout(lineage: Lineage) -> None:
    """No two nodes touch, all are on the plane, each edge ends at its two and passes behind no other."""
    boxes = boxes_of(lineage)
    layout = lay_out(lineage)
    for n, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= layout.width and bottom <= layout.height
        for other in boxes[:n]:
            assert right <= other[0] or other[2] <= left or bottom + 5 < other[1] or other[3] + 5 < top
    for edge, route in zip(lineage.edges, layout.routes, strict=True):
        artifact, run = layout.artifacts[edge.artifact], layout.runs[edge.run]
        source, target = (artifact, run) if edge.direction == "input" else (run, artifact)
        for box, (x, y) in ((source, route[0]), (target, route[-1])):
            assert x in (box.x, box.x + box.width) and box.y <= y <= box.y + box.height
        for (x, y), (to_x, to_y) in zip(route[1:-1:2], route[2:-1:2], strict=True):
            assert y == to_y
            for left, top, right, bottom in boxes:
                assert max(x, to_x) <= left or right <= min(x, to_x) or not top <= y <= bottom


@settings(max_examples=150, deadline=None)
@given(lineages())
def test_layout_keeps_nodes_and_edges_apart(lineage: Lineage) -> None:
    check_layout(lineage)


@pytest.mark.parametrize("lineage", [rlhf_chain(), sweep(200), chain_of(80), hostile()])
def test_layout_of_real_shapes(lineage: Lineage) -> None:
    check_layout(lineage)


@pytest.mark.parametrize("lineage", [rlhf_chain(), sweep(200)])
def test_data_flows_from_left_to_right(lineage: Lineage) -> None:
    for route in lay_out(lineage).routes:
        xs = [x for x, _ in route]
        assert xs == sorted(xs)


def test_layout_is_the_same_each_time_and_quick_enough() -> None:
    begun = time.process_time()
    first = lay_out(sweep(200))
    seconds = time.process_time() - begun
    assert first == lay_out(sweep(200))
    assert seconds < 2


def test_edges_cross_less_than_in_the_order_of_the_records() -> None:
    lineage = sweep(200)
    numbers = {("a", each): n for n, each in enumerate(lineage.artifacts)}
    numbers |= {("r", each): n + len(lineage.artifacts) for n, each in enumerate(lineage.runs)}
    links = [(numbers["a", e.artifact], numbers["r", e.run]) for e in lineage.edges if e.direction == "input"]
    layer = [0] * len(lineage.artifacts) + [1] * len(lineage.runs)
    after: list[list[int]] = [[] for _ in layer]
    for left, right in links:
        after[left].append(right)
    given_order = [
        [n for n, each in enumerate(layer) if each == 0],
        [n for n, each in enumerate(layer) if each == 1],
    ]
    assert count_crossings(order_layers(layer, links), after) < count_crossings(given_order, after) / 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(6, 11)), max_size=20))
def test_crossings_are_counted_right(links: list[tuple[int, int]]) -> None:
    after: list[list[int]] = [[] for _ in range(12)]
    for left, right in links:
        after[left].append(right)
    pairs = [(a, b) for n, a in enumerate(links) for b in links[:n]]
    crossing = sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)
    assert count_crossings([list(range(6)), list(range(6, 12))], after) == crossing


def test_two_that_cross_are_untangled() -> None:
    order = order_layers([0, 0, 1, 1], [(0, 3), (1, 2)])
    assert count_crossings(order, [[3], [2], [], []]) == 0
