"""Profiles of Lepton are read strictly: what is unknown or of the wrong kind is told, all at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_plans import OPTIONS, make_plan

from nemotron.errors import UsageError
from nemotron.findings import Finding
from nemotron.launch.lepton.backend import BACKEND
from nemotron.launch.lepton.checks import lepton_findings
from nemotron.launch.lepton.fields import JobSpec, Mount, payload, read
from nemotron.launch.lepton.names import job_id, safe_path
from nemotron.launch.lepton.options import lepton_options, read_options


def told(options: Mapping[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    read_options({**OPTIONS, **options}, found)
    return found


@pytest.mark.parametrize(
    ("options", "where", "said"),
    [
        ({"node_gruop": "a"}, "node_gruop", 'did you mean "node_group"?'),
        ({"node_group": 3}, "node_group", "must be text, not the number 3"),
        ({"node_group": "a\nb"}, "node_group", "holds a control character"),
        ({"can_preempt": "yes"}, "can_preempt", "must be true or false"),
        ({"can_preempt": True}, "queue_priority", "is needed where can_preempt"),
        ({"shared_memory_size": "64G"}, "shared_memory_size", "must be MiB as a whole number"),
        ({"shared_memory_size": True}, "shared_memory_size", "must be MiB"),
        ({"ray_version": 2.49}, "ray_version", "a version such as 2.49.2"),
        ({"image_pull_secrets": ["a", 1]}, "image_pull_secrets.1", "must be text"),
        ({"mounts": [{"path": "/"}]}, "mounts.0", "mount_path is missing"),
        (
            {"mounts": [{"path": "/", "mount_path": "/x", "mount_pth": "/y"}]},
            "mounts.0",
            'did you mean "mount_path"?',
        ),
        ({"mounts": [{"path": "x", "mount_path": "/x"}]}, "mounts.0", "must be an absolute path"),
        ({"mounts": ["/a:/b:rx"]}, "mounts.0.mount_options", "'rx' is no option of a mount"),
        ({"mounts": 5}, "mounts", "must be a list"),
        (
            {"mounts": [{"path": "/", "mount_path": "/x", "mount_options": {"read_onyl": True}}]},
            "mounts.0.mount_options",
            'did you mean "read_only"?',
        ),
        (
            {"custom_spec": {"ttl_seconds_after_finish": 5}},
            "custom_spec",
            'did you mean "ttl_seconds_after_finished"?',
        ),
        ({"custom_spec": {"max_failure_retry": -1}}, "custom_spec.max_failure_retry", "must be 0 or more"),
        ({"custom_spec": {"max_failure_retry": "3"}}, "custom_spec.max_failure_retry", "a whole number"),
        ({"custom_spec": {"log": {"enabled": True}}}, "custom_spec.log", "enabled is no field of it"),
        ({"custom_spec": {"envs": []}}, "custom_spec.envs", "envs is set by env_vars, secret_vars"),
        ({"custom_spec": {"stopped": True}}, "custom_spec.stopped", "not for a profile to say"),
        ({"nemo_run_dir": "relative"}, "nemo_run_dir", "cannot be the directory of runs"),
        ({"nemo_run_dir": "/mnt/a b"}, "nemo_run_dir", "cannot be the directory of runs"),
        ({"nemo_run_dir": "/mnt/../etc"}, "nemo_run_dir", "cannot be the directory of runs"),
        ({"nemo_run_dir": ""}, "nemo_run_dir", "is missing"),
        ({"secret_vars": {"a b": "x"}}, "secret_vars", "no name of a variable"),
        ({"secret_vars": {"HF_TOKEN": "hf abc"}}, "secret_vars.HF_TOKEN", "no name of a secret"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(
    options: dict[str, Any], where: str, said: str
) -> None:
    (found,) = told(options)
    assert found.where == where
    assert said in f"{found.message} {found.fix}"


def test_all_that_is_wrong_is_told_at_once_and_the_plan_is_refused() -> None:
    wrong = {"node_group": 3, "can_preempt": "x", "custom_spec": {"a": 1, "b": 2}}
    assert len(told(wrong)) == 4
    plan = make_plan(options={**OPTIONS, **wrong})
    with pytest.raises(UsageError, match="and 3 more") as caught:
        lepton_options(plan.placement)
    assert len(caught.value.findings) == 4


def test_the_value_of_a_secret_that_stands_in_the_place_of_its_name_is_not_shown() -> None:
    (found,) = told({"secret_vars": {"HF_TOKEN": "hf_" + "x" * 80}})
    assert "xxx" not in json.dumps(found.as_dict())


def test_every_field_of_a_job_can_be_given() -> None:
    more = {
        "ttl_seconds_after_finished": 60,
        "max_failure_retry": 2,
        "max_job_failure_retry": 1,
        "intra_job_communication": False,
        "user_security_context": {"privileged": False, "no_specific_user": True},
        "metrics": {"disable_pulling_from_replica": True},
        "log": {"enable_collection": True},
        "time_schedule": {"start_at": 1900000000},
        "segment_config": {"count_per_segment": 2},
    }
    assert told({"custom_spec": more}) == []
    files = BACKEND.files(make_plan(options={**OPTIONS, "custom_spec": more}))
    spec = json.loads(files["lepton.json"])["spec"]
    assert {name: spec[name] for name in more} == more


def test_mounts_are_the_same_as_text_and_as_table() -> None:
    as_text = read_options({**OPTIONS, "mounts": ["/a:/b:ro"]}, [])
    options = {"read_only": True}
    as_table = read_options(
        {**OPTIONS, "mounts": [{"path": "/a", "mount_path": "/b", "mount_options": options}]}, []
    )
    assert as_text is not None and as_table is not None
    assert as_text.mounts == as_table.mounts
    assert payload(as_text.mounts[0]) == {"path": "/a", "mount_path": "/b", "mount_options": options}


@pytest.mark.parametrize(
    ("placement", "id_", "severity"),
    [
        ({"image": None}, "lepton.image", "error"),
        ({"nodes": 2}, "lepton.idle_nodes", "warning"),
        ({"gpus_per_node": 9}, "lepton.shape", "error"),
        ({"gpus_per_node": 4}, "lepton.shape", "warning"),
        ({"options": {**OPTIONS, "resource_shape": ""}}, "lepton.shape", "error"),
        ({"options": {**OPTIONS, "node_group": ""}}, "lepton.node_group", "warning"),
        ({"options": {**OPTIONS, "nemo_run_dir": "/elsewhere"}}, "lepton.mounts", "error"),
        ({"options": {**OPTIONS, "mounts": []}}, "lepton.mounts", "error"),
        ({"run_root": "/mnt/shared/runs"}, "lepton.remote_job_dir", "error"),
        ({"chain": 3}, "lepton.chain", "error"),
        ({"setup": ("module load x",)}, "lepton.setup", "warning"),
        ({"launch": "ray", "options": {**OPTIONS, "head_resource_shape": "cpu.l"}}, "lepton.ray", "error"),
        ({"options": {**OPTIONS, "ray_version": "2.49.2"}}, "lepton.ray", "warning"),
        ({"environment": {"DATA_DIR": "/lustre/data"}}, "mount.uncovered", "error"),
    ],
)
def test_a_plan_is_checked_before_anybody_is_asked(
    placement: dict[str, Any], id_: str, severity: str
) -> None:
    found = list(lepton_findings(make_plan(**placement)))
    assert (id_, severity) in [(f.id, f.severity) for f in found]


def test_a_good_plan_has_no_findings() -> None:
    assert list(lepton_findings(make_plan())) == []


@given(st.text(max_size=80))
def test_any_run_id_makes_a_valid_job_id_of_its_own(run: str) -> None:
    made = job_id(run)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made) and len(made) <= 35
    assert made == job_id(run)
    assert made != job_id(run + "x")


def test_the_id_of_a_run_is_the_id_of_its_job() -> None:
    assert job_id("rl-rlhf-20261121-153742-ab12") == "rl-rlhf-20261121-153742-ab12"
    long = "optimize-quantization_aware_distillation-20261121-153742-ab1"
    assert job_id(long + "2") != job_id(long + "3")


@given(st.text(max_size=30))
def test_no_path_that_is_accepted_needs_quotes(text: str) -> None:
    try:
        path = safe_path(f"/{text}", "here")
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9/._@+=-]+", path) and ".." not in path.split("/")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["container", "completions", "envs", "mounts", "log", "path", "mount_path", "x"])


@given(st.dictionaries(NAMES, JSON, max_size=5), st.sampled_from([JobSpec, Mount]))
def test_anything_is_read_or_refused_by_name(value: dict[str, Any], model: type) -> None:
    found: list[Finding] = []
    made = read(model, value, "spec", found)
    assert (made is None) == bool(found)
    if made is not None:
        assert read(model, payload(made), "spec", []) == made
