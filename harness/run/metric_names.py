"""All metric names: the keys of `metrics.jsonl`, the TensorBoard tags, and the names that the watcher looks up."""

from __future__ import annotations

LM_LOSS = "train/lm_loss"
"""Mean next-token cross-entropy of the step over all channels, in nats."""
GRAD_NORM = "optim/grad_norm"
"""L2 norm of the whole gradient before clipping."""
LEARNING_RATE = "optim/learning_rate"
SKIPPED = "optim/skipped"
"""1 if the step was not applied, otherwise 0."""
STEP_TIME_S = "perf/step_time_s"
SAVE_STALL_S = "perf/save_stall_s"
"""Seconds for which training waited for saves since the last record. Absent if it did not wait."""
SAVE_S = "perf/save_s"
"""Seconds from the beginning of the last save to its publication; longer than the stall if it was asynchronous."""
FAILED_SAVES = "perf/failed_saves"
"""Number of saves that failed since the last success. Absent if it is 0."""
SNAPSHOT_S = "perf/snapshot_s"
"""Seconds for which training waited for snapshots since the last record. Absent if it did not wait."""
STEP_TIME_SPREAD_S = "perf/step_time_spread_s"
"""Time of the step on the slowest rank less that on the fastest, every `logging.compare_ranks_every_steps`. Small even
if a rank is slow, because all wait for it in the step; the next two metrics show a slow rank."""
COMPUTE_SPREAD = "perf/compute_spread"
"""Time of a fixed matrix product on the slowest device, divided by the usual time. 1 if no device is slow."""
DATA_WAIT_SPREAD_S = "perf/data_wait_spread_s"
"""Longest wait of a rank for data less the usual one, in seconds, since the ranks were compared last."""
TOKENS_PER_SECOND_PER_GPU = "perf/tokens_per_second_per_gpu"
TFLOPS_PER_GPU = "perf/tflops_per_gpu"
"""Model FLOPs (causal attention counted once) per second and GPU, in 1e12."""
MFU_PCT = "perf/mfu_pct"
MEMORY_GIB = "perf/memory_gib"
BATCH_HASH = "data/batch_hash"
"""Hash of the step's sample identities; 16 hex digits in `metrics.jsonl`, not a TensorBoard tag."""

_VALID_LM_LOSS = "valid/lm_loss"
_VALID_BITS_PER_BYTE = "valid/bits_per_byte"


def lm_loss_of(channel: str) -> str:
    """Return the name of one channel's loss in the step, in nats. Absent where the channel had no token."""
    return f"{LM_LOSS}/{channel}"


def tokens_of(channel: str) -> str:
    """Return the name of the number of unmasked tokens of one channel in the step."""
    return f"train/tokens/{channel}"


def epochs_of(channel: str) -> str:
    """Return the name of the number of passes over the channel since the run began."""
    return f"data/epochs/{channel}"


def valid_lm_loss_of(channel: str) -> str:
    """Return the name of the loss on one channel's held-out samples, in nats."""
    return f"{_VALID_LM_LOSS}/{channel}"


def valid_bits_per_byte_of(channel: str) -> str:
    """Return the name of one channel's held-out loss in bits per byte of text."""
    return f"{_VALID_BITS_PER_BYTE}/{channel}"


def channel_of(name: str) -> str | None:
    """Return the channel in a per-channel name, or None for other names."""
    prefixes = (lm_loss_of(""), tokens_of(""), epochs_of(""), valid_lm_loss_of(""), valid_bits_per_byte_of(""))
    found = (name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix))
    return next(found, None) or None
