"""Absurd values in the spelling of JSON and YAML: what a mutation puts in the place of a value, key or line.

A spelling is kept as pieces with a number of times, so that a nesting of 100,000 brackets stays a short line in a
finding. Text stands for its UTF-8 bytes; `surrogateescape` stands for bytes that are none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

Raw = list[list[Any]]
"""Pieces of text, each with how often it is repeated: `[["[", 100000]]`."""

NUMBERS = (
    *("0", "-1", "1", "2", "127", "128", "255", "256", "32767", "65535", "65536", "2147483647", "2147483648"),
    *("4294967296", "9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551616", "-2147483649", "-9223372036854775808", "-9223372036854775809", "1" + "0" * 30),
    *("0.5", "-0.0", "1.0", "1e-320", "1e-999", "1e308", "1e309", "-1e309", "1e16", "0.1e1", "1E400", "3.0000000001"),
    *("NaN", "Infinity", "-Infinity", "+1", "01", "1.", ".5", "0x10", "1_000", "1e5"),
)
TEXTS = (
    *('""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u001b[2J\\u001b]0;x\\u0007"'),
    *('"\\u202e"', '"\\u2028"', '"\\r"', '"\\n"', '"a\\nharness: error: b"', '"\\u0085"', '"\\ufeff"', '"\\uffff"'),
    *('"../../../outside/secret"', '"/dev/zero"', '"/dev/stdin"', '"/proc/self/environ"', '"~"', '"~root"', '"$HOME"'),
    *('"{}"', '"{0.__class__}"', '"%s%n"', '"nan"', '"inf"', '"true"', '"null"', '"None"', '"1"', '"-1"', '"1e999"'),
    *('"\\ud83d\\ude00"', '"e\\u0301"', '"\\u0661"', '"[red]x[/red]"', '"[/]"', '"a,b"', '"a:b"', '"-"', '"--help"'),
    *('"2026-13-45T99:99:99Z"', '"0000-00-00"', '"9999-12-31T23:59:59+14:00"', '"http://[::1"', '"file:///etc"'),
)
OTHERS = (
    *("null", "true", "false", "[]", "{}", "[[]]", "[null]", '[1, "a"]', '{"": null}', '{"a": 1, "a": 2}'),
    *('{"\\u001b[2J": 1}', '{"__class__": 1}', '{"1": 1}', "[0, 0]", "[-1, -1]", "[9007199254740993]", "[0.5]"),
    *("undefined", "'x'", "// x", "", ",", ":", '"', "\\", "\udcff", "\udced\udca0\udc80", "\x00", "\x1b[2J"),
)
YAML_ONLY = (
    *("yes", "No", "on", "~", "1:30", "190:20:30", "0o17", "0b11", ".inf", "-.INF", ".nan", "2001-01-01"),
    *("2001-12-14t21:59:43.10-05:00", "!!python/object/apply:os.system ['touch pwned']", "!!binary aGk=", "!!str 1"),
    *("!!int '7'", "!!float '1'", "!!set {a, b}", "!!omap [a: 1]", "!x y", "&a [*a]", "*nothing", "&a 1", "!!null ''"),
    *("{<<: {a: 1}}", "{? [a, b] : c}", "{? {a: 1} : b}", "[a, b", "{a: 1", "@", "`", "%", "|\n  x", ">-\n   x\n  y"),
    *("!!timestamp 2001-01-01", "{1: a, true: b, null: c}", "{a: 1, 'a': 2}", "- x", "a: b: c", "\t1", "# 1", "'1'"),
    *("[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b], [*c,*c,*c,*c,*c,*c,*c]]",),
)
DEPTHS = (20, 99, 101, 1001, 100_000)
LENGTHS = (300, 5_000, 1_000_000)


def plain(text: str) -> Raw:
    return [[text, 1]]


def encoded(raw: Raw) -> bytes:
    """The bytes that a spelling stands for."""
    return b"".join(text.encode("utf-8", "surrogateescape") * times for text, times in raw)


def draw_value(choose: random.Random, near: object = None, *, is_yaml: bool = False) -> Raw:
    """An absurd value; near a number or a text also one that is close to it."""
    if near is not None and choose.random() < 0.3:
        return _neighbour(choose, near)
    pools: list[Sequence[str]] = [NUMBERS, NUMBERS, TEXTS, OTHERS]
    if is_yaml:
        pools += [YAML_ONLY, YAML_ONLY]
    if choose.random() < 0.1:
        return _large(choose)
    return plain(choose.choice(choose.choice(pools)))


def draw_key(choose: random.Random) -> Raw:
    """An absurd key, in quotes."""
    return plain(choose.choice(TEXTS)) if choose.random() < 0.9 else [['"', 1], ["k", 5_000], ['"', 1]]


def _large(choose: random.Random) -> Raw:
    depth, length = choose.choice(DEPTHS), choose.choice(LENGTHS)
    return choose.choice(
        [
            [["[", depth], ["]", depth]],
            [['{"a":', depth], ["1", 1], ["}", depth]],
            [["[", depth]],
            [['"', 1], ["a", length], ['"', 1]],
            [["9", length]],
            [["-", 1], ["7", length]],
            [["1.", 1], ["3", length]],
            [["[", 1], ["0,", length], ["0]", 1]],
            [["1e", 1], ["9", length]],
            [['"', 1], ["\\u001b", 300], ['"', 1]],
        ]
    )


def _neighbour(choose: random.Random, near: object) -> Raw:
    """Another value of the same kind, or the same in the spelling of another kind."""
    if isinstance(near, bool):
        return plain(choose.choice(["0", "1", '"true"', json.dumps(not near), "null"]))
    if isinstance(near, int):
        changed = choose.choice([near + 1, near - 1, -near, near * 2, near // 2, near * 1000, near + 2**32, 0])
        return plain(choose.choice([str(changed), str(changed), f"{near}.0", f'"{near}"', f"{near}.5", f"[{near}]"]))
    if isinstance(near, float):
        changed = choose.choice([near * 2, -near, near * 1e300, near * 1e-300, near + 1])
        return plain(choose.choice([json.dumps(changed), f'"{near}"', str(int(near)) if abs(near) < 1e15 else "0"]))
    if isinstance(near, str):
        changed = choose.choice(
            [near + "x", near[1:], near.upper(), near * 3, f"{near}\x1b[2J", f" {near}", near[::-1]]
        )
        return plain(json.dumps(changed))
    if isinstance(near, list):
        return plain(json.dumps(choose.choice([near + near, near[:1], near[1:], [near], {"0": near}]), default=str))
    return plain(json.dumps(choose.choice([[near], {"a": near}, {}]), default=str))
