"""Records and inputs in a bucket, over the S3 protocol as a server speaks it; needs moto[server] and s3fs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.mirror import Synced, sync_records
from nemotron.artifacts.records import ArtifactRecord, write_record
from nemotron.artifacts.remote import list_remote, open_remote
from nemotron.artifacts.store import Store
from nemotron.errors import NotFound, SchedulerError
from nemotron.launch.downloads import fetch_url

pytestmark = pytest.mark.slow
BUCKET = "team-bucket"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system of an S3 server on this machine with one bucket."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.makedirs(BUCKET, exist_ok=True)  # the servers of one process share what they keep
    yield system
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def put(store: Store, name: str, day: int = 1) -> None:
    record = ArtifactRecord(id=name, type="training_jsonl", path="/x", at=f"2026-03-{day:02}T01:02:03Z")
    write_record(store.records_dir, record)


def names(store: Store) -> set[str]:
    return {p.name for p in store.records_dir.rglob("*.json")}


def test_clients_of_a_bucket_share_their_records(s3: Any, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/team/store"
    a, b = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    for number in range(300):
        put(a, f"r{number}", number % 5 + 1)
    assert sync_records(a).pushed == 300
    assert sync_records(b).pulled == 300
    assert sync_records(b) == Synced()
    put(b, "late", 2)
    assert sync_records(b).pushed == 1
    assert sync_records(a).pulled == 1
    assert names(a) == names(b)
    begun = time.process_time()
    sync_records(a)
    assert sync_records(a) == Synced()
    assert time.process_time() - begun < 2.0, "two listings"


def test_clients_at_the_same_time(s3: Any, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/busy"
    stores = [Store(tmp_path / str(number), url) for number in range(4)]

    def work(store: Store) -> None:
        for number in range(10):
            put(store, f"c{store.root.name}-{number}")
            sync_records(store)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2):
        for store in stores:
            sync_records(store)
    assert {len(names(store)) for store in stores} == {40}


def test_a_bucket_that_is_not_there_and_a_server_that_is_gone(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Store(tmp_path / "a", "s3://no-such-bucket-here/x")
    put(missing, "one")
    with pytest.raises(NotFound):
        sync_records(missing)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    type(s3).clear_instance_cache()
    gone = Store(tmp_path / "b", f"s3://{BUCKET}/x")
    begun = time.monotonic()
    with pytest.raises(SchedulerError) as caught:
        sync_records(gone)
    assert time.monotonic() - begun < 30
    assert f"s3://{BUCKET}/x" in str(caught.value.where)


def test_a_directory_in_a_bucket_is_listed_read_and_fetched(s3: Any, tmp_path: Path) -> None:
    s3.pipe({f"{BUCKET}/models/m/config.json": b"{}", f"{BUCKET}/models/m/a/b.bin": b"x" * 100})
    s3.pipe(f"{BUCKET}/models/m2/other", b"not part of it")
    url = f"s3://{BUCKET}/models/m"
    files = list_remote(url)
    assert [(f.relpath, f.size) for f in files] == [("a/b.bin", 100), ("config.json", 2)]
    assert all(f.identity for f in files)
    with open_remote(url, files[0]) as stream:
        assert stream.read() == b"x" * 100
    place = fetch_url(url, tmp_path, {})
    assert {p.name: p.stat().st_size for p in place.rglob("*") if p.is_file()} == {
        "b.bin": 100,
        "config.json": 2,
    }
    assert fetch_url(url, tmp_path, {}) == place
    before = list_remote(f"{url}/config.json")[0].identity
    s3.pipe(f"{BUCKET}/models/m/config.json", b"[]")
    assert list_remote(f"{url}/config.json")[0].identity != before
    assert (fetch_url(url, tmp_path, {}) / "config.json").read_bytes() == b"[]"
