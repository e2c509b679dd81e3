"""What must not be used is not used, whichever way it comes in."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
TAINTED = "artifact.tainted"


@pytest.fixture
def rows(world: Any, cli: Cli) -> Path:
    """What make/rows left, not tainted yet; use/count has used it."""
    assert cli("steps", "run", "use/count", "-c", "built").code == 0
    (run,) = [r for r in world.runs() if r.name.startswith("make-rows")]
    return Path(run / "rows.jsonl")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server on loopback that gives out `tmp_path/served`."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def taint(cli: Cli, ref: str) -> None:
    done = cli("artifacts", "taint", ref, "-m", "leaked")
    assert done.code == 0, done.err


def test_behind_a_url(cli: Cli, rows: Path, served: str, tmp_path: Path) -> None:
    taint(cli, str(rows))
    shutil.copy(rows, tmp_path / "served" / "copy.jsonl")
    words = ("steps", "run", "use/count", "text=x", "-i", f"rows={served}/copy.jsonl")
    refused = cli(*words)
    assert refused.code == 4 and "leaked" in refused.err, refused.err
    assert cli(*words, "--waive", TAINTED).code == 0


def test_built_anew_with_the_same_content(world: Any, cli: Cli, rows: Path) -> None:
    taint(cli, str(rows))
    shutil.rmtree(rows.parent)
    words = ("steps", "run", "use/count", "-c", "built", "text=x")
    refused = cli(*words)
    assert refused.code == 4 and "leaked" in refused.err
    waived = cli(*words, "--waive", TAINTED)
    assert waived.code == 0, waived.err


def test_an_output_that_was_made_before(cli: Cli, rows: Path) -> None:
    count = cli("artifacts", "list", "--type", "eval_results", "--json").json["artifacts"][0]["id"]
    taint(cli, count)
    words = ("steps", "run", "use/count", "-c", "built")
    refused = cli(*words)
    assert refused.code == 4 and "leaked" in refused.err
    assert cli(*words, "--waive", TAINTED).code == 0


def test_by_a_path_that_holds_something_else_now(cli: Cli, rows: Path, write_rows: Any) -> None:
    path = write_rows("t.jsonl", "training_jsonl")
    cli("artifacts", "add", str(path), "--name", "t")
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    refused = cli("artifacts", "taint", str(path), "-m", "leaked")
    assert refused.code == 3, "what is there now is on no record"
    assert cli("artifacts", "add", str(path)).code == 0
    taint(cli, str(path))
    assert cli("steps", "run", "use/count", "-i", f"rows={path}").code == 4
    assert "TAINTED" not in cli("artifacts", "show", "t:v1").out


def test_an_artifact_with_new_times_is_the_same(cli: Cli, rows: Path, write_rows: Any) -> None:
    path = write_rows("t.jsonl", "training_jsonl")
    cli("artifacts", "add", str(path), "--name", "t")
    path.touch()
    assert cli("steps", "run", "use/count", "-d", "-i", "rows=art://t").code == 0
    assert cli("artifacts", "lineage", str(path)).code == 0


def test_a_name_for_what_is_tainted(cli: Cli, rows: Path) -> None:
    taint(cli, str(rows))
    assert cli("artifacts", "alias", str(rows), "chats").code == 4
    assert cli("artifacts", "add", str(rows), "--name", "chats").code == 4
    assert cli("artifacts", "alias", str(rows), "chats", "--waive", TAINTED).code == 0


def test_a_clock_that_is_behind(world: Any, cli: Cli, rows: Path) -> None:
    from nemotron.artifacts.records import EventRecord, write_record

    taint(cli, str(rows))
    cli("artifacts", "taint", str(rows), "--lift")
    ident = cli("artifacts", "show", str(rows), "--json").json["artifacts"][0]["id"]
    ahead = EventRecord(id="ahead", event="untaint", at="2099-01-01T00:00:00.000Z", subject=ident)
    write_record(world.home / "records", ahead)
    taint(cli, str(rows))
    assert "TAINTED" in cli("artifacts", "show", str(rows)).out, "what is said last counts"


def test_a_mistyped_type_or_name_records_nothing(world: Any, cli: Cli, write_rows: Any) -> None:
    path = write_rows("t.jsonl", "training_jsonl")
    mistyped = cli("artifacts", "add", str(path), "--type", "training_jsnol")
    assert mistyped.code == 2 and "training_jsonl" in mistyped.err
    bad = cli("artifacts", "add", str(path), "--name", "bad name")
    assert bad.code == 2 and "l, e, t" not in bad.err
    assert cli("artifacts", "add", "~nobody-of-this-name/x").code == 2
    assert not world.home.exists() or world.records() == []
