"""In a Ray cluster the same comes out as in the processes of this machine."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron.data.chats.registry import load_chats, write_chats
from nemotron.data.preferences.convert import convert_preferences
from nemotron.data.preferences.formats import find_format
from nemotron.data.rollouts.convert import MAKES, convert_rollouts
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.rowwise import Split
from nemotron.data.stream.ray_stage import VARIABLE
from nemotron.errors import CheckFailed

REAL = Path(__file__).with_name("rollouts")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A small one, here."""
    pytest.importorskip("ray.data")
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def here_and_in_ray(cluster: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], Any]], None]:
    """Do something twice, told how it is called."""

    def both(do: Callable[[str], Any]) -> None:
        do("here")
        monkeypatch.setenv(VARIABLE, "1")
        do("ray")

    return both


def written(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.ray
def test_rollouts_become_the_same(here_and_in_ray: Any, tmp_path: Path) -> None:
    """Real rows, plain and packed."""
    files = sorted(REAL.glob("*.jsonl.gz"))
    plain = tmp_path / "rollouts.jsonl"
    plain.write_bytes(b"".join(gzip.decompress(file.read_bytes()) for file in files[3:]) * 8)
    inputs = [str(plain), *map(str, files[:3])]
    options = ExportOptions(reward_threshold=None, media="keep", validation_share=0.3)

    def convert(name: str) -> None:
        places = {key: tmp_path / name / key for key in (*MAKES, "validation", "report")}
        convert_rollouts(inputs, places, options, make=("chat", "prompts"))

    here_and_in_ray(convert)
    assert written(tmp_path / "here") == written(tmp_path / "ray")
    kept = json.loads((tmp_path / "ray" / "report").read_text())["outputs"]["chat"]["kept"]
    assert kept > 10


@pytest.mark.ray
def test_chats_and_preferences_become_the_same(here_and_in_ray: Any, tmp_path: Path) -> None:
    chats, texts, judged = (str(tmp_path / name) for name in ("chats", "texts", "judged"))
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    write(chats, ({"messages": said, "n": n} for n in range(50)), b"{\n\n")
    write(texts, ({"question": f"{n}", "chosen": "a", "rejected": "b"} for n in range(50)))
    write(judged, ({"question": f"{n // 2}", "completion": f"{n}", "label": n % 2} for n in range(50)))

    def convert(name: str) -> None:
        made, split = tmp_path / name, Split()
        made.mkdir()
        pairs, judgements = find_format("chatml.intel"), find_format("chatml.intel", "kto")
        told = [
            write_chats(load_chats("openai_format", {"data_path": chats}), {"rows": made / "c"}),
            convert_preferences(texts, pairs, {"rows": made / "t"}, split=split),
            convert_preferences(judged, judgements, {"rows": made / "j"}, split=split),
        ]
        (made / "told").write_text(json.dumps(told))

    here_and_in_ray(convert)
    assert written(tmp_path / "here") == written(tmp_path / "ray")


@pytest.mark.ray
def test_bad_input_leaves_what_was_there(here_and_in_ray: Any, tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl.gz", tmp_path / "out"
    path.write_bytes(gzip.compress(os.urandom(100_000))[:-2000])
    out.write_text("before")

    def convert(_: str) -> None:
        with pytest.raises(CheckFailed, match="damaged gzip data"):
            write_chats(load_chats("openai_format", {"data_path": str(path)}), {"rows": out})

    here_and_in_ray(convert)
    assert out.read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "rows.jsonl.gz"]


def write(path: str, rows: Iterable[dict[str, Any]], more: bytes = b"") -> None:
    Path(path).write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + more)
