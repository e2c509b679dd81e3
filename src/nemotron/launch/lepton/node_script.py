"""`lepton.sh`: what each node of a job runs, the same for every run of a plan.

The first node shows the trainer's log on its own output, which the service keeps, and at the end the small
files of the run, between lines that begin with `::nemotron MARK`: a client that does not see the storage
reads them there, see `told`. MARK is drawn for each job, so that nothing a model writes can pass for one.
"""

from __future__ import annotations

from nemotron.planning.plan import Plan
from nemotron.planning.words import shell_words

NODE_SCRIPT = "lepton.sh"
MARK, JOB = "NEMOTRON_MARK", "NEMOTRON_JOB_ID"

_BEGIN = """\
#!/usr/bin/env bash
# What each node of the job runs: bash RUN/lepton.sh. The service says in LEPTON_JOB_* which of them it is.
set +x -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1
export NEMOTRON_JOB_ID=${LEPTON_JOB_NAME:-$NEMOTRON_JOB_ID} NEMOTRON_PART=1 NEMOTRON_PARTS=1
export NEMOTRON_RESTARTS=${LEPTON_JOB_FAILURE_COUNT:-0} NEMOTRON_NODE_RANK=${LEPTON_JOB_WORKER_INDEX:-0}
export NEMOTRON_NODES=@NODES@
mark=${NEMOTRON_MARK:-}
unset NEMOTRON_MARK
"""

_RUN = """\
if [ "$NEMOTRON_NODE_RANK" != 0 ]; then exec bash launch.sh; fi
run=$(basename -- "$PWD")
mkdir -p -- logs
number=$(($(find logs -maxdepth 1 -name 'attempt-*.log' | wc -l) + 1))
echo "::nemotron $mark attempt $number"
bash launch.sh &
task=$!
trap 'caught=1; kill -TERM "$task"' HUP INT TERM
tail -n +1 -F --pid="$task" -- "logs/attempt-$number.log" 2> /dev/null &
shown=$!
while caught=''; wait "$task"; code=$?; [ -n "$caught" ]; do :; done
trap '' HUP INT TERM
wait "$shown"
printf '\\n::nemotron %s ended %s\\n' "$mark" "$code"
if [ -n "$mark" ]; then
    files=()
    for each in record.json failure.json attempt.json inputs.json; do
        if [ -f "$each" ]; then files+=("$each"); fi
    done
    if [ -f metrics.jsonl ] && [ "$(stat -c %s metrics.jsonl)" -lt 4194304 ]; then files+=(metrics.jsonl); fi
    echo "::nemotron $mark files"
    { cd .. && find records -type f -name "*-$run[-.]*.json" -print0; } 2> /dev/null |
        tar -cz "${files[@]}" -C .. --null -T - | base64
    echo "::nemotron $mark end"
fi
exit "$code"
"""


def node_script(plan: Plan, before: tuple[str, ...], pip_extras: tuple[str, ...]) -> str:
    """`lepton.sh`. before: the profile's own shell lines. pip_extras: packages that are installed first."""
    nodes = plan.placement.nodes if plan.placement.launch != "python" else 1
    lines = list(before)
    if pip_extras:
        lines.append(f"python3 -m pip install {shell_words(pip_extras)} || exit 1")
    own = "".join(f"{line}\n" for line in lines)
    return (
        _BEGIN.replace("@NODES@", str(nodes))
        + (f"\n# The profile's own lines.\n{own}\n" if own else "")
        + _RUN
    )
