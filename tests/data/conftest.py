"""Channels for the tests of the data path."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_parts import three_channels

from harness.channels.channels import Channel


@pytest.fixture
def channels(tmp_path: Path) -> tuple[Channel, ...]:
    return three_channels(tmp_path)
