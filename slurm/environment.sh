# What every job of a run has in its environment; train.sbatch sources it with launch_dir set.
# Whatever your own environment file (launch.environment_file) has set already wins.
# shellcheck shell=bash

# Python: lines appear in the logs as they are written; a crash in C shows the Python stack.
export PYTHONUNBUFFERED=1
export PYTHONFAULTHANDLER=1

# NCCL: warnings only, one file per process.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
export NCCL_DEBUG_FILE="${NCCL_DEBUG_FILE:-$launch_dir/nccl.%h.%p.log}"

# A collective that does not come back within its time-out ends the process (3: without waiting for NCCL to clean up) and
# dumps the last collectives of every rank.
export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-3}"
export TORCH_NCCL_DUMP_ON_TIMEOUT="${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}"
export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC="${TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC:-900}"
export TORCH_FR_BUFFER_SIZE="${TORCH_FR_BUFFER_SIZE:-2000}"
export TORCH_FR_DUMP_TEMP_FILE="${TORCH_FR_DUMP_TEMP_FILE:-$launch_dir/flight_recorder/rank_}"
mkdir -p "$(dirname "$TORCH_FR_DUMP_TEMP_FILE")"

# By these pipes, on each node's own disk, a rank is asked for its last collectives before a hung launch is killed.
export TORCH_NCCL_DEBUG_INFO_PIPE_FILE="${TORCH_NCCL_DEBUG_INFO_PIPE_FILE:-/tmp/harness_${SLURM_JOB_ID}_rank_}"

# Tensor parallelism overlaps communication and compute only if kernels are queued in one order.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
