"""The pages of docs/reference: made from the code, complete, and compared with what is committed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

import harness.errors
from docs.generate.__main__ import PAGES, REFERENCE, main
from docs.generate.configuration import configuration_page
from docs.generate.docstrings import UndocumentedError, constants_of
from docs.generate.events import events_page
from docs.generate.exit_codes import exit_codes_page
from docs.generate.kinds import default_of, kind_of, unit_of
from docs.generate.metrics import metrics_page
from harness.config.load import load_config
from harness.config.schema import Config
from harness.config.section import Section
from harness.run import metric_names

ROOT = Path(__file__).parents[2]


class Strict(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Window(Strict):
    """A window of samples."""

    start: int
    """First sample."""


class Timed(Strict):
    """An event."""

    time: float
    """Seconds since 1970."""
    kind: str


class AtStep(Timed):
    """An event at a step."""

    step: int
    """Step of the run."""


class Saved(AtStep):
    """A checkpoint was published."""

    kind: Literal["saved"] = "saved"
    wait_s: float | None = None
    """Time that training waited."""


class Left(AtStep):
    """The trainer left."""

    kind: Literal["left", "killed"]


class RolledBack(Timed):
    """The run returned to a checkpoint."""

    kind: Literal["rolled-back"] = "rolled-back"
    skipped: Window
    """Samples that are not trained on."""
    command: str = Field(default="", alias="order")
    """Name of the command."""


Event = Annotated[Saved | Left | RolledBack, Field(discriminator="kind")]


def test_pages_are_those_of_the_code() -> None:
    assert main(["--check"]) == 0


def test_a_page_that_differs_fails_with_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)
    page = tmp_path / "metrics.md"
    assert page.read_text() == (REFERENCE / "metrics.md").read_text()
    page.write_text(page.read_text().replace("in nats", "in bits", 1))
    assert main(["--check"], tmp_path) == 1
    shown = capsys.readouterr()
    assert "+- **`train/lm_loss`**: Mean next-token cross-entropy of the step over all channels, in nats." in shown.out
    assert "Run `python -m docs.generate` and commit the result." in shown.err


def test_a_missing_page_fails(tmp_path: Path) -> None:
    assert main(["--check"], tmp_path) == 1


def test_configuration_page_has_every_key_once_in_its_section() -> None:
    page = configuration_page(Config)
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    for place, name in (("`run`", "seed"), ("`data.channels.NAME`", "when_low"), ("`phases[].schedule`", "style")):
        assert sections[place].count(f"- **`{name}`**") == 1
    assert page.count("- **`micro_batch_size`**") == 1  # of `parallel`, wherever it stands
    assert "`parallel`, `phases[].parallel`" in sections
    headings = {place.strip("`") for heading in sections for place in heading.split(", ")}
    example = load_config(ROOT / "model_configs/tiny_phases.yaml").model_dump()
    assert headings >= {name for name, value in example.items() if isinstance(value, dict)}


def test_links_lead_to_headings() -> None:
    page = configuration_page(Config)
    anchors = {
        "".join(letter for letter in line[3:].replace(" ", "-").lower() if letter.isalnum() or letter in "-_")
        for line in page.splitlines()
        if line.startswith("## ")
    }
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links
    assert links <= anchors


@pytest.mark.parametrize(
    ("section", "key", "facts"),
    [
        ("ModelConfig", "num_layers", ("integer, at least 1 and at most 2048", "required")),
        (
            "ModelConfig",
            "activation",
            (
                "one of `swiglu`, `geglu`, `geglu_tanh`, `clamped_swiglu`, `gelu`, `gelu_tanh`, `squared_relu`",
                "default `swiglu`",
            ),
        ),
        ("ChannelConfig", "epoch_decay", ("number, at least 1e-06 and at most 1", "default `1.0`")),
        ("EvaluationConfig", "held_out_share", ("number, at least 0 and below 1", "default `0.01`")),
        ("CheckpointConfig", "async_save", ("`true` or `false`", "default `false`")),
        ("CheckpointConfig", "snapshot_folder", ("path", "optional")),
        (
            "DataConfig",
            "skip_windows",
            ("list of lists of 2 integers, at least 0 and at most 9,007,199,254,740,992", "default `[]`"),
        ),
        ("DataConfig", "channels", ("mapping of names to sections", "required")),
        ("PhaseConfig", "blend", ("mapping of names to numbers, at least 1e-30 and at most 1e+30", "required")),
        ("WatchConfig", "repeat_adam_betas", ("list of 2 numbers, at least 0 and below 1", "optional")),
        ("LaunchConfig", "signal_lead_s", ("integer, at least 1 and at most 65,535", "default `600`")),
    ],
)
def test_types_defaults_and_limits_in_words(section: str, key: str, facts: tuple[str, str]) -> None:
    schema = Config.model_json_schema()["$defs"][section]
    value = schema["properties"][key]
    assert (kind_of(value), default_of(value, key in schema.get("required", ()))) == facts


@pytest.mark.parametrize(
    ("name", "unit"),
    [("poll_s", "seconds"), ("compute_ms", "milliseconds"), ("least_free_gib", "GiB"), ("skip_steps", "steps")]
    + [("train_tokens", "tokens"), ("seed", None), ("num_layers", None)],
)
def test_unit_follows_from_the_name(name: str, unit: str | None) -> None:
    assert unit_of(name) == unit


def test_a_key_without_docstring_is_refused() -> None:
    class Inner(Section):
        """A section."""

        silent: int = 1

    class Outer(Section):
        """All."""

        inner: Inner

    with pytest.raises(UndocumentedError, match=r"inner\.silent has no docstring"):
        configuration_page(Outer)


def test_metrics_page_has_every_name_of_the_module() -> None:
    page = metrics_page(metric_names)
    constants = [getattr(metric_names, name) for name in constants_of(metric_names)]
    per_channel = [metric_names.lm_loss_of, metric_names.tokens_of, metric_names.epochs_of]
    per_channel += [metric_names.valid_lm_loss_of, metric_names.valid_bits_per_byte_of]
    for name in [*constants, *(function("CHANNEL") for function in per_channel)]:
        assert page.count(f"- **`{name}`**") == 1


def test_a_constant_without_docstring_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent_names.py").write_text('LOUD = "a"\n"""Told."""\nSILENT = "b"\nOTHER = "c"\n"""Told."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    import silent_names  # type: ignore[import-not-found]

    assert isinstance(silent_names, ModuleType)
    with pytest.raises(UndocumentedError, match=r"silent_names\.SILENT has no docstring"):
        constants_of(silent_names)


def test_exit_codes_page_has_every_code_and_its_errors() -> None:
    page = exit_codes_page(harness.errors)
    sections = {int(part.split(":")[0]): part for part in page.split("\n## ")[1:]}
    assert list(sections) == [0, 64, 65, 70, 75, 76, 77]
    assert "`RunInUseError`" in sections[64]
    assert "`DataError`" in sections[65]
    assert "`SaveFailedError`" in sections[70]
    assert "`HarnessError`" not in page


def test_events_page_of_a_union() -> None:
    assert events_page(Event, "# Events\n", (Timed, AtStep)) == (
        "# Events\n\n"
        "## Fields that events share\n\n"
        "- **`time`**: number; required. Seconds since 1970.\n"
        "- **`step`**: integer; required. Step of the run.\n\n"
        "## `left`, `killed`\n\nThe trainer left.\n\n"
        "## `rolled-back`\n\nThe run returned to a checkpoint. It has no `step`.\n\n"
        "- **`skipped`**: section; required. Samples that are not trained on.\n"
        "  - **`start`**: integer; required. First sample.\n"
        "- **`order`**: text; optional. Name of the command.\n\n"
        "## `saved`\n\nA checkpoint was published.\n\n"
        "- **`wait_s`**: number; optional; in seconds. Time that training waited.\n"
    )


def test_events_page_without_shared_fields_has_all_fields_at_each_kind() -> None:
    page = events_page(Event, "# Events\n")
    assert page.count("- **`time`**") == 3
    assert "share" not in page


def test_an_event_without_docstring_is_refused() -> None:
    class Silent(BaseModel):
        kind: Literal["silent"] = "silent"

    with pytest.raises(UndocumentedError, match="Silent has no docstring"):
        events_page(Annotated[Saved | Silent, Field(discriminator="kind")], "# Events\n")
