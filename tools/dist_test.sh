#!/usr/bin/env bash
# Test on several GPUs (or, without any, CPU processes): dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several nodes: the same line on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -e

CONFIG=${1:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]}
CHECKPOINT=${2:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]}
GPUS=${3:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]}

export PYTHONPATH="$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}"

# Check once, before any process starts: a mistake is then one line, not one per process plus the launcher's report.
python "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" "${@:4}" --check

# Not the script torchrun: an environment on top of another one need not have it.
# exec: a signal to this script's process reaches the launcher, which ends all processes.
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch --checked "${@:4}"
