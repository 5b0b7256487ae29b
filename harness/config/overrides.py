"""`--set key.sub=value`: one value of a configuration given on the command line instead of in the file."""

from __future__ import annotations

from typing import Any

from harness.config.problems import Location, Origin, Problem, shortened
from harness.config.scalars import Unreadable
from harness.config.secrets import masked_override
from harness.config.strict_yaml import MAX_DEPTH, Document, Value, parse_override_text
from harness.errors import ConfigError


def apply_override(document: Document, override: str) -> None:
    """Put the value of `key.sub=value` into the document, making sections on the way.

    List entries are named by index (`phases.0.seq_length=64`); a key with dots in it (a channel `zh.v2`) is found if
    the document has it. The value is YAML: `--set 'phases.0.blend={zh: 1}'`.

    Raises:
        ConfigError: The override has no `=` or no value, leads nowhere, or its value is not YAML.
    """
    source = f"--set {shortened(masked_override(override))}"
    dotted_key, equals, text = override.partition("=")
    if not equals or not dotted_key:
        raise ConfigError([f"{source}: must be KEY=VALUE, for example --set run.seed=1"])
    if not text.strip():
        raise ConfigError([f"{source}: has no value; write {shortened(dotted_key)}=null for none"])
    if dotted_key.count(".") >= MAX_DEPTH:
        raise ConfigError([f"{source}: the key has more than {MAX_DEPTH} parts"])
    try:
        given = parse_override_text(text, source)
    except ConfigError:
        if masked_override(override) == override:
            raise
        raise ConfigError([f"{source}: the value is not YAML; it is not shown, as it may hold a secret"]) from None
    of_values = [problem for problem in document.problems if _is_of_value(problem, document.value)]
    location = _write(document, dotted_key, given.value, Origin(source))
    _drop_below(document, location)
    replaced = [problem for problem in of_values if problem.location[: len(location)] == location]
    document.problems = [problem for problem in document.problems if problem not in replaced]
    document.origins.update({location + below: origin for below, origin in given.origins.items()})
    document.problems += [Problem(location + p.location, p.text, p.origin) for p in given.problems]


def _write(document: Document, dotted_key: str, value: Value, origin: Origin) -> Location:
    """Walk to the key, making sections on the way, and set it; returns where that was."""
    location: Location = ()
    container: Any = document.value
    rest = dotted_key
    while True:
        part, rest = _first_part(container, rest, location, origin)
        location = (*location, part)
        if not rest:
            container[part] = value
            return location
        if isinstance(container, dict) and container.get(str(part)) is None:
            container[str(part)] = {}
            document.origins[location] = origin
        container = container[part]


def _first_part(container: Value, rest: str, location: Location, origin: Origin) -> tuple[str | int, str]:
    """Split a dotted key into its first key or index, and the rest."""
    head, _, tail = rest.partition(".")
    if isinstance(container, dict):
        known = [key for key in container if rest == key or rest.startswith(f"{key}.")]
        key = max(known, key=len, default=head)
        if not key:
            raise ConfigError([f"{origin}: the key has an empty part; write it like phases.0.seq_length"])
        return key, rest[len(key) + 1 :]
    where = ".".join(str(part) for part in location)
    if isinstance(container, list):
        if head in (indices := [str(index) for index in range(len(container))]):
            return int(head), tail
        allowed = f"0 to {len(indices) - 1}" if indices else "none, the list is empty"
        raise ConfigError([f"{origin}: '{shortened(head)}' is not an index of the list {where}; allowed: {allowed}"])
    raise ConfigError([f"{origin}: {where} is a single value, nothing can be set below it"])


def _is_of_value(problem: Problem, value: Value) -> bool:
    """Return whether a problem is that of a value, which goes with it; two equal keys stay a problem of the file."""
    for part in problem.location:
        if isinstance(value, dict):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
    return isinstance(value, Unreadable) and problem.text == value.reason


def _drop_below(document: Document, location: Location) -> None:
    """Forget where the values came from that the override replaces."""
    for known in [known for known in document.origins if known[: len(location)] == location]:
        del document.origins[known]
