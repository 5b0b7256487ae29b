"""Strict reading of YAML: positions, and everything that is refused."""

import time

import pytest
import yaml

from harness.config import strict_yaml
from harness.config.problems import Origin
from harness.config.strict_yaml import parse_file_text, parse_override_text
from harness.errors import ConfigError


@pytest.fixture(params=["libyaml", "pure Python"], autouse=True)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with both parsers; machines without libyaml have only the second."""
    if request.param == "pure Python":
        monkeypatch.setattr(strict_yaml, "_Loader", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")


def test_values_have_the_place_of_their_key() -> None:
    document = parse_file_text("a: 1\nb:\n  c: [x,\n    'on']\n", "f.yaml")
    assert document.value == {"a": 1, "b": {"c": ["x", "on"]}}
    assert document.origins == {
        (): Origin("f.yaml", 1, 1),
        ("a",): Origin("f.yaml", 1, 1),
        ("b",): Origin("f.yaml", 2, 1),
        ("b", "c"): Origin("f.yaml", 3, 3),
        ("b", "c", 0): Origin("f.yaml", 3, 7),
        ("b", "c", 1): Origin("f.yaml", 4, 5),
    }


def test_keys_are_always_text() -> None:
    assert parse_file_text("{1: a, on: b, true: c, 012: d}", "f").value == {
        "1": "a",
        "on": "b",
        "true": "c",
        "012": "d",
    }


def test_quoted_words_are_text() -> None:
    assert parse_file_text("['3e-4', \"012\", 'null', '']", "f").value == ["3e-4", "012", "null", ""]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n"])
def test_no_content_is_none(text: str) -> None:
    assert parse_file_text(text, "f").value is None


def test_equal_keys_are_named_with_both_places() -> None:
    document = parse_file_text("a: 1\nb: 2\na: 3\n", "f.yaml")
    (problem,) = document.problems
    assert (str(problem.origin), problem.location) == ("f.yaml:3:1", ("a",))
    assert problem.text == "given twice; the first is at f.yaml:1:1; remove one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", "f:1:4: anchors (&) and aliases (*) are not allowed; write the value out"),
        ("a: *x\n", "f:1:4: anchors (&) and aliases (*) are not allowed; write the value out"),
        ("a: !!python/name:x x\n", "f:1:4: the tag tag:yaml.org,2002:python/name:x is not allowed; remove it"),
        ("a: !x 1\n", "f:1:4: the tag !x is not allowed; remove it"),
        ("a:\n  <<: {b: 1}\n", "f:2:3: merge keys (<<) are not allowed; write the values out"),
        ("%YAML 1.1\n---\na: 1\n", "f:1:1: directives (%) are not allowed; remove the line"),
        ("a: 1\n---\nb: 1\n", "f:2:1: a second document starts here; only one is allowed"),
        ("? [a]\n: 1\n", "f:1:3: a key must be a plain word"),
        ("'': 1\n", "f:1:1: a key is empty; write a name before the ':'"),
        ("a: 1\nb: \x07\n", "f:2:4: the character U+0007 is not allowed; remove it"),
        ("a: x\0\n", "f:1:5: the character U+0000 is not allowed; remove it"),
        ("\ufeffa: 1\n", "f:1:1: the character U+FEFF is not allowed; remove it"),
        ('a: "\\0"\n', "f:1:4: the character U+0000 is not allowed here; remove it"),
        ("a:\n\tb: 1\n", "f:2:1: a tab is used for indentation; YAML allows only spaces"),
    ],
)  # fmt: skip
def test_refused_with_place_and_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file_text(text, "f")
    assert caught.value.problems == [message]


def test_broken_yaml_says_where_and_what_was_being_read() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file_text("run:\n  a: [1\nb: 2\n", "f")
    (problem,) = caught.value.problems
    assert problem.startswith("f:3:2: not valid YAML: while parsing a flow sequence")
    assert " that starts in line 2, " in problem


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "- " * 20_000, "[" * 33 + "]" * 33])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match="nested deeper than 32 levels"):
        parse_file_text(text, "f")
    assert time.process_time() - start < 2.0


def test_nesting_of_32_levels_is_read() -> None:
    assert parse_file_text("[" * 32 + "]" * 32, "f").value is not None


def test_too_many_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="f:10000:3: more than 10000 values; this is not a configuration"):
        parse_file_text("- 1\n" * 10_000, "f")
    assert len(parse_file_text("- 1\n" * 9_999, "f").origins) == 10_000


def test_overrides_are_named_instead_of_a_place() -> None:
    assert set(parse_override_text("{a: [1]}", "--set x").origins.values()) == {Origin("--set x")}
    with pytest.raises(ConfigError) as caught:
        parse_override_text("[1,", "--set x=[1,")
    assert caught.value.problems[0].startswith("--set x=[1,: not valid YAML: while parsing a flow ")
