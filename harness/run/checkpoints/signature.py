"""Signs manifests with a key, so that on shared storage only holders of the key can make a checkpoint.

The signature is a line of the manifest: `"signature": "<64 hexadecimal digits>"`, keyed BLAKE2b-256 of the manifest's
text without that line. A signed manifest also holds the SHA-256 of every file: XXH3 finds accidents, but anybody can
make a file of a given XXH3. The signature does not say to which run a checkpoint belongs. Use a key for each run if
somebody might put a checkpoint of one run into the folder of another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.run.own_file import RefusedFileError, read_own_file

MIN_KEY_BYTES = 32
MAX_KEY_BYTES = 4096
_PURPOSE = b"harness manifest"
_LINE = re.compile(rb',\n  "signature": "([0-9a-f]{64})"\n}\n\Z')


@dataclass(frozen=True)
class SigningKey:
    """A secret shared by everyone who may write and read the checkpoints."""

    _secret: bytes = field(repr=False)

    def signed(self, text: bytes) -> bytes:
        """Return the text of a manifest with its signature in the last line."""
        assert text.endswith(b"\n}\n"), "a manifest ends with its closing brace"
        return text.removesuffix(b"\n}\n") + f',\n  "signature": "{self._signature(text)}"\n}}\n'.encode()

    def problem(self, text: bytes) -> str | None:
        """Return why a manifest is not to be trusted, or None if this key has signed exactly this text."""
        found = _LINE.search(text)
        if found is None:
            return "it is not signed, and the configuration asks for a signature"
        unsigned = text[: found.start()] + b"\n}\n"
        if not hmac.compare_digest(found[1].decode(), self._signature(unsigned)):
            return "its signature is wrong: it was made with another key, or the manifest was altered"
        return None

    def _signature(self, text: bytes) -> str:
        return hashlib.blake2b(text, digest_size=32, key=self._secret, person=_PURPOSE).hexdigest()


def read_key(path: Path) -> SigningKey:
    """Return the key in a file. All bytes of the file are the secret, such as `head -c 32 /dev/urandom` writes them.

    Raises:
        UsageError: The file does not exist, is accessible to others, or is too short.
    """
    try:
        content, status = read_own_file(path, max_bytes=MAX_KEY_BYTES)
    except FileNotFoundError:
        raise UsageError(f"the key {path} does not exist. {_ADVICE.format(path=path)}") from None
    except RefusedFileError:
        raise UsageError(
            f"the key {path} is not used: it must be a regular file that belongs to you, has no second name, and is no "
            f"larger than {MAX_KEY_BYTES} bytes. {_ADVICE.format(path=path)}"
        ) from None
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from None
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        raise UsageError(f"the key {path} is not used: others may read or change it (mode {mode:o}). chmod 600 {path}")
    if len(content) < MIN_KEY_BYTES:
        raise UsageError(
            f"the key {path} has {len(content)} bytes, at least {MIN_KEY_BYTES} are needed. {_ADVICE.format(path=path)}"
        )
    return SigningKey(hashlib.blake2b(content, digest_size=64).digest())


_ADVICE = "Make one with: (umask 077; head -c 32 /dev/urandom > {path})"
