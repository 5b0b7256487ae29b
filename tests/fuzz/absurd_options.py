"""The surface of absurd options: undamaged files, and one argument that no person would mean."""

from __future__ import annotations

from surface import OPTION, Asked, Surface, Target


def absurd_options(preload: tuple[str, ...], checkpoint: str, watched: tuple[str, ...]) -> Surface:
    """The surface, with what its commands import, the checkpoint of the run, and what a watcher may change."""
    return Surface(
        "options",
        "run",
        [Target("config.yaml", "yaml")],
        [
            Asked("plan --set", ["plan", "config.yaml", "--set", OPTION], plain="model.num_layers=1", weight=6),
            Asked("plan --gpus", ["plan", "config.yaml", "--gpus", OPTION], plain="1"),
            Asked("plan --gpu", ["plan", "config.yaml", "--gpu", OPTION], plain="h100"),
            Asked("plan --mfu", ["plan", "config.yaml", "--mfu", OPTION], plain="40"),
            Asked("plan CONFIG", ["plan", OPTION], plain="config.yaml"),
            Asked("status RUN_DIR", ["status", OPTION], plain="run"),
            Asked("diagnose RUN_DIR", ["diagnose", OPTION], plain="run"),
            Asked("replay FILE", ["replay", OPTION], plain="run/metrics.jsonl"),
            Asked("watch RUN_DIR", ["watch", OPTION, "--once", "--no-orders"], plain="run", writes=watched),
            Asked(
                "watch --config", ["watch", "run", "--once", "--config", OPTION], plain="config.yaml", writes=watched
            ),
            Asked("checkpoint list", ["checkpoint", "list", OPTION], plain="run"),
            Asked("checkpoint verify", ["checkpoint", "verify", OPTION], plain=checkpoint, silent=(65,)),
            Asked("checkpoint inspect", ["checkpoint", "inspect", OPTION], plain=checkpoint),
            Asked("data count", ["data", "count", OPTION], plain="data/en"),
            Asked("data verify", ["data", "verify", OPTION], plain="data/en", silent=(65,)),
            Asked(
                "data verify --max-lost-share", ["data", "verify", "data/en", "--max-lost-share", OPTION], plain="0.1"
            ),
            Asked("data mix --tokens", ["data", "mix", "data/", "--share", "en=1", "--tokens", OPTION], plain="20000"),
            Asked("data mix --share", ["data", "mix", "data/", "--tokens", "20000", "--share", OPTION], plain="en=1"),
            Asked("data where --step", ["data", "where", "run", "--step", OPTION], plain="2"),
            Asked("data ledger --documents", ["data", "ledger", "run", "--documents", OPTION], plain="en/part-00000"),
            Asked(
                "data show --part",
                ["data", "show", "data/en", "--tokenizer", "tokenizer.json", "--document", "0", "--part", OPTION],
                plain="part-00000",
            ),
            Asked(
                "data sample --tokenizer", ["data", "sample", "data/en", "--tokenizer", OPTION], plain="tokenizer.json"
            ),
            Asked(
                "data tokenize --channel",
                ["data", "tokenize", "text.jsonl", "--tokenizer", "tokenizer.json"]
                + ["--output", "out", "--channel", OPTION],
                plain="x",
                writes=("out*",),
            ),
            Asked(
                "data tokenize --end-of-document",
                ["data", "tokenize", "text.jsonl", "--tokenizer", "tokenizer.json", "--output", "out", "--channel", "x"]
                + ["--end-of-document", OPTION],
                plain="0",
                writes=("out*",),
            ),
            Asked(
                "signal --reason", ["signal", "run", "save", "--reason", OPTION], plain="x", writes=("run/signals*",)
            ),
            Asked(
                "signal --to-step",
                ["signal", "run", "rollback", "--to-step", OPTION],
                plain="2",
                writes=("run/signals*",),
            ),
            Asked(
                "signal --learning-rate-factor",
                ["signal", "run", "rollback", "--to-step", "2", "--for-steps", "2", "--learning-rate-factor", OPTION],
                plain="0.5",
                writes=("run/signals*",),
            ),
            Asked(
                "signal --skip-steps",
                ["signal", "run", "rollback", "--to-step", "2", "--skip-steps", OPTION],
                plain="3:4",
                writes=("run/signals*",),
            ),
            Asked(
                "data quarantine",
                ["data", "quarantine", "run", "--document", OPTION],
                plain="en/part-00000:7",
                writes=("run/signals*",),
            ),
            Asked("a verb", [OPTION], plain="schema"),
        ],
        preload=preload,
    )
