"""Every number of a configuration, set to what nobody means: a plan or one clear error, at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli
from harness.config.schema import Config
from harness.errors import EXIT_USAGE

ABSURD = (
    *("0", "-1", "1", "2147483648", str(2**53), str(2**62), str(10**30), str(10**400)),
    *("1e308", "-0.0", "nan", ".nan", "inf", ".inf", "-.inf", "1e-320", "1e999"),
)
ENOUGH_S = 5.0
"""A plan takes a tenth of a second; a loop over one of these numbers takes minutes."""

Schema = dict[str, Any]
SCHEMA: Schema = Config.model_json_schema()


def whole_run(folder: Path) -> Path:
    """A configuration in which every section stands, so that every key of the schema can be set."""
    config = {
        "run": {"name": "small"},
        "model": {
            **{"num_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "num_query_groups": 4},
            **{"ffn_hidden_size": 128, "vocab_size": 1000},
            "rope_scaling": {"type": "llama3", "factor": 2.0},
        },
        "parallel": {},
        "data": {"channels": {"zh": {"path": "data/zh"}, "en": {"path": "data/en"}}, "skip_windows": [[3, 7]]},
        "phases": [phase("one"), phase("two") | {"parallel": {}}],
        "optimizer": {"learning_rate": 3e-4},
    }
    path = folder / "whole.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def phase(name: str) -> dict[str, Any]:
    return {
        **{"name": name, "train_steps": 100, "seq_length": 32, "global_batch_size": 8, "blend": {"zh": 2, "en": 1}},
        "batch_ramp_up": {"start": 4, "increment": 2, "ramp_up_samples": 100},
        "rope_scaling": {"type": "llama3", "factor": 2.0},
    }


def number_keys() -> list[str]:
    """Every key of the schema that takes a number, as `--set` names it."""

    def under(value: Schema, place: str) -> Iterator[str]:
        if "$ref" in value:
            section = SCHEMA["$defs"][value["$ref"].rpartition("/")[2]]
            for key, inner in section["properties"].items():
                yield from under(inner, f"{place}.{key}".lstrip("."))
        for option in value.get("anyOf", ()):
            yield from under(option, place)
        for inner in value.get("patternProperties", {}).values():
            yield from under(inner, f"{place}.zh")
        if isinstance(items := value.get("items"), dict):
            yield from under(items, f"{place}.0")
        for number, inner in enumerate(value.get("prefixItems", ())):
            yield from under(inner, f"{place}.{number}")
        if value.get("type") in ("integer", "number"):
            yield place

    keys = (key for name, value in SCHEMA["properties"].items() for key in under(value, name))
    return sorted(set(keys) - {"watch.repeat_adam_betas.0", "watch.repeat_adam_betas.1"})


KEYS = number_keys()


def plan(path: Path, capsys: pytest.CaptureFixture[str], *values: str) -> tuple[int, str]:
    """The exit code and the last line of the errors; asserts that it was one of two, and soon."""
    began = time.process_time()
    code = cli.run(["plan", str(path), *(word for value in values for word in ("--set", value))])
    seconds = time.process_time() - began
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err, (values, shown.err)
    assert code in (0, EXIT_USAGE), (values, code, shown.err)
    assert seconds < ENOUGH_S, (values, seconds)
    assert len(shown.out) + len(shown.err) < 200_000, values
    return code, shown.err


def test_every_number_of_the_schema_is_found() -> None:
    assert {"run.seed", "model.num_layers", "phases.0.batch_ramp_up.increment", "data.skip_windows.0.1"} < set(KEYS)
    assert {"phases.0.blend.zh", "data.channels.zh.max_epochs", "phases.0.parallel.data_parallel_size"} < set(KEYS)
    assert len(KEYS) > 90


def test_every_number_of_the_schema_has_bounds() -> None:
    def unbounded(value: Any, place: str) -> Iterator[str]:  # noqa: ANN401 (JSON)
        if isinstance(value, list):
            for number, inner in enumerate(value):
                yield from unbounded(inner, f"{place}[{number}]")
        if not isinstance(value, dict):
            return
        has_ends = bool(value.keys() & {"minimum", "exclusiveMinimum"}) and bool(
            value.keys() & {"maximum", "exclusiveMaximum"}
        )
        if value.get("type") in ("integer", "number") and not has_ends:
            yield place
        for key, inner in value.items():
            yield from unbounded(inner, f"{place}.{key}")

    assert list(unbounded(SCHEMA, "")) == []


@pytest.mark.parametrize("key", KEYS)
def test_an_absurd_number_is_planned_or_refused_by_name(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = whole_run(tmp_path)
    for value in ABSURD:
        code, said = plan(path, capsys, f"{key}={value}")
        if code:
            assert said.startswith("harness: error: "), (value, said)


@pytest.mark.parametrize("seed", range(6))
def test_absurd_numbers_that_act_on_each_other(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, path = random.Random(seed), whole_run(tmp_path)
    most = {key: str(most) for key in KEYS if (most := largest(key)) is not None}
    for _ in range(30):
        keys = draw.sample(KEYS, draw.choice((2, 2, 3)))
        values = [f"{key}={draw.choice((*ABSURD, '2', '3', most.get(key, '1'), most.get(key, '1')))}" for key in keys]
        plan(path, capsys, *values)


def largest(key: str) -> int | float | None:
    """The largest number that the schema allows for a key."""
    value: Schema = {"$ref": "#/$defs/Config", "properties": SCHEMA["properties"]}
    for part in key.split("."):
        value = inner_of(value, part)
    options = [value, *value.get("anyOf", ())]
    return next((option["maximum"] for option in options if "maximum" in option), None)


def inner_of(value: Schema, part: str) -> Schema:
    for option in (value, *value.get("anyOf", ())):
        section = SCHEMA["$defs"].get(option["$ref"].rpartition("/")[2], option) if "$ref" in option else option
        if part in section.get("properties", {}):
            return dict(section["properties"][part])
        if "patternProperties" in section:
            return dict(next(iter(section["patternProperties"].values())))
        if "prefixItems" in section and part.isdecimal():
            return dict(section["prefixItems"][int(part)])
        if isinstance(section.get("items"), dict):
            return dict(section["items"])
    raise AssertionError(f"no {part} in {value}")
