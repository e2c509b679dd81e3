"""Every key a profile may have: who reads it, of what kind it is, what it means.

This table is the one place: files are checked against it, and the reference in docs/profiles.md is
written from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron.profiles import kinds
from nemotron.profiles.kinds import Kind


@dataclass(frozen=True)
class Executor:
    """A place where steps can run. `launchable`: whether there is, or will be, a backend for it here."""

    name: str
    meaning: str
    launchable: bool = True


EXECUTORS = (
    Executor("local", "This machine."),
    Executor("slurm", "A Slurm cluster, from its login node, or through ssh from anywhere."),
    Executor("lepton", "DGX Cloud Lepton."),
    Executor("ray", "A running Ray cluster."),
    Executor("dgxcloud", "DGX Cloud on Run:ai, through nemo-run."),
    Executor("docker", "Containers on this machine.", launchable=False),
    Executor("skypilot", "Clouds, through SkyPilot and nemo-run."),
    Executor("kuberay", "Ray on Kubernetes, through nemo-run."),
)
EXECUTOR_NAMES = tuple(executor.name for executor in EXECUTORS)


@dataclass(frozen=True)
class ProfileKey:
    """One key.

    executors: who reads it; empty for all of them.
    example: a value as TOML.
    required: the executor cannot do without it, or without one of `instead`.
    choices: the texts it may hold, when there are few.
    unread: why nothing reads it although it is accepted; "" when something does.
    """

    name: str
    kind: Kind
    meaning: str
    example: str
    executors: tuple[str, ...] = ()
    required: bool = False
    instead: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    unread: str = ""


_SLURM = ("slurm",)
_LEPTON = ("lepton",)
_DGX = ("dgxcloud",)
_CLOUD = ("lepton", "dgxcloud")
_ALLOCATED = ("slurm", "lepton")
_OWN_BUILD = "images are imported, not built"

KEYS: tuple[ProfileKey, ...] = (
    # What every executor reads.
    ProfileKey("executor", kinds.TEXT, "Where it runs.", '"slurm"', choices=EXECUTOR_NAMES),
    ProfileKey("extends", kinds.TEXT, "The profile this one is based on.", '"slurm"'),
    ProfileKey("description", kinds.TEXT, "One line for `profiles list`.", '"RLHF, 4 nodes"'),
    ProfileKey("engine", kinds.TEXT, "The engine, where the step's first is not the one.", '"embedded"'),
    ProfileKey(
        "container_image",
        kinds.TEXT,
        "The image, for steps that name none.",
        '"nvcr.io/nvidia/nemo-rl:v0.6.0"',
    ),
    ProfileKey(
        "container",
        kinds.TEXT,
        "Earlier name of `container_image`; with both, that one counts.",
        '"nvcr.io/nvidia/nemo:26.04"',
    ),
    ProfileKey("nodes", kinds.COUNT, "Nodes, for steps whose config names no number.", "4"),
    ProfileKey("gpus_per_node", kinds.NUMBER, "GPUs of each node, likewise.", "8"),
    ProfileKey("ntasks_per_node", kinds.COUNT, "Tasks of each node, likewise.", "1"),
    ProfileKey(
        "mounts",
        kinds.MOUNTS,
        "What the container sees: `SRC:DST[:OPTIONS]`, or path, mount_path, from, mount_options.",
        '["/lustre:/lustre", "/home/me:/home/me:ro"]',
    ),
    ProfileKey(
        "env_vars",
        kinds.VARIABLES,
        "Environment of the job. A secret is a reference here: `${oc.env:HF_TOKEN}`.",
        '{ HF_HOME = "/lustre/hf" }',
    ),
    ProfileKey(
        "secrets",
        kinds.VARIABLE_NAMES,
        "Variables handed over as secrets; each must be set when the run is submitted.",
        '["HF_TOKEN", "WANDB_API_KEY"]',
    ),
    ProfileKey(
        "setup_lines",
        kinds.TEXTS_OR_TEXT,
        "Shell lines before the containers start, once, on the first node.",
        '["module load enroot"]',
    ),
    ProfileKey(
        "startup_commands",
        kinds.TEXTS,
        "Shell lines in the container, before the step starts.",
        '["ulimit -n 65536"]',
    ),
    ProfileKey(
        "run_command",
        kinds.TEXT,
        "How the step's script is started, with {script} and {config}, where the step does not say.",
        '"uv run python {script} --config {config}"',
    ),
    ProfileKey(
        "workspace", kinds.TEXT, "Directory that configs know as NEMOTRON_WORKSPACE.", '"/lustre/work"'
    ),
    ProfileKey(
        "remote_job_dir",
        kinds.TEXT,
        "Directory on the cluster for the directories of runs.",
        '"/lustre/me/runs"',
    ),
    ProfileKey(
        "patched",
        kinds.CHECKOUT,
        "A checkout of the framework in place of the image's own; its commit is recorded.",
        '"/lustre/me/RL:/opt/nemo-rl"',
    ),
    ProfileKey(
        "must_save_before",
        kinds.NUMBER,
        "Minutes before the time is up by which the job has to have saved.",
        "15",
        _ALLOCATED,
    ),
    ProfileKey(
        "chain",
        kinds.COUNT,
        "At most so many allocations after one another, until the step is done.",
        "8",
        _ALLOCATED,
    ),
    ProfileKey(
        "pip_extras", kinds.TEXTS_OR_TEXT, "Packages to install in the container first.", '["wandb"]', _CLOUD
    ),
    ProfileKey(
        "repo_root",
        kinds.TEXT,
        "Where the code is.",
        '"/lustre/code"',
        unread="the code of a run travels with it",
    ),
    ProfileKey(
        "packager", kinds.TEXT, "How code was packaged.", '"git"', unread="the code of a run travels with it"
    ),
    ProfileKey(
        "code_src_dir",
        kinds.TEXT,
        "Where code was copied from.",
        '"."',
        unread="the code of a run travels with it",
    ),
    # Slurm.
    ProfileKey("account", kinds.TEXT, "Account to charge.", '"post_training"', _SLURM),
    ProfileKey("partition", kinds.TEXT, "Partition; none: the cluster's default.", '"batch"', _SLURM),
    ProfileKey("run_partition", kinds.TEXT, "Partition of attached runs (`-r`).", '"interactive"', _SLURM),
    ProfileKey("batch_partition", kinds.TEXT, "Partition of detached runs (`-b`).", '"batch"', _SLURM),
    ProfileKey(
        "time",
        kinds.TEXT_OR_NUMBER,
        "Time limit of one allocation: minutes or [DAYS-]HH:MM:SS.",
        '"04:00:00"',
        _SLURM,
    ),
    ProfileKey("cpus_per_task", kinds.COUNT, "CPUs of each task.", "16", _SLURM),
    ProfileKey("mem", kinds.TEXT_OR_NUMBER, "Memory of each node; 0 is all of it.", '"0"', _SLURM),
    ProfileKey("exclusive", kinds.FLAG_OR_TEXT, "Whole nodes.", "true", _SLURM),
    ProfileKey(
        "signal", kinds.SIGNAL, "Signal before the time is up, as sbatch takes it.", '"USR1@600"', _SLURM
    ),
    ProfileKey(
        "sbatch",
        kinds.OPTIONS,
        "Any other option of sbatch, by its long name.",
        '{ qos = "high", comment = "rlhf" }',
        _SLURM,
    ),
    ProfileKey(
        "template",
        kinds.LOCAL_FILE,
        "Your own sbatch template; a relative path starts at the profile's file.",
        '"rlhf.sbatch"',
        _SLURM,
    ),
    ProfileKey(
        "ray_sub",
        kinds.FLAG_OR_TEXT,
        "Start Ray with the framework's own ray.sub: true, or its path.",
        "true",
        _SLURM,
    ),
    ProfileKey(
        "lustre_mount", kinds.MOUNT, 'One more mount, SRC:DST; "" for none.', '"/lustre:/lustre"', _SLURM
    ),
    ProfileKey(
        "tunnel",
        kinds.TEXT,
        "How the login node is reached; none: this is the login node.",
        '"ssh"',
        _SLURM,
        choices=("ssh",),
    ),
    ProfileKey("host", kinds.TEXT, "The login node.", '"login.example.com"', _SLURM),
    ProfileKey("user", kinds.TEXT, "User name there.", '"me"', _SLURM),
    ProfileKey("identity", kinds.TEXT, "SSH key file.", '"~/.ssh/id_ed25519"', _SLURM),
    ProfileKey("build_partition", kinds.TEXT, "Partition on which images are imported.", '"cpu"', _SLURM),
    ProfileKey("build_time", kinds.TEXT_OR_NUMBER, "Time limit of that.", '"01:00:00"', _SLURM),
    ProfileKey("build_cache_dir", kinds.TEXT, "Directory of imported images.", '"/lustre/images"', _SLURM),
    ProfileKey(
        "build_image",
        kinds.TEXT,
        "Image to build with.",
        '"quay.io/podman/stable"',
        _SLURM,
        unread=_OWN_BUILD,
    ),
    ProfileKey(
        "build_registry",
        kinds.TEXT,
        "Registry to push to.",
        '"registry.example.com"',
        _SLURM,
        unread=_OWN_BUILD,
    ),
    ProfileKey("build_include_gpus", kinds.FLAG, "Build on GPU nodes.", "false", _SLURM, unread=_OWN_BUILD),
    ProfileKey("build_gpus_per_node", kinds.NUMBER, "GPUs to build with.", "1", _SLURM, unread=_OWN_BUILD),
    # Lepton.
    ProfileKey(
        "nemo_run_dir",
        kinds.TEXT,
        "Directory on shared storage for the directories of runs.",
        '"/mnt/shared/nemo_run"',
        _LEPTON,
        required=True,
    ),
    ProfileKey("node_group", kinds.TEXT, "Node group.", '"h100-a"', _LEPTON),
    ProfileKey("node_reservation", kinds.TEXT, "Reservation within it.", '"team"', _LEPTON),
    ProfileKey("resource_shape", kinds.TEXT, "Shape of a node.", '"gpu.8xh100-80gb"', _LEPTON),
    ProfileKey("shared_memory_size", kinds.NUMBER, "Shared memory in MiB.", "65536", _LEPTON),
    ProfileKey(
        "image_pull_secrets", kinds.TEXTS, "Names of pull secrets that Lepton holds.", '["ngc"]', _LEPTON
    ),
    ProfileKey(
        "secret_vars",
        kinds.TABLE,
        "Variable to the name of a secret that Lepton holds.",
        '{ HF_TOKEN = "hf-token" }',
        _LEPTON,
    ),
    ProfileKey(
        "pre_launch_commands", kinds.TEXTS, "Shell lines before the launcher.", '["nvidia-smi"]', _LEPTON
    ),
    ProfileKey(
        "existing_ray_cluster",
        kinds.TEXT,
        "Ray cluster to use instead of a new one.",
        '"shared-ray"',
        _LEPTON,
    ),
    ProfileKey("head_resource_shape", kinds.TEXT, "Shape of the Ray head.", '"cpu.large"', _LEPTON),
    ProfileKey("can_preempt", kinds.FLAG, "May push others aside.", "false", _LEPTON),
    ProfileKey("can_be_preempted", kinds.FLAG, "May be pushed aside.", "true", _LEPTON),
    ProfileKey("queue_priority", kinds.TEXT, "Priority in the queue.", '"mid-4000"', _LEPTON),
    ProfileKey("launched_from_cluster", kinds.FLAG, "Submitted from within the cluster.", "false", _LEPTON),
    ProfileKey("ray_version", kinds.TEXT, "Version of Ray in the image.", '"2.49.2"', ("lepton", "kuberay")),
    ProfileKey("nprocs_per_node", kinds.COUNT, "Processes of each node.", "8", _CLOUD),
    ProfileKey(
        "custom_spec", kinds.TABLE, "Fields added to the job as they are.", '{ priority = "high" }', _CLOUD
    ),
    ProfileKey(
        "launcher",
        kinds.TEXT,
        "`nemo_run`: Lepton is spoken to through nemo-run. How processes are started is the step's to say.",
        '"nemo_run"',
        _CLOUD,
    ),
    # Ray.
    ProfileKey(
        "address", kinds.TEXT, "Address of the cluster's Jobs API.", '"http://127.0.0.1:8265"', ("ray",)
    ),
    ProfileKey(
        "ray_data",
        kinds.FLAG,
        "Data preparation steps read their rows with Ray Data, on all nodes of the cluster.",
        "true",
        ("ray",),
    ),
    # This machine.
    ProfileKey("nproc_per_node", kinds.COUNT, "Processes for torchrun.", "2", ("local",)),
    # Through nemo-run; docker is read and checked only, so that existing files load.
    ProfileKey(
        "base_url", kinds.TEXT, "API of Run:ai.", '"https://cloud.example.com/api/v1"', _DGX, required=True
    ),
    ProfileKey(
        "kube_apiserver_url",
        kinds.TEXT,
        "API of Kubernetes.",
        '"https://k8s.example.com"',
        _DGX,
        required=True,
    ),
    ProfileKey("client_id", kinds.TEXT, "Client.", '"nemotron"', _DGX, required=True, instead=("app_id",)),
    ProfileKey("app_id", kinds.TEXT, "Earlier name of `client_id`.", '"nemotron"', _DGX),
    ProfileKey(
        "client_secret",
        kinds.TEXT,
        "Its secret, as a reference.",
        '"${oc.env:DGX_CLIENT_SECRET}"',
        _DGX,
        required=True,
        instead=("app_secret",),
    ),
    ProfileKey(
        "app_secret", kinds.TEXT, "Earlier name of `client_secret`.", '"${oc.env:DGX_CLIENT_SECRET}"', _DGX
    ),
    ProfileKey("project_name", kinds.TEXT, "Project.", '"post-training"', _DGX, required=True),
    ProfileKey(
        "pvc_nemo_run_dir",
        kinds.TEXT,
        "Directory of runs on a volume.",
        '"/mnt/nemo_run"',
        _DGX,
        required=True,
    ),
    ProfileKey("pvcs", kinds.TABLES, "Volumes: name, path.", '[{ name = "data", path = "/mnt" }]', _DGX),
    ProfileKey("distributed_framework", kinds.TEXT, "Kind of workload.", '"PyTorch"', _DGX),
    ProfileKey("dgxcloud_max_args_chars", kinds.COUNT, "Longest argument list.", "10000", _DGX),
    ProfileKey("runtime", kinds.TEXT, "Container runtime.", '"nvidia"', ("docker",)),
    ProfileKey("ipc_mode", kinds.TEXT, "IPC namespace.", '"host"', ("docker",)),
    ProfileKey("shm_size", kinds.TEXT, "Shared memory.", '"30g"', ("docker",)),
    ProfileKey("network", kinds.TEXT, "Network.", '"host"', ("docker",)),
    ProfileKey("num_gpus", kinds.NUMBER, "GPUs.", "1", ("docker",)),
    ProfileKey("volumes", kinds.TEXTS, "Volumes, SRC:DST.", '["/data:/data"]', ("docker", "kuberay")),
    ProfileKey("cloud", kinds.TEXT, "Cloud.", '"kubernetes"', ("skypilot",)),
    ProfileKey("gpus", kinds.TEXT, "Type of GPU.", '"H100"', ("skypilot",)),
    ProfileKey("num_nodes", kinds.COUNT, "Nodes.", "2", ("skypilot",)),
    ProfileKey(
        "file_mounts", kinds.TABLE, "Files to bring: there = here.", '{ "/data" = "data" }', ("skypilot",)
    ),
    ProfileKey("namespace", kinds.TEXT, "Namespace.", '"training"', ("kuberay",)),
    ProfileKey("image", kinds.TEXT, "Image.", '"rayproject/ray:2.49.2"', ("kuberay",)),
    ProfileKey("workers", kinds.COUNT, "Workers.", "2", ("kuberay",)),
)


def keys_of(executor: str) -> dict[str, ProfileKey]:
    """The keys that an executor reads, by name."""
    return {key.name: key for key in KEYS if not key.executors or executor in key.executors}


def readers_of(name: str) -> tuple[str, ...]:
    """The executors that read a key; empty when no executor has one of that name."""
    return tuple(
        dict.fromkeys(e for key in KEYS if key.name == name for e in key.executors or EXECUTOR_NAMES)
    )
