from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from harness.train.components import identity
from harness.train.components.identity import other_versions, versions
from harness.version import VERSION


def test_who_goes_on_with_other_versions_is_told_which() -> None:
    now = versions()
    saved = now.model_copy(update={"torch": "2.1.0", "megatron_core": "0.9.0"})
    assert other_versions(now, now) is None
    assert other_versions(saved, now) == (
        f"it was saved by other versions: megatron_core 0.9.0, now {now.megatron_core}; torch 2.1.0, now {now.torch}: "
        "steps may differ in the last bits"
    )


def test_the_version_needs_no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run from a checkout has no metadata of harness, and saves all the same."""

    def nothing_installed(name: str) -> str:
        if name == "harness":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(identity, "version", nothing_installed)
    assert versions().harness == VERSION
