"""The schema of a run's YAML: every section and field, with unit, default and meaning.

Frozen and strict: text is not a number, and an unknown key is an error. A field for a concept of Megatron has
Megatron's spelling. What *follows* from a configuration (steps, stages, memory) is in `harness.plan`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.config.model import ModelConfig
from harness.config.operation import LaunchConfig, WatchConfig
from harness.config.parallel import ParallelConfig
from harness.config.phase_sections import BatchRampUpConfig, PhaseEvaluationConfig, PhaseOptimizerConfig
from harness.config.rope_scaling import RopeScalingConfig
from harness.config.section import (
    FilePath,
    HeldOutSamples,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    Samples,
    SampleTokens,
    Seconds,
    Section,
    Share,
    SkipWindow,
    Steps,
    StepsOrNone,
    Tokens,
)
from harness.limits import (
    LEAST_DECAY,
    MOST_BATCHES_AHEAD,
    MOST_EPOCHS,
    MOST_NS_STEPS,
    MOST_PARTS,
    MOST_PHASES,
    MOST_SEED,
    MOST_SNAPSHOTS,
    MOST_TEXT,
)
from harness.parameters.optimizers import KINDS, OptimizerKind


class RunConfig(Section):
    """The run as a whole."""

    name: Name
    """Name of the run; its directory is `runs/<name>` unless `--run-dir` gives another."""
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 1234
    """Seed of the initial weights and of the order of the data. Two runs with equal seeds see equal samples."""
    stop_at_step: Steps | None = None
    """Leave after this step with exit code 0; the schedule still aims at the end of the last phase. Default: no
    stop."""


class ChannelConfig(Section):
    """A named source of documents. Each channel has a loss of its own."""

    path: FilePath
    """A folder with `parts.jsonl`, or the prefix of one `.bin/.idx` pair made by Megatron-LM or datatrove."""
    validation_path: FilePath | None = None
    """Held-out documents in the same form as `path`. Default: a share of the first part
    (`evaluation.held_out_share`)."""
    when_low: Literal["repeat", "wait", "share"] = "repeat"
    """Action when all parts were passed through `max_epochs` times. `wait`: the run waits for further parts, with an
    alert. `share`: the other channels take over its share of the blend until further parts come. `repeat`: the same as
    `share` if `max_epochs` is given; without it the channel begins again, as often as needed."""
    max_epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] | None = None
    """Largest number of passes through the channel. Default: 1; with `repeat`, as many as the phases need."""
    order: Literal["shuffled", "window", "as_written"] = "shuffled"
    """`shuffled`: one part after the other, with the documents and the samples of each part shuffled. `window`: the
    samples of `window_parts` parts are mixed too. `as_written`: the order of the files (a curriculum, or an order by
    score)."""
    window_parts: Annotated[int, Field(ge=1, le=MOST_PARTS)] = 8
    """`window` only: number of parts whose samples are mixed. Their indices are all in memory."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate`: documents end to end, cut anywhere. `best_fit`: documents stay whole wherever they fit into a
    sample, and samples are padded. `best_fit` reads the index of every part at the start, so it is for channels of few
    parts."""
    epoch_decay: Annotated[float, Field(ge=LEAST_DECAY, le=1)] = 1.0
    """Factor of the channel's weight in the blend for each epoch after the first."""


class DataConfig(Section):
    """The data: tokenizer, channels, and the way they are read."""

    tokenizer: FilePath | None = None
    """Tokenizer that made the data: a SentencePiece `.model`, a `tokenizer.json` or a `.tiktoken` file. Its hash and
    its size are checked, and a copy is kept with the run. Default: nothing is checked."""
    channels: dict[Name, ChannelConfig] = Field(min_length=1)
    """The channels, each under a name that you choose."""
    reset_at_document_borders: bool = False
    """Let tokens attend only within their own document."""
    eod_mask_loss: bool | None = None
    """Leave out of the loss what is predicted from the last token of a document: the first token of the next one.
    Default: as `reset_at_document_borders`, with which nothing foretells that token but the border."""
    skip_windows: tuple[SkipWindow, ...] = Field(default=(), strict=False)
    """Positions [start, stop) in the run's order of samples that are never trained on. A rollback adds its own."""
    adopt_parts: bool = True
    """Use parts that are added to a channel's `parts.jsonl` while the run trains, behind the parts there are. A channel
    of more than 1,000 parts takes them a thousandth at a time, or after ten minutes, unless training waits for them."""
    adopt_every_s: Seconds = 5.0
    """Time between two looks at the lists of parts."""
    damaged_parts: Literal["refuse", "alert", "ignore"] = "refuse"
    """Action when a part is not what its line in `parts.jsonl` says; a thread reads each part whole before its turn
    comes. `refuse`: training waits for that, and the run ends (65) before the first sample of a damaged part. `alert`:
    training does not wait, people are told, and it goes on. `ignore`: parts are not read for this."""
    num_prefetch_batches: Annotated[int, Field(ge=1, le=MOST_BATCHES_AHEAD)] = 2
    """Batches prepared ahead of the step that uses them."""


class ScheduleConfig(Section):
    """The learning rate over a phase, as a share of the peak."""

    style: Literal["cosine", "linear", "constant", "wsd", "inverse_square_root"] = "cosine"
    """Shape after the warm-up. `wsd` is constant until the last `decay_share` of the phase."""
    warmup_steps: StepsOrNone = 0
    """Length of the linear rise from 0 to the peak."""
    continues: bool = False
    """Begin at the last learning rate of the phase before: the warm-up leads from it to the peak, or it is the peak."""
    min_learning_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the last step of the decay, as a share of the peak; with 0 that step changes no weight."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """`wsd` only: share of the phase's steps that the final decay takes."""
    decay_style: Literal["linear", "cosine", "one_minus_sqrt"] = "one_minus_sqrt"
    """`wsd` only: shape of the final decay."""
    changed_after_step: StepsOrNone | None = None
    """Confirms that the phase was changed on purpose after it had begun: checkpoints up to this step of the run were
    trained with another schedule, and the learning rate may jump behind them. A start that needs it says so. Default:
    phases that have begun stay as they are."""


class PhaseConfig(Section):
    """A stretch of the run with one blend, sequence length and schedule; give `train_tokens` or `train_steps`."""

    name: Name
    """Name of the phase, as it appears in metrics and events."""
    train_tokens: Tokens | None = None
    """Length in tokens, rounded up to whole steps. Give this or `train_steps`."""
    train_steps: Steps | None = None
    """Length in steps. Give this or `train_tokens`."""
    seq_length: SampleTokens
    """Tokens in one sample."""
    global_batch_size: Samples
    """Samples in one step, over all ranks."""
    batch_ramp_up: BatchRampUpConfig | None = None
    """Smaller batches at the beginning of the phase. Default: none."""
    blend: dict[Name, PositiveFloat] = Field(min_length=1)
    """Weight of each channel that the phase uses. The weights need not add up to 1. `harness data mix --run` computes
    them by temperature or by UniMax."""
    max_epochs: Annotated[float, Field(gt=0, le=MOST_EPOCHS)] | None = None
    """Most passes through any channel of the blend by the end of this phase, those of earlier phases among them. A
    phase that wants more of the parts that are there is refused (64) before anything starts, unless the channel waits
    for parts or its own `max_epochs` keeps it below. Default: no limit, and a warning beyond 4 passes."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over the phase."""
    rotary_base: PositiveFloat | None = None
    """Base of the rotary position embedding in this phase. Default: the model's."""
    rope_scaling: RopeScalingConfig | None = None
    """Scaling of the rotary frequencies in this phase. Default: the model's."""
    optimizer: PhaseOptimizerConfig = PhaseOptimizerConfig()
    """Settings of the optimizer that differ from the run's."""
    frozen_parameters: tuple[Annotated[str, Field(min_length=1, max_length=MOST_TEXT)], ...] = Field(
        default=(), strict=False
    )
    """Parameters that are not trained in this phase, by name or pattern: `embedding.*`, `decoder.layers.[0-3].*`."""
    evaluation: PhaseEvaluationConfig = PhaseEvaluationConfig()
    """Settings of the evaluation that differ from the run's."""
    parallel: ParallelConfig | None = None
    """Layout of this phase. It is a whole section: a key that it leaves out has its default, not the run's value.
    Default: the run's layout. Where more than `micro_batch_size` differs from the phase before, the run stops at the
    border with 75, and the launcher goes on in the other layout."""


MuonScale = Literal["spectral", "shape_scaling", "unit_rms_norm"]


class OptimizerConfig(Section):
    """The optimizer, sharded over data-parallel ranks: AdamW, or Muon with AdamW for all but hidden matrices."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon`: matrices of attention, MLP, experts and routers are updated by Muon, each projection on its own (queries,
    keys, values, gate, up); embedding, output layer, norms and biases by AdamW. `adamw`: all by AdamW."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay; not applied to biases and norms."""
    adam_beta1: Share = 0.9
    """Decay of the first moment."""
    adam_beta2: Share = 0.95
    """Decay of the second moment."""
    adam_eps: PositiveFloat = 1e-8
    """Constant added to the denominator."""
    clip_grad: NonNegativeFloat = 1.0
    """Largest L2 norm of the whole gradient; 0 turns clipping off."""
    muon_momentum: Share = 0.95
    """`muon` only: decay of the average of the gradients."""
    muon_nesterov: bool = True
    """`muon` only: Nesterov's momentum."""
    muon_num_ns_steps: Annotated[int, Field(ge=1, le=MOST_NS_STEPS)] = 5
    """`muon` only: steps of the Newton-Schulz iteration that makes the average orthogonal."""
    muon_fp32_matmul_prec: Literal["medium", "highest"] | None = None
    """`muon` only: format of that iteration. `medium`: bf16, as `torch.optim.Muon` has it. `highest`: fp32. Default:
    that of `precision.dtype`."""
    muon_split_qkv: bool = True
    """`muon` only: make queries, keys and values orthogonal each on their own; `false`: all in one matrix."""
    muon_scale_mode: MuonScale = "spectral"
    """`muon` only: factor of the update of a projection of r rows (outputs) and c columns (inputs). `spectral`: the
    root of the larger of r and c, so that updates of all shapes are alike. `shape_scaling`: the root of r / c, at least
    1. `unit_rms_norm`: the root of r / c."""
    muon_extra_scale_factor: PositiveFloat = 0.2
    """`muon` only: a further factor of the update. With `spectral`, 0.2 makes updates as large as those of AdamW are,
    so that learning rate and weight decay are AdamW's (`match_rms_adamw` of `torch.optim.Muon`)."""

    @property
    def traits(self) -> OptimizerKind:
        """Traits of its kind: which state it keeps."""
        return KINDS[self.kind]


class PrecisionConfig(Section):
    """Number formats. Master weights, gradients and moments are fp32 with both."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """Format of weights and activations in the forward and backward pass."""
    fp8: Literal["hybrid"] | None = None
    """`hybrid`: the matrix products of the layers in fp8, e4m3 forward and e5m2 for gradients. Needs Transformer Engine
    and a GPU of Hopper's generation or newer; elsewhere Megatron would silently compute in bf16, so it is refused.
    Default: all products in `dtype`."""
    fp8_recipe: Literal["tensorwise", "blockwise", "mxfp8"] = "tensorwise"
    """Scaling of fp8 numbers: each tensor by its largest number, in blocks (Hopper), or in the blocks of MXFP8
    (Blackwell). Megatron's `delayed` is not offered: its history is not in a checkpoint, so a run would not resume
    faithfully."""


class CheckpointConfig(Section):
    """Saving: when, in which way, and what is kept."""

    save_every_steps: Steps | None = None
    """Save after each step that is a multiple of this. Default: save at the end, at borders of phases and on commands
    only."""
    keep_last: Steps | None = None
    """After a save keep this many of the newest checkpoints and remove the others. Pinned checkpoints, the newest clean
    one, and those that the last 8 pieces of evidence need are never removed. Default: all stay."""
    keep_every_steps: Steps | None = None
    """With `keep_last`: keep every checkpoint whose step is a multiple of this."""
    async_save: bool = False
    """Write checkpoints beside training, which then waits for no disk. A GPU copies the state into the host's memory
    beside the next step, so each node needs room for it. Training still waits for saves on commands, at exits and in
    rollbacks."""
    snapshot_every_steps: Steps | None = None
    """Keep the state in the memory of the host after each step that is a multiple of this, each rank its own share. A
    rollback to the checkpoint of such a step then reads no file. Make `save_every_steps` a multiple of it."""
    snapshots_kept: Annotated[int, Field(ge=1, le=MOST_SNAPSHOTS)] = 2
    """Number of snapshots that are kept, the newest ones. Each takes the memory of weights and optimizer state: on a
    node that is the figure of `harness plan`, times this number."""
    snapshot_folder: FilePath | None = None
    """Also write the snapshots into this folder of each node: a local disk, or `/dev/shm` (room for one more). A start
    on the same nodes, in the same layout and with the same configuration, goes on from the newest that all ranks have;
    any other start from the checkpoint. Default: snapshots are not written."""
    signature_key_file: FilePath | None = None
    """File with a secret (`(umask 077; head -c 32 /dev/urandom > FILE)`) that signs every checkpoint; others are not
    loaded. It is for storage that others can write to. Default: checkpoints are not signed."""
    save_as_suspect: bool = True
    """Save checkpoints as suspect until they have proved good: a start goes on from them, but the watcher does not roll
    back to them. With `false` they are clean until something is seen."""
    clean_after_steps: Steps | None = None
    """Steps without an alarm nearby after which a suspect checkpoint becomes clean. One that the watcher marked becomes
    clean again when the alarm has gone by itself and this many steps were quiet. Default:
    `watch.rollback_margin_steps`."""


class EvaluationConfig(Section):
    """Held-out loss of every channel."""

    every_steps: Steps | None = None
    """Evaluate after each step that is a multiple of this, and at the end. Default: never."""
    measure_forgetting: bool | None = None
    """Evaluate all channels of `data.channels` in every phase, also those that it does not train on: before the first
    step, at the end of each phase, and where `every_steps` says. The end of a phase then tells which channels became
    worse. Default: true in a run that begins with other weights (converted or averaged), else false."""
    num_samples_per_channel: HeldOutSamples = 64
    """Held-out samples of each channel. They are the same ones every time."""
    loss_by_position: bool = False
    """Also record the held-out loss of each channel by position in the sample, or in the document where those are kept
    apart: whether late tokens gain from the ones before."""
    num_needles_per_depth: HeldOutSamples | None = None
    """Also put needles into held-out text, this many at each of ten depths, and record whether the model finds them
    again at the end of the sample: how far back it remembers. Default: none."""
    held_out_share: Share = 0.01
    """Share of the tokens of each channel's first part that is held out, in whole documents at its end, unless it has a
    `validation_path`. A run that evaluates nothing holds nothing out. What is held out is settled when a run begins:
    one that began without evaluation needs a `validation_path` to evaluate later."""


class LoggingConfig(Section):
    """Output of the run. `metrics.jsonl` always has every step."""

    console_every_steps: Steps = 1
    """Steps between two console lines."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""
    compare_ranks_every_steps: StepsOrNone = 100
    """Steps between two comparisons of the ranks' speed at computing and at getting data. A comparison takes a few
    milliseconds and names slow ranks. 0: never."""


class Config(Section):
    """One complete run."""

    run: RunConfig
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1, max_length=MOST_PHASES, strict=False)
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
