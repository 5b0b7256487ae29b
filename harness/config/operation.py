"""Settings for operating a run: `launch` and `watch`. They do not change by themselves what the model learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.config.quiet_hours import checked_quiet_hours
from harness.config.section import FilePath, Interval, PositiveFloat, Seconds, Section, Steps, StepsOrNone, Word
from harness.limits import MOST_ARGUMENT, MOST_ENTRIES, MOST_GIB, MOST_LAUNCHES, MOST_NODES, MOST_ON_A_NODE, MOST_TEXT

SLURM_TIME = r"^([0-9]{1,8}|[0-9]{1,8}:[0-9]{1,2}(:[0-9]{1,2})?|[0-9]{1,8}-[0-9]{1,2}(:[0-9]{1,2}){0,2})$"
"""A time as Slurm spells it; eight digits of minutes are two centuries."""
SBATCH_FLAG = r"^--[a-z][a-z-]*(=[ -~]+)?$"
_Launches = Annotated[int, Field(ge=1, le=MOST_LAUNCHES)]
_QuietHours = Annotated[str, Field(max_length=MOST_TEXT), AfterValidator(checked_quiet_hours)]
_Beta = Annotated[float, Field(ge=0, lt=1)]


class LaunchConfig(Section):
    """The job that `harness launch` asks Slurm for. Nothing here changes what is learnt."""

    partition: Word | None = None
    """Partition to queue in. Default: the cluster's."""
    account: Word | None = None
    """Account that is charged. Default: the user's."""
    nodes: Annotated[int, Field(ge=1, le=MOST_NODES)] | None = None
    """Number of nodes. `--nodes` overrides it; one of the two is required for `harness launch`."""
    gpus_per_node: Annotated[int, Field(ge=0, le=MOST_ON_A_NODE)] = 8
    """GPUs to ask for on every node. 0 asks for none, and the run computes on CPUs. A cluster that wants another
    request than `--gpus-per-node=8` gets it by `sbatch_flags`."""
    workers_per_node: Annotated[int, Field(ge=1, le=MOST_ON_A_NODE)] | None = None
    """Ranks on every node. Default: one for each GPU, one on a node without GPUs."""
    time_limit: Annotated[str, Field(pattern=SLURM_TIME)] = "24:00:00"
    """Longest time of one launch, in Slurm's spelling: `minutes`, `hours:minutes:seconds`,
    `days-hours:minutes:seconds`. The next launch continues the run."""
    signal_lead_s: Annotated[int, Field(ge=1, le=65535)] = 600
    """Time before the time limit at which the run is told to save and leave. It must be longer than a step and a save.
    Slurm may send the signal up to 60 s earlier."""
    whole_nodes: bool = True
    """Ask for nodes that no other job uses."""
    python: Word | None = None
    """Python interpreter on the nodes (within the container, if one is named). Default: the one of `harness launch`."""
    environment_file: FilePath | None = None
    """Shell file that every job sources first, on the first node: modules to load, NCCL settings. Default: none."""
    container_image: Word | None = None
    """Image that pyxis/enroot starts on every node: a `.sqsh` file, or the name of an image in a registry. Default: no
    container."""
    container_mounts: tuple[Word, ...] = Field(default=(), strict=False, max_length=MOST_ENTRIES)
    """Mounts of the container besides the run directory and the working directory, as `source:target`."""
    sbatch_flags: tuple[Annotated[str, Field(pattern=SBATCH_FLAG, max_length=MOST_TEXT)], ...] = Field(
        default=(), strict=False, max_length=MOST_ENTRIES
    )
    """Further flags for sbatch, such as `--qos=high`. A request for GPUs among them (`--gres=gpu:a100:8`,
    `--gpus-per-node=a100:8`, `--gpus`, `--gpus-per-task`, `--gpus-per-socket`) takes the place of harness's own; its
    number must agree with `gpus_per_node`."""
    max_failures_without_progress: _Launches = 3
    """Launches in a row that may fail without a newer checkpoint. Then the job stops, and a person has to look."""
    max_launches_without_progress: _Launches = 20
    """Launches in a row that may end without a newer checkpoint, preempted ones included. Then the job stops."""
    keep_logs: _Launches = 50
    """Number of launches whose logs, stacks and dumps are kept, the newest ones. A launch leaves a few files a node; of
    older ones the configuration, the start, the end and its reason are kept."""
    watch: bool = True
    """Run `harness watch` beside training, on the first node. It is started again if it dies."""
    check_nodes: bool = True
    """Check every node before training: devices, versions, clocks, the shared file system, an all-reduce."""
    exclude_bad_nodes: bool = False
    """End the launch when the check finds nodes that do not answer, are unfit or are slow, and exclude them when the
    job is requeued. With `false` nodes that do not answer or are unfit end the launch too, but are not excluded; slow
    ones are named and train."""


class WatchConfig(Section):
    """Spikes: what `harness watch` does about them, and whom it tells."""

    action: Literal["alert", "rollback"] = "alert"
    """`alert` tells people what the watcher would do. `rollback` also returns the run to an earlier checkpoint and
    skips the samples that caused the spike."""
    persist_steps: Steps = 100
    """An episode that is still open, and still off, this many steps after its start does not heal by itself."""
    persist_z: PositiveFloat = 4.0
    """An episode is still off while the median of its last eight values lies beyond this many standard deviations."""
    rollback_margin_steps: StepsOrNone = 100
    """The checkpoint to return to is at least this many steps older than the onset of the spike."""
    skip_steps: Steps = 200
    """Steps whose samples are skipped at the first rollback of a place. Each further rollback of the same place skips
    twice as many."""
    most_skip_steps: Steps = 500
    """Largest number of steps whose samples are skipped at once."""
    skip_lead_steps: StepsOrNone = 50
    """Part of the skipped steps that lies before the onset."""
    max_rollbacks: Annotated[int, Field(ge=0, le=MOST_LAUNCHES)] = 3
    """Largest number of rollbacks within `budget_steps`. When a further one is needed, the run leaves with exit code
    76, for a person."""
    budget_steps: Steps = 10_000
    """Steps over which `max_rollbacks` counts."""
    cool_down_steps: StepsOrNone = 50
    """Steps after a rollback in which no second one is made, unless the run went wrong right after a resume or its loss
    is not finite."""
    verify_steps: StepsOrNone = 20
    """Steps after a resume that are watched closely. A rise seen twice in them is reason enough to go back further."""
    same_place_steps: StepsOrNone = 300
    """Onsets that are no further apart than this are the same place."""
    repeat_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor of the learning rate when a place without dirty documents comes again; 1 leaves the rate as it is."""
    repeat_adam_betas: tuple[_Beta, _Beta] | None = Field(default=None, strict=False)
    """Betas of Adam when a place without dirty documents comes again, for instance `[0.9, 0.9]`. Default: unchanged."""
    repeat_for_steps: Steps = 500
    """Steps for which the factor and the betas hold after such a rollback."""
    answer_within_s: Seconds = 120.0
    """With `action: rollback` and a watcher beside the run: time that a run whose loss is not finite waits for the
    command to roll back. After that it leaves with exit code 76."""
    poll_s: Interval = 2.0
    """Time between two looks at `metrics.jsonl`."""
    stalled_after_s: Interval = 900.0
    """Time without a new record, while somebody trains, after which people are told, with the ranks that are behind."""
    kill_hung_after_s: Interval | None = None
    """Time after which a launch counts as hung if no rank has made progress: stacks are collected, and the launch is
    killed, to be requeued. It is four times as long while a rank starts, loads, evaluates or saves. Default: people are
    told, and nothing is killed."""
    least_free_gib: Annotated[float, Field(ge=0, le=MOST_GIB)] = 50.0
    """Free space on the run's file system below which people are told; 0 never tells."""
    alert_command: tuple[Annotated[str, Field(max_length=MOST_ARGUMENT)], ...] = Field(
        default=(), strict=False, max_length=MOST_ENTRIES
    )
    """Program and arguments that get every alert as a line of JSON on standard input. They are not passed through a
    shell. Default: none."""
    alert_urls_file: FilePath | None = None
    """File with one address per line: of apprise (`mailto://…`, `slack://…`), `pagerduty://ROUTING_KEY`, or a webhook
    of Feishu or DingTalk. Before an address may stand the least severity that goes there (`info`, `warning`, `page`),
    or `escalation` for pages that nobody has acknowledged. Addresses hold secrets, so no configuration contains them.
    The environment variable HARNESS_ALERT_URLS is read too."""
    alert_every_s: Seconds = 600.0
    """Time in which at most one alert of a kind is sent, apart from pages. The others are counted in the next one, and
    all are in `watch/alerts.jsonl`."""
    escalate_after_s: Seconds | None = 1800.0
    """Time after which a page that nobody has acknowledged (`harness alerts RUN --acknowledge KEY`) is sent again,
    once, also to the addresses for escalation. `null` never sends it again."""
    quiet_hours: _QuietHours | None = None
    """Hours in which only pages are sent and the rest waits, such as `22:00-07:00` in the time zone of the machine, or
    `22:00-07:00 Asia/Shanghai`. Default: none."""
