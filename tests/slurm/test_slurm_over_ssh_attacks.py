"""What a newcomer's ssh, login node and disk can do to a run: told clearly, and nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from ssh_laptop import TOKEN, Laptop, laptop, server, sockets
from ssh_server import PORT, SshServer

from nemotron.artifacts.submissions import Journal

pytestmark = pytest.mark.slurm
__all__ = ["laptop", "server", "sockets"]
STEP = ("steps", "run", "make/rows", "-b", "laptop")


def jobs_of(cluster: Cluster, run: str) -> list[str]:
    return cluster.run(["squeue", "-h", "-t", "all", "-o", "%i", f"--name={run}"]).stdout.split()


def change(server: SshServer, before: str, after: str) -> None:
    """Another config of the user's."""
    text = server.config.read_text()
    assert before in text
    server.config.write_text(text.replace(before, after))


def daemon_with(server: SshServer, *lines: str) -> None:
    """Start sshd anew, with these lines of its config first."""
    config = server.root / "sshd_config"
    config.write_text("\n".join((*lines, config.read_text())))
    server.stop()
    server.start()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("HostName 127.0.0.1", "HostName no-such-host.invalid", "Could not resolve hostname no-such-host"),
        (f"Port {PORT}", "Port 9", "Connection refused"),
        ("{root}/known", "/dev/null", "Host key verification failed"),
        ("{root}/known", "{root}/other", "Host key for [127.0.0.1]:2222 has changed"),
        ("IdentityFile {root}/user", "IdentityFile {root}/host", "Permission denied (publickey,password)"),
        ("ProxyJump gate", "ProxyJump nobody@gate", "Permission denied"),
        ("ProxyJump gate", "ProxyCommand /no/such/program", "/no/such/program"),
        ("Host gate", "Hots gate", "Bad configuration option: hots"),
    ],
    ids=["name", "port", "unknown-key", "changed-key", "password", "jump", "proxy", "config"],
)
def test_what_ssh_says_is_told_and_the_same_command_goes_on_later(
    laptop: Laptop, server: SshServer, cluster: Cluster, before: str, after: str, said: str
) -> None:
    """A password is never asked for: BatchMode."""
    daemon_with(server, "PasswordAuthentication yes")
    other = (server.root / "user.pub").read_text().rpartition(" ")[0]
    (server.root / "other").write_text(f"[127.0.0.1]:{PORT} {other}\n")
    good = server.config.read_text()
    change(server, before.format(root=server.root), after.format(root=server.root))
    done = laptop.run(*STEP, HF_TOKEN=TOKEN)
    assert done.code == 6
    assert said in done.err and "ssh -o BatchMode=yes login true" in done.err
    assert "Traceback" not in done.err and TOKEN not in done.err
    (run,) = laptop.world.runs()
    assert not Journal(run).unanswered() and not (run / ".secrets").exists()
    checked = laptop.run("profiles", "check", "laptop")
    assert said in checked.out and "was not asked" in checked.out
    server.config.write_text(good)
    again = laptop.run(*STEP, HF_TOKEN=TOKEN)
    assert again.code == 0, again.err
    assert again.out.strip() == run.name and len(jobs_of(cluster, run.name)) == 1


def test_the_doctor_asks_the_login_node(laptop: Laptop) -> None:
    (laptop.work / "env.toml").write_text(
        f'[laptop]\nexecutor = "slurm"\ntunnel = "ssh"\nhost = "login"\nremote_job_dir = "{laptop.there}"\n'
    )
    done = laptop.run("doctor", "--json")
    assert done.code == 0, done.out
    (slurm,) = [each for each in done.json["executors"] if each["name"] == "slurm"]
    assert {item["name"]: item["state"] for item in slurm["items"]} == {"ssh": "ok", "login login": "ok"}
    assert slurm["items"][1]["said"].startswith("slurm")


def test_a_login_that_greets_and_a_home_with_blanks_change_nothing(
    laptop: Laptop, server: SshServer, tmp_path: Path
) -> None:
    home = tmp_path / "my home; $(x)"
    home.mkdir()
    greets = server.bin / "greets"
    greets.write_text(
        "#!/bin/sh\n"
        "echo Welcome to the cluster; echo '::nemotron' 'gone' >&2; printf 'no line end' \n"
        f"HOME='{home}' exec bash -c \"$SSH_ORIGINAL_COMMAND\"\n"
    )
    greets.chmod(0o755)
    banner = server.root / "banner"
    banner.write_text("This machine is watched.\n")
    daemon_with(server, f"ForceCommand {greets}", f"Banner {banner}")
    change(server, "ProxyJump gate", "Port 2222")
    run = laptop.submitted("make/rows", HF_TOKEN=TOKEN)
    waited = laptop.run("runs", "wait", run)
    assert waited.code == 0, waited.err
    assert "watched" not in waited.err and "written" in laptop.run("runs", "logs", run).out


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system that the bundle does not fit on."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_told_and_nothing_is_left_of_the_bundle(
    laptop: Laptop, server: SshServer, cluster: Cluster
) -> None:
    with small_disk(laptop.there):
        done = laptop.run(*STEP, HF_TOKEN=TOKEN)
        assert done.code == 6
        assert "No space left on device" in done.err and "login" in done.err
        (run,) = laptop.world.runs()
        assert list(laptop.there.iterdir()) == [] and jobs_of(cluster, run.name) == []
        assert not Journal(run).unanswered() and not (run / ".secrets").exists()
    again = laptop.run(*STEP, HF_TOKEN=TOKEN)
    assert again.code == 0, again.err
    assert again.out.strip() == run.name
    assert laptop.run("runs", "wait", run.name).code == 0


def test_a_connection_that_breaks_while_files_go_over_leaves_nothing_open(
    laptop: Laptop, server: SshServer, cluster: Cluster
) -> None:
    assert server.daemon is not None
    breaks = server.bin / "tar"
    breaks.write_text(
        "#!/bin/sh\n"
        f'[ -e {server.root}/once ] && exec /usr/bin/tar "$@"\n'
        f"touch {server.root}/once; head -c 1000 > /dev/null\n"
        f"kill -9 $(ps -o pid= --ppid {server.daemon.pid}); sleep 5\n"
    )
    breaks.chmod(0o755)
    done = laptop.run(*STEP, HF_TOKEN=TOKEN)
    assert done.code == 6 and "did not reach login" in done.err
    (run,) = laptop.world.runs()
    assert not Journal(run).unanswered() and not (run / ".secrets").exists()
    assert jobs_of(cluster, run.name) == []
    again = laptop.run(*STEP, HF_TOKEN=TOKEN)
    assert again.code == 0, again.err
    assert again.out.strip() == run.name and len(jobs_of(cluster, run.name)) == 1
    assert laptop.run("runs", "wait", run.name).code == 0


def test_a_directory_that_cannot_be_made_is_told(laptop: Laptop) -> None:
    laptop.there.write_text("a file in the way")
    done = laptop.run(*STEP)
    assert done.code == 6 and "s runs': File exists" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("missing", ["sbatch", "tar"])
def test_a_login_node_without_a_program_is_told(laptop: Laptop, server: SshServer, missing: str) -> None:
    """A PATH that has everything but one."""
    bare = server.root / "bare"
    bare.mkdir()
    for place in ("/usr/bin", "/bin"):
        for path in Path(place).iterdir():
            if path.name != missing and not (bare / path.name).exists():
                (bare / path.name).symlink_to(path)
    config = server.root / "sshd_config"
    kept = [line for line in config.read_text().splitlines() if "SetEnv" not in line]
    config.write_text("\n".join([*kept, f"SetEnv SLURM_CONF={server.cluster.layout.conf} PATH={bare}", ""]))
    server.stop()
    server.start()
    done = laptop.run(*STEP)
    assert done.code == 6, done.err
    assert missing in done.err and "login" in done.err
    assert "not found" in done.err or "not on PATH" in done.err
    (run,) = laptop.world.runs()
    assert not Journal(run).unanswered()


def test_nodes_without_python_end_a_run_with_the_reason(
    laptop: Laptop, server: SshServer, tmp_path: Path
) -> None:
    """`python3` is that of the nodes; the profile's own lines can put the right one on PATH."""
    bare = tmp_path / "bare"
    bare.mkdir()
    profiles = laptop.work / "env.toml"
    line = f'remote_job_dir = "{laptop.there}"\nstartup_commands = ["export PATH={bare}"]'
    profiles.write_text(profiles.read_text().replace(f'remote_job_dir = "{laptop.there}"', line))
    run = laptop.submitted("make/rows")
    waited = laptop.run("runs", "wait", run)
    assert waited.code == 127
    assert "python3" in waited.err + laptop.run("runs", "logs", run).out


def test_a_cluster_that_is_gone_while_a_run_goes_on_is_waited_for(laptop: Laptop, server: SshServer) -> None:
    gate = laptop.work / "open"
    run = laptop.submitted("make/rows", "behave=gate", f"text={gate}")
    follower = laptop.start("runs", "logs", run, "-f")
    server.stop()
    listed = laptop.run("runs", "list")
    assert listed.code == 0 and run in listed.out
    assert "does not answer: login" in listed.err and "Traceback" not in listed.err
    cancelled = laptop.run("runs", "cancel", run)
    assert cancelled.code == 6
    gate.touch()
    server.start()
    out, err = follower.communicate(timeout=120)
    assert follower.returncode == 0, err
    assert out.endswith("written\n")
    assert laptop.run("runs", "wait", run).code == 0
