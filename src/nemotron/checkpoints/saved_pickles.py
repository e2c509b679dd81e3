"""The pickles in a Megatron checkpoint that frameworks load with everything allowed, looked at as data.

Megatron-Core loads `common.pt` and the objects among the weights with `weights_only=False`, which calls
whatever a pickle names. Here it may name what Megatron-Core calls safe, and what tensors are made of.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from nemotron.artifacts.checks.distributed import Metadata, StoredPiece
from nemotron.artifacts.checks.files import open_regular
from nemotron.artifacts.checks.pickles import PERSISTENT_ID, read_pickle
from nemotron.artifacts.checks.report import Problem, Report, clipped, shown
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.archives import ArchiveError, archive_bytes, archive_entries
from nemotron.checkpoints.whole import ReadFiles
from nemotron.errors import CheckFailed

# Of a state with many thousand tensors.
_TAIL = 4 << 20
_PICKLE = 64 << 20
_ENTRY = re.compile(
    r"data\.pkl|version|byteorder|data/\d+|\.format_version|\.storage_alignment|\.data/serialization_id"
)
_PICKLED = "data.pkl"
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"),
    *("int64", "int32", "int16", "int8", "uint8"),
)
_STORAGES = (
    *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped"),
)
# `SAFE_GLOBALS` of Megatron-Core 0.17.0, by every name that Python or numpy has for them.
_MEGATRON = (
    *("types.SimpleNamespace", "argparse.Namespace", "pathlib.PosixPath", "pathlib._local.PosixPath"),
    *("_io.BytesIO", "io.BytesIO", "signal.Signals", "numpy.ndarray", "numpy.dtype"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.dtypes.UInt32DType", "numpy.dtype[uint32]"),
    "megatron.core.enums.ModelType",
    "megatron.core.optimizer.OptimizerConfig",
    "megatron.core.optimizer.optimizer_config.OptimizerConfig",
    *(f"megatron.core.rerun_state_machine.{name}" for name in ("RerunDiagnostic", "RerunMode", "RerunState")),
    *(f"megatron.core.transformer.enums.{name}" for name in ("AttnBackend", "CudaGraphScope")),
)
# Pickles of protocol 2, as torch writes them, have Python 2's names. None of these does more than to hold.
_PLAIN = (
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "_codecs.encode"),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("set", "bytearray", "complex")
    ),
    *("builtins.dict", "__builtin__.dict", "builtins.list", "__builtin__.list"),
)
_ALLOWED = frozenset(
    (
        *(f"torch.{name}" for name in _DTYPES),
        *(f"torch.{name}Storage" for name in _STORAGES),
        *("torch.storage.UntypedStorage", "torch.storage.TypedStorage"),
        *("torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"),
        *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
        *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
        *_MEGATRON,
        *_PLAIN,
        PERSISTENT_ID,
    )
)


def check_pickles(place: Path, names: frozenset[str], metadata: Metadata | None, report: Report) -> None:
    """Report every file of torch in an iteration, and every object among its weights, that might run code.

    place: the iteration. names: its own. metadata: None where they cannot be read.
    """
    objects = metadata.objects if metadata is not None else frozenset()
    pieces = metadata.pieces if metadata is not None else ()
    with ReadFiles() as files:
        for path in _files(place, names):
            problem = _whole_file(files, path)
            if problem is not None:
                report.add(problem, file=_below(path, report))
        for piece in pieces:
            if piece.key not in objects or piece.file not in names:
                continue
            path = place / piece.file
            if not path.is_file() or piece.offset + piece.length > path.stat().st_size:
                continue  # told already
            problem = _problem(files, path, piece)
            if problem is not None:
                what = f"{printable(clipped(piece.key, 100))}: {problem.message}"
                report.add(problem._replace(message=what), file=_below(path, report))


def _below(path: Path, report: Report) -> str:
    base = Path(report.place)
    return clipped(path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name)


def _files(place: Path, names: frozenset[str]) -> Iterator[Path]:
    """The iteration's, those beside it that say where the training was, and the optimizer library's."""
    yield from (place / name for name in sorted(names) if name.endswith(".pt"))
    more = (*place.parent.glob("*.pt"), *(place / "modelopt_state").glob("*.pt"))
    yield from sorted(path for path in more if path.is_file())


def _whole_file(files: ReadFiles, path: Path) -> Problem | None:
    opened = open_regular(path)
    if isinstance(opened, Problem):
        return opened
    with opened as file:
        size = file.seek(0, 2)
    return _problem(files, path, StoredPiece(path.name, None, path.name, 0, size, False))


def _problem(files: ReadFiles, path: Path, piece: StoredPiece) -> Problem | None:
    """What is wrong with a file that `torch.save` wrote, or a piece of one."""
    try:
        pickles = []
        entries = list(archive_entries(files, path, piece, _TAIL))
        for entry in entries:
            _, _, name = entry.name.partition("/")
            if not _ENTRY.fullmatch(name):
                return _unsafe(f"an entry {shown(entry.name)}, which torch.save does not write")
            if name == _PICKLED:
                pickles.append(archive_bytes(files, path, piece, entry, _PICKLE))
    except (ArchiveError, CheckFailed, struct.error) as problem:
        said = "cut short" if isinstance(problem, struct.error) else problem
        return Problem("checkpoint.broken_file", str(said), fix="copy or save the checkpoint again")
    if len(pickles) != 1 or len({entry.name.lower() for entry in entries}) != len(entries):
        return _unsafe(f"{len(pickles)} pickles and {len(entries)} entries, some of the same name")
    read = read_pickle(pickles[0], _ALLOWED)
    return read if isinstance(read, Problem) else None


def _unsafe(what: str) -> Problem:
    fix = "do not load it with anything; save or copy the checkpoint again from a source you trust"
    return Problem("checkpoint.hostile_pickle", what, fix=fix)
