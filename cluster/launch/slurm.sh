#!/usr/bin/env bash
# A sweep as a Slurm job: `sbatch [OPTIONS] slurm.sh sweep STUDY ...`, with the arguments of `python -m orchestrator`.
# slurm.md says what to set. At the time limit the sweep leaves checkpoints, and the job goes back to the queue.
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
    echo "slurm.sh: use it as: sbatch slurm.sh sweep STUDY --scale NAME --store DIR" >&2
    exit 2
fi

# Ray's sockets lie in it on each node, as FOLDER/ray/session_DATE_TIME_PID/sockets/plasma_store, and a socket's path
# has at most 107 bytes (AF_UNIX).
export RAY_TMPDIR=${SWEEP_LOCAL_FOLDER:-/tmp}/ray-$SLURM_JOB_ID
most=37
if bytes=$(LC_ALL=C; echo "${#RAY_TMPDIR}"); [[ $bytes -gt $most ]]; then
    echo "slurm.sh: $RAY_TMPDIR has $bytes bytes, and at most $most leave room for Ray's sockets (AF_UNIX: 107 in all);" \
        "give a shorter folder on the nodes' own disks as SWEEP_LOCAL_FOLDER" >&2
    exit 2
fi

# What the nodes of this job share, on a file system that all of them see: the token, the driver's pid and exit code.
folder=${SWEEP_SHARED_FOLDER:-$HOME/.ray}/slurm-$SLURM_JOB_ID
rm -rf "$folder"
(umask 077 && mkdir -p "$folder" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
unset RAY_AUTH_TOKEN RAY_ADDRESS

# The head of the cluster is this node, the first of the job. The port goes with the job.
own_ip() {
    { getent ahostsv4 "$(hostname)" || true; hostname --all-ip-addresses | tr ' ' '\n'; } |
        awk '/^[0-9.]+( |$)/ && !/^127/ && !found {found = $1} END {print found}'
}
head_ip=${SWEEP_HEAD_IP:-$(own_ip || true)}
if [[ -z $head_ip ]]; then
    echo "slurm.sh: $(hostname) has no IPv4 address that other nodes could reach; give it as SWEEP_HEAD_IP" >&2
    exit 2
fi
address=$head_ip:$((20000 + SLURM_JOB_ID % 20000))

export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}
export RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1

# One task on each node. `ray symmetric-run` starts a head or a worker there, and the driver on the head.
# `ray` and everything that it starts would die of a SIGUSR1: the driver leaves its pid, and is told alone.
# shellcheck disable=SC2016  # expanded by the shells of the nodes
node='mkdir -p -m 700 "$RAY_TMPDIR" && ray symmetric-run "$@"; code=$?; rm -rf "$RAY_TMPDIR"; exit $code'
# shellcheck disable=SC2016
driver='"$@" & echo $! >"$0/driver.pid"; wait $!; code=$?; echo $code >"$0/driver.code"; exit $code'
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none \
    --kill-on-bad-exit=1 --wait=60 \
    bash -c "$node" node --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_ON_NODE" \
    --object-store-memory=200000000 --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    bash -c "$driver" "$folder" python -m orchestrator "$@" --address "$address" &
step=$!

asked=no
# shellcheck disable=SC2329  # called by the trap
ask_to_leave() {
    asked=yes
    if ! kill -USR1 "$(cat "$folder/driver.pid" 2>/dev/null)" 2>/dev/null; then
        kill -TERM "$step" 2>/dev/null || true  # nothing has begun yet
    fi
}
trap ask_to_leave USR1

status=0
while kill -0 "$step" 2>/dev/null; do
    status=0
    wait "$step" || status=$?
done
code=$(cat "$folder/driver.code" 2>/dev/null || echo "$status")
begun=$(test -e "$folder/driver.code" && echo yes || echo no)
rm -rf "$folder"

# 138: the driver left for SIGUSR1, with checkpoints. What is done or has failed does not go back to the queue.
if [[ $asked == yes && ($code -eq 138 || $begun == no) ]]; then
    echo "slurm.sh: the time is up; the job goes back to the queue and will go on from its checkpoints"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
