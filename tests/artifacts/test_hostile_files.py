"""Files made to harm: each is refused in a process of its own whose memory is measured."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks import check_artifact

# Bytes, of the whole process, Python itself included.
LIMIT = 300_000_000
MIB = 1 << 20
# Not what `getrusage` says: that begins with the memory of the process that started this one.
CHECK = """
import json, re, sys
from pathlib import Path
from nemotron.artifacts.checks import check_artifact, guess_type
path, name = Path(sys.argv[1]), sys.argv[2]
guess_type(path)
result = check_artifact(path, name)
print(json.dumps({
    "ids": sorted({finding.id for finding in result.findings if finding.severity == "error"}),
    "facts": dict(result.facts),
    "peak": int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024,
}, allow_nan=False))
"""


def measured(path: Path, name: str) -> dict[str, Any]:
    """What the check of a file says, once it is known to have kept within the limit."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(path), name], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["peak"] < LIMIT, f"{result['peak'] / 1e6:.0f} MB"
    return result


DEEP = 1_000_000
GOOD_ROW = b'{"input": "x", "output": "y"}\n'


def fill(path: Path, size: int, unit: bytes, before: bytes = b"", after: bytes = b"") -> None:
    """About `size` bytes of one thing again and again."""
    with path.open("wb") as file:
        file.write(before)
        for _ in range(size // (len(unit) * 1000)):
            file.write(unit * 1000)
        file.write(after)


# The most that each kind of value takes for its bytes, up to the longest line that is read.
WASTEFUL = {
    "objects": b"{},",
    "lists": b"[],",
    "keys": b'{"a":1},',
    "numbers": b"1000,",
    "fractions": b"1.5,",
    "words": b'"ab",',
    "ideographs": '"\u4e00\u4e8c",'.encode(),
}


@pytest.mark.parametrize("name", WASTEFUL)
@pytest.mark.parametrize("size", [2, 8, 15])
def test_no_line_takes_more_memory_than_there_is_for_it(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / "rows.jsonl"
    unit = WASTEFUL[name]
    fill(path, size * MIB, unit, GOOD_ROW + b'{"input": "x", "output": "y", "z": [', b'""]}\n' + GOOD_ROW)
    result = measured(path, "training_jsonl")
    assert result["facts"]["rows"] + result["facts"]["findings"].get("data.too_costly", 0) == 3


@pytest.mark.parametrize("text", ["\\u4e00" * 2_600_000, "x" * 15_000_000 + "\U0001f600", "x\\n" * 5_000_000])
def test_a_long_text_is_no_attack(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"input": "x", "output": "' + text.encode() + b'"}\n')
    assert measured(path, "training_jsonl")["ids"] == []


def test_a_line_of_sixty_megabytes_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path / "rows.jsonl", 60 * MIB, b"{},", b"[", b"{}]\n" + GOOD_ROW)
    result = measured(tmp_path / "rows.jsonl", "training_jsonl")
    assert result["ids"] == ["data.line_too_long"]
    assert result["facts"]["rows"] == 1


@pytest.mark.slow
def test_a_line_of_ten_gigabytes_of_nothing_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"input": "' + b"x" * 8192)
        file.truncate(10_000_000_000)
    assert measured(path, "training_jsonl")["ids"] == ["data.line_too_long"]


@pytest.mark.parametrize("name", ["eval_results", "packed_parquet", "prompt_jsonl"])
def test_ten_gigabytes_of_nothing_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "results.json"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)
    assert measured(path, name)["ids"]


@pytest.mark.parametrize(
    "deep",
    [b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP],
    ids=["open lists", "lists", "open objects", "objects"],
)
def test_deeply_nested_values_are_refused_everywhere(tmp_path: Path, deep: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"input": "x", "output": ' + deep + b"}\n")
    row = measured(tmp_path / "rows.jsonl", "training_jsonl")
    assert set(row["ids"]) <= {"data.too_deep", "data.too_costly"} and row["ids"]
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"):
        model = whole_model(tmp_path / file.replace(".", "_"))
        (model / file).write_bytes(deep)
        found = measured(model, "checkpoint_hf")["ids"]
        assert set(found) & {"data.too_deep", "data.too_costly"}, found
    model = whole_model(tmp_path / "header")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    assert measured(model, "checkpoint_hf")["ids"][0] in ("checkpoint.broken_weights", "data.too_costly")
    (tmp_path / "results.json").write_bytes(deep)
    assert measured(tmp_path / "results.json", "eval_results")["ids"]


def whole_model(path: Path) -> Path:
    """A model directory that passes."""
    path.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4}
    (path / "config.json").write_text(json.dumps(config))
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}, "merges": []}}))
    return path


def test_the_model_that_is_damaged_below_passes_whole(tmp_path: Path) -> None:
    assert check_artifact(whole_model(tmp_path / "model"), "checkpoint_hf").findings == ()


def bad_values(path: Path) -> None:
    text = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4, '
    ids = '"eos_token_id": [' + "1," * 100_000 + '1], "bos_token_id": NaN, '
    path.write_text(text + ids + '"_name_or_path": "\\ud800", "x": -Infinity}')


def unigram(path: Path) -> None:
    fill(path, 40 * MIB, b'["ab",-1.5],', b'{"model":{"type":"Unigram","vocab":[', b'["a",0]]}}')


def expanding(path: Path) -> None:
    fill(path, 40 * MIB, b"1e15,", b'{"model":{"vocab":{},"merges":[', b"1]}}")


def many_tokens(path: Path) -> None:
    with path.open("w") as file:
        file.write('{"model":{"merges":[],"vocab":{')
        file.writelines(f'"{n:x}":{n},' for n in range(3_000_000))
        file.write('"x":0}}}')


def wide_and_escaped(path: Path) -> None:
    fill(path, 40 * MIB, b"x", '{"a":"\U0001f600\\u4e00'.encode(), b'","model":{}}')


def again(size: int, unit: bytes, before: bytes, after: bytes) -> Callable[[Path], None]:
    return lambda path: fill(path, size * MIB, unit, before, after)


TOO_COSTLY, TOO_LARGE = {"data.too_costly"}, {"artifact.too_large"}
CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer.json", "model.safetensors.index.json"
MODEL_ATTACKS: list[tuple[str, Callable[[Path], None], set[str]]] = [
    (CONFIG, bad_values, set()),
    (CONFIG, again(15, b"{},", b'{"a":[', b"1]}"), TOO_COSTLY),
    (CONFIG, again(60, b" ", b"", b""), TOO_LARGE),
    (TOKENIZER, again(250, b'["a","b"],', b"", b""), TOO_LARGE),
    (TOKENIZER, again(45, b"{},", b'{"a":[', b"1]}"), TOO_COSTLY),
    (TOKENIZER, again(45, b"[],", b'{"model":{"merges":[', b"[]]}}"), TOO_COSTLY),
    (TOKENIZER, again(45, b"1,", b'{"model":{"merges":[[', b"1]]}}"), TOO_COSTLY),
    (TOKENIZER, unigram, TOO_COSTLY),
    (TOKENIZER, expanding, TOO_COSTLY),
    (TOKENIZER, many_tokens, TOO_COSTLY),
    (TOKENIZER, wide_and_escaped, TOO_COSTLY),
    ("tokenizer_config.json", again(15, b'{"a":1},', b'{"a":[', b"1]}"), TOO_COSTLY),
    (INDEX, again(31, b"{},", b'{"a":[', b"1]}"), TOO_COSTLY),
]


@pytest.mark.parametrize(("file", "attack", "ids"), MODEL_ATTACKS, ids=range(len(MODEL_ATTACKS)))
def test_a_file_of_a_model_takes_no_more_memory_than_there_is(
    tmp_path: Path, file: str, attack: Callable[[Path], None], ids: set[str]
) -> None:
    model = whole_model(tmp_path / "model")
    attack(model / file)
    assert set(measured(model, "checkpoint_hf")["ids"]) == ids


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**62, 10**9])
def test_a_header_longer_than_the_file_is_not_waited_for(tmp_path: Path, length: int) -> None:
    model = whole_model(tmp_path / "model")
    with (model / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(2 * 10**9)
    assert measured(model, "checkpoint_hf")["ids"] == ["checkpoint.broken_weights"]


@pytest.mark.slow
def test_large_headers_in_many_files_do_not_add_up(tmp_path: Path) -> None:
    model = whole_model(tmp_path / "model")
    (model / "model.safetensors").unlink()
    for shard in range(8):
        entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        header = ("{" + ",".join(f'"{shard}.{n}":{entry}' for n in range(100_000)) + "}").encode()
        (model / f"part{shard}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert measured(model, "checkpoint_hf")["ids"] == ["checkpoint.too_many_tensors"]


def test_the_largest_tokenizers_in_use_pass(tmp_path: Path) -> None:
    model = whole_model(tmp_path / "model")
    words = [f"\u2581\u0442{n:x}\U0001f600" if n % 2 else f"w{n:o}" for n in range(262_144)]
    merges = [[words[n % len(words)][:2], words[n % len(words)][2:]] for n in range(515_000)]
    content = {
        "added_tokens": [{"id": n, "content": f"<unused{n}>", "special": True} for n in range(6400)],
        "model": {"type": "BPE", "vocab": {w: n for n, w in enumerate(words)}, "merges": merges},
    }
    text = json.dumps(content, ensure_ascii=False, indent=4)
    assert len(text.encode()) > 30_000_000
    (model / "tokenizer.json").write_text(text)
    (model / "config.json").write_text('{"model_type": "x", "architectures": ["X"], "vocab_size": 262144}')
    result = measured(model, "checkpoint_hf")
    assert result["ids"] == []
    assert result["facts"]["tokenizer_size"] == 262_144


def checkpoint(path: Path, metadata: bytes) -> Path:
    path.mkdir()
    (path / ".metadata").write_bytes(metadata)
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (path / "__0_0.distcp").write_bytes(b"cos\nsystem\n(Vtouch ran\ntR.")
    return path


HEAD = b"\x80\x04"
PICKLES = {
    "code": (b"cos\nsystem\n(Vtouch ran\ntR.", "checkpoint.hostile_pickle"),
    "lists": (HEAD + b"(" + b"]" * (30 * MIB) + b"l.", "data.too_costly"),
    "sets": (HEAD + b"(" + b"\x8f" * (30 * MIB) + b".", "data.too_costly"),
    "nested lists": (HEAD + b"]" * 500_000 + b"a" * 499_999 + b".", "checkpoint.broken_metadata"),
    "marks": (HEAD + b"(" * (30 * MIB) + b".", "data.too_costly"),
    "nothing": (HEAD + b"N" * (30 * MIB) + b".", "data.too_costly"),
    "one value": (HEAD + b"]\x94" + b"h\x00" * (15 * MIB) + b".", "data.too_costly"),
    "a list of one": (HEAD + b"]\x94(" + b"h\x00" * 900_000 + b"e.", "checkpoint.broken_metadata"),
    "tuples": (HEAD + b"N\x85" * (15 * MIB) + b".", "data.too_costly"),
    "tuples in tuples": (HEAD + b"N" + b"\x85" * 2_000_000 + b".", "checkpoint.broken_metadata"),
    "memo": (HEAD + b"Nr\xff\xff\xff\xff.", "checkpoint.hostile_pickle"),
    "memo again and again": (HEAD + b"N" + b"\x94" * (30 * MIB) + b".", "checkpoint.broken_metadata"),
    "bytes": (HEAD + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "checkpoint.broken_metadata"),
    "frame": (HEAD + b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", "checkpoint.broken_metadata"),
    "text": (
        HEAD + b"X" + struct.pack("<I", 31 * MIB) + b"x" * (31 * MIB) + b".",
        "checkpoint.broken_metadata",
    ),
    "wide text": (
        HEAD + b"X" + struct.pack("<I", 28 * MIB) + b"\xf0\x9f\x98\x80" + b"x" * (28 * MIB - 4) + b".",
        "checkpoint.broken_metadata",
    ),
    "too large": (HEAD + b"N0" * (20 * MIB), "artifact.too_large"),
}


# These go through tens of millions of operations.
SLOW = ("sets", "marks", "one value", "tuples", "memo again and again", "too large")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PICKLES]
)
def test_a_pickle_runs_no_code_and_takes_no_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, problem = PICKLES[name]
    path = checkpoint(tmp_path / "checkpoint", program)
    assert measured(path, "checkpoint_megatron")["ids"] == [problem]
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_many_chunks_of_one_tensor_takes_no_memory(tmp_path: Path) -> None:
    module = "torch.distributed.checkpoint.metadata"

    def made(name: str, state: bytes) -> bytes:
        return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"

    size = b"ctorch\nSize\nK\x00\x85\x85R"
    chunk = made("ChunkStorageMetadata", b"}(Voffsets\n".replace(b"Voffsets\n", text("offsets")) + size
                 + text("sizes") + size + b"u") + b"q\x00"  # fmt: skip
    chunks = b"](" + chunk + b"h\x00" * 950_000 + b"e"
    properties = made("TensorProperties", b"(ctorch\nfloat32\nNNNNt")
    tensor = made(
        "TensorStorageMetadata",
        b"}(" + text("properties") + properties + text("size") + size + text("chunks") + chunks + b"u",
    )
    whole = made("Metadata", b"}(" + text("state_dict_metadata") + b"}" + text("key") + tensor + b"s"
                 + text("storage_data") + b"}u")  # fmt: skip
    path = checkpoint(tmp_path / "checkpoint", b"\x80\x02" + whole + b".")
    assert measured(path, "checkpoint_megatron")["ids"] == ["checkpoint.chunks"]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def test_python_itself_would_have_run_that_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLES["code"][0])  # noqa: S301 - it is this test's own
    assert (tmp_path / "ran").exists()


def test_a_parquet_footer_takes_no_memory(tmp_path: Path) -> None:
    for unit in (b"\x1c\x00", b"\x19\x0c", b"\x18\x00"):
        footer = unit * (7 * MIB)
        (tmp_path / "x.parquet").write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")
        assert measured(tmp_path / "x.parquet", "packed_parquet")["ids"] == ["data.broken_parquet"]
