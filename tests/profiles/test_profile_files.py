"""Which files are read, and what happens to those that are no TOML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemotron.errors import NemotronError, NotFound, UsageError
from nemotron.profiles.files import MAX_DEPTH, find_profile_files
from nemotron.profiles.load import load_profiles

A = '[a]\nexecutor = "local"\n'


def test_the_nearest_env_toml_upwards_counts(project: Path) -> None:
    (project / "env.toml").write_text(A)
    (project / "in").mkdir()
    (project / "in" / "env.toml").write_text(A)
    (project / "in" / "deep").mkdir()
    assert find_profile_files({}, project / "in" / "deep") == (project / "in" / "env.toml",)


def test_the_search_upwards_ends_at_a_pyproject(project: Path) -> None:
    (project / "env.toml").write_text(A)
    (project / "in" / "deep").mkdir(parents=True)
    assert find_profile_files({}, project / "in" / "deep") == (project / "env.toml",)
    (project / "in" / "pyproject.toml").write_text("")
    assert find_profile_files({}, project / "in" / "deep") == ()
    (project / "in" / "env.toml").write_text(A)
    assert find_profile_files({}, project / "in" / "deep") == (project / "in" / "env.toml",)


def test_profiles_beside_the_project_marker_are_read_in_addition(project: Path) -> None:
    (project / "env.toml").write_text(A)
    (project / "profiles" / "more").mkdir(parents=True)
    for name in ("z.toml", "b.toml", ".hidden.toml", "notes.md", "more/c.toml"):
        (project / "profiles" / name).write_text("")
    (project / "src").mkdir()
    names = [str(p.relative_to(project)) for p in find_profile_files({}, project / "src")]
    assert names == ["env.toml", "profiles/b.toml", "profiles/z.toml"]


@pytest.mark.parametrize("marker", ["nemotron.toml", "pyproject.toml", ".git"])
def test_each_marker_makes_a_project(tmp_path: Path, marker: str) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "a.toml").write_text(A)
    (tmp_path / "src").mkdir()
    if marker == ".git":
        (tmp_path / marker).mkdir()
    else:
        (tmp_path / marker).write_text("")
    assert find_profile_files({}, tmp_path / "src") == (tmp_path / "profiles" / "a.toml",)


def test_a_named_file_is_the_only_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "env.toml").write_text(A)
    (project / "profiles").mkdir()
    (project / "profiles" / "b.toml").write_text(A)
    (project / "mine.toml").write_text(A)
    monkeypatch.setenv("HOME", str(project))
    for named in ("~/mine.toml", "mine.toml", str(project / "mine.toml")):
        assert find_profile_files({"NEMOTRON_ENV_FILE": named}, project) == (project / "mine.toml",)
    with pytest.raises(NotFound, match=r"other\.toml does not exist"):
        find_profile_files({"NEMOTRON_ENV_FILE": "~/other.toml"}, project)


def test_a_link_to_a_file_is_that_file_once(project: Path) -> None:
    (project / "env.toml").write_text(A)
    (project / "profiles").mkdir()
    (project / "profiles" / "env.toml").symlink_to(project / "env.toml")
    assert find_profile_files({}, project) == (project / "env.toml",)


def test_the_same_name_in_two_files_is_an_error_that_names_both(project: Path) -> None:
    (project / "env.toml").write_text(A + '[c]\nexecutor = "local"\n')
    (project / "profiles").mkdir()
    (project / "profiles" / "a.toml").write_text('\n[a]\nexecutor = "ray"\n\n[b]\nextends = "a"\n')
    profiles = load_profiles({}, project)
    for name in ("a", "b"):
        with pytest.raises(UsageError) as raised:
            profiles.get(name)
        assert f"{project / 'env.toml'}:1 and {project / 'profiles' / 'a.toml'}:2" in raised.value.what
    assert profiles.get("c").executor == "local"
    assert [each.name for each in profiles.listed() if each.problem] == ["a", "a", "b"]


def test_a_profile_may_extend_one_of_another_file(project: Path) -> None:
    (project / "env.toml").write_text('[mine]\nextends = "theirs"\n')
    (project / "profiles").mkdir()
    (project / "profiles" / "t.toml").write_text('[theirs]\nexecutor = "slurm"\nnodes = 3\n')
    profile = load_profiles({}, project).get("mine")
    assert (profile.executor, profile.values["nodes"]) == ("slurm", 3)
    assert profile.origins["nodes"].place == f"{project / 'profiles' / 't.toml'}:3"


HOSTILE = {
    "binary": (bytes(range(256)) * 40, "not UTF-8"),
    "not UTF-8": (b'[a]\nexecutor = "local"\nhost = "\xff"\n', "not UTF-8"),
    "NUL": (b"[a]\nx = '\0'\n", "not valid TOML"),
    "duplicate key": (b"[a]\nnodes = 1\nnodes = 2\n", "not valid TOML"),
    "duplicate table": (b"[a]\n[b]\n[a]\n", "not valid TOML"),
    "open table": (b"[a\n", "not valid TOML"),
    "deep lists": (b"[a]\nmounts = " + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "deep tables": (b"[a." + b".".join([b"b"] * 200) + b"]\nx = 1\n", f"more than {MAX_DEPTH} deep"),
    "deep dotted": (b"a." + b".".join([b"b"] * 5000) + b" = 1\n", "deep"),
    "huge": (b"[a]\nx = '" + b"y" * (2 << 20) + b"'\n", "larger than"),
    "long number": (b"[a]\nnodes = " + b"9" * 5000, "not valid TOML"),
    "directory": (None, "is a directory"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_named_and_the_others_count(project: Path, kind: str) -> None:
    content, said = HOSTILE[kind]
    (project / "profiles").mkdir()
    path = project / "profiles" / "bad.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    (project / "profiles" / "good.toml").write_text('[good]\nexecutor = "local"\n')
    profiles = load_profiles({}, project)
    (finding,) = profiles.findings
    assert finding.severity == "error"
    assert said in finding.message
    assert str(path) in str(finding.where)
    assert profiles.get("good").executor == "local"
    with pytest.raises(NotFound) as raised:
        profiles.get("a")
    assert raised.value.findings == (finding,)


def test_a_syntax_error_has_its_line(project: Path) -> None:
    (project / "env.toml").write_text("[a]\nnodes = 1\nnodes = = 2\n")
    (finding,) = load_profiles({}, project).findings
    assert finding.where == f"{project / 'env.toml'}:3"


def test_a_pipe_is_not_waited_for(project: Path) -> None:
    os.mkfifo(project / "env.toml")
    (finding,) = load_profiles({}, project).findings
    assert "is a pipe" in finding.message


def test_settings_and_stray_keys_are_no_profiles(project: Path) -> None:
    text = 'loose = 1\n[wandb]\nproject = "p"\n[cli]\n[cache]\n[artifacts]\nwandb = true\n' + A
    (project / "env.toml").write_text(text)
    profiles = load_profiles({}, project)
    assert [each.name for each in profiles.listed()] == ["a"]
    assert [(f.severity, f.where) for f in profiles.findings] == [("warning", f"{project / 'env.toml'}:1")]
    for name in ("wandb", "cli", "cache", "artifacts"):
        with pytest.raises(UsageError, match="holds settings"):
            profiles.get(name)


def test_nothing_in_reach_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    profiles = load_profiles({}, tmp_path)
    assert profiles.listed() == ()
    with pytest.raises(NemotronError) as raised:
        profiles.get("a")
    assert "NEMOTRON_ENV_FILE" in str(raised.value.next)
