"""A YAML file and its overrides to a `Config`, or one error with every problem and its line; and back to YAML."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, create_model

from harness.config.explain import explain
from harness.config.overrides import apply_override
from harness.config.problems import Problem, raise_problems
from harness.config.schema import Config
from harness.config.section import Section
from harness.config.strict_yaml import MAX_BYTES, Document, parse_file_text
from harness.config.validate import cross_field_problems
from harness.errors import ConfigError

_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_TOP_LEVEL_ADVICE = "a configuration has sections such as 'run:' and 'model:'"


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, apply overrides (`key.sub=value`) in order, which win over the file, and check it.

    Raises:
        ConfigError: With all problems, each as `file.yaml:41:5: model.hidden_size: …`.
    """
    source = str(path)
    document = parse_file_text(read_text(path), source)
    _require_mapping(document, source)
    refused: list[str] = []
    for override in overrides:
        try:
            apply_override(document, override)
        except ConfigError as error:
            refused += error.problems
    if refused:
        raise ConfigError(refused)
    return _build(document)


def dump_config(config: Config) -> str:
    """Return the whole configuration as YAML with its defaults; `load_config` of it returns an equal `Config`."""
    return dump_values(config.model_dump(mode="json"))


def dump_values(values: Mapping[str, object]) -> str:
    """Return values as YAML that the strict reader reads as the same values."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=4096
    )


def read_text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ConfigError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        content = _content_of(path)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file{_similar_files(path)}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a directory; give a YAML file"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{path}: is larger than {MAX_BYTES >> 20} MiB; this is not a configuration"])
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigError([f"{path}:1:1: starts with a byte-order mark; save it as UTF-8 without one"])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{path}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"]
        ) from None


def _content_of(path: Path) -> bytes:
    """Return the content of a file, or more than `MAX_BYTES` of it. Links are followed.

    Raises:
        OSError: It cannot be read.
        ConfigError: It is a pipe, a socket or a device, from which reading might never end.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        raise ConfigError([f"{path}: is a pipe or a device, not a file; write the YAML to a file, and give that"])
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _similar_files(path: Path) -> str:
    """Return `; did you mean …?` for a configuration with a similar name in the same directory."""
    try:
        names = sorted(sibling.name for sibling in path.parent.glob("*.yaml"))
    except (OSError, ValueError):
        return ""
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / matches[0]}?" if matches else ""


def _require_mapping(document: Document, source: str) -> None:
    if document.value is None:
        raise ConfigError([f"{source}: is empty; {_TOP_LEVEL_ADVICE}"])
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        raise ConfigError([f"{document.origins[()]}: is {kind}; {_TOP_LEVEL_ADVICE}"])


def _build(document: Document) -> Config:
    """Check values one by one and against each other; the latter for the sections that are right in themselves."""
    config, wrong = None, []
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    sections = dict(config) if config else _valid_sections(document, {str(entry["loc"][0]) for entry in wrong})
    problems: list[Problem] = list(document.problems)
    problems += filter(None, map(explain, wrong))
    problems += cross_field_problems(sections)
    raise_problems(problems, document.origins)
    if config is None:
        raise AssertionError("a configuration was refused without a problem")
    return config


def _valid_sections(document: Document, wrong: set[str]) -> dict[str, Any]:
    """Return the sections that are valid by themselves, by name."""
    partial = _config_without(frozenset(wrong))
    given = document.value if isinstance(document.value, dict) else {}
    return dict(partial.model_validate({name: given[name] for name in partial.model_fields if name in given}))


@lru_cache(maxsize=64)
def _config_without(wrong: frozenset[str]) -> type[Section]:
    """Return `Config` without some sections; kept, because a class is slow to make."""
    fields: dict[str, Any] = {name: (f.annotation, f) for name, f in Config.model_fields.items() if name not in wrong}
    return create_model("PartialConfig", __base__=Section, **fields)


class _Dumper(yaml.SafeDumper):
    """Writes text in double quotes unless every reader takes it for text without them."""

    def ignore_aliases(self, data: object) -> bool:
        """Return true: no anchors and aliases are written, because the strict reader refuses them."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN_TEXT.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
