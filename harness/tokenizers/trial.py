"""Tries a tokenizer's file out in a child process before it is opened in this one.

The libraries that read such files are native code, which may loop for ever, fill the memory or end the process. The
child does with the file what commands do with it: opens it, takes its identity, encodes and decodes texts. What goes
well there goes well here. The identity, which costs most of the time, is taken over.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from harness.errors import DataError, HarnessError, UsageError
from harness.limited_child import LimitedError, limited
from harness.tokenizers.native import explained
from harness.tokenizers.text_growth import require_moderate

MEMORY_BYTES = 4 * 1024**3
"""Memory that a tokenizer may take. The largest published ones take 0.5 GiB."""
SECONDS = 120.0
"""Time for the whole trial. A vocabulary of 130,000 ids takes 6 s on a busy core."""
_KEPT = 8
"""Trials that a process remembers, by the content of the files."""
_PROBES = (
    "",
    "\n" * 300,
    " a  b   c\t\td\r\n\r\n  e\n \n",
    "a" * 5000,
    "1234567890 3.14159 1e-5 ２０２６年" * 20,
    "𠀀龘 🦜👩\u200d👩\u200d👧\ufe0f e\u0301 é ﬁ Ω ½ ﷺ \u200b\u00a0\x00\x07" * 20,
    *(chr(code) * 200 + "\n" + chr(code) * 50 + "!" for code in (*range(32, 127), 0xE9, 0x4E2D)),
)
"""Texts on which patterns backtrack, and long runs of one character."""

_known: OrderedDict[str, dict[str, Any]] = OrderedDict()


def try_out(path: Path, content: bytes, described: bytes) -> dict[str, Any]:
    """Return the identity of a tokenizer, as `TokenizerIdentity.as_json` gives it, taken in a child process.

    Args:
        path: Its file.
        content: Content of that file.
        described: Content of the file that describes it further; empty if there is none.

    Raises:
        DataError: It is damaged, or needs more time or memory than any tokenizer.
        UsageError: The library that reads this kind of file is not installed.
    """
    key = hashlib.sha256(b"%d %d\n%b%b" % (len(content), len(described), content, described)).hexdigest() + path.stem
    if key not in _known:
        _known[key] = _tried(path, content)
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return {**_known[key], "file": path.name}


def _tried(path: Path, content: bytes) -> dict[str, Any]:
    try:
        header = json.dumps(str(path)).encode()  # ASCII, and so in one line
        answer: dict[str, Any] = json.loads(  # noqa: TID251 (our own child's answer)
            limited(in_child, header + b"\n" + content, memory_bytes=MEMORY_BYTES, seconds=SECONDS)
        )
    except LimitedError as error:
        raise DataError(
            f"tokenizer {path}: the file {error}. It is damaged, or made to do harm: fetch it again, or take another."
        ) from error
    if "usage" in answer:
        raise UsageError(answer["usage"])
    if "data" in answer:
        raise DataError(answer["data"])
    identity: dict[str, Any] = answer["identity"]
    return identity


def in_child(content: bytes) -> bytes:
    """Return the identity of a tokenizer, or the error about it, as JSON. Runs in the child.

    Args:
        content: The path as JSON, a newline, and the content of the file.
    """
    header, _, content = content.partition(b"\n")
    path = Path(json.loads(header))  # noqa: TID251 (our own parent's header)
    try:
        with explained(path, "its library cannot work with it"):
            answer: dict[str, Any] = {"identity": _worked_with(path, content)}
    except UsageError as error:
        answer = {"usage": str(error)}
    except HarnessError as error:
        answer = {"data": str(error)}
    return json.dumps(answer).encode()


def _worked_with(path: Path, content: bytes) -> dict[str, Any]:
    # Here and not above: these modules ask this one.
    from harness.tokenizers.identity import identity_from
    from harness.tokenizers.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(path, content)
    pieces, rules = tokenizer.pieces(), tokenizer.rules()
    require_moderate(rules, str(path))
    tokenizer.control_symbols()
    identity = identity_from(tokenizer, pieces, rules)
    for ids in tokenizer.encode_documents(list(_PROBES)):
        tokenizer.decode(ids)
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            raise DataError(
                f"tokenizer {path}: a text gets the id {max(ids)}, but the vocabulary has {tokenizer.vocab_size} ids. "
                "The file is damaged: fetch it again."
            )
    for number in range(tokenizer.vocab_size):
        tokenizer.decode([number])
    return identity.as_json()
