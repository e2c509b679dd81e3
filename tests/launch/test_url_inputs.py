"""Inputs behind URLs: fetched at launch, whole or not at all, pinned by content, without their secrets."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from nemotron.artifacts.remote import remote_size
from nemotron.artifacts.urls import filled, redacted, refuse_secrets, scrubbed
from nemotron.errors import CheckFailed, Conflict, NotFound, SchedulerError, UsageError, WorkFailed
from nemotron.launch import downloads
from nemotron.launch.downloads import fetch_url

ROW = b'{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'
SECRET = "sEcReT0123456789"
Cli = Callable[..., Any]


@dataclass
class Page:
    """What the web server answers for one path."""

    body: bytes
    etag: str | None = '"1"'
    status: int = 200
    cut_after: int | None = None
    chunk_seconds: float = 0.0
    location: str | None = None
    before: Callable[[], None] = lambda: None


@dataclass
class Web:
    """A web server on this machine."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def bodies(self) -> int:
        """How often a body was sent to its end."""
        return self.asked.count("sent")


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            page = made.pages.get(self.path.partition("?")[0], Page(b"", status=404))
            page.before()
            self.send_response(page.status)
            self.send_header("Content-Length", str(len(page.body)))
            if page.etag:
                self.send_header("ETag", page.etag)
            if page.location:
                self.send_header("Location", page.location)
            self.end_headers()
            body = page.body[: page.cut_after]
            for start in range(0, len(body), 1000):
                try:
                    self.wfile.write(body[start : start + 1000])
                except OSError:
                    return
                time.sleep(page.chunk_seconds)
            made.asked.append("sent")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


def left(root: Path) -> list[str]:
    """What lies in the store's directory of fetched things, locks left aside."""
    return sorted(p.name for p in (root / "fetched").iterdir() if not p.name.endswith(".lock"))


def test_a_url_is_fetched_checked_and_pinned_by_content(
    world: Any, cli: Cli, web: Web, write_rows: Callable[..., Path]
) -> None:
    web.pages["/my%20rows.jsonl"] = Page(ROW * 5)
    url = f"{web.url}/my%20rows.jsonl?download=1"
    done = cli("steps", "run", "use/count", "-i", f"rows={url}", "--json")
    assert done.code == 0, done.err
    assert json.loads(Path(done.json["outputs"]["count"]["path"]).read_text()) == {"rows": 5}
    record = json.loads((Path(done.json["directory"]) / "record.json").read_text())
    fetched = Path(record["inputs"]["rows"]["path"])
    assert fetched.name == "my rows.jsonl"
    assert fetched.read_bytes() == ROW * 5
    assert record["inputs"]["rows"]["reference"] == f"{web.url}/my%20rows.jsonl?..."
    same = world.root / "same.jsonl"
    same.write_bytes(ROW * 5)
    again = cli("steps", "run", "use/count", "-i", f"rows={same}", "--json")
    assert again.json["outcome"] == "reused", "its content is its identity"


def test_the_dry_run_says_that_it_will_be_fetched_and_how_much(world: Any, cli: Cli, web: Web) -> None:
    web.pages["/rows.jsonl"] = Page(ROW * 5)
    done = cli("steps", "run", "use/count", "-i", f"rows={web.url}/rows.jsonl", "-d")
    assert done.code == 0, done.err
    assert f"{len(ROW) * 5:,} bytes" in done.out
    assert not (world.home / "fetched").exists()


def test_a_url_that_is_no_such_type_is_refused_before_anything_runs(world: Any, cli: Cli, web: Web) -> None:
    web.pages["/rows.jsonl"] = Page(b"<html>please log in</html>")
    done = cli("steps", "run", "use/count", "-i", f"rows={web.url}/rows.jsonl")
    assert done.code == 4
    assert "rows.jsonl" in done.err
    assert world.runs() == []


@pytest.mark.parametrize(("status", "code"), [(404, 3), (403, 6), (500, 6)])
def test_what_the_server_refuses_stops_the_launch_in_words(
    world: Any, cli: Cli, web: Web, status: int, code: int
) -> None:
    web.pages["/rows.jsonl"] = Page(b"", status=status)
    words = ("-i", f"rows={web.url}/rows.jsonl")
    done = cli("steps", "run", "use/count", *words, "--json")
    assert done.code == code
    assert str(status) in done.json["error"]["what"]
    assert cli("steps", "run", "use/count", *words, "-d").code == 0, "a dry run asks and does not insist"
    assert world.runs() == []


def test_without_a_network_it_is_exit_6(world: Any, cli: Cli) -> None:
    done = cli("steps", "run", "use/count", "-i", "rows=http://127.0.0.1:1/rows.jsonl", "--json")
    assert done.code == 6
    assert done.json["error"]["kind"] == "scheduler"
    assert "127.0.0.1:1" in done.json["error"]["where"]


def test_a_missing_driver_is_a_warning_in_a_dry_run_and_stops_a_launch(
    world: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import sys

    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    words = ("steps", "run", "use/count", "-i", "rows=s3://bucket/rows.jsonl")
    dry = cli(*words, "-d")
    assert dry.code == 0
    assert "pip install 'nemotron[s3]'" in dry.out
    done = cli(*words)
    assert done.code == 4
    assert "pip install 'nemotron[s3]'" in done.err


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@host.invalid/rows.jsonl",
        f"https://{SECRET}@host.invalid/rows.jsonl",
        f"https://host.invalid/rows.jsonl?X-Amz-Signature={SECRET}",
        f"https://host.invalid/rows.jsonl?sv=1&sig={SECRET}",
        f"https://host.invalid/rows.jsonl?{SECRET * 3}",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(world: Any, cli: Cli, url: str) -> None:
    for more in ((), ("-d",), ("--json",)):
        done = cli("steps", "run", "use/count", "-i", f"rows={url}", *more)
        assert done.code == 2
        assert "host.invalid/rows.jsonl" in done.out + done.err
        assert SECRET not in done.out + done.err


def test_a_secret_named_in_a_url_reaches_the_server_and_nothing_else(
    world: Any, cli: Cli, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SIGNATURE", SECRET)
    web.pages["/rows.jsonl"] = Page(ROW)
    words = ("steps", "run", "use/count", "-i", f"rows={web.url}/rows.jsonl?sig=${{oc.env:MY_SIGNATURE}}")
    dry = cli(*words, "-d", "--json")
    assert dry.code == 0, dry.err
    assert web.asked == []
    done = cli(*words, "--json")
    assert done.code == 0, done.err
    assert f"/rows.jsonl?sig={SECRET}" in web.asked
    written = b"".join(p.read_bytes() for p in world.home.rglob("*") if p.is_file())
    assert SECRET.encode() not in written
    assert SECRET not in dry.out + dry.err + done.out + done.err
    monkeypatch.delenv("MY_SIGNATURE")
    assert cli(*words, "--no-cache").code == 2


def test_what_did_not_change_is_not_fetched_again(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"one" * 5000)
    first = fetch_url(f"{web.url}/x", tmp_path, {})
    sent = web.bodies()
    assert fetch_url(f"{web.url}/x", tmp_path, {}) == first
    web.pages["/x"] = Page(b"two", etag='"2"')
    second = fetch_url(f"{web.url}/x", tmp_path, {})
    assert (first.read_bytes(), second.read_bytes()) == (b"one" * 5000, b"two")
    assert sent >= 1 and len(left(tmp_path)) == 2


def test_without_a_tag_it_is_fetched_again_and_kept_once(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"one", etag=None)
    first = fetch_url(f"{web.url}/x", tmp_path, {})
    assert fetch_url(f"{web.url}/x", tmp_path, {}) == first
    web.pages["/x"] = Page(b"two", etag=None)
    assert fetch_url(f"{web.url}/x", tmp_path, {}).read_bytes() == b"two"
    assert len(left(tmp_path)) == 2


def test_a_connection_that_ends_early_leaves_nothing(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"x" * 100_000, cut_after=50_000)
    with pytest.raises(SchedulerError):
        fetch_url(f"{web.url}/x", tmp_path, {})
    assert left(tmp_path) == []
    web.pages["/x"].cut_after = None
    assert fetch_url(f"{web.url}/x", tmp_path, {}).stat().st_size == 100_000


def test_half_a_file_of_a_killed_client_is_never_taken(tmp_path: Path, web: Web) -> None:
    """Killed in the middle of the body; the next client begins anew and clears up."""
    import multiprocessing
    import signal

    web.pages["/x"] = Page(b"x" * 400_000, chunk_seconds=0.01)
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=fetch_url, args=(f"{web.url}/x", tmp_path, {}))
    process.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("fetched/.*.tmp/x")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(left(tmp_path)) == 1
    web.pages["/x"].chunk_seconds = 0
    assert fetch_url(f"{web.url}/x", tmp_path, {}).stat().st_size == 400_000
    assert all(not name.endswith(".tmp") for name in left(tmp_path))


def test_clients_at_the_same_time_fetch_once(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"x" * 50_000, chunk_seconds=0.002)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_url(f"{web.url}/x", tmp_path, {})))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4
    assert len(left(tmp_path)) == 1


def test_progress_ends_with_all_of_it(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"x" * 10_000)
    told: list[tuple[int, int]] = []
    fetch_url(f"{web.url}/x", tmp_path, {}, lambda done, total: told.append((done, total)))
    assert told[-1] == (10_000, 10_000)
    assert told == sorted(told)


def test_a_full_disk_is_told_before_the_first_byte(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/x"] = Page(b"x" * 10_000)
    usage = downloads.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WorkFailed, match="100 bytes free"):
        fetch_url(f"{web.url}/x", tmp_path, {})
    assert left(tmp_path) == []


def test_a_redirect_is_followed_but_not_to_a_file(tmp_path: Path, web: Web) -> None:
    web.pages["/x"] = Page(b"found")
    web.pages["/moved"] = Page(b"", status=302, location=f"{web.url}/x")
    assert fetch_url(f"{web.url}/moved", tmp_path, {}).read_bytes() == b"found"
    web.pages["/moved"] = Page(b"", status=302, location="file:///etc/hostname")
    with pytest.raises(SchedulerError):
        fetch_url(f"{web.url}/moved", tmp_path, {})


def test_the_size_is_asked_for_no_longer_than_said(web: Web) -> None:
    web.pages["/x"] = Page(b"x", before=lambda: time.sleep(2))
    begun = time.monotonic()
    assert remote_size(f"{web.url}/x", 0.2) is None
    assert time.monotonic() - begun < 1.5


@pytest.fixture(params=["file", "memory"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a directory of three files, on two kinds of file systems."""
    url = (
        f"file://{tmp_path}/there/model"
        if request.param == "file"
        else f"memory://{tmp_path.name}/there/model"
    )
    system, base = fsspec.core.url_to_fs(url)
    for name, content in (("config.json", b"{}"), ("a/b/weights.bin", b"w" * 9_000_000), ("a/empty", b"")):
        system.makedirs(f"{base}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{base}/{name}", content)
    return url


def test_a_directory_comes_with_all_its_files(tmp_path: Path, tree: str) -> None:
    told: list[tuple[int, int]] = []
    place = fetch_url(tree, tmp_path, {}, lambda done, total: told.append((done, total)))
    files = {str(p.relative_to(place)): p.stat().st_size for p in place.rglob("*") if p.is_file()}
    assert place.name == "model"
    assert files == {"config.json": 2, "a/b/weights.bin": 9_000_000, "a/empty": 0}
    assert told[-1] == (9_000_002, 9_000_002)
    assert fetch_url(tree, tmp_path, {}) == place


def test_one_file_that_cannot_be_had_leaves_nothing_of_a_directory(
    tmp_path: Path, tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    whole = downloads.open_remote

    @contextlib.contextmanager
    def broken(url: str, file: Any) -> Iterator[Any]:
        if file.relpath == "config.json":
            raise SchedulerError("no answer")
        with whole(url, file) as stream:
            yield stream

    monkeypatch.setattr(downloads, "open_remote", broken)
    with pytest.raises(SchedulerError):
        fetch_url(tree, tmp_path, {})
    assert left(tmp_path) == []


def test_a_directory_that_changes_meanwhile_is_not_taken(
    tmp_path: Path, tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, base = fsspec.core.url_to_fs(tree)
    run = downloads._Download.run

    def change(self: Any) -> None:
        run(self)
        system.pipe_file(f"{base}/config.json", b"{} ")

    monkeypatch.setattr(downloads._Download, "run", change)
    with pytest.raises(Conflict):
        fetch_url(tree, tmp_path, {})
    assert left(tmp_path) == []


def test_names_that_lead_out_of_a_directory_are_refused(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    base = f"/{tmp_path.name}/evil"
    system.pipe_file(f"{base}/fine", b"1")
    system.store[f"{base}/../../escaped"] = system.store[f"{base}/fine"]
    with pytest.raises(CheckFailed, match="leads out"):
        fetch_url(f"memory:/{base}", tmp_path / "store", {})
    assert not list(tmp_path.rglob("escaped"))


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fetch_url(f"file://{tmp_path}/missing", tmp_path, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b", "https://host/a/b"),
        ("https://host/a?x=1#y", "https://host/a?...#..."),
        ("https://me:pw@host:8080/a", "https://...@host:8080/a"),
        ("https://me:p/w@host/a", "https://...@host/a"),
        ("s3://bucket/key@v1", "s3://bucket/key@v1"),
        ("abfs://container@account/path", "abfs://container@account/path"),
        ("no url", "no url"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert scrubbed(f"cannot open '{url}', sorry") == f"cannot open '{shown}', sorry"


@pytest.mark.parametrize(
    "url",
    [
        "https://h/x?download=1",
        "s3://b/k?versionId=3sL4kqtJlcpXroDTDmJrmSpXd3dIbrHY",
        "abfs://c@a/p",
        "s3://b/k@v",
    ],
)
def test_a_url_without_secrets_is_taken(url: str) -> None:
    refuse_secrets(url)
    refuse_secrets(url + ("&" if "?" in url else "?") + "token=${oc.env:TOKEN}")


def test_an_unset_variable_in_a_url_is_named() -> None:
    assert filled("https://h/x?t=${oc.env:T}", {"T": "1"}) == "https://h/x?t=1"
    with pytest.raises(UsageError, match="T is not set"):
        filled("https://h/x?t=${oc.env:T}", {})
