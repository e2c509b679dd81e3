"""What converting a checkpoint costs: time as a multiple of copying the same bytes, and memory.

    python benchmarks/checkpoints.py [ROUNDS]

Two models of random numbers are made on the spot: 0.6 B parameters in the shape of Qwen3-0.6B, and 4 GB in
the shapes of a 70 B Llama with one layer. Each is converted to Megatron and back, in processes of their own;
beside each conversion the same bytes are read, written and synced by a loop, in the same round. Time is
counted after imports, memory is the peak of all that is resident, medians of the rounds. The result of the
way back has to be the model, tensor by tensor. Exit code 1 when a figure is above its bar. It makes files of
three times the model; TMPDIR says where.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measure import cost_of

from nemotron.checkpoints.compare_tensors import compare
from nemotron.checkpoints.families import model_of
from nemotron.checkpoints.hf_files import SafetensorsWriter
from nemotron.checkpoints.weaving import weaves_of

MIB = 1 << 20
BLOCK = 8 * MIB
TIME_BAR = 3.0
SPARE = 250 * MIB

TIMED = """
import sys, time
from pathlib import Path
{imports}
begun = time.monotonic()
{work}
print(time.monotonic() - begun)
"""
COPY = TIMED.format(
    imports="import os",
    work="""
buffer = memoryview(bytearray(8 << 20))
target = Path(sys.argv[2])
target.mkdir()
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.suffix in (".safetensors", ".distcp"):
        with path.open("rb", 0) as source, (target / path.name).open("wb", 0) as copy:
            while count := source.readinto(buffer):
                copy.write(buffer[:count])
            os.fsync(copy.fileno())
""",
)
TO_MEGATRON = TIMED.format(
    imports="from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron",
    work="hf_to_megatron(Path(sys.argv[1]), Path(sys.argv[2]))",
)
TO_HF = TIMED.format(
    imports="from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf",
    work="megatron_to_hf(Path(sys.argv[1]), Path(sys.argv[2]))",
)


@dataclass(frozen=True)
class Size:
    """A model to make: its name and its config."""

    name: str
    config: dict[str, object]


SIZES = (
    Size(
        "0.6 B",
        {
            **{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True},
            **{"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128},
            **{"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936},
        },
    ),
    Size(
        "4 GB, 70 B-like",
        {
            **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
            **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 1, "head_dim": 128},
            **{"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256},
        },
    ),
)


def make_model(place: Path, config: dict[str, object]) -> int:
    """Write a model of random numbers; the bytes of its largest tensor."""
    model = model_of(config, "benchmark")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for weave in weaves_of(model):
        for layer in weave.layer_numbers():
            tensors |= {name: ("BF16", shape) for name, shape in weave.sources(layer)}
    place.mkdir()
    largest = 0
    with SafetensorsWriter(place, tensors, 1 << 40) as writer:
        for name, (_, shape) in tensors.items():
            size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
            largest = max(largest, size)
            for at in range(0, size, BLOCK):
                writer.write(name, at, os.urandom(min(BLOCK, size - at)))
    (place / "config.json").write_text(json.dumps(config))
    return largest


def measured(program: str, source: Path, target: Path) -> tuple[float, int]:
    """Seconds after imports and peak resident bytes of one process; what it wrote stays."""
    cost = cost_of([sys.executable, "-c", program, str(source), str(target)], os.environ)
    return float(cost.output.split()[-1]), cost.peak


def measure_size(size: Size, rounds: int, place: Path) -> bool:
    """Both ways, beside copies; whether all is below its bar."""
    model, megatron, back, copy = (place / name for name in ("model", "megatron", "back", "copy"))
    bar = 2 * make_model(model, size.config) + SPARE
    ways = {"to Megatron": (TO_MEGATRON, model, megatron), "to Hugging Face": (TO_HF, megatron, back)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    copying: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0)
    for _ in range(rounds):
        shutil.rmtree(megatron, ignore_errors=True)
        shutil.rmtree(back, ignore_errors=True)
        for way, (program, source, target) in ways.items():
            copying[way].append(measured(COPY, source, copy)[0])
            shutil.rmtree(copy)
            taken, peak = measured(program, source, target)
            seconds[way].append(taken)
            peaks[way] = max(peaks[way], peak)
    found = compare(model, back)
    held = sum(file.stat().st_size for file in model.iterdir())
    how_many = "all" if found.equal else "NOT ALL"
    print(f"{size.name}: {held / 1e9:.2f} GB, {found.same} tensors the same, {how_many}")
    fine = found.equal
    for way in ways:
        taken, floor = statistics.median(seconds[way]), statistics.median(copying[way])
        ratio = taken / floor
        fine = fine and ratio <= TIME_BAR and peaks[way] <= bar
        print(
            f"  {way:16} {taken:6.1f} s, copying {floor:6.1f} s: {ratio:.2f}x (bar {TIME_BAR:g}x); "
            f"{peaks[way] / MIB:.0f} MiB (bar {bar / MIB:.0f})"
        )
    return fine


def main() -> None:
    """Both sizes."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    fine = True
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            fine = measure_size(size, rounds, Path(place)) and fine
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
