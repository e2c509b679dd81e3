"""`nemotron artifacts` as a person uses it, after real runs of a small catalog."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def ran(world: Any, cli: Cli) -> str:
    """The id of a run of use/count, which had its rows made by make/rows."""
    done = cli("steps", "run", "use/count", "-c", "built", "--json")
    assert done.code == 0, done.err
    return str(done.json["run"])


def rows_of(world: Any) -> Path:
    (run,) = [r for r in world.runs() if r.name.startswith("make-rows")]
    return Path(run / "rows.jsonl")


def test_an_empty_store_has_no_artifacts(cli: Cli) -> None:
    assert cli("artifacts", "list").out == "none\n"
    assert cli("artifacts", "list", "--json").json == {"artifacts": []}
    assert cli("artifacts", "verify", "--all").out == "none\n"
    assert cli("artifacts", "lineage", "anything").code == 3


def test_artifacts_are_listed_with_what_made_them(world: Any, cli: Cli, ran: str) -> None:
    listed = cli("artifacts", "list", "--json").json["artifacts"]
    assert {a["type"] for a in listed} == {"training_jsonl", "eval_results"}
    (count,) = cli("artifacts", "list", "--type", "eval_results", "--json").json["artifacts"]
    assert count["made_by"] == ran
    assert count["bytes"] == Path(count["paths"][0]).stat().st_size
    assert len(cli("artifacts", "list", "--limit", "1", "--json").json["artifacts"]) == 1
    assert ran in cli("artifacts", "list").out


def test_show_tells_places_makers_users_and_facts(world: Any, cli: Cli, ran: str) -> None:
    (shown,) = cli("artifacts", "show", str(rows_of(world)), "--json").json["artifacts"]
    assert shown["facts"]["rows"] == 3
    assert [e["run"] for e in shown["used_by"]] == [ran]
    assert shown["places"][0]["state"] == "intact"
    rows_of(world).write_text("{}\n", encoding="utf-8")
    text = cli("artifacts", "show", shown["id"]).out
    assert "changed" in text and f"used by  run {ran}" in text


def test_lineage_goes_up_and_down_by_depth(world: Any, cli: Cli, ran: str) -> None:
    (whole,) = cli("artifacts", "lineage", ran, "--json").json["lineages"]
    assert {r["step"] for r in whole["runs"]} == {"make/rows", "use/count"}
    assert (whole["cut"], whole["limited"]) == ([], False)
    (near,) = cli("artifacts", "lineage", ran, "--up", "--depth", "1", "--json").json["lineages"]
    assert {r["step"] for r in near["runs"]} == {"use/count"}
    assert len(near["cut"]) == 1
    (down,) = cli("artifacts", "lineage", str(rows_of(world)), "--down", "--json").json["lineages"]
    assert {r["step"] for r in down["runs"]} == {"use/count"}
    text = cli("artifacts", "lineage", ran).out
    assert ran in text and "use/count" in text and "make/rows" in text


def test_lineage_is_drawn_as_mermaid_and_as_a_page(world: Any, cli: Cli, ran: str, tmp_path: Path) -> None:
    assert cli("artifacts", "lineage", ran, "--mermaid").out.startswith("flowchart")
    page = tmp_path / "lineage.html"
    done = cli("artifacts", "lineage", ran, "--html", str(page))
    assert (done.code, done.out.strip()) == (0, str(page))
    assert ran in page.read_text(encoding="utf-8")
    assert cli("artifacts", "lineage", ran, "--html", str(tmp_path / "no" / "x.html")).code == 3
    assert cli("artifacts", "lineage", ran, "--json", "--mermaid").code == 2


def test_a_limit_is_told(world: Any, cli: Cli, ran: str) -> None:
    assert "--limit 10" in cli("artifacts", "lineage", ran, "--limit", "1", "--depth", "1").err


def test_check_tells_findings_and_facts_and_records_nothing(world: Any, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "2+2?"}]}\n', encoding="utf-8")
    done = cli("artifacts", "check", str(path), "--type", "training_jsonl", "--json")
    assert (done.code, done.json["ok"], done.json["facts"]["rows"]) == (4, False, 1)
    assert done.json["findings"][0]["where"] == f"{path}:1"
    guessed = cli("artifacts", "check", str(path), "--json")
    assert (guessed.code, guessed.json["type"]) == (0, "prompt_jsonl")
    assert "a prompt_jsonl" in cli("artifacts", "check", str(path)).out
    assert cli("artifacts", "check", str(tmp_path / "nothing")).code == 3
    (tmp_path / "odd.bin").write_bytes(b"\x00\x01")
    odd = cli("artifacts", "check", str(tmp_path / "odd.bin"))
    assert odd.code == 4 and "--type" in odd.err
    assert not world.home.exists()


def test_what_was_made_elsewhere_is_taken_in_once_and_can_be_used(
    world: Any, cli: Cli, tmp_path: Path, write_rows: Any
) -> None:
    path = write_rows("given.jsonl", "training_jsonl")
    added = cli("artifacts", "add", str(path), "--name", "chats", "--json").json
    assert (added["type"], added["known"], added["version"]) == ("training_jsonl", False, 1)
    assert len(world.records()) == 2
    again = cli("artifacts", "add", str(path), "--name", "chats", "--json").json
    assert (again["known"], again["version"], again["record"]) == (True, 1, added["record"])
    assert len(world.records()) == 2
    done = cli("steps", "run", "use/count", "-i", "rows=art://chats", "--json")
    assert done.code == 0, done.err
    (found,) = cli("artifacts", "lineage", done.json["run"], "--json").json["lineages"]
    assert added["digest"] in {a["id"] for a in found["artifacts"]}
    run = cli("runs", "show", done.json["run"], "--json").json
    assert run["inputs"]["rows"]["reference"] == "art://chats:v1", "an alias moves on, a version does not"


def test_a_broken_artifact_is_not_taken_in(world: Any, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": [\n', encoding="utf-8")
    done = cli("artifacts", "add", str(path), "--type", "training_jsonl")
    assert done.code == 4 and "broken.jsonl:1" in done.err and "--waive" in done.err
    assert not world.home.exists() or world.records() == []
    waive = ("--waive", "data.broken_json", "--waive", "data.no_rows")
    waived = cli("artifacts", "add", str(path), "--type", "training_jsonl", *waive, "--json")
    assert waived.code == 0, waived.err


def test_the_history_of_a_model_made_elsewhere_is_part_of_its_lineage(
    world: Any, cli: Cli, write_model: Any
) -> None:
    path = write_model("tuned")
    (path / "README.md").write_text(
        "---\nbase_model: org/base\ndatasets: [org/chats]\n---\n# Tuned\n", encoding="utf-8"
    )
    done = cli("artifacts", "add", str(path), "--json")
    assert done.code == 0, done.err
    (found,) = cli("artifacts", "lineage", done.json["digest"], "--json").json["lineages"]
    assert "ref:hf://org/base" in {a["id"] for a in found["artifacts"]}
    (base,) = cli("artifacts", "lineage", "hf://org/base", "--down", "--json").json["lineages"]
    assert done.json["digest"] in {a["id"] for a in base["artifacts"]}


def test_verify_tells_intact_changed_and_missing(world: Any, cli: Cli, ran: str) -> None:
    assert {v["state"] for v in cli("artifacts", "verify", "--all", "--json").json["verified"]} == {"intact"}
    path = rows_of(world)
    status = path.stat()
    changed = path.read_bytes().replace(b"yes", b"yas")
    path.write_bytes(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = cli("artifacts", "verify", str(path), "--json")
    assert (done.code, done.json["verified"][0]["state"]) == (4, "changed"), "same size, same time"
    path.unlink()
    done = cli("artifacts", "verify", "--all")
    assert done.code == 4 and "missing" in done.out
    assert cli("artifacts", "verify").code == 2


def test_a_tainted_input_stops_a_run_unless_it_is_waived(world: Any, cli: Cli, ran: str) -> None:
    rows = str(rows_of(world))
    count = cli("artifacts", "list", "--type", "eval_results", "--json").json["artifacts"][0]["id"]
    done = cli("artifacts", "taint", rows, "-m", "holds test questions", "--json")
    assert done.json["descendants"] == [count]
    words = ("steps", "run", "use/count", "-i", f"rows={rows}", "text=other")
    refused = cli(*words)
    assert refused.code == 4
    assert "holds test questions" in refused.err and "--waive artifact.tainted" in refused.err
    assert "holds test questions" in cli(*words, "-d").out
    assert cli("artifacts", "alias", count, "counts:best").code == 4
    waived = cli(*words, "--waive", "artifact.tainted", "--json")
    assert waived.code == 0, waived.err
    assert cli("runs", "show", waived.json["run"], "--json").json["inputs"]["rows"]["path"] == rows
    assert cli("artifacts", "taint", rows, "--lift").code == 0
    assert cli("artifacts", "alias", count, "counts:best").code == 0


def test_names_and_aliases_on_the_command_line(world: Any, cli: Cli, ran: str) -> None:
    rows = str(rows_of(world))
    assert cli("artifacts", "alias", rows, "chats").out == "chats:v1\n"
    assert cli("artifacts", "alias", rows, "chats:best", "-m", "shortest").out == "chats:v1, chats:best\n"
    assert cli("artifacts", "alias", "chats:best", "--remove").code == 0
    assert cli("artifacts", "alias", "chats:best", "--remove").code == 3
    assert cli("artifacts", "alias", "chats", "--remove").code == 2
    assert cli("artifacts", "alias", rows).code == 2
    assert cli("artifacts", "alias", rows, "chats:latest").code == 2


def test_an_art_reference_in_a_config_is_an_input_of_the_run(world: Any, cli: Cli, write_rows: Any) -> None:
    path = write_rows("given.jsonl", "training_jsonl")
    cli("artifacts", "add", str(path), "--name", "chats")
    base = (world.catalog / "make/rows/config/default.yaml").read_text(encoding="utf-8")
    words = "'${art:chats,path} is ${art:chats,version} (${art:mine,type})'"
    named = base.replace("text: yes sir", f"text: {words}")
    config = world.catalog / "make/rows/config/named.yaml"
    config.write_text(named + "artifacts: {mine: 'art://chats:v1'}\n", encoding="utf-8")
    done = cli("steps", "run", "make/rows", "-c", "named", "--json")
    assert done.code == 0, done.err
    made = (rows_of(world)).read_text(encoding="utf-8")
    assert f"{path} is v1 (training_jsonl)" in made
    (found,) = cli("artifacts", "lineage", done.json["run"], "--json").json["lineages"]
    assert any(e["port"] == "art.chats" and e["direction"] == "input" for e in found["edges"])
    moved = path.rename(path.with_name("moved.jsonl"))
    cli("artifacts", "add", str(moved))
    again = cli("steps", "run", "make/rows", "-c", "named", "--json")
    assert again.json["run"] == done.json["run"], "where it lies is no part of the recipe"
    config.write_text(named.replace("art:chats,path", "art:chats,size"), encoding="utf-8")
    assert cli("steps", "run", "make/rows", "-c", "named", "-d").code == 2
    config.write_text(named.replace("art:chats,path", "art:chast,path"), encoding="utf-8")
    dry = cli("steps", "run", "make/rows", "-c", "named", "-d")
    assert "artifact.not_found" in dry.out
    assert cli("steps", "run", "make/rows", "-c", "named").code in (3, 4)


def test_a_name_of_another_type_or_without_files_is_refused(world: Any, cli: Cli, write_rows: Any) -> None:
    prompts = write_rows("prompts.jsonl", "prompt_jsonl")
    assert cli("artifacts", "add", str(prompts), "--name", "asks").code == 0
    wrong = cli("steps", "run", "use/count", "-d", "-i", "rows=art://asks")
    assert wrong.code == 4 and "prompt_jsonl" in wrong.err and "training_jsonl" in wrong.err
    chats = write_rows("chats.jsonl", "training_jsonl")
    assert cli("artifacts", "add", str(chats), "--name", "chats").code == 0
    chats.write_text(chats.read_text(encoding="utf-8") * 2, encoding="utf-8")
    changed = cli("steps", "run", "use/count", "-d", "-i", "rows=art://chats")
    assert changed.code == 4 and "no longer what was recorded" in changed.err
    chats.unlink()
    gone = cli("steps", "run", "use/count", "-d", "-i", "rows=art://chats")
    assert gone.code == 3 and "not lie on this machine" in gone.err
    assert cli("steps", "run", "use/count", "-d", "-i", "rows=art://chast").code == 3


def test_the_store_of_somebody_else_can_be_read(world: Any, cli: Cli, ran: str) -> None:
    for directory in (world.home, world.home / "records"):
        directory.chmod(0o555)
    try:
        assert cli("artifacts", "lineage", ran).code == 0
        assert cli("artifacts", "list").code == 0
    finally:
        for directory in (world.home, world.home / "records"):
            directory.chmod(0o755)


def test_a_deleted_index_is_made_anew(world: Any, cli: Cli, ran: str, tmp_path: Path) -> None:
    before = cli("artifacts", "list", "--json").json
    shutil.rmtree(tmp_path / "cache")
    assert cli("artifacts", "list", "--json").json == before


def test_a_whole_command_is_quick_and_loads_little(world: Any, ran: str, cli: Cli) -> None:
    done = world.run("artifacts", "lineage", ran, "--json", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert not loaded & {
        "yaml",
        "omegaconf",
        "blake3",
        "fsspec",
        "rich",
        "pydantic",
        "nemotron.planning",
        "wandb",
    }


def test_records_name_who_and_where_but_no_secrets(
    world: Any, cli: Cli, ran: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    cli("artifacts", "alias", ran, "counts:best", "-m", "why not")
    text = json.dumps(world.records())
    assert "why not" in text and "hf_very_secret" not in text


def test_a_file_whose_name_is_no_text_is_an_artifact_like_any_other(world: Any, cli: Cli) -> None:
    name = b"chats\xff.jsonl"
    row = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'
    (world.work / os.fsdecode(name)).write_text(row, encoding="utf-8")
    for words in (
        ("artifacts", "check", name, "--json"),
        ("artifacts", "add", name, "--name", "odd", "--json"),
        ("artifacts", "list"),
        ("artifacts", "show", name, "--json"),
        ("artifacts", "lineage", name, "--json"),
        ("artifacts", "verify", name),
        ("steps", "run", "use/count", "-i", b"rows=" + name, "--json"),
        ("artifacts", "lineage", "odd"),
    ):
        done = world.run(*words)
        assert done.code == 0 and "Traceback" not in done.err, (words, done.err)
        if "--json" in words:
            json.loads(done.out)
    assert world.run("artifacts", "show", b"\xff").code == 3


def test_a_full_stdout_is_told_without_a_traceback(world: Any, ran: str) -> None:
    import subprocess

    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        words = world.command("artifacts", "list", "--json")
        done = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, env=world.environ, cwd=world.work
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "no space" in done.stderr
