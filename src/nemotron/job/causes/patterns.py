"""What lines of a trainer's log mean: which name a cause, and which only what follows from one.

Of several candidates the one of the lowest rank is the cause, and the earliest of those.
"""

from __future__ import annotations

import re

# ROOT: says what happened. HINT: may say so. DEATH: something died, not why. ECHO: others noticed.
# SURVIVED: work went on after it.
ROOT, HINT, DEATH, ECHO, SURVIVED = range(5)

# A line without any of these words is no candidate, and no sign of progress.
WORTH_A_LOOK = re.compile(
    rb"Traceback|rror|RROR|xception|Interrupt|CANCELLED|illed|oom|OOM|SIG|ignal|egmentation|Xid|NCCL|imed out"
    rb"|imeout|closed by|reset by|No space|not found|denied|No such file|died|dead|Aborted|pyxis|quota"
    rb"|terminate|exitcode|nemotron: |tep|iteration|%\||loss"
)

# Training goes on: whatever was complained of before did not end it.
PROGRESS = re.compile(
    rb"[Ss]tep\s*[:=]?\s*\d+\s*/\s*\d|iteration\s+\d+\s*/|\d%\|.{1,200}(?:it/s|s/it)"
    rb"|[\"']loss[\"']\s*:\s*\d|\bloss\s*[:=]\s*\d"
)

_DEATHS = frozenset(
    {
        "ActorDiedError",
        "RayActorError",
        "ActorUnavailableError",
        "WorkerCrashedError",
        "EngineDeadError",
        "NodeDiedError",
        "ChildFailedError",
        "ProcessExitedException",
        "ProcessRaisedException",
        "BrokenProcessPool",
        "LocalRayletDiedError",
        "OwnerDiedError",
        "ObjectLostError",
        "CalledProcessError",
        "SignalException",
        "ExceptionGroup",
        "BaseExceptionGroup",
    }
)
_ECHOES = frozenset(
    {
        "ConnectionResetError",
        "BrokenPipeError",
        "ConnectionRefusedError",
        "ConnectionAbortedError",
        "ConnectionError",
        "EOFError",
        "IncompleteReadError",
        "DistBackendError",
        "DistNetworkError",
        "DistStoreError",
        "CancelledError",
        "KeyboardInterrupt",
        "SystemExit",
        "GeneratorExit",
        "TaskCancelledError",
        "RpcError",
        "RaySystemError",
        "GetTimeoutError",
        "RendezvousConnectionError",
        "RendezvousTimeoutError",
        "RendezvousClosedError",
        "ServerDisconnectedError",
    }
)
_ECHO_WORDS = re.compile(
    r"NCCL (?:error|Error|operation|communicator)|nccl(?:Remote|System|Internal)Error|TCPStore|[Rr]endezvous"
    r"|[Cc]onnection (?:closed|reset|refused)|[Ss]ocket (?:closed|[Tt]imeout|timed out)|closed by peer"
    r"|Broken pipe|gloo/transport|[Ww]atchdog|collective operation timeout|store->get|wait timeout after"
)
_DEATH_WORDS = re.compile(
    r"[Ee]ngine core (?:proc\S* |initialization )?(?:failed|died)|[Ww]orker\S* (?:proc\S* )?.*died"
    r"|[Aa]ctor .*died|See root cause above|DataLoader worker .* (?:killed|exited)"
)
_OWN_FAULT = re.compile(r"EADDRINUSE|[Aa]ddress already in use|[Nn]o route to host|Name or service not known")


def rank_of_exception(kind: str, message: str) -> int:
    """How much an exception says of why a run ended. kind: its type, with or without the module."""
    name = kind.rsplit(".", 1)[-1]
    if _OWN_FAULT.search(message):
        return ROOT
    if name in _DEATHS or _DEATH_WORDS.search(message):
        return DEATH
    return ECHO if name in _ECHOES or _ECHO_WORDS.search(message) else ROOT


# Lines that are a candidate by themselves; the first that matches counts.
LINES: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (rank, re.compile(pattern))
    for rank, pattern in (
        (ROOT, r"CANCELLED AT \S+ DUE TO (?:TIME LIMIT|NODE FAIL\w*|PREEMPTION|TASK FAILURE)"),
        (ROOT, r"slurmstepd\S* error: .*oom[-_]kill|[Oo]ut of memory: Killed process|oom-kill:constraint"),
        (ROOT, r"Memory cgroup out of memory|Exceeded job memory limit|node running low on memory"),
        (ROOT, r"pyxis: .*(?:failed|[Ee]rror|[Cc]ould not)|enroot.*\[ERROR\]|error: pyxis:"),
        (ROOT, r"NVRM: Xid|uncorrectable (?:NVLink|ECC)|CUDA error: (?!.*NCCL)|GPU has fallen off the bus"),
        (ROOT, r"[Bb]us error|\bSIG(?:BUS|SEGV|ILL|FPE)\b|[Ss]egmentation fault"),
        (ROOT, r"No space left on device|[Dd]isk quota exceeded|Read-only file system|Stale file handle"),
        (ROOT, r"terminate called after throwing an instance of (?!.*(?:nccl|c10::Dist))"),
        (ROOT, r"error while loading shared libraries|symbol lookup error|version `GLIBC\S*' not found"),
        (HINT, r"(?:command not found|[Pp]ermission denied|No such file or directory)\s*$"),
        (ECHO, r"[Ww]atchdog caught collective operation timeout|Timeout at NCCL work|ProcessGroupNCCL.*tim"),
        (ECHO, r"NCCL WARN .*(?:closed|failed|[Tt]imeout|reset)|nccl(?:Remote|System)Error"),
        (
            ECHO,
            r"Timed out waiting \d+ms for (?:recv|send)|[Cc]onnection (?:closed|reset) by|[Ss]ocket closed",
        ),
        (DEATH, r"(?:exitcode|exit code)\s*:? *-?(?:9|137)\b|SIGKILL|Signal 9\b|\bKilled\b|oom_kill"),
        (DEATH, r"The actor (?:died|is dead)|actor died unexpectedly|[Ww]orker died|EngineCore died"),
        (DEATH, r"Raylet .*(?:died|dead)|[Nn]ode .* (?:died|was marked dead)|Aborted \(core"),
        (DEATH, r"srun: error: \S+: tasks? .*: |srun: error: Node failure|launch failed"),
        (DEATH, r"failed \(exitcode: -?\d+\)|Fatal Python error: (?!Aborted)"),
        (ECHO, r"Broken pipe|SIGTERM|Signal 15|STEP \S+ ON \S+ CANCELLED AT|JOB \S+ ON \S+ CANCELLED AT"),
    )
)
