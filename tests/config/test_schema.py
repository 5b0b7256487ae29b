"""The JSON Schema for editors agrees with what the loader takes and refuses."""

from pathlib import Path

import jsonschema
import pytest
from config_text import SMALL

from harness.config.load import load_config
from harness.config.overrides import apply_override
from harness.config.schema import Config
from harness.config.strict_yaml import parse_file_text
from harness.errors import ConfigError

SCHEMA = Config.model_json_schema()


def values_of(text: str, *overrides: str) -> object:
    document = parse_file_text(text, "c.yaml")
    for override in overrides:
        apply_override(document, override)
    return document.value


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "model_configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_editors_find_nothing_wrong_in_the_model_configurations(path: Path) -> None:
    load_config(path)
    jsonschema.validate(values_of(path.read_text()), SCHEMA)


@pytest.mark.parametrize(
    "override",
    ["run.sed=1", "model.num_layers=0", "model.activation=swish", "phases=[]", "optimizer.learning_rate=fast",
     "optimizer.adam_beta1=1", "logging.tensorboard=yes"],
)  # fmt: skip
def test_editors_see_what_the_loader_refuses(override: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SMALL)
    with pytest.raises(ConfigError):
        load_config(path, (override,))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values_of(SMALL, override), SCHEMA)


def test_every_field_is_explained() -> None:
    sections = SCHEMA["$defs"].items()
    unexplained = [
        f"{section}.{name}"
        for section, content in sections
        for name, field in content["properties"].items()
        if not field.get("description")
    ]
    assert unexplained == []
