"""Settings for operating a run: `launch` and `watch`. They do not change by themselves what the model learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.config.section import FilePath, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section, Word

SLURM_TIME = r"^([0-9]+|[0-9]+:[0-9]{1,2}(:[0-9]{1,2})?|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2})$"
_Beta = Annotated[float, Field(ge=0, lt=1)]


class LaunchConfig(Section):
    """Slurm resources that `harness launch` requests. They do not change what the model learns."""

    partition: Word | None = None
    """Partition to queue in. Default: the cluster's."""
    account: Word | None = None
    """Account that is charged. Default: the user's."""
    nodes: PositiveInt | None = None
    """Number of nodes, unless `--nodes` overrides it."""
    gpus_per_node: NonNegativeInt = 8
    """GPUs asked for on every node; 0 asks for none and computes on CPUs."""
    workers_per_node: PositiveInt | None = None
    """Ranks on every node. Default: one per GPU, one on a node without."""
    time_limit: Annotated[str, Field(pattern=SLURM_TIME)] = "24:00:00"
    """Longest time of one launch, in Slurm's spelling: `minutes`, `hours:minutes:seconds`,
    `days-hours:minutes:seconds`. The next launch continues the run."""
    signal_lead_s: Annotated[int, Field(ge=1, le=65535)] = 600
    """Seconds before the time limit at which the run is signalled to save and exit. Must exceed the time of a step and
    a save. Slurm may signal up to 60 s earlier."""
    whole_nodes: bool = True
    """Ask for nodes that no other job uses."""
    python: Word | None = None
    """Python interpreter on the nodes (within the container, if one is named). Default: the one of `harness launch`."""
    environment_file: FilePath | None = None
    """Shell file that every job sources first, on the first node: modules to load, NCCL settings."""
    container_image: Word | None = None
    """Image that pyxis/enroot starts on every node: a `.sqsh` file or the name of an image in a registry."""
    container_mounts: tuple[Word, ...] = Field(default=(), strict=False)
    """Mounts of the container besides the run directory and the working directory, as `source:target`."""
    sbatch_flags: tuple[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[ -~]+)?$")], ...] = Field(
        default=(), strict=False
    )
    """Further flags for sbatch, such as `--qos=high`."""
    max_failures_without_progress: PositiveInt = 3
    """Launches in a row that may fail without a newer checkpoint; then the job stops and a person has to look."""
    max_launches_without_progress: PositiveInt = 20
    """Launches in a row without a newer checkpoint, preempted ones among them; then the job stops."""
    watch: bool = True
    """Run `harness watch` beside training, on the first node; it is started again if it dies."""
    check_nodes: bool = True
    """Look at every node before training: devices, versions, clocks, the shared file system, an all-reduce."""
    exclude_bad_nodes: bool = False
    """Nodes that this look finds dead, unfit or slow end the launch, and are excluded when the job is requeued.
    Default: they are named; slow ones train."""


class WatchConfig(Section):
    """Reaction of `harness watch` to spikes, and its alerts. They do not change by themselves what the model learns."""

    action: Literal["alert", "rollback"] = "alert"
    """`alert` reports to people what it would do. `rollback` also returns the run to an earlier checkpoint and skips
    the samples of the spike."""
    persist_steps: PositiveInt = 100
    """An episode that lasts this many steps, and is still off, counts as not healing by itself."""
    persist_z: PositiveFloat = 4.0
    """An episode is still off if the median of its last eight values deviates by more than this many standard
    deviations."""
    rollback_margin_steps: NonNegativeInt = 100
    """The checkpoint to return to is at least this many steps older than the onset."""
    skip_steps: PositiveInt = 200
    """Steps whose samples are skipped at the first rollback of a place; doubled at every further one."""
    most_skip_steps: PositiveInt = 500
    """Never skip the samples of more steps than this at once."""
    skip_lead_steps: NonNegativeInt = 50
    """Number of skipped steps before the onset."""
    max_rollbacks: NonNegativeInt = 3
    """Most rollbacks within `budget_steps`. One more, and the run stops with exit code 76 for a person."""
    budget_steps: PositiveInt = 10_000
    """See `max_rollbacks`."""
    cool_down_steps: NonNegativeInt = 50
    """Steps after a rollback without a second one, unless the run goes wrong right after the first."""
    verify_steps: NonNegativeInt = 20
    """Steps after a resume that are watched closely: a rise that is seen twice is enough to return to an earlier
    checkpoint."""
    same_place_steps: NonNegativeInt = 300
    """Onsets closer than this are the same place."""
    repeat_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor of the learning rate when a place without dirty documents comes again; 1 leaves it."""
    repeat_adam_betas: tuple[_Beta, _Beta] | None = Field(default=None, strict=False)
    """Betas of Adam when such a place comes again, [0.9, 0.9] for instance. Default: as they are."""
    repeat_for_steps: PositiveInt = 500
    """Steps after such a rollback for which the factor and betas hold."""
    answer_within_s: NonNegativeFloat = 120.0
    """With `action: rollback` and a running watcher, a run whose loss is not finite waits this many seconds for the
    order to roll back before it stops with exit code 76."""
    poll_s: PositiveFloat = 2.0
    """Seconds between two looks at `metrics.jsonl`."""
    stalled_after_s: PositiveFloat = 900.0
    """Alert, with the ranks that lag, if a launch is alive but has recorded nothing for this many seconds."""
    kill_hung_after_s: PositiveFloat | None = None
    """Collect stacks and kill the launch, so that it is requeued, if no rank made progress for this many seconds (four
    times as many while one starts, loads, evaluates or saves). Default: alert only."""
    least_free_gib: NonNegativeFloat = 50.0
    """Alert if the file system of the run has less room than this; 0 turns it off."""
    alert_command: tuple[str, ...] = Field(default=(), strict=False)
    """Program and arguments that get every alert as a line of JSON on standard input. No shell reads them."""
    alert_urls_file: FilePath | None = None
    """File with one address of apprise (`mailto://…`, `slack://…`) or webhook of Feishu or DingTalk per line. They hold
    secrets, so they stand in no configuration; the environment variable HARNESS_ALERT_URLS is read too."""
    alert_every_s: NonNegativeFloat = 600.0
    """Send at most one alert of a kind in this many seconds. The next one counts those left out, and
    `watch/alerts.jsonl` has all."""
