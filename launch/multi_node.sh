#!/usr/bin/env bash
# The same command on every host; the run folder must be on a file system that all of them see.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 launch/multi_node.sh RECIPE [flywheel run's options]
# Optional: NPROC_PER_NODE (the host's GPUs), MASTER_PORT (29500), CONFIG (accelerate_configs/multi_node_zero3.yaml).
set -euo pipefail

: "${NNODES:?set NNODES to the number of hosts}"
: "${NODE_RANK:?set NODE_RANK to 0 on the first host, 1 on the second, ...}"
: "${MASTER_ADDR:?set MASTER_ADDR to an address of the first host, which all hosts can reach}"
(($#)) || { echo "usage: NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 $0 RECIPE [options]" >&2; exit 2; }
command -v accelerate >/dev/null || { echo "$0: no accelerate on PATH; activate flywheel's environment" >&2; exit 1; }

processes=${NPROC_PER_NODE:-$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)}
((processes)) || { echo "$0: $(hostname) has no GPU; set NPROC_PER_NODE to run on its CPUs" >&2; exit 1; }

exec accelerate launch \
  --config_file "${CONFIG:-$(dirname "$0")/../accelerate_configs/multi_node_zero3.yaml}" \
  --num_machines "$NNODES" \
  --num_processes "$((NNODES * processes))" \
  --machine_rank "$NODE_RANK" \
  --main_process_ip "$MASTER_ADDR" \
  --main_process_port "${MASTER_PORT:-29500}" \
  -m flywheel run "$@"
