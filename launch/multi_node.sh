#!/usr/bin/env bash
# The same command on every host; the run folder must be on a file system that all of them see.
#   MACHINE_RANK=0 MAIN_PROCESS_IP=host0 launch/multi_node.sh RECIPE [flywheel run's options]
# Optional: NUM_MACHINES (2), GPUS_PER_MACHINE (8), MAIN_PROCESS_PORT (29500), CONFIG.
set -euo pipefail

: "${MACHINE_RANK:?set MACHINE_RANK to 0 on the first host, 1 on the second, ...}"
: "${MAIN_PROCESS_IP:?set MAIN_PROCESS_IP to an address of the first host}"
(($#)) || { echo "usage: MACHINE_RANK=0 MAIN_PROCESS_IP=host0 $0 RECIPE [options]" >&2; exit 2; }
machines=${NUM_MACHINES:-2}

exec accelerate launch \
  --config_file "${CONFIG:-$(dirname "$0")/../accelerate_configs/multi_node_zero3.yaml}" \
  --num_machines "$machines" \
  --num_processes "$((machines * ${GPUS_PER_MACHINE:-8}))" \
  --machine_rank "$MACHINE_RANK" \
  --main_process_ip "$MAIN_PROCESS_IP" \
  --main_process_port "${MAIN_PROCESS_PORT:-29500}" \
  -m flywheel run "$@"
