"""Keys, kinds, interpolation and secrets of one profile."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron.errors import UsageError
from nemotron.findings import Finding, errors_in
from nemotron.profiles.keys import EXECUTOR_NAMES, EXECUTORS, KEYS, keys_of
from nemotron.profiles.load import Profiles, load_profiles
from nemotron.profiles.mounts import Mount

Load = Callable[..., Profiles]

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {
    "lepton": 'nemo_run_dir = "/mnt"',
    "dgxcloud": 'base_url = "u"\nkube_apiserver_url = "k"\napp_id = "i"\n'
    'app_secret = "${oc.env:APP_SECRET}"\n'
    'project_name = "p"\npvc_nemo_run_dir = "/mnt"',
}
# Given by hand in these tests, or a file that has to be there.
NOT_BY_EXAMPLE = ("executor", "extends", "template")


def of(profiles: Profiles, name: str = "a") -> list[tuple[str, str]]:
    return [(finding.severity, finding.id) for finding in profiles.examine(name).findings]


def only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("executor", EXECUTOR_NAMES)
def test_every_example_of_every_key_is_accepted(load: Load, executor: str) -> None:
    known = keys_of(executor)
    for key in known.values():
        if key.name in NOT_BY_EXAMPLE:
            continue
        needed = "\n".join(
            r for r in NEEDED.get(executor, "").split("\n") if not r.startswith(key.name + " ")
        )
        profiles = load(
            f'[a]\nexecutor = "{executor}"\n{needed}\n{key.name} = {key.example}\n', DGX_CLIENT_SECRET="s"
        )
        profile = profiles.examine("a")
        assert errors_in(profile.findings) == (), key.name
        written = tomllib.loads(f"x = {key.example}")["x"]
        assert profile.values[key.name] == written
        notes = [finding for finding in profile.findings if finding.severity == "note"]
        assert bool(notes) is bool(key.unread), key.name


@pytest.mark.parametrize("key", [key for key in KEYS if key.name != "extends"], ids=lambda key: key.name)
def test_a_value_of_the_wrong_kind_is_an_error_with_its_line(load: Load, key: Any) -> None:
    executor = key.executors[0] if key.executors else "slurm"
    wrong = "[[[1]]]"
    rest = f'executor = "{executor}"\n' if key.name != "executor" else ""
    profiles = load(f"[a]\n{key.name} = {wrong}\n{rest}")
    found = [
        f for f in profiles.examine("a").findings if f.id in ("profiles.kind", "profiles.unknown_executor")
    ]
    assert str(only(tuple(found)).where).endswith("env.toml:2")
    with pytest.raises(UsageError):
        profiles.get("a")


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: executor.name)
def test_what_cannot_be_launched_on_says_so(load: Load, executor: Any) -> None:
    profile = load(f'[a]\nexecutor = "{executor.name}"\n{NEEDED.get(executor.name, "")}\n').get("a")
    assert [f.id for f in profile.findings] == ([] if executor.launchable else ["profiles.not_launchable"])


def test_all_unknown_keys_are_told_at_once_with_the_nearest(load: Load) -> None:
    profiles = load('[a]\nexecutor = "slurm"\npartiton = "x"\ngpus_per_nod = 8\nzzz = 1\n')
    with pytest.raises(UsageError) as raised:
        profiles.get("a")
    found = raised.value.findings
    assert [f.message.split()[0] for f in found] == ["partiton", "gpus_per_nod", "zzz"]
    assert [str(f.where).rpartition(":")[2] for f in found] == ["3", "4", "5"]
    assert [f.fix for f in found][:2] == ['did you mean "partition"?', 'did you mean "gpus_per_node"?']


def test_a_key_of_another_executor_is_a_warning(load: Load) -> None:
    """One base for two clusters may hold keys of both; existing files have such bases."""
    profiles = load('[a]\nexecutor = "lepton"\nnemo_run_dir = "/m"\npartition = "batch"\n')
    profile = profiles.get("a")
    assert [(f.severity, f.message) for f in profile.findings] == [
        ("warning", "partition is for slurm; lepton does not read it")
    ]
    assert profile.values == {"nemo_run_dir": "/m"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('executor = "slrum"', 'did you mean "slurm"?'),
        ("nodes = 2", 'executor = "slurm"'),
        ('executor = ""', 'executor = "slurm"'),
    ],
)
def test_an_executor_is_one_of_the_list(load: Load, text: str, said: str) -> None:
    assert only(load(f"[a]\n{text}\n").examine("a").findings).fix == said


@pytest.mark.parametrize(
    "line",
    [
        "nodes = 0",
        "nodes = true",
        'nodes = "2"',
        "chain = 1.5",
        "gpus_per_node = -1",
        "exclusive = 1",
        'signal = "USR1 @60"',
        'tunnel = "telnet"',
        "env_vars = { A = true }",
        'env_vars = { "A B" = "x" }',
        "env_vars = { A = [] }",
        "env_vars = { A = nan }",
        'sbatch = { "--qos" = "x" }',
        "sbatch = { qos_ = 1.5 }",
        "sbatch = { qos = [1] }",
        'mounts = ["/a"]',
        'mounts = ["/a:b"]',
        'mounts = [":/b"]',
        'mounts = ["/a:/b:ro:x"]',
        "mounts = [1]",
        "mounts = [{ path = '/a' }]",
        "mounts = [{ path = '/a', mount_path = '/b', form = 'x' }]",
        'secrets = ["A B"]',
        'lustre_mount = "/lustre"',
        'startup_commands = "ls"',
        'partition = "a\\u0000b"',
        'partition = "???"',
        'template = "no-such-file"',
        'sbatch = { partition = "b" }\npartition = "a"',
    ],
)
def test_a_value_that_cannot_be_is_an_error(load: Load, line: str) -> None:
    profiles = load(f'[a]\nexecutor = "slurm"\n{line}\n')
    with pytest.raises(UsageError) as raised:
        profiles.get("a")
    assert ":3" in str(only(raised.value.findings).where)


def test_a_template_is_found_beside_its_file(load: Load, project: Path) -> None:
    (project / "site.sbatch").write_text("#!/bin/bash\n")
    profile = load('[a]\nexecutor = "slurm"\ntemplate = "site.sbatch"\n').get("a")
    assert profile.get("template") == str(project / "site.sbatch")


def test_mounts_in_both_spellings(load: Load) -> None:
    profile = load("""
        [a]
        executor = "slurm"
        lustre_mount = "/lustre:/lustre"
        mounts = ["/a:/b:ro", { path = "/c", mount_path = "/d", from = "node-nfs:x" },
            { path = "/e", mount_path = "/f", mount_options = ["ro", "rprivate"] }]
    """).get("a")
    assert profile.mounts == (
        Mount("/a", "/b", "ro"),
        Mount("/c", "/d", volume="node-nfs:x"),
        Mount("/e", "/f", "ro+rprivate"),
        Mount("/lustre", "/lustre"),
    )


def test_variables_become_what_their_key_takes(load: Load) -> None:
    text = """
        [a]
        executor = "${oc.env:WHERE,slurm}"
        nodes = "${oc.env:N,2}"
        exclusive = "${oc.env:X,true}"
        time = "${oc.env:T,'04:00:00'}"
        remote_job_dir = "${workspace}/runs"
        workspace = "/w/${oc.env:ME,}"
        setup_lines = ['echo \\${HOME} $HOME', 'sed s/\\\\\\${x}// ${oc.env:ME}', 'a\\b']
        [a.env_vars]
        N = "${oc.env:N,2}"
    """
    profile = load(text, N="7", ME="me").get("a")
    assert profile.executor == "slurm"
    assert profile.values == {
        "nodes": 7,
        "exclusive": True,
        "time": "04:00:00",
        "remote_job_dir": "/w/me/runs",
        "workspace": "/w/me",
        "setup_lines": ["echo ${HOME} $HOME", "sed s/\\${x}// me", "a\\b"],
        "env_vars": {"N": "7"},
    }
    assert ("error", "profiles.kind") in of(load(text, N="many", ME="me"))


def test_a_missing_variable_matters_to_its_own_profile_only(load: Load) -> None:
    profiles = load(
        '[a]\nexecutor = "local"\n[b]\nextends = "a"\nworkspace = "${oc.env:NOWHERE}"\nnods = 1\n'
    )
    assert profiles.get("a").executor == "local"
    assert [each.problem for each in profiles.listed()] == [None, None]
    with pytest.raises(UsageError) as raised:
        profiles.get("b")
    unset, unknown = raised.value.findings
    assert "NOWHERE is not set" in unset.message
    assert str(unset.where).endswith("env.toml:5")
    assert "nods" in unknown.message


SECRET = "s3cr3t-value-of-a-token"


def test_secrets_are_names(load: Load) -> None:
    environ = {"HF_TOKEN": SECRET, "NGC": SECRET}
    profile = load(
        """
        [a]
        executor = "slurm"
        secrets = ["NGC", "HF_TOKEN"]
        [a.env_vars]
        HF_TOKEN = "${oc.env:HF_TOKEN}"
        WANDB_API_KEY = "${oc.env:WANDB_API_KEY,}"
        MAX_TOKENS = "${oc.env:MAX_TOKENS,8}"
        MONKEY = "see"
        """,
        **environ,
    ).get("a")
    assert profile.env_vars == {"MAX_TOKENS": "8", "MONKEY": "see"}
    by_name = {secret.name: secret for secret in profile.secrets}
    assert {n: (s.variable, s.key, s.optional) for n, s in by_name.items()} == {
        "HF_TOKEN": ("HF_TOKEN", "env_vars.HF_TOKEN", False),
        "WANDB_API_KEY": ("WANDB_API_KEY", "env_vars.WANDB_API_KEY", True),
        "NGC": ("NGC", "secrets", False),
    }
    assert profile.secret_value(by_name["HF_TOKEN"], environ) == SECRET
    assert profile.secret_value(by_name["WANDB_API_KEY"], environ) is None
    with pytest.raises(UsageError, match="HF_TOKEN is not set"):
        profile.secret_value(by_name["HF_TOKEN"], {})
    assert SECRET not in json.dumps(profile.as_dict()) + repr(profile)


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        (f'env_vars = {{ MY_PASSWORD = "{SECRET}" }}', "warning"),
        ('env_vars = { MINE = "hf_abcdefghijklmnopqrstuvwx" }', "warning"),
        (f'env_vars = {{ A_TOKEN = "{SECRET}", B = "Bearer ${{env_vars.A_TOKEN}}" }}', "warning"),
        (f'env_vars = {{ A_TOKEN = "{SECRET}" }}\nworkspace = "/x/${{env_vars.A_TOKEN}}"', "error"),
        ('workspace = "/x/${oc.env:MY_TOKEN}"', "error"),
        ('account = "${oc.env:MY_TOKEN}"', "error"),
        ('account = "hf_abcdefghijklmnopqrstuvwx"', "error"),
        ('mounts = "hf_abcdefghijklmnopqrstuvwx"', "error"),
        ('env_vars = "hf_abcdefghijklmnopqrstuvwx"', "error"),
        ('setup_lines = ["login ${oc.env:MY_TOKEN}"]', "error"),
        ('startup_commands = ["${oc.env:MY_TOKEN}"]', "error"),
        ('env_vars = { B = "Bearer ${oc.env:MY_TOKEN}" }', "error"),
        ('secrets = ["hf_abcdefghijklmnopqrstuvwx"]', "error"),
    ],
)
def test_a_secret_in_a_file_is_noticed_and_not_passed_on(load: Load, line: str, severity: str) -> None:
    profile = load(f'[a]\nexecutor = "slurm"\n{line}\n', MY_TOKEN=SECRET).examine("a")
    assert severity in {finding.severity for finding in profile.findings}
    shown = json.dumps(profile.as_dict()) + repr(profile)
    assert SECRET not in shown
    assert "hf_abcdefghijklmnopqrstuvwx" not in shown
    literals = [s for s in profile.secrets if s.variable is None]
    assert all(profile.secret_value(s, {}) for s in literals)


def test_a_path_is_no_secret_whatever_its_name(load: Load) -> None:
    text = '[a]\nexecutor = "local"\nenv_vars = { GOOGLE_APPLICATION_CREDENTIALS = "/keys/me.json" }\n'
    profile = load(text).get("a")
    assert profile.env_vars == {"GOOGLE_APPLICATION_CREDENTIALS": "/keys/me.json"}
    assert profile.findings == ()


def test_empty_texts_are_no_values_whatever_the_key(load: Load) -> None:
    names = [name for name in keys_of("slurm") if name not in ("executor", "extends")]
    rows = "".join(f'{name} = ""\n' for name in names)
    profile = load(f'[a]\nexecutor = "slurm"\n{rows}').get("a")
    assert (profile.mounts, profile.env_vars, profile.image, profile.secrets) == ((), {}, None, ())
    assert {profile.get(name) for name in names} == {None}


def test_an_existing_file_loads_unchanged(load: Load) -> None:
    profiles = load("""
        [wandb]
        project = "rlhf"
        [artifacts]
        backend = "wandb"
        [cache]
        git_dir = "/tmp/git"

        [cluster]
        executor = "slurm"
        tunnel = "ssh"
        host = "login"
        user = "me"
        account = "acc"
        run_partition = "interactive"
        batch_partition = "batch"
        time = "04:00:00"
        container = "nemo:26.04"
        packager = "git"
        code_src_dir = "."
        lustre_mount = ""
        build_include_gpus = false

        [rlhf]
        extends = "cluster"
        nodes = 4
        gpus_per_node = 8
        mounts = ["/home/me:/home/me"]
        env_vars = { NCCL_DEBUG = "INFO" }
        startup_commands = ["nvidia-smi"]
    """)
    profile = profiles.get("rlhf")
    assert profile.image == "nemo:26.04"
    assert {finding.severity for finding in profile.findings} == {"note"}
    assert profile.mounts == (Mount("/home/me", "/home/me"),)
    assert [each.name for each in profiles.listed()] == ["cluster", "rlhf"]


def test_the_shipped_examples_need_no_variable() -> None:
    profiles = load_profiles({}, ROOT)
    assert profiles.findings == ()
    names = {each.name for each in profiles.listed()}
    assert {"slurm_rl_nemo_rl_rlhf", "lepton_rl_nemo_rl_rlhf", "slurm", "lepton", "ray", "local"} <= names
    for each in profiles.listed():
        assert profiles.get(each.name).findings == (), each.name
        assert each.description
    rlhf = profiles.get("slurm_rl_nemo_rl_rlhf")
    # What the RLHF command of the reference names lies there.
    assert Mount("/lustre", "/lustre") in rlhf.mounts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_no_value_of_any_kind_breaks_a_check(value: Any) -> None:
    for key in KEYS:
        problem = key.kind.problem(value)
        assert problem is None or "\n" not in problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    table=st.dictionaries(st.text("abKEY.${} \n", min_size=1, max_size=5), st.text(max_size=6), max_size=3)
)
def test_names_and_texts_of_any_kind_come_back_or_are_refused(project: Path, table: dict[str, str]) -> None:
    rows = "".join(f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in table.items())
    (project / "env.toml").write_text(f'[a]\nexecutor = "local"\n[a.env_vars]\n{rows}', encoding="utf-8")
    profiles = load_profiles({}, project)
    if profiles.findings:  # JSON's escapes are not all TOML's
        return
    profile = profiles.examine("a")
    if not errors_in(profile.findings):
        known = {s.name: profile.secret_value(s, {}) for s in profile.secrets}
        assert profile.env_vars | known == table
