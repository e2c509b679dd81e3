"""torchrun over several nodes: the same command on each, with its rank and the place where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from nemotron.errors import CheckFailed

# Options that say how many nodes there are and where they meet: ours to say.
_OURS = frozenset(
    {
        "--nnodes",
        "--node-rank",
        "--master-addr",
        "--master-port",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--rdzv-id",
        "--rdzv-conf",
        "--standalone",
    }
)
# Options without a value of their own; any other takes the next word where it has no `=`.
_FLAGS = frozenset({"--standalone", "--no-python", "--run-path", "-m", "--module", "-h", "--help"})


def torchrun_words(argv: Sequence[str], rank: int, nodes: int, address: str, port: int) -> list[str]:
    """The command `argv` as node `rank` of `nodes` has to start it.

    Raises CheckFailed for a command that is not torchrun: without it nobody gives the processes their ranks.
    """
    begin = _after_torchrun(argv)
    meeting = [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--master-addr={address}",
        f"--master-port={port}",
    ]
    kept = []
    words = iter(argv[begin:])
    for word in words:
        if not word.startswith("-"):
            kept.append(word)
            break
        name = word.partition("=")[0].replace("_", "-")
        taken = [word] if "=" in word or name in _FLAGS else [word, next(words, "")]
        if name not in _OURS:
            kept += taken
    return [*argv[:begin], *meeting, *kept, *words]


def _after_torchrun(argv: Sequence[str]) -> int:
    for place, word in enumerate(argv):
        if PurePath(word).name == "torchrun" or (word == "torch.distributed.run" and argv[place - 1] == "-m"):
            return place + 1
    raise CheckFailed(
        "this command cannot run on several nodes: it is not torchrun, and nothing else gives its processes"
        f" their ranks: {' '.join(argv[:4])}",
        where="placement.argv",
        next="nodes = 1 in the profile, or a step whose engine starts `python -m torch.distributed.run`",
    )
