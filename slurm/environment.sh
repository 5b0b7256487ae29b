# What every job of a run has in its environment; train.sbatch sources it.
# Whatever your own environment file (launch.environment_file) has set already wins.
# shellcheck shell=bash

# Python: lines appear in the logs as they are written; a crash in C shows the Python stack.
export PYTHONUNBUFFERED=1
export PYTHONFAULTHANDLER=1

# NCCL: warnings only, with host, process and device in front, into the node's log: a file of its own (NCCL_DEBUG_FILE)
# would be one for every process.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

# A collective that does not come back within its time-out ends the process (3: without waiting for NCCL to clean up) and
# dumps the last collectives of every rank, which the launcher of each node gathers.
export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-3}"
export TORCH_NCCL_DUMP_ON_TIMEOUT="${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}"
export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC="${TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC:-900}"
export TORCH_FR_BUFFER_SIZE="${TORCH_FR_BUFFER_SIZE:-2000}"

# By these pipes, on each node's own disk, a rank is asked for its last collectives before a hung launch is killed.
export TORCH_NCCL_DEBUG_INFO_PIPE_FILE="${TORCH_NCCL_DEBUG_INFO_PIPE_FILE:-/tmp/harness_${SLURM_JOB_ID}_rank_}"

# Tensor parallelism overlaps communication and compute only if kernels are queued in one order.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
