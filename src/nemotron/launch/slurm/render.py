"""The scripts of a job: `submit.sh` for the allocation, `task.sh` for each node of it.

Both are the same for every run of a plan. What differs is told on sbatch's command line:

    cd RUN && sbatch --parsable --export=ALL --chdir=RUN --job-name=RUN_ID --output=RUN/logs/slurm-%j.out
                     [--dependency=...] submit.sh PART PARTS [PLACE...]

PLACE: directories that a container has to see beside those of the plan, such as the store's records.
"""

from __future__ import annotations

from nemotron.errors import UsageError
from nemotron.launch.slurm.container import mount_text
from nemotron.launch.slurm.image_word import image_word
from nemotron.launch.slurm.options import header, own_gres, sbatch_line
from nemotron.launch.slurm.ray_sub import ray_sub_body
from nemotron.launch.slurm.template import filled_template
from nemotron.planning.plan import Placement, Plan
from nemotron.planning.words import shell_words

SUBMIT, TASK = "submit.sh", "task.sh"

# What the first node runs is watched by its pid: Slurm itself signals every process of a step, and SIGUSR1
# ends those that do not expect it, such as the workers of a trainer that is to save.
_TASK = """\
#!/usr/bin/env bash
# What each node runs. MARK: the first one leaves its process id and its exit code at MARK.pid and MARK.exit.
set +x -u
mark=$1
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1
if [ "${NEMOTRON_NODE_RANK:-${SLURM_NODEID:-0}}" != 0 ]; then
    exec bash launch.sh
fi
trap 'caught=1' HUP INT QUIT TERM USR1 USR2
bash launch.sh &
task=$!
echo "$task" > "$mark.pid.new" && mv -- "$mark.pid.new" "$mark.pid"
while caught=''; wait "$task"; code=$?; [ -n "$caught" ]; do :; done
echo "$code" > "$mark.exit.new" && mv -- "$mark.exit.new" "$mark.exit"
exit "$code"
"""

_BEGIN = """\
run=${SLURM_SUBMIT_DIR:?this script is for sbatch, called from the directory of the run}
cd -- "$run" || { echo "the directory of the run is not there on this node: $run" >&2; exit 1; }
"""

# A cancelled or requeued job gets SIGTERM in all its processes from Slurm; twice would mean at once. Where a
# container hides its processes, srun has to signal them all.
_EXPORTS = """\
set +ex -u
mark=$run/logs/.first-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
pass_on() {
    local pid
    if read -r pid 2> /dev/null < "$mark.pid"; then kill -s "$1" "$pid" || kill -s "$1" "$step_pid"; fi
}
is_running() { [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; }
trap 'caught=1; pass_on USR1' USR1
trap 'caught=1; if is_running; then pass_on TERM; fi' TERM
mkdir -p -- logs && rm -f -- "$mark".*
export NEMOTRON_JOB_ID=$SLURM_JOB_ID NEMOTRON_PART=${1:-1} NEMOTRON_PARTS=${2:-1}
export NEMOTRON_RESTARTS=${SLURM_RESTART_COUNT:-0} NEMOTRON_NODES=@NODES@
end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2> /dev/null)
if [[ $end == [0-9]*T* ]]; then export NEMOTRON_DEADLINE; NEMOTRON_DEADLINE=$(date --date="$end" +%s); fi
"""

# A node or a process that does not end with the first node's work would hold the allocation.
_RUN = """\
"${step[@]}" &
step_pid=$!
(until [ -e "$mark.exit" ]; do sleep 1; done; sleep 60; kill -TERM "$step_pid") &
stragglers=$!
while caught=''; wait "$step_pid"; code=$?; [ -n "$caught" ]; do :; done
kill "$stragglers"
if [ -r "$mark.exit" ]; then read -r code < "$mark.exit"; fi
rm -f -- "$mark".*
if ((code < 128 && code != 6 && NEMOTRON_PART < NEMOTRON_PARTS)); then
    # The work is done, or has failed: nothing is left for the allocations that were to follow.
    scancel --state=PENDING --user="$(id -un)" --jobname="$SLURM_JOB_NAME"
fi
exit "$code"
"""


def submit_script(plan: Plan) -> str:
    """`submit.sh`. Raises UsageError for what cannot be handed over."""
    lines = [sbatch_line(option) for option in plan_header(plan.placement)]
    setup = "".join(f"{line}\n" for line in plan.placement.setup)
    body = _body(plan.placement)
    template = plan.placement.options.get("template")
    if template:
        return filled_template(str(template), plan.placement, "\n".join(lines), setup, body)
    what = shell_words([plan.recipe.step])
    return (
        "#!/usr/bin/env bash\n"
        + "\n".join(lines)
        + f"\n# Runs {what}. From the directory of the run: sbatch {SUBMIT} PART PARTS [PLACE...]\n\n"
        + (f"# The profile's own lines.\n{setup}\n" if setup else "")
        + body
    )


def task_script() -> str:
    """`task.sh`, the same for every plan."""
    return _TASK


def plan_header(placement: Placement) -> tuple[str, ...]:
    """The options of its job."""
    if "\n" in (placement.profile or ""):
        raise UsageError("a profile's name is one line", where="profile")
    return header(placement.options, placement.nodes, placement.gpus_per_node, placement.save_before)


def _body(placement: Placement) -> str:
    """The script from where the directory of the run is entered to its exit code."""
    everywhere = placement.launch != "python"
    nodes = "$SLURM_JOB_NUM_NODES" if everywhere else "1"
    exports = _EXPORTS.replace("@NODES@", nodes)
    mounts = _mounts(placement)
    ray_sub = placement.options.get("ray_sub") and placement.launch == "ray"
    step = ray_sub_body(placement) if ray_sub else _step(placement, everywhere=everywhere)
    return _BEGIN + exports + mounts + step + _RUN


def _mounts(placement: Placement) -> str:
    """Shell that puts everything a container sees into `mounts`, separated by commas."""
    if placement.image is None:
        return ""
    fixed = shell_words([mount_text(mount) for mount in placement.mounts])
    return (
        f"mounts=({fixed})\n"
        'for place in "$run" "${@:3}"; do mounts+=("$place:$place"); done\n'
        'mounts=$(IFS=,; echo "${mounts[*]}")\n'
    )


def _step(placement: Placement, *, everywhere: bool) -> str:
    """Shell that puts the command of the step into `step`: one task a node, on all of its CPUs."""
    count = '"$SLURM_JOB_NUM_NODES"' if everywhere else "1"
    words = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"]
    if not everywhere:
        words.append('--nodelist="$SLURMD_NODENAME"')
    gres = own_gres(placement.options, placement.gpus_per_node)
    if gres:
        words.append(f"--gres={gres}")
    cpus = placement.options.get("cpus_per_task")
    if cpus:
        # srun does not take it over from the job since Slurm 22.05.
        words.append(f"--cpus-per-task={shell_words([str(cpus)])}")
    words += ["--export=ALL", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=0"]
    if placement.image is not None:
        words += [
            f"--container-image={image_word(placement)}",
            '--container-mounts="$mounts"',
            '--container-workdir="$run"',
            "--no-container-mount-home",
        ]
    inner = " \\\n    ".join([*words, 'bash "$run/task.sh" "$mark"'])
    return f"step=(srun \\\n    {inner})\n".replace(" \\\n", "\n")
