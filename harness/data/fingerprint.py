"""The fingerprint of a run's data: the record in each checkpoint of everything that determines the samples.

`harness.run.checkpoints.compare` compares a resumed run with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.data.files.channels import Channel, parts_digest
from harness.data.files.parts import Part
from harness.data.order.recipe import ChannelRules, PhaseRecipe, Recipe
from harness.errors import DataError
from harness.run.order_changes import History, PartsAdopted, num_parts_of, phase_of


def data_fingerprint(channels: Sequence[Channel], recipe: Recipe, history: History = ()) -> dict[str, Any]:
    """Return everything that has determined the samples of a run so far, as plain JSON values.

    Channels that no phase uses are left out, and so are phases that have not begun.

    Args:
        channels: The channels with all parts that are known.
        recipe: The numbers behind the order.
        history: What changed the order so far. Parts that it has not adopted are left out.
    """
    adopted = num_parts_of(history)
    later = recipe.phases[1 : phase_of(history) + 1]
    rules = {name: _rules_json(rules) for name, rules in recipe.rules.items() if name in recipe.channel_names}
    return {
        "seed": recipe.seed,
        "seq_length": recipe.seq_length,
        "vocab_size": recipe.vocab_size,
        "held_out_share": recipe.held_out_share,
        "reset_at_document_borders": recipe.reset_at_document_borders,
        "shares": {name: str(share) for name, share in recipe.shares.items()},
        "channels": {
            channel.name: {
                "has_validation_path": channel.validation_parts is not None,
                "parts": [_part_json(part) for part in channel.parts[: adopted.get(channel.name)]],
            }
            for channel in channels
            if channel.name in recipe.channel_names
        },
        **({"later_phases": [_phase_json(phase) for phase in later]} if later else {}),
        **({"rules": rules} if rules else {}),
    }


def recorded_parts(recorded: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of parts of each channel that a checkpoint recorded; empty if the run had used no data.

    Args:
        recorded: The checkpoint's fingerprint, with what `data_fingerprint` wrote under `data`.
    """
    channels = recorded.get("data", {}).get("channels", {})
    return {name: len(channel.get("parts", ())) for name, channel in channels.items()}


def require_adopted(channels: Sequence[Channel], history: History) -> None:
    """Check that the parts that a history adopted are still those that the channels begin with.

    Raises:
        DataError: They are not.
    """
    by_name = {channel.name: channel for channel in channels}
    last = {change.channel: change for change in history if isinstance(change, PartsAdopted)}
    for name, change in last.items():
        parts = by_name[name].parts[: change.num_parts] if name in by_name else ()
        if name in by_name and parts_digest(parts) != change.digest:
            raise DataError(
                f"channel {name}: its first {change.num_parts} parts are not those that the run has adopted (digest "
                f"{parts_digest(parts)}, adopted {change.digest}). Lines may only be appended to a list of parts: "
                "restore it, or start a new run."
            )


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "prefix": part.name,
        "tokens": part.num_tokens,
        "documents": part.num_documents,
        "bin_bytes": part.bin_bytes,
        "xxh3": part.xxh3,
    }


def _rules_json(rules: ChannelRules) -> dict[str, Any]:
    return {
        "when_low": rules.when_low,
        "max_epochs": rules.max_epochs,
        "epoch_decay": str(rules.epoch_decay),
        "order": rules.order,
        "window_parts": rules.window_parts,
        "packing": rules.packing,
    }


def _phase_json(phase: PhaseRecipe) -> dict[str, Any]:
    return {
        "seq_length": phase.seq_length,
        "shares": {name: str(share) for name, share in phase.shares.items()},
    }
