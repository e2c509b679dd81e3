"""Whatever a person types either arrives byte for byte or is refused by name; none of it is ever executed.

One job carries many values: it writes its environment and the arguments of its trainer, and what it was asked
to mount. A canary in every hostile text makes a file when a shell runs it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from slurm_cluster import Cluster, wait_until
from slurm_plans import make_plan, make_run, part_of

from nemotron.errors import NemotronError, UsageError
from nemotron.launch.bundle import launch_script
from nemotron.launch.slurm.backend import BACKEND
from nemotron.planning.words import shell_words

pytestmark = pytest.mark.slurm

WANTED = 200
CANARY = "canary-was-run"
# What shells, sbatch, pyxis and fstab read more into than text; {run} is what makes the canary.
SHARP = (
    *(
        "$({run})",
        "`{run}`",
        "; {run};",
        "| {run}",
        "&& {run}",
        "& {run}",
        "\n{run}\n",
        "$$",
        "${macro}",
        "$HOME",
    ),
    *(
        "'",
        '"',
        "'; {run}; '",
        '"; {run}; "',
        "\\",
        "\\'",
        '\\"',
        " ",
        "\t",
        "  two  ",
        "#",
        "%j",
        "%%",
        "!",
        "!!",
    ),
    *(
        "*",
        "?",
        "[a-z]",
        "{a,b}",
        "~",
        "~root",
        "-x",
        "--",
        "--wrap={run}",
        "-",
        "=",
        ",",
        ":",
        ",/etc:/x",
        ":ro",
    ),
    *(
        "\r",
        "\x07",
        "\x1b[31m",
        "\x7f",
        "é",
        "漢字",
        "\u202e",
        "\U0001f600",
        "\u2028",
        "<(x)",
        ">{out}",
        "<<EOF",
    ),
    *(
        "#SBATCH --wrap={run}",
        "\n#SBATCH --partition=down\n",
        "$'\\x41'",
        "(",
        ")",
        "{{body}}",
        "{run_dir}",
        "@NODES@",
    ),
)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(SHARP),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    ),
    min_size=1,
    max_size=5,
).map("".join)
LONG = st.sampled_from(SHARP).map(lambda sharp: (sharp * 4096)[:4096])


def hostile(make_canary: str) -> list[str]:
    """Exactly `WANTED` texts, 4 KB ones and every sharp one among them; the same ones in every run."""
    found: list[str] = []

    @seed(1)
    @settings(
        max_examples=400,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(st.one_of(TEXTS, TEXTS, TEXTS, LONG))
    def draw(text: str) -> None:
        found.append(text)

    draw()
    texts = dict.fromkeys([*SHARP, "", "x" * 4096, *found])
    filled = dict.fromkeys(t.replace("{run}", make_canary).replace("{out}", CANARY) for t in texts)
    assert len(filled) >= WANTED
    return list(filled)[:WANTED]


@pytest.fixture
def canary(tmp_path: Path) -> str:
    """The command that says that it was run."""
    return f"touch {tmp_path}/{CANARY}"


@pytest.fixture(autouse=True)
def nothing_was_executed(tmp_path: Path, cluster: Cluster) -> object:
    yield
    assert not [p for p in tmp_path.rglob(f"*{CANARY}*") if p.name == CANARY]


DUMP = """\
import json, os, sys
with open("seen.json", "w") as file:
    env = {os.fsdecode(k): os.fsencode(v).hex() for k, v in os.environ.items()}
    json.dump({"env": env, "argv": [os.fsencode(a).hex() for a in sys.argv[1:]]}, file)
"""


def test_environment_and_arguments_arrive_byte_for_byte(
    cluster: Cluster, tmp_path: Path, canary: str
) -> None:
    texts = hostile(canary)
    environment = {f"HOSTILE_{n}": text for n, text in enumerate(texts)}
    (tmp_path / "dump.py").write_text(DUMP)
    script = launch_script(make_plan(environment=environment))
    # The trainer of this run is started by its launch.sh, which ends with the runtime's command.
    head, _, _ = script.rpartition("exec ")
    run = make_run(
        tmp_path, head + "exec " + shell_words([sys.executable, str(tmp_path / "dump.py"), *texts]) + "\n"
    )
    job = BACKEND.submit(run, make_plan(environment=environment), part_of(run), ())
    assert cluster.wait(job.job) == "COMPLETED", (run / "logs" / f"slurm-{job.job}.out").read_text()
    seen = json.loads((run / "seen.json").read_text())
    for number, text in enumerate(texts):
        sent = os.fsencode(text).hex()
        assert seen["env"][f"HOSTILE_{number}"] == sent
        assert seen["argv"][number] == sent


def test_options_arrive_in_the_controller_or_are_refused(
    cluster: Cluster, tmp_path: Path, canary: str
) -> None:
    """The option that holds any text is the comment; a controller takes 1 KB of it."""
    jobs: dict[str, str] = {}
    refused = 0
    for text in hostile(canary):
        run = make_run(tmp_path, "true")
        try:
            # Held: what counts is what the controller was told.
            plan = make_plan(options={"sbatch": {"comment": text, "hold": True}})
            jobs[BACKEND.submit(run, plan, part_of(run), ()).job] = text
        except NemotronError as problem:
            refused += 1
            assert "comment" in problem.what or len(text.encode()) > 1000, problem.what
    shown = cluster.run(["squeue", "-h", "-o", "%A %k"], timeout=120).stdout.split("\n")
    comments = {line.partition(" ")[0]: line.partition(" ")[2] for line in shown}
    assert {j: comments[j] for j in jobs} == {j: text or "(null)" for j, text in jobs.items()}
    assert refused and len(jobs) > WANTED // 3


def test_names_of_jobs_arrive_or_are_refused(cluster: Cluster, tmp_path: Path, canary: str) -> None:
    jobs: dict[str, str] = {}
    for text in [*hostile(canary)[: WANTED - 3], "a", "rl-rlhf-1", "a.b_c+d"]:
        run = make_run(tmp_path, "true")
        try:
            part = part_of(run).__class__("slurm", "", text)
            jobs[BACKEND.submit(run, make_plan(options={"sbatch": {"hold": True}}), part, ()).job] = text
        except UsageError as problem:
            assert "cannot name a job" in problem.what
    shown = cluster.run(["squeue", "-h", "-o", "%A %j"]).stdout.splitlines()
    assert dict(line.split(" ", 1) for line in shown) == jobs
    assert {"a", "rl-rlhf-1", "a.b_c+d"} <= set(jobs.values())


def test_directories_of_runs_work_or_are_refused(cluster: Cluster, tmp_path: Path, canary: str) -> None:
    """Also with `%j` and quotes in them: where it is submitted from, the log, and what the job sees."""
    begun: dict[str, Path] = {}
    refused = 0
    for number, text in enumerate(hostile(canary)):
        name = text.replace("/", "_").encode()[:180].decode(errors="ignore")
        if name in ("", ".", ".."):
            continue
        run = make_run(tmp_path / f"{number}" / name, 'echo here > "$PWD/ran"')
        try:
            begun[BACKEND.submit(run, make_plan(), part_of(run), ()).job] = run
        except UsageError as problem:
            refused += 1
            assert "control character or a backslash" in problem.what
    ids = ",".join(begun)
    wait_until(
        lambda: not cluster.run(["squeue", "-h", f"--jobs={ids}"]).stdout.strip(), "jobs do not end", 180
    )
    assert [run for run in begun.values() if not (run / "ran").is_file()] == []
    assert [run for job, run in begun.items() if not (run / "logs" / f"slurm-{job}.out").is_file()] == []
    assert refused < len(begun)


def test_mounts_arrive_or_are_refused(cluster: Cluster, tmp_path: Path, canary: str) -> None:
    """All that are taken are mounted in one container, and nothing else is."""
    taken: list[str] = []
    for number, text in enumerate([*hostile(canary)[: WANTED - 2], "plain", "é漢"]):
        name = text.replace("/", "_").encode()[:180].decode(errors="ignore")
        source = tmp_path / f"{number}" / (name if name not in ("", ".", "..") else "empty")
        mount = f"{source}:{tmp_path}/mounted/{number}-{source.name}"
        try:
            BACKEND.files(make_plan(image="image", mounts=(mount,)))
        except UsageError:
            continue
        source.mkdir(parents=True)
        (source / "content").write_text(source.name)
        taken.append(mount)
    assert len(taken) > 20
    targets = [mount.partition(":")[2] for mount in taken]
    dump = "import json, os, pathlib\n" + (
        "seen = {t: pathlib.Path(t, 'content').read_text() for t in json.load(open('targets.json'))}\n"
        "json.dump({'seen': seen, 'mounts': os.environ['STUB_CONTAINER_MOUNTS']}, open('seen.json', 'w'))\n"
    )
    run = make_run(tmp_path, "exec " + shell_words([sys.executable, "-c", dump]) + "\n")
    (run / "targets.json").write_text(json.dumps(targets))
    job = BACKEND.submit(run, make_plan(image="image", mounts=tuple(taken)), part_of(run), ())
    assert cluster.wait(job.job) == "COMPLETED", (run / "logs" / f"slurm-{job.job}.out").read_text()
    seen = json.loads((run / "seen.json").read_text())
    assert seen["seen"] == {m.partition(":")[2]: Path(m.partition(":")[0]).name for m in taken}
    assert seen["mounts"].startswith(",".join(taken) + f",{run}:{run}")
