"""Every metric name, once: the keys of `metrics.jsonl`, the TensorBoard tags, and what the watcher looks up."""

from __future__ import annotations

LM_LOSS = "train/lm_loss"
"""Mean next-token cross-entropy of the step over all channels, in nats."""
GRAD_NORM = "optim/grad_norm"
"""L2 norm of the whole gradient before clipping."""
LEARNING_RATE = "optim/learning_rate"
"""Learning rate of the step."""
SKIPPED = "optim/skipped"
"""1 if the step was not applied, otherwise 0."""
EXPERT_MAX_LOAD = "experts/max_load"
"""Tokens of the fullest expert over the mean of its layer, in the layer where this is largest: 1 if experts are even.
Absent, as all of `experts/`, where the model has none."""
EXPERT_DEAD_SHARE = "experts/dead_share"
"""Share of all experts that had no token in the step."""
ROUTER_ENTROPY = "experts/router_entropy"
"""Entropy of the routers' scores of a token, in nats, mean over tokens and layers: the logarithm of the number of
experts if routers have no preference, 0 if each wants one expert only."""
ROUTER_AUX_LOSS = "experts/aux_loss"
"""Auxiliary loss without its coefficient, mean over layers: 1 if experts are even. Absent where none is trained on."""
ROUTER_Z_LOSS = "experts/z_loss"
"""log²Z of the routers' softmax without its coefficient, mean over tokens and layers."""
EXPERTS_BY_LAYER = "experts/by_layer"
"""A pair for each layer with experts, in their order: its fullest expert as in `experts/max_load`, and the share of its
experts that had no token. It is in `metrics.jsonl` only."""
STEP_TIME_S = "perf/step_time_s"
"""Time of the step on the first rank."""
SAVE_STALL_S = "perf/save_stall_s"
"""Time that training waited for saves since the last record; absent if there was none."""
SAVE_S = "perf/save_s"
"""Time from the beginning of the last save to its publication. Longer than the stall if the save was asynchronous."""
FAILED_SAVES = "perf/failed_saves"
"""Saves that failed since the last one that succeeded; absent if none failed."""
SNAPSHOT_S = "perf/snapshot_s"
"""Time that training waited for snapshots since the last record; absent if there was none."""
STEP_TIME_SPREAD_S = "perf/step_time_spread_s"
"""Time of the step on the slowest rank less that on the fastest, every `logging.compare_ranks_every_steps`. It is small
even if one rank is slow, because all ranks wait for it in the step; `perf/compute_spread` and `perf/data_wait_spread_s`
show whether one is."""
COMPUTE_SPREAD = "perf/compute_spread"
"""Time of a fixed product of matrices on the slowest device, divided by the usual time: 1 if no device is slow."""
DATA_WAIT_SPREAD_S = "perf/data_wait_spread_s"
"""Time that the slowest rank waited for data beyond the usual time, since ranks were compared last."""
TOKENS_PER_SECOND_PER_GPU = "perf/tokens_per_second_per_gpu"
"""Tokens of the step per second and rank, padding included."""
TFLOPS_PER_GPU = "perf/tflops_per_gpu"
"""Model FLOPs per second and rank, in 1e12. The FLOPs of causal attention count once."""
MFU_PCT = "perf/mfu_pct"
"""Model FLOPs as a share of the device's peak in bf16; absent where the peak is not known, as on CPUs."""
MEMORY_GIB = "perf/memory_gib"
"""Largest memory that the first rank has allocated on its GPU; absent on CPUs."""
BATCH_HASH = "data/batch_hash"
"""Hash of which samples the step had (parts, epochs, numbers), not of their tokens: 16 hex digits. It is in
`metrics.jsonl` only."""


def lm_loss_of(channel: str) -> str:
    """Loss of one channel in the step, in nats; absent where the channel had no token."""
    return f"{LM_LOSS}/{channel}"


def mtp_loss_of(module: int | str) -> str:
    """Loss of a module's own tokens in the step, in nats: module 1 predicts the token behind the next.

    It is not part of `train/lm_loss`, and absent where the model has no modules that predict further tokens.
    """
    return f"train/mtp_loss/{module}"


def tokens_of(channel: str) -> str:
    """Unmasked tokens of one channel in the step."""
    return f"train/tokens/{channel}"


def epochs_of(channel: str) -> str:
    """Passes over the channel since the run began, in samples trained on; skipped ones do not count."""
    return f"data/epochs/{channel}"


def valid_lm_loss_of(channel: str) -> str:
    """Loss of one channel's held-out samples, in nats.

    With `evaluation.measure_forgetting` also at step 0: of the weights with which training begins.
    """
    return f"valid/lm_loss/{channel}"


def valid_bits_per_byte_of(channel: str) -> str:
    """Held-out loss of one channel in bits per byte of text."""
    return f"valid/bits_per_byte/{channel}"


def valid_position_loss_of(channel: str, position: int | str) -> str:
    """Held-out loss of one channel from this position to the next one that is recorded, in nats.

    With `evaluation.loss_by_position`: positions are 0, 16, 32, 64 … in the sample, or in the document where documents
    are kept apart. Where a long context is used, the loss falls from position to position.
    """
    return f"valid/position_loss/{channel}/{position}"


def valid_needle_loss_of(depth: int | str) -> str:
    """Loss of tokens at the end of a sample that stand in it once before, at this depth (percent of it), in nats.

    With `evaluation.num_needles_per_depth`: near 0 where the model finds them again.
    """
    return f"valid/needle_loss/{depth}"


def channel_of(name: str) -> str | None:
    """The channel in a per-channel name, None where the name has none."""
    prefixes = (lm_loss_of(""), tokens_of(""), epochs_of(""), valid_lm_loss_of(""), valid_bits_per_byte_of(""))
    found = (name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix))
    return next(found, None) or None
