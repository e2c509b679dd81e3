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
