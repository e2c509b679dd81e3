#!/usr/bin/env bash
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --requeue
# Runs rl/nemo_rl/rlhf. From the directory of the run: sbatch submit.sh PART PARTS [PLACE...]

run=${SLURM_SUBMIT_DIR:?this script is for sbatch, called from the directory of the run}
cd -- "$run" || { echo "the directory of the run is not there on this node: $run" >&2; exit 1; }
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
export NEMOTRON_RESTARTS=${SLURM_RESTART_COUNT:-0} NEMOTRON_NODES=1
end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2> /dev/null)
if [[ $end == [0-9]*T* ]]; then export NEMOTRON_DEADLINE; NEMOTRON_DEADLINE=$(date --date="$end" +%s); fi
step=(srun
    --nodes=1
    --ntasks=1
    --ntasks-per-node=1
    --nodelist="$SLURMD_NODENAME"
    --export=ALL
    --cpu-bind=none
    --kill-on-bad-exit=0
    --wait=0
    bash "$run/task.sh" "$mark")
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
