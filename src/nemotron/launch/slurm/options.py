"""The options of sbatch that a plan means, and how one is written into a `#SBATCH` line.

sbatch reads such a line much like a shell, with one difference found on Slurm 22.05: a backslash is dropped
even between single quotes. A value that has one is refused, as is one with a control character.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.,:=@/+\[\]()*&|!<>-]+", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\\]|[\ud800-\udfff]")
# Keys of a profile that are options under another name, or need another look.
_KEYS = {"account": "account", "partition": "partition", "time": "time", "cpus_per_task": "cpus-per-task"}
GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")
# What a run needs to be as it is, and where else a person may say it.
RESERVED = {
    "job-name": "runs are found by it",
    "chdir": "it is the directory of the run",
    "output": "it is logs/slurm-%j.out in the directory of the run",
    "error": "it goes where the output goes",
    "open-mode": "logs are appended to",
    "parsable": "it is read by the program that submits",
    "wait": "nemotron runs wait does it",
    "test-only": "nemotron profiles check does it",
    "export": "the environment is that of the profile's env_vars",
    "export-file": "the environment is that of the profile's env_vars",
    "get-user-env": "the environment is that of the profile's env_vars",
    "wrap": "the script is ours; `template` takes one of yours",
    "array": "a run is one job",
    "nodes": "`nodes` says it",
    "ntasks": "there is one task a node",
    "ntasks-per-node": "there is one task a node",
    "signal": "`signal` or `must_save_before` says it",
    "kill-on-invalid-dep": "a job whose input failed has nothing to wait for",
}
# The opposite of an option that we set ourselves.
_OPPOSITES = {"no-requeue": "requeue"}


def header(
    options: Mapping[str, Any], nodes: int, gpus_per_node: int, save_before: int | None
) -> tuple[str, ...]:
    """The options of a job, such as `--nodes=2`, each as sbatch takes it on its command line.

    Raises UsageError for one that no job of ours can have.
    """
    asked = _asked(options)
    found: dict[str, Any] = {
        "nodes": nodes,
        "ntasks-per-node": 1,
        **{name: options.get(key) for key, name in _KEYS.items() if name not in asked},
        "mem": options.get("mem"),
        "exclusive": options.get("exclusive"),
        "open-mode": "append",
        "requeue": True,
    }
    if gpus_per_node and not any(name in asked for name in GPU_OPTIONS):
        # Understood by every way to select nodes; `--gpus-per-node` only by cons_tres.
        found["gres"] = f"gpu:{gpus_per_node}"
    if save_before is not None:
        found["signal"] = f"B:USR1@{save_before}"
    for name in asked:
        found.pop(_OPPOSITES.get(name, name), None)
    return tuple(word for name, value in (found | asked).items() for word in _words(name, value))


def own_gres(options: Mapping[str, Any], gpus_per_node: int) -> str | None:
    """The GPUs that a step has to ask for once more; None where a profile asks for them in its own way."""
    asked = _asked(options)
    return (
        f"gpu:{gpus_per_node}" if gpus_per_node and not any(name in asked for name in GPU_OPTIONS) else None
    )


def dependencies(options: Mapping[str, Any]) -> str | None:
    """What a profile wants a job to wait for, such as `singleton`."""
    value = _asked(options, keep_dependency=True).get("dependency")
    return str(value) if value else None


def sbatch_line(option: str) -> str:
    """One option as a line of a script's header."""
    name, equals, value = option.partition("=")
    return f"#SBATCH {name}{equals}{value if _PLAIN.fullmatch(value) or not equals else shlex.quote(value)}"


def _asked(options: Mapping[str, Any], *, keep_dependency: bool = False) -> dict[str, Any]:
    asked = dict(options.get("sbatch") or {})
    for name in asked:
        where = f"sbatch.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no long option of sbatch without its dashes", where="sbatch")
        if name in RESERVED:
            raise UsageError(f"a run cannot have --{name} of its own: {RESERVED[name]}", where=where)
        key = name.replace("-", "_")
        if options.get(key) not in (None, "") and key in (*_KEYS, "mem", "exclusive"):
            raise UsageError(f"--{name} is given twice, as {key} and as {where}", where=where)
    # Others are joined with it when a job is submitted.
    return asked if keep_dependency else {k: v for k, v in asked.items() if k != "dependency"}


def _words(name: str, value: Any) -> Iterator[str]:
    if value is None or value is False or value == "":
        return
    if value is True:
        yield f"--{name}"
        return
    for each in value if isinstance(value, list | tuple) else (value,):
        text = str(each)
        if _UNSAFE.search(text):
            what = "a backslash, or a character that is no text, which sbatch does not keep as it is"
            raise UsageError(f"--{name} holds {what}: {text[:60]!r}", where=name)
        yield f"--{name}={text}"
