"""What a user may say: every section and field of a run's YAML, with its unit, its default and what it means.

Frozen and strict: text is not a number, an unknown key is an error. Where Megatron owns a concept the field has
Megatron's spelling. What *follows* from a configuration (steps, stages, memory) is not here but in `harness.plan`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.config.operation import LaunchConfig, WatchConfig
from harness.config.section import (
    FilePath,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    SkipWindow,
)


class RunConfig(Section):
    """The run as a whole."""

    name: Name
    """Name of the run; its directory is `runs/<name>` unless `--run-dir` says otherwise."""
    seed: NonNegativeInt = 1234
    """Seeds the initial weights and the order of the data. Two runs with equal seeds see equal samples."""
    stop_at_step: PositiveInt | None = None
    """Leave after this step with exit code 0; the schedule still aims at the end of the last phase."""


class RopeScalingConfig(Section):
    """How rotary frequencies are stretched for sequences longer than the base was chosen for."""

    type: Literal["linear", "ntk", "llama3"]
    """`linear` divides positions by `factor`; `ntk` raises the base by factor^(d/(d-2)); `llama3` stretches only low
    frequencies."""
    factor: PositiveFloat
    """By how much the context grows."""
    low_freq_factor: PositiveFloat = 1.0
    """`llama3` only: wavelengths longer than `original_max_position_embeddings / low_freq_factor` are fully
    stretched."""
    high_freq_factor: PositiveFloat = 4.0
    """`llama3` only: wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are left alone."""
    original_max_position_embeddings: PositiveInt = 8192
    """`llama3` only: the sequence length before stretching, in tokens."""


class ModelConfig(Section):
    """A decoder-only transformer."""

    num_layers: PositiveInt
    """Transformer layers in the whole model."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_attention_heads: PositiveInt
    """Query heads."""
    num_query_groups: PositiveInt | None = None
    """Key/value heads; fewer than query heads is GQA, 1 is MQA. Default: as many as query heads."""
    kv_channels: PositiveInt | None = None
    """Size of one head. Default: hidden_size / num_attention_heads."""
    ffn_hidden_size: PositiveInt
    """Inner width of the MLP (of the gate and of the up projection each, if gated)."""
    vocab_size: PositiveInt
    """True vocabulary size: token ids are 0 … vocab_size - 1."""
    vocab_size_multiple_of: PositiveInt = 128
    """The embedding is padded to a multiple of this, whatever the layout. Padded rows are never predicted or
    trained."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Normalization before attention, before the MLP and at the end."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in every normalization."""
    activation: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    """Activation of the MLP; the first two are gated."""
    untie_embeddings_and_output_weights: bool = True
    """Whether the output layer has its own weights. Small models gain by tying (false)."""
    add_bias_linear: bool = False
    """Bias in the attention projection and the MLP (GPT-2 style)."""
    add_qkv_bias: bool = False
    """Bias in the query, key and value projections only (Qwen2)."""
    qk_layernorm: bool = False
    """Normalize queries and keys per head before the rotation (Qwen3)."""
    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary position embedding (theta)."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretching of the rotary frequencies. Default: none."""
    init_method_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; projections back into the residual stream get std / sqrt(2 ·
    num_layers)."""
    z_loss_coefficient: NonNegativeFloat = 0.0
    """Weight of log²Z of the output softmax (PaLM uses 1e-4). It is trained on, but not part of the reported loss."""

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def query_groups(self) -> int:
        """Number of key/value heads."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate projection."""
        return self.activation in ("swiglu", "geglu")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up, the same under every layout."""
        multiple = self.vocab_size_multiple_of
        return (self.vocab_size + multiple - 1) // multiple * multiple


class ParallelConfig(Section):
    """How the model and the batch are cut over the ranks. Nothing here changes what is learnt."""

    tensor_model_parallel_size: PositiveInt = 1
    """Ranks that share every layer (keep within a node)."""
    pipeline_model_parallel_size: PositiveInt = 1
    """Ranks that hold consecutive stages of layers."""
    virtual_pipeline_model_parallel_size: PositiveInt | None = None
    """Model chunks per pipeline rank (interleaved schedule); needs pipeline_model_parallel_size > 1."""
    context_parallel_size: PositiveInt = 1
    """Ranks that share one sequence; needs Transformer Engine."""
    data_parallel_size: PositiveInt | None = None
    """Copies of the model. Default: what is left of the world size."""
    sequence_parallel: bool = False
    """Share norms and residuals along the sequence within the tensor-parallel group."""
    num_layers_in_first_pipeline_stage: PositiveInt | None = None
    """Layers of the first stage, where stages are to be uneven. The rest is shared out evenly."""
    num_layers_in_last_pipeline_stage: PositiveInt | None = None
    """Layers of the last stage, where stages are to be uneven. The rest is shared out evenly."""
    micro_batch_size: PositiveInt = 1
    """Samples that one rank computes at once."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Which activations are recomputed in the backward pass: none, core attention, or whole layers."""


class ChannelConfig(Section):
    """A named source of documents with a loss of its own."""

    path: FilePath
    """A channel folder with `parts.jsonl`, or the prefix of one `.bin/.idx` pair made by Megatron-LM or datatrove."""
    validation_path: FilePath | None = None
    """Held-out documents in the same form. Default: a share of the first part (`evaluation.held_out_share`)."""
    when_low: Literal["repeat", "wait", "share"] = "repeat"
    """When all parts were passed through `max_epochs` times: `wait` for further parts, with an alert; `share` its part
    of the blend among the other channels until further parts come. `repeat` shares too, but only if `max_epochs` is
    given; without it the channel begins again and again."""
    max_epochs: PositiveInt | None = None
    """Most passes through the channel. Default: 1, with `repeat` as many as the phases need."""
    order: Literal["shuffled", "window", "as_written"] = "shuffled"
    """`shuffled`: one part after the other, the documents and samples of each shuffled; `window`: so are the samples of
    `window_parts` parts together; `as_written`: as data preparation ordered them (a curriculum, or by score)."""
    window_parts: PositiveInt = 8
    """`window` only: parts whose samples are mixed. So many indices are in memory at once."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate`: documents end to end, cut anywhere; `best_fit`: whole wherever they fit into a sample, which is
    padded. It reads the index of every part at the start, so it is for channels of few parts."""
    epoch_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the channel's weight in the blend for every epoch after the first."""


class DataConfig(Section):
    """Where the tokens are."""

    tokenizer: FilePath | None = None
    """Tokenizer that made the data (SentencePiece `.model` or `tokenizer.json`): its hash and size are checked, it is
    kept with the run."""
    channels: dict[Name, ChannelConfig] = Field(min_length=1)
    """The channels, by name."""
    reset_at_document_borders: bool = False
    """Tokens attend only within their own document, and positions count from its start."""
    skip_windows: tuple[SkipWindow, ...] = Field(default=(), strict=False)
    """Positions [start, stop) in the run's sample order that are never trained on. A rollback enters its own."""
    adopt_parts: bool = True
    """Use parts that are added to a channel's `parts.jsonl` while the run goes on, behind those there are."""
    adopt_every_s: NonNegativeFloat = 5.0
    """Seconds between two looks at the lists of parts."""
    num_prefetch_batches: PositiveInt = 2
    """Batches prepared ahead of the step that uses them."""


class ScheduleConfig(Section):
    """The learning rate over a phase, as a share of the peak."""

    style: Literal["cosine", "linear", "constant", "wsd", "inverse_square_root"] = "cosine"
    """Shape after warm-up. `wsd` is constant until the last `decay_share` of the phase."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear rise from 0 to the peak."""
    continues: bool = False
    """Go on from the last learning rate of the phase before: the warm-up leads from it to the peak; without a warm-up
    it is the peak."""
    min_learning_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the decay, as a share of the peak."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """`wsd` only: share of the phase's steps in the final decay."""
    decay_style: Literal["linear", "cosine", "one_minus_sqrt"] = "one_minus_sqrt"
    """`wsd` only: shape of the final decay."""


class BatchRampUpConfig(Section):
    """A batch that grows at the beginning of a phase."""

    start: PositiveInt
    """Samples in the phase's first step."""
    increment: PositiveInt
    """Samples by which the batch grows, from `start` to `global_batch_size`."""
    ramp_up_samples: PositiveInt
    """Samples of the phase after which `global_batch_size` is reached; every size before it has an equal share."""


class PhaseOptimizerConfig(Section):
    """Settings of the optimizer that differ in a phase. Default of each: the run's."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate."""
    weight_decay: NonNegativeFloat | None = None
    """Decoupled weight decay."""
    adam_beta1: Share | None = None
    """Decay of the first moment."""
    adam_beta2: Share | None = None
    """Decay of the second moment."""
    clip_grad: NonNegativeFloat | None = None
    """Largest L2 norm of the whole gradient; 0 does not clip."""


class PhaseEvaluationConfig(Section):
    """Held-out evaluation where it differs in a phase. Default of each: the run's."""

    every_steps: PositiveInt | None = None
    """Evaluate after every so many steps of the run, and at the end of the phase."""
    num_samples_per_channel: PositiveInt | None = None
    """Held-out samples of each channel."""
    channels: tuple[Name, ...] | None = Field(default=None, strict=False, min_length=1)
    """Channels that are evaluated, also such that the phase does not train on. Default: those of its blend."""


class PhaseConfig(Section):
    """A stretch of the run with one blend, one sequence length, one schedule, and `train_tokens` or `train_steps`."""

    name: Name
    """Name of the phase, as it appears in metrics and events."""
    train_tokens: PositiveInt | None = None
    """Length in tokens, rounded up to whole steps."""
    train_steps: PositiveInt | None = None
    """Length in steps."""
    seq_length: PositiveInt
    """Tokens in one sample."""
    global_batch_size: PositiveInt
    """Samples in one step, over all ranks."""
    batch_ramp_up: BatchRampUpConfig | None = None
    """Smaller batches at the beginning. Default: none."""
    blend: dict[Name, PositiveFloat] = Field(min_length=1)
    """Weight of every channel that is used; the weights need not add up to 1."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the phase."""
    rotary_base: PositiveFloat | None = None
    """Base of the rotary position embedding in this phase. Default: the model's."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretching of the rotary frequencies in this phase. Default: the model's."""
    optimizer: PhaseOptimizerConfig = PhaseOptimizerConfig()
    """What differs in the optimizer."""
    frozen_parameters: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Parameters that are not trained in this phase, by name or pattern: `embedding.*`, `decoder.layers.[0-3].*`."""
    evaluation: PhaseEvaluationConfig = PhaseEvaluationConfig()
    """What differs in the evaluation."""
    parallel: ParallelConfig | None = None
    """Layout of this phase, a whole section. Default: the run's. Where more than `micro_batch_size` differs from the
    phase before, the run stops at the border with 75, and the launcher goes on in the other layout."""


class OptimizerConfig(Section):
    """AdamW, sharded over data-parallel ranks."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay; not applied to biases and norms."""
    adam_beta1: Share = 0.9
    """Decay of the first moment."""
    adam_beta2: Share = 0.95
    """Decay of the second moment."""
    adam_eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    clip_grad: NonNegativeFloat = 1.0
    """Largest L2 norm of the whole gradient; 0 does not clip."""


class PrecisionConfig(Section):
    """Number formats. Master weights, gradients and moments are fp32 in both."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """Format of weights and activations in forward and backward."""


class CheckpointConfig(Section):
    """When the state is saved."""

    save_every_steps: PositiveInt | None = None
    """Save after every so many steps. Default: at the end, and on signals, only."""
    keep_last: PositiveInt | None = None
    """After a save, remove all but the newest so many checkpoints (never pinned ones, nor the newest clean one, nor
    those from which training comes to the steps of the last 8 pieces of evidence). Default: all stay."""
    keep_every_steps: PositiveInt | None = None
    """With `keep_last`: checkpoints of every so many steps stay for good."""
    async_save: bool = False
    """Write checkpoints beside training, which then waits only for the copy in memory (of the whole state: see to it
    that every node has room). Saves that are ordered, at exits and in rollbacks are waited for all the same."""
    snapshot_every_steps: PositiveInt | None = None
    """Keep the state of every so many steps in the memory of the host, each rank its own: a rollback to the checkpoint
    of such a step then reads no file. `save_every_steps` should be a multiple of it. Default: none are kept."""
    snapshots_kept: PositiveInt = 2
    """How many snapshots are kept, the newest. Each takes the memory of the weights and the optimizer's state: on a
    node that is what `harness plan` names, times this number."""
    snapshot_folder: FilePath | None = None
    """Also write the snapshots into this folder of each node, on a disk of its own (`/local`) or in its memory
    (`/dev/shm`, which takes room for one more): a start on the same nodes goes on from the newest that all ranks have,
    in the same layout and under the same configuration; any other from the checkpoint. Default: not written."""
    signature_key_file: FilePath | None = None
    """File with a secret (`(umask 077; head -c 32 /dev/urandom > FILE)`) that signs every checkpoint; one that it has
    not signed is not loaded. For storage that others can write to. Default: checkpoints are not signed."""
    save_as_suspect: bool = True
    """Save checkpoints as suspect until they have proved good: runs go on from them, but are not rolled back to them by
    themselves. With false they are clean until something is seen."""
    clean_after_steps: PositiveInt | None = None
    """A suspect checkpoint becomes clean after so many steps, unless an alarm lies that near to it. One that the
    watcher marked becomes clean again when what was strange has gone by itself and nothing was strange for so many
    steps. Default: `watch.rollback_margin_steps`."""


class EvaluationConfig(Section):
    """Held-out loss of every channel."""

    every_steps: PositiveInt | None = None
    """Evaluate after every so many steps, and at the end. Default: never."""
    num_samples_per_channel: PositiveInt = 64
    """Held-out samples of each channel, the same ones every time."""
    held_out_share: Share = 0.01
    """Share of the documents of each channel's first part that is held out from training, where it has no
    `validation_path`."""


class LoggingConfig(Section):
    """What is shown, and how often. `metrics.jsonl` always has every step."""

    console_every_steps: PositiveInt = 1
    """Steps between two console lines."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""
    compare_ranks_every_steps: NonNegativeInt = 100
    """Steps between two comparisons of how fast every rank computes and gets its data, a few milliseconds each; slow
    ones are named. 0: never."""


class Config(Section):
    """One complete run."""

    run: RunConfig
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1, strict=False)
    """Phases, in the order in which they are trained."""
    optimizer: OptimizerConfig
    precision: PrecisionConfig = PrecisionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    launch: LaunchConfig = LaunchConfig()
    watch: WatchConfig = WatchConfig()

    @property
    def clean_after_steps_or_default(self) -> int:
        """Steps without an alarm after which a suspect checkpoint is clean."""
        return self.checkpoint.clean_after_steps or self.watch.rollback_margin_steps
