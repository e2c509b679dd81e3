"""What converting chats and preferences costs, beside a bare loop of orjson over the same file.

    python benchmarks/rows.py [MEGABYTES] [ROUNDS]

    chats        messages of two to eight turns, every fourth row with a tool, its call and its result
    squad        questions with a context: columns that become messages
    texts        preferences of texts: `chatml.intel`
    dialogues    preferences of conversations: `chatml.argilla_chat`

Whole processes, page cache warm, medians; see `rollouts.py`, which measures rollouts. Rows are one to two
kilobytes, which is where a row costs most beside its bytes. Exit code 1 when any is below `BAR` of the bare
loop's speed.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rollouts import BARE, MB, WORKERS, Cost, cost_of

Row = dict[str, Any]

BAR = 0.35
WORDS = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8").split()

CHATS = """
import sys
from pathlib import Path
from nemotron.data.chats.registry import load_chats, write_chats
path, place, workers, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if __name__ == "__main__":
    dataset = load_chats(name, {"data_path": path})
    print(write_chats(dataset, {"rows": Path(place)}, workers=workers)["outputs"]["rows"])
"""
PREFERENCES = """
import sys
from pathlib import Path
from nemotron.data.preferences.convert import convert_preferences
from nemotron.data.preferences.formats import find_format
from nemotron.data.rowwise import Split
path, place, workers, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if __name__ == "__main__":
    places, form = {"rows": Path(place)}, find_format(name)
    print(convert_preferences(path, form, places, split=Split(), workers=workers)["outputs"]["rows"])
"""


def text(rng: random.Random, low: int, high: int) -> str:
    """Some words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def said(role: str, rng: random.Random, low: int, high: int) -> Row:
    """A message."""
    return {"role": role, "content": text(rng, low, high)}


def chat_row(rng: random.Random, number: int) -> Row:
    """A chat, with a tool in every fourth."""
    messages = [said("system", rng, 8, 16)] if number % 3 == 0 else []
    for _ in range(rng.randint(1, 4)):
        messages += [said("user", rng, 8, 80), said("assistant", rng, 20, 200)]
    row: Row = {"id": number, "messages": messages}
    if number % 4 == 0:
        name = f"look_up_{number % 50}"
        arguments = json.dumps({"query": text(rng, 2, 8), "limit": number})
        function: Row = {"name": name, "arguments": arguments}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages[-1:] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{number}", "content": text(rng, 10, 40)},
            said("assistant", rng, 20, 100),
        ]
        properties = {"query": {"type": "string"}, "limit": {"type": "integer"}}
        defined = {"name": name, "parameters": {"type": "object", "properties": properties}}
        row["tools"] = [{"type": "function", "function": defined}]
    return row


def squad_row(rng: random.Random, number: int) -> Row:
    """A row of SQuAD."""
    answers = {"text": [text(rng, 1, 5)], "answer_start": [number % 300]}
    question = {"context": text(rng, 80, 160), "question": text(rng, 6, 16)}
    return {"id": f"{number:x}", "title": "words", **question, "answers": answers}


def texts_row(rng: random.Random, _: int) -> Row:
    """A question and two texts."""
    answers = {"chosen": text(rng, 60, 180), "rejected": text(rng, 60, 180)}
    return {"system": text(rng, 4, 12), "question": text(rng, 20, 60), **answers}


def dialogues_row(rng: random.Random, _: int) -> Row:
    """Two conversations of one question."""
    question = said("user", rng, 20, 60)
    return {key: [question, said("assistant", rng, 60, 180)] for key in ("chosen", "rejected")}


KINDS: Mapping[str, tuple[Callable[[random.Random, int], Row], str, str]] = {
    "chats": (chat_row, CHATS, "openai_format"),
    "squad": (squad_row, CHATS, "squad"),
    "texts": (texts_row, PREFERENCES, "chatml.intel"),
    "dialogues": (dialogues_row, PREFERENCES, "chatml.argilla_chat"),
}


def main() -> int:
    """Measure, print, compare."""
    size = int(sys.argv[1]) * MB if len(sys.argv) > 1 else 200 * MB
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(f"{size / MB:,.0f} MB each, {WORKERS} processes, {rounds} rounds")
    print(f"{'':<16}{'bare MB/s':>10}{'MB/s':>8}{'of bare':>9}{'CPU s':>8}{'memory MB':>11}{'rows':>10}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rows-") as made:
        for name, (row, program, words) in KINDS.items():
            path = Path(made) / "rows.jsonl"
            write_rows(path, row, size)
            failed |= measure(name, path, program, words, rounds)
    return failed


def measure(name: str, path: Path, program: str, words: str, rounds: int) -> int:
    """Print what one kind of rows costs; 1 when it is below the bar."""
    bare, ours = list[Cost](), list[Cost]()
    place = path.with_name("out.jsonl")
    for _ in range(rounds):
        for costs, command in ((bare, (BARE,)), (ours, (program, words))):
            code, *more = command
            costs.append(
                cost_of((sys.executable, "-c", code, str(path), str(place), str(WORKERS), *more), path)
            )
            for left in place.parent.glob("out.jsonl*"):
                left.unlink()
    ratio = statistics.median(cost.speed / loop.speed for cost, loop in zip(ours, bare, strict=True))
    speeds = [statistics.median(cost.speed for cost in costs) / MB for costs in (bare, ours)]
    cpu, memory = statistics.median(cost.cpu for cost in ours), max(cost.memory for cost in ours)
    figures = f"{speeds[0]:>10.0f}{speeds[1]:>8.0f}{ratio:>9.2f}{cpu:>8.1f}{memory / MB:>11.0f}"
    verdict = "pass" if ratio >= BAR else "FAIL"
    print(f"{verdict:<6}{name:<10}{figures}{ours[-1].output.strip():>10}", flush=True)
    return int(ratio < BAR)


def write_rows(path: Path, row: Callable[[random.Random, int], Row], size: int) -> None:
    """Rows until there are `size` bytes."""
    import orjson

    rng, number, written = random.Random(0), 0, 0
    with path.open("wb") as out:
        while written < size:
            written += out.write(orjson.dumps(row(rng, number)) + b"\n")
            number += 1


if __name__ == "__main__":
    sys.exit(main())
