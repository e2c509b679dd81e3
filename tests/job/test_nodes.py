"""Several nodes of one job: they find one another, do what node 0 says, and end with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron.errors import CheckFailed, SchedulerError
from nemotron.job.keeper import Kept, descendants
from nemotron.job.nodes import leader
from nemotron.job.nodes.link import Link, call, published, rendezvous_file
from nemotron.job.nodes.torchrun import torchrun_words

HELPER = "import sys; from pathlib import Path; from nemotron.job.nodes.leader import serve_node\n"
HELPER += "sys.exit(serve_node(Path(sys.argv[1])))"
# Stands for torchrun: says how it was started, then does what its script would.
LAUNCHER = f"""#!{sys.executable}
import json, os, signal, sys, time
run = os.environ["NEMOTRON_RUN_DIR"]
rank = [w.partition("=")[2] for w in sys.argv if w.startswith("--node-rank=")][0]
told = {{"argv": sys.argv[1:], "job": os.environ.get("NEMOTRON_JOB_ID"), "given": os.environ.get("GIVEN")}}
def write(name, text):
    with open(f"{{run}}/.{{name}}", "w") as file:
        file.write(text)
    os.rename(f"{{run}}/.{{name}}", f"{{run}}/{{name}}")
def leave(*_):
    write(f"term-{{rank}}", "")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
told["pid"] = os.getpid()
write(f"told-{{rank}}", json.dumps(told))
print("started", rank, flush=True)
behave = sys.argv[-1]
if behave == "fail":
    sys.exit(7)
if behave == "sleep":
    time.sleep(600)
"""
Wait = Callable[..., Any]


class Job:
    """A job of some nodes; node 0 is this process."""

    def __init__(self, directory: Path, behave: str = "ok") -> None:
        self.directory = directory
        self.launcher = directory / "torchrun"
        self.launcher.write_text(LAUNCHER, encoding="utf-8")
        self.launcher.chmod(0o755)
        self.argv = [str(self.launcher), "--nproc-per-node=8", "train.py", behave]
        self.plan = {
            "placement": {
                "launch": "torchrun",
                "argv": self.argv,
                "gpus_per_node": 8,
                "environment": {"GIVEN": "yes; $(no)"},
            },
            "outputs": [],
        }
        (directory / "plan.json").write_text(json.dumps(self.plan), encoding="utf-8")
        self.helpers: list[subprocess.Popen[str]] = []

    def start_helper(self, rank: int, **environ: str) -> subprocess.Popen[str]:
        """The process of another node."""
        process = subprocess.Popen(
            [sys.executable, "-c", HELPER, str(self.directory)],
            env={**os.environ, "NEMOTRON_NODE_RANK": str(rank), "SLURMD_NODENAME": f"n{rank + 1}", **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.helpers.append(process)
        return process

    def bring_up(self, count: int, **more: Any) -> leader.Nodes:
        for rank in range(1, count):
            self.start_helper(rank)
        return leader.bring_up(self.directory, self.plan, 1, count, **more)

    def told(self, rank: int) -> Path:
        return self.directory / f"told-{rank}"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    monkeypatch.setenv("NEMOTRON_JOB_ID", "7")
    monkeypatch.setenv("NEMOTRON_NODES", "3")
    monkeypatch.setenv("NEMOTRON_NODE_RANK", "0")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("NEMOTRON_JOIN_LIMIT", "30")
    made: list[Job] = []

    def make(behave: str = "ok") -> Job:
        made.append(Job(tmp_path, behave))
        return made[-1]

    yield make
    for each in made:
        for helper in each.helpers:
            if helper.poll() is None:
                helper.kill()
            helper.communicate()


def test_all_nodes_start_the_trainer_with_their_rank_and_end_together(
    job: Callable[..., Job], wait_for: Wait
) -> None:
    made = job()
    up = made.bring_up(3)
    argv = up.argv(made.argv)
    wait_for(lambda: made.told(1).exists() and made.told(2).exists())
    assert argv == up.argv(made.argv)  # asked again, it starts nothing again
    address = [word for word in argv if word.startswith("--master-")]
    for rank in (1, 2):
        told = json.loads(made.told(rank).read_text(encoding="utf-8"))
        meeting = ["--nnodes=3", f"--node-rank={rank}", *address]
        assert told["argv"] == [*meeting, "--nproc-per-node=8", "train.py", "ok"]
        assert told["given"] == "yes; $(no)"
        assert told["job"] is None  # a launch inside of the trainer is none of this job's
    assert argv[1:] == ["--nnodes=3", "--node-rank=0", *address, "--nproc-per-node=8", "train.py", "ok"]
    up.close(0)
    assert [helper.wait(10) for helper in made.helpers] == [0, 0]
    assert up.lost() is None
    logs = up.logs()
    assert [log.name for log in logs] == ["attempt-1.node-1.log", "attempt-1.node-2.log"]
    assert "node 2 is n3 (" in logs[1].read_text(encoding="utf-8")
    assert "started 2" in logs[1].read_text(encoding="utf-8")


def test_the_token_is_readable_for_its_owner_alone_and_gone_at_the_end(job: Callable[..., Job]) -> None:
    made = job()
    up = made.bring_up(2)
    path = rendezvous_file(made.directory)
    assert path.stat().st_mode & 0o777 == 0o600
    token = published(path)["token"]
    up.close(0)
    assert published(path) == {"over": True}
    for file in made.directory.rglob("*"):
        assert not file.is_file() or token not in file.read_text(encoding="utf-8")


def test_a_trainer_that_fails_elsewhere_is_told_with_its_node(
    job: Callable[..., Job], wait_for: Wait
) -> None:
    made = job("fail")
    up = made.bring_up(2)
    assert up.lost() is None
    up.argv(made.argv)
    lost = wait_for(up.lost)
    assert "the trainer on node 1 (n2) ended with exit code 7" in lost
    up.close(1)
    assert made.helpers[0].wait(10) == 0


def test_a_node_that_dies_is_told_and_takes_its_trainer_with_it(
    job: Callable[..., Job], wait_for: Wait, alive: Callable[[int], bool]
) -> None:
    made = job("sleep")
    up = made.bring_up(3)
    up.argv(made.argv)
    wait_for(lambda: made.told(1).exists() and made.told(2).exists())
    trainer = json.loads(made.told(2).read_text(encoding="utf-8"))["pid"]
    made.helpers[1].kill()
    assert "node 2 (n3) is gone" in wait_for(up.lost)
    wait_for(lambda: not alive(trainer))
    up.close(1)
    assert made.helpers[0].wait(15) == 0


def test_signals_reach_the_trainers_of_all_nodes(job: Callable[..., Job], wait_for: Wait) -> None:
    made = job("sleep")
    up = made.bring_up(2)
    up.argv(made.argv)
    wait_for(made.told(1).exists)
    made.helpers[0].terminate()  # a scheduler's, to every process: node 0 decides
    made.helpers[0].send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    assert up.lost() is None
    up.signal(signal.SIGTERM)
    wait_for((made.directory / "term-1").exists)
    up.close(130)
    assert made.helpers[0].wait(10) == 0


def test_when_node_0_dies_the_others_end(
    job: Callable[..., Job], wait_for: Wait, alive: Callable[[int], bool]
) -> None:
    made = job("sleep")
    made.start_helper(1)
    code = (
        "import json, sys, time; from pathlib import Path; from nemotron.job.nodes.leader import bring_up\n"
    )
    code += "run = Path(sys.argv[1]); plan = json.loads((run / 'plan.json').read_text())\n"
    code += "bring_up(run, plan, 1, 2).argv(plan['placement']['argv']); time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", code, str(made.directory)])
    try:
        wait_for(made.told(1).exists)
        trainer = json.loads(made.told(1).read_text(encoding="utf-8"))["pid"]
    finally:
        first.kill()
        first.wait()
    assert made.helpers[0].wait(20) == 0
    assert not alive(trainer)
    text = (made.directory / "logs" / "nodes" / "attempt-1.node-1.log").read_text(encoding="utf-8")
    assert "node 0 is gone" in text


def test_a_node_that_does_not_come_is_named(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOTRON_JOIN_LIMIT", "2")
    made = job()
    helper = made.start_helper(1, NEMOTRON_JOIN_LIMIT="30")
    with pytest.raises(SchedulerError, match=r"node 2 did not come within 2 s; here: node 0 \(n1\), node 1"):
        leader.bring_up(made.directory, made.plan, 1, 3)
    assert helper.wait(10) == 0


def test_a_node_that_hears_nothing_of_node_0_says_where_it_looked(job: Callable[..., Job]) -> None:
    made = job()
    stale = made.directory / "logs" / "nodes" / "rendezvous-7-0.json"
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"addresses": ["127.0.0.1"], "port": 9, "token": "x", "attempt": 1}))
    helper = made.start_helper(1, NEMOTRON_RESTARTS="1", NEMOTRON_JOIN_LIMIT="1")
    _, said = helper.communicate(timeout=20)
    assert helper.returncode == 6
    assert "node 1 (n2) had no word of node 0 within 1 s" in said
    assert "rendezvous-7-1.json" in said


def test_nodes_are_sent_home_where_there_is_nothing_to_do(job: Callable[..., Job]) -> None:
    made = job()
    helper = made.start_helper(1)
    leader.dismiss(made.directory)
    assert helper.wait(20) == 0


def test_waiting_for_nodes_ends_when_the_job_is_asked_to_stop(job: Callable[..., Job]) -> None:
    begun = time.monotonic()
    with pytest.raises(SchedulerError, match="asked to stop"):
        job().bring_up(1 + 1, stopped=lambda: time.monotonic() > begun - 1)
    assert time.monotonic() - begun < 10


def test_a_stranger_without_the_token_joins_nothing(job: Callable[..., Job]) -> None:
    made = job()
    up = made.bring_up(2)
    file = published(rendezvous_file(made.directory)) or {}
    with pytest.raises(OSError):
        call("127.0.0.1", file["port"], "0" * 64, {"rank": 1, "name": "evil", "via": "127.0.0.1"})
    with pytest.raises(OSError):  # rank 1 is here already
        link = call("127.0.0.1", file["port"], file["token"], {"rank": 1, "name": "n2", "via": "127.0.0.1"})
        assert link.receive(5) is None
    with socket.create_connection(("127.0.0.1", file["port"])) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"x" * 5000)
    assert up.lost() is None
    up.close(0)


def test_a_message_that_was_changed_or_repeated_ends_the_connection() -> None:
    here, there = socket.socketpair()
    key = b"k" * 32
    sender = Link(here, key, b"0", b"n")
    sender.send({"do": "beat"})
    line = there.recv(1000)
    here2, there2 = socket.socketpair()
    receiver = Link(there2, key, b"n", b"0")
    here2.sendall(line)
    assert receiver.receive(1) == {"do": "beat"}
    here2.sendall(line)
    with pytest.raises(ConnectionError):
        receiver.receive(1)
    here3, there3 = socket.socketpair()
    here3.sendall(line.replace(b"beat", b"boot"))
    with pytest.raises(ConnectionError):
        Link(there3, key, b"n", b"0").receive(1)
    for each in (here, there, here2, there2, here3, there3):
        each.close()


def test_a_command_that_is_not_torchrun_is_refused_before_anybody_waits(job: Callable[..., Job]) -> None:
    made = job()
    made.plan["placement"]["argv"] = ["python", "train.py"]
    with pytest.raises(CheckFailed, match="it is not torchrun"):
        leader.bring_up(made.directory, made.plan, 1, 2)
    assert published(rendezvous_file(made.directory)) is not None  # the others are sent home


def test_one_node_needs_no_meeting(job: Callable[..., Job]) -> None:
    made = job()
    made.plan["placement"]["argv"] = ["python", "train.py"]
    up = leader.bring_up(made.directory, made.plan, 1, 1)
    assert up.argv(["python", "train.py"]) == ["python", "train.py"]
    assert up.lost() is None
    assert up.logs() == []
    up.close(0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("torchrun --standalone a.py --nnodes=9", "torchrun @ a.py --nnodes=9"),
        (
            "torchrun --nproc_per_node 2 --master_port 1 --nnodes 1:2 a.py",
            "torchrun @ --nproc_per_node 2 a.py",
        ),
        (
            "python -m torch.distributed.run --nnodes 1 -m pkg.train -x",
            "python -m torch.distributed.run @ -m pkg.train -x",
        ),
        (
            "/v/bin/torchrun --rdzv-endpoint=h:1 --tee 3 a.py torchrun",
            "/v/bin/torchrun @ --tee 3 a.py torchrun",
        ),
        ("torchrun a.py", "torchrun @ a.py"),
    ],
)
def test_options_that_are_ours_to_say_are_replaced(given: str, wanted: str) -> None:
    ours = "--nnodes=2 --node-rank=1 --master-addr=10.0.0.1 --master-port=1234"
    found = torchrun_words(given.split(), 1, 2, "10.0.0.1", 1234)
    assert found == wanted.replace("@", ours).split()


FAMILY = """
import os, subprocess, sys, time
if len(sys.argv) == 1:
    # A grandchild that leaves session and group, and whose parent goes.
    subprocess.Popen([sys.executable, sys.argv[0], "middle"]).wait()
    print("ready", flush=True)
    time.sleep(600)
elif sys.argv[1] == "middle":
    subprocess.Popen([sys.executable, sys.argv[0], "last"], start_new_session=True)
else:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["stop", "kill", "die"])
def test_a_keeper_ends_the_whole_family(
    tmp_path: Path, how: str, wait_for: Wait, alive: Callable[[int], bool]
) -> None:
    script, log = tmp_path / "family.py", tmp_path / "log"
    script.write_text(FAMILY, encoding="utf-8")
    kept = Kept([sys.executable, str(script)], log, os.environ, tmp_path)
    wait_for(lambda: "ready" in log.read_text(encoding="utf-8"))
    wait_for(lambda: len(descendants(kept.pid)) == 2)
    family = descendants(kept.pid)
    if how == "stop":
        assert kept.stop(5) == 143
    elif how == "kill":
        kept.signal(signal.SIGKILL)
        assert kept.stop(5) == 137
    else:
        os.kill(family[0], signal.SIGKILL)
        assert wait_for(kept.poll) == 137
        kept.stop(0)
    assert not any(map(alive, family))


@pytest.mark.parametrize(("code", "seen"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_a_keeper_passes_the_exit_code_on(tmp_path: Path, code: str, seen: int) -> None:
    kept = Kept([sys.executable, "-c", f"import os, sys; {code}"], tmp_path / "log", os.environ, tmp_path)
    while kept.poll() is None:
        time.sleep(0.02)
    assert kept.stop(0) == seen
    kept = Kept(["/nowhere/at/all"], tmp_path / "log", os.environ, tmp_path)
    while kept.poll() is None:
        time.sleep(0.02)
    assert kept.stop(0) == 127
    assert "/nowhere/at/all cannot be started" in (tmp_path / "log").read_text(encoding="utf-8")
