"""Connections that break, strings that bite and secrets that must not be seen, through a real sshd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_until
from slurm_plans import make_plan, make_run, part_of
from ssh_laptop import TOKEN, Laptop, laptop, server, sockets
from ssh_server import SshServer
from test_slurm_strings import CANARY, DUMP, WANTED, hostile

from nemotron.artifacts.submissions import Journal
from nemotron.errors import NemotronError, UsageError
from nemotron.launch.slurm.backend import BACKEND
from nemotron.launch.ssh.login import login_of

pytestmark = pytest.mark.slurm
__all__ = ["laptop", "server", "sockets"]

# What a login finds in place of sbatch: it breaks all connections before or after it did its work, once.
BREAKS = """#!/bin/sh
[ -e {once} ] && exec /usr/bin/sbatch "$@"
touch {once}
{before}
/usr/bin/sbatch "$@" > {once}
sessions=$(ps -o pid= --ppid {daemon})
{daemon_too}
kill -9 $sessions
sleep 5
"""


def breaks(server: SshServer, *, before: bool = False, for_good: bool = False) -> None:
    """The connection breaks while sbatch runs."""
    assert server.daemon is not None
    text = BREAKS.format(
        once=server.root / "once",
        before=f"kill -9 $(ps -o pid= --ppid {server.daemon.pid}); exit 1" if before else "",
        daemon=server.daemon.pid,
        daemon_too=f"kill -9 {server.daemon.pid}" if for_good else "",
    )
    (server.bin / "sbatch").write_text(text)
    (server.bin / "sbatch").chmod(0o755)


def jobs_of(cluster: Cluster, run: str) -> list[str]:
    """What the controller has of a name."""
    return cluster.run(["squeue", "-h", "--states=all", f"--name={run}", "--format=%A"]).stdout.split()


def test_a_connection_that_breaks_after_sbatch_loses_no_job(
    laptop: Laptop, server: SshServer, cluster: Cluster
) -> None:
    breaks(server)
    run = laptop.submitted("make/rows")
    (job,) = jobs_of(cluster, run)
    assert [each.job for each in Journal(laptop.home / "runs" / run).submitted()] == [job]
    assert laptop.run("runs", "wait", run).code == 0


def test_one_that_cannot_be_made_again_leaves_it_open_and_submits_nothing_twice(
    laptop: Laptop, server: SshServer, cluster: Cluster
) -> None:
    breaks(server, for_good=True)
    done = laptop.run("steps", "run", "make/rows", "-b", "laptop", HF_TOKEN=TOKEN)
    assert done.code == 6 and "is not known" in done.err
    (directory,) = laptop.world.runs()
    assert Journal(directory).unanswered() and not Journal(directory).submitted()
    assert laptop.run("steps", "run", "make/rows", "-b", "laptop", HF_TOKEN=TOKEN).code == 5
    assert laptop.run("runs", "list", "--no-refresh", "--json").json["runs"][0]["state"] == "unknown"
    server.stop()
    server.start()
    (listed,) = laptop.run("runs", "list", "--json").json["runs"]
    (job,) = jobs_of(cluster, directory.name)
    assert listed["job"] == job
    assert laptop.run("runs", "wait", directory.name).code == 0
    assert "started hf_ve" in laptop.run("runs", "logs", directory.name).out


def test_one_that_breaks_before_sbatch_submits_nothing(
    laptop: Laptop, server: SshServer, cluster: Cluster
) -> None:
    breaks(server, before=True)
    done = laptop.run("steps", "run", "make/rows", "-b", "laptop")
    assert done.code == 6
    (directory,) = laptop.world.runs()
    assert jobs_of(cluster, directory.name) == []


def test_a_host_that_is_not_there_is_told_and_nothing_is_left_open(laptop: Laptop, server: SshServer) -> None:
    server.stop()
    done = laptop.run("steps", "run", "make/rows", "-b", "laptop", HF_TOKEN=TOKEN)
    assert done.code == 6 and "login" in done.err
    (directory,) = laptop.world.runs()
    assert not Journal(directory).unanswered() and not (directory / ".secrets").exists()
    checked = laptop.run("profiles", "check", "laptop")
    assert "does not answer: login" in checked.out and "was not asked" in checked.out


def test_profiles_check_asks_through_the_tunnel(laptop: Laptop) -> None:
    done = laptop.run("profiles", "check", "laptop", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["scheduler_asked"] and done.json["start_time"]
    profiles = laptop.work / "env.toml"
    profiles.write_text(profiles.read_text().replace("time = 5", 'time = 5\npartition = "bach"'))
    done = laptop.run("profiles", "check", "laptop")
    assert done.code == 4 and "batch" in done.out


def test_words_arrive_byte_for_byte(cluster: Cluster, sockets: Path, tmp_path: Path) -> None:
    texts = hostile(f"touch {tmp_path}/{CANARY}")
    login = login_of({"tunnel": "ssh", "host": "login"})
    assert login is not None
    (tmp_path / "dump.py").write_text(DUMP)
    for start in range(0, len(texts), 40):
        some = texts[start : start + 40]
        some = [text[:1200] for text in some]
        words = [sys.executable, str(tmp_path / "dump.py"), *some]
        done = login.call(words, seconds=60, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        seen = json.loads((tmp_path / "seen.json").read_text())
        assert seen["argv"] == [os.fsencode(text).hex() for text in some]
    assert not list(tmp_path.rglob(CANARY))


def test_directories_of_runs_arrive_or_are_refused(cluster: Cluster, sockets: Path, tmp_path: Path) -> None:
    begun: dict[str, Path] = {}
    refused = 0
    for number, text in enumerate(hostile(f"touch {tmp_path}/{CANARY}")[: WANTED // 4]):
        name = text.replace("/", "_").encode()[:180].decode(errors="ignore")
        if name in ("", ".", ".."):
            continue
        root = tmp_path / f"{number}" / name
        run = make_run(tmp_path / "here", 'echo here > "$PWD/ran"')
        for file, content in (("place.json", "{}"), ("recipe", "pending\n"), ("plan.json", "{}")):
            (run / file).write_text(content)
        plan = make_plan(options={"tunnel": "ssh", "host": "login"}, run_root=str(root))
        try:
            begun[BACKEND.submit(run, plan, part_of(run), ()).job] = root / run.name
        except UsageError as problem:
            refused += 1
            assert problem.where == "remote_job_dir"
    ids = ",".join(begun)
    wait_until(
        lambda: not cluster.run(["squeue", "-h", f"--jobs={ids}"]).stdout.strip(), "jobs do not end", 180
    )
    assert [run for run in begun.values() if not (run / "ran").is_file()] == []
    assert refused and len(begun) > refused
    assert not list(tmp_path.rglob(CANARY))


def test_hosts_users_and_keys_are_words_or_are_refused(sockets: Path, tmp_path: Path) -> None:
    """None of them is an option of ssh, or runs anything: at worst there is no such host."""
    for text in hostile(f"touch {tmp_path}/{CANARY}")[::4]:
        for name in ("host", "user", "identity"):
            values = {"tunnel": "ssh", "host": "direct", name: text}
            try:
                login = login_of(values)
                assert login is not None
                if name == "host":
                    # Looked up nowhere: this machine has no names but its own here.
                    assert not text.startswith("-")
                    continue
                login.call(["true"], seconds=20)
            except NemotronError as problem:
                assert problem.where is not None
    assert not list(tmp_path.rglob(CANARY))


def test_no_secret_is_seen(laptop: Laptop, server: SshServer, tmp_path: Path) -> None:
    run = laptop.submitted("make/rows", "behave=sleep", "seconds=3.0", HF_TOKEN=TOKEN)
    seen: set[bytes] = set()
    while laptop.run("runs", "list", "--json").json["runs"][0]["state"] in ("queued", "running"):
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(entry.read_bytes())
            except OSError:
                continue
    assert not [words for words in seen if TOKEN.encode() in words]
    assert laptop.run("runs", "wait", run).code == 0
    held = subprocess.run(["grep", "-rlF", TOKEN, tmp_path], capture_output=True, text=True).stdout.split(
        "\n"
    )
    assert [path for path in held if path] == []
