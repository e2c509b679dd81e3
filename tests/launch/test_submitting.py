"""What a submission leaves behind where it does not come about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemotron.artifacts.submissions import JOURNAL_FILE, Journal, Submission

PROFILE = """
[here]
executor = "local"
secrets = ["HF_TOKEN"]
"""


def test_a_run_that_nothing_can_wait_for_leaves_no_secret(world: Any, wait_for: Callable[..., Any]) -> None:
    (world.work / "env.toml").write_text(PROFILE)
    first = world.start("steps", "run", "make/rows", "behave=gate", f"text={world.work / 'gate'}")
    wait_for(lambda: any((run / "starts").exists() for run in world.runs()), "for the first run")
    (run,) = world.runs()
    done = world.run(
        *("steps", "run", "use/count", "-i", f"rows=run://{run.name}", "-b", "here"), HF_TOKEN="a-secret"
    )
    assert done.code == 5, done.err
    assert "no scheduler holds it" in done.err
    assert f"nemotron runs wait {run.name}" in done.err
    assert not list(world.home.rglob(".secrets"))
    (world.work / "gate").touch()
    assert first.wait(60) == 0


def test_a_journal_line_that_was_cut_off_swallows_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    job = Submission("slurm", "7", "run", at="2026-11-21T12:30:06.000Z")
    journal.note("submitting", job)
    whole = (tmp_path / JOURNAL_FILE).read_bytes()
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(whole[:20])
    journal.note("submitted", job)
    assert [line["event"] for line in journal.lines()] == ["submitting", "submitted"]
    assert [each.job for each in journal.submitted()] == ["7"]


def test_a_run_here_is_made_where_its_profile_says(world: Any) -> None:
    place = world.root / "scratch"
    (world.work / "env.toml").write_text(f'[here]\nexecutor = "local"\nremote_job_dir = "{place}"\n')
    done = world.run("steps", "run", "make/rows", "-r", "here")
    assert done.code == 0, done.err
    (run,) = world.runs()
    assert run.is_symlink()
    assert run.readlink().parent == place
    assert (place / run.name / "rows.jsonl").is_file()
