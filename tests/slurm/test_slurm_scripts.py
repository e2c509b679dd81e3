"""The scripts of a job as text: golden files, and what is refused. No cluster needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from slurm_plans import make_plan

from nemotron.errors import UsageError
from nemotron.launch.slurm.backend import BACKEND

GOLDEN = Path(__file__).with_name("golden_sbatch")
IMAGE = "nvcr.io/nvidia/nemo-rl:v0.6.0"
FULL = {
    "account": "post_training",
    "partition": "batch",
    "time": "04:00:00",
    "cpus_per_task": 16,
    "mem": "0",
    "exclusive": True,
    "sbatch": {
        "qos": "high",
        "comment": "it's 50% done; $(id)",
        "nice": 10,
        "contiguous": True,
        "reboot": False,
    },
}
PLANS: dict[str, dict[str, Any]] = {
    "python": {},
    "python-with-image": {
        "image": "/lustre/images/rl.sqsh",
        "mounts": ("/lustre:/lustre",),
        "gpus_per_node": 1,
    },
    "torchrun": {
        "launch": "torchrun",
        "nodes": 2,
        "gpus_per_node": 8,
        "options": {"time": 60},
        "save_before": 300,
    },
    "ray": {
        "launch": "ray",
        "nodes": 4,
        "gpus_per_node": 8,
        "image": IMAGE,
        "mounts": ("/lustre:/lustre", "/home/me/RL:/opt/nemo-rl:ro"),
        "setup": ("module load enroot", "export A='b c'"),
        "chain": 8,
        "save_before": 900,
        "options": FULL,
    },
    "ray-sub": {
        "launch": "ray",
        "nodes": 2,
        "gpus_per_node": 8,
        "image": IMAGE,
        "mounts": ("/lustre:/lustre", "/lustre/me/RL:/opt/nemo-rl"),
        "startup": ("ulimit -n 65536",),
        "options": {"ray_sub": True},
    },
}


def script(**placement: Any) -> str:
    return BACKEND.files(make_plan(**placement))["submit.sh"]


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_script_is_the_golden_one(name: str, update_golden: bool) -> None:
    files = BACKEND.files(make_plan(**PLANS[name]))
    for file, text in files.items():
        path = GOLDEN / (f"{name}.sh" if file == "submit.sh" else file)
        if update_golden:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sh")), ids=lambda p: p.stem)
def test_bash_can_read_it(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"job-name": "x"}, "runs are found by it"),
        ({"array": "0-3"}, "a run is one job"),
        ({"Qos": "x"}, "no long option"),
        ({"qos x": "x"}, "no long option"),
        ({"-N": "x"}, "no long option"),
        ({"comment": "two\nlines"}, "--comment holds"),
        ({"comment": "back\\slash"}, "--comment holds"),
        ({"comment": "nul\0"}, "--comment holds"),
    ],
)
def test_options_that_sbatch_cannot_be_told_are_refused_by_name(options: dict[str, str], what: str) -> None:
    with pytest.raises(UsageError, match=what) as refused:
        script(options={"sbatch": options})
    assert refused.value.where is not None


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        script(options={"time": 10, "sbatch": {"time": 20}})


def test_the_profile_may_ask_for_gpus_in_its_own_way() -> None:
    ours = script(gpus_per_node=8)
    assert "#SBATCH --gres=gpu:8\n" in ours and "--gres=gpu:8\n" in ours.partition("step=")[2]
    theirs = script(gpus_per_node=8, options={"sbatch": {"gpus-per-node": "h100:8"}})
    assert "#SBATCH --gpus-per-node=h100:8" in theirs and "gres" not in theirs
    none = script(gpus_per_node=8, options={"sbatch": {"gres": False}})
    assert "gres" not in none and "gpus" not in none


def test_no_requeue_takes_the_place_of_requeue() -> None:
    text = script(options={"sbatch": {"no-requeue": True}})
    assert "#SBATCH --no-requeue\n" in text and "#SBATCH --requeue" not in text


def test_an_option_with_several_values_is_given_several_times() -> None:
    text = script(options={"sbatch": {"license": ["a:1", "b:2"]}})
    assert "#SBATCH --license=a:1\n#SBATCH --license=b:2\n" in text


def test_a_template_of_the_site_keeps_all_but_its_fields(tmp_path: Path) -> None:
    template = tmp_path / "site.sbatch"
    template.write_text(
        "#!/bin/bash\n{{header}}\n#SBATCH --qos=x\necho {{run_id}} {{ run_dir }} ${x%%{*} $HOME\n{{body}}\n"
    )
    text = script(options={"template": str(template), "partition": "batch"})
    assert text.startswith("#!/bin/bash\n#SBATCH --nodes=1\n")
    assert '#SBATCH --qos=x\necho "$SLURM_JOB_NAME" "$SLURM_SUBMIT_DIR" ${x%%{*} $HOME\nrun=' in text
    assert text.endswith('exit "$code"\n')


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{header}}\n", "0 times"),
        ("{{body}}\n{{body}}\n", "2 times"),
        ("{{body}}\n{{boddy}}\n", "boddy"),
        ("echo {{body}}\n", "line of its own"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    template = tmp_path / "site.sbatch"
    template.write_text(text)
    with pytest.raises(UsageError, match=what) as refused:
        script(options={"template": str(template)})
    assert str(template) in str(refused.value.where)


def test_a_template_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the template"):
        script(options={"template": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("nvcr.io/nvidia/nemo-rl:v0.6.0", "nvcr.io#nvidia/nemo-rl:v0.6.0"),
        ("docker://nvcr.io/nvidia/nemo:26.04", "nvcr.io#nvidia/nemo:26.04"),
        ("registry:5000/a/b", "registry:5000#a/b"),
        ("localhost/a", "localhost#a"),
        ("ubuntu:22.04", "ubuntu:22.04"),
        ("nvidia/cuda:12", "nvidia/cuda:12"),
        ("me@nvcr.io#nvidia/x", "me@nvcr.io#nvidia/x"),
        ("/lustre/images/rl.sqsh", "/lustre/images/rl.sqsh"),
        ("images/rl.sqsh", "images/rl.sqsh"),
    ],
)
def test_images_are_written_as_pyxis_reads_them(image: str, reference: str) -> None:
    assert f"--container-image='{reference}'" in script(image=image).replace(
        f"={reference}\n", f"='{reference}'\n"
    )


@pytest.mark.parametrize("image", ["", "a b", "a\nb", "--privileged"])
def test_what_is_no_image_is_refused(image: str) -> None:
    with pytest.raises(UsageError, match="no name of an image"):
        script(image=image)


@pytest.mark.parametrize(
    "mount",
    [
        "/a,b:/a",
        "/a b:/a",
        "/a:/a b",
        "/$HOME:/a",
        "/a\\040:/a",
        "/a\n:/a",
        "/a:/b:ro,rw",
        "a:/b",
        "/a:b",
        "/a",
    ],
)
def test_mounts_that_pyxis_would_read_otherwise_are_refused(mount: str) -> None:
    with pytest.raises(UsageError):
        script(image=IMAGE, mounts=(mount,))


def test_ray_sub_without_a_checkout_is_refused_with_what_to_write() -> None:
    with pytest.raises(UsageError, match="needs a checkout") as refused:
        script(launch="ray", image=IMAGE, options={"ray_sub": True})
    assert "patched" in str(refused.value.next)
