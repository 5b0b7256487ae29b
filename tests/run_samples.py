"""A run that has never trained: its folder and the smallest configuration."""

from __future__ import annotations

from pathlib import Path

from harness.run.paths import RunDir

SMALLEST = """\
run: {name: r}
model: {num_layers: 1, hidden_size: 8, num_attention_heads: 1, ffn_hidden_size: 8, vocab_size: 100}
data: {channels: {c: {path: c}}}
phases: [{name: main, train_steps: 10, seq_length: 8, global_batch_size: 4, blend: {c: 1}}]
optimizer: {learning_rate: 1e-3}
"""


def untrained_run(root: Path) -> RunDir:
    """The folder of a run, with its configuration."""
    run_dir = RunDir(root)
    run_dir.make_folders()
    run_dir.config.write_text(SMALLEST)
    return run_dir
