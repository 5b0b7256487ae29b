"""The surfaces: which files are damaged, in which formats, and which commands must then end as documented."""

from __future__ import annotations

import accepted
from absurd_options import absurd_options
from forked import Limits
from surface import LIGHT, Asked, Surface, Target

TORCH = (*LIGHT, "torch", "numpy", "harness.checkpoint.loading.mcore", "checkpoint_tools.convert_verbs")
DATA = (*LIGHT, "numpy", "data_prep.verbs.data_verbs", "data_prep.verbs.channel_verbs", "tokenizers", "sentencepiece")


_RUN = (
    Target("run/config.yaml", "yaml", 2),
    Target("run/metrics.jsonl", "jsonl", 4),
    Target("run/events.jsonl", "jsonl", 4),
    Target("run/order.jsonl", "jsonl", 3),
    Target("run/watch/state.json", "json", 4),
    Target("run/watch/*.json*", "jsonl"),
    Target("run/heartbeats/*.json", "json", 2),
    Target("run/launches/*/launch.json", "json", 2),
    Target("run/launches/*/config.yaml", "yaml"),
    Target("run/launches/*/flight_recorder/rank_*", "pickle", 2),
    Target("run/launches/*/flight_recorder/node_*.tar", "bytes", 1),
    Target("run/evidence/*.jsonl", "jsonl", 2),
    Target("run/signals/done/*.json", "json", 1),
    Target("run/fence/*", "text", 0.5),
    Target("run/lock", "text", 0.5),
    Target("run/watch/lock", "text", 0.3),
    Target("run/plan.txt", "lines", 0.2),
    Target("run/tensorboard/*", "records", 1),
    Target("run/checkpoints/step_0000008/manifest.json", "manifest", 3),
    Target("run/checkpoints/step_000000[24]*/manifest.json", "manifest"),
)
_WATCHED = ("run/watch*", "run/signals*", "run/fence*", "run/events.jsonl")
_CHECKPOINT = "run/checkpoints/step_0000008"

SURFACES: tuple[Surface, ...] = (
    Surface(
        "configuration",
        "configs",
        [Target("*.yaml", "yaml")],
        [
            Asked("plan", ["plan", "{file}"], weight=3),
            Asked("plan --json", ["plan", "{file}", "--json"], weight=2),
            Asked("preflight", ["preflight", "{file}", "--nodes", "1"]),
            Asked("plan --gpus", ["plan", "{file}", "--gpus", "64", "--mfu", "45"]),
        ],
        preload=(*LIGHT, "harness.plan.plan_text", "harness.launch.preflight", "yaml"),
        share=2,
        check=accepted.settings_are_kept,
    ),
    Surface(
        "run files",
        "run",
        _RUN,
        [
            Asked("status", ["status", "run"]),
            Asked("status --json", ["status", "run", "--json"]),
            Asked("watch", ["watch", "run", "--once", "--no-orders"], codes=(0, 64, 65, 76), writes=_WATCHED, weight=2),
            Asked("watch --orders", ["watch", "run", "--once"], codes=(0, 64, 65, 76), writes=_WATCHED),
            Asked("replay", ["replay", "run"]),
            Asked("replay --json", ["replay", "run/metrics.jsonl", "--json"]),
            Asked("diagnose", ["diagnose", "run"], weight=2),
            Asked("checkpoint list", ["checkpoint", "list", "run"]),
            Asked("checkpoint list --json", ["checkpoint", "list", "run", "--json"]),
            Asked("data quarantine", ["data", "quarantine", "run", "--json"]),
            Asked("data ledger", ["data", "ledger", "run"]),
            Asked("data where", ["data", "where", "run", "--step", "2", "--json"]),
            Asked("signal", ["signal", "run", "save"], writes=("run/signals*",)),
        ],
        preload=(*LIGHT, "harness.watch.daemon", "harness.watch.replay", "harness.usage.ledger_verb", "numpy"),
        share=2,
    ),
    Surface(
        "channel",
        "channel",
        [
            Target("data/en/*.idx", "idx", 4),
            Target("data/en/parts.jsonl", "jsonl", 3),
            Target("data/en/source.json", "json", 1.5),
            Target("data/en/resume.jsonl", "jsonl", 1),
            Target("data/en/rejected.jsonl", "text", 0.3),
            Target("data/en/*.provenance", "provenance", 2),
            Target("data/en/*.provenance", "bytes", 0.5),
            Target("data/en/.lock", "text", 0.2),
            Target("data/en/*.bin", "bytes", 1),
        ],
        [
            Asked("verify", ["data", "verify", "data/en"], silent=(65,), weight=2),
            Asked("verify --json", ["data", "verify", "data/", "--json"], silent=(65,)),
            Asked("verify --tokenizer", ["data", "verify", "data/en", "--tokenizer", "tokenizer.json"], silent=(65,)),
            Asked("count", ["data", "count", "data/en", "--json"]),
            Asked("sample", ["data", "sample", "data/en", "--tokenizer", "tokenizer.json", "--json"]),
            Asked(
                "show",
                ["data", "show", "data/en", "--tokenizer", "tokenizer.json", "--ids", "--json"]
                + ["--document", "0", "--document", "7", "--document", "88"],
                weight=2,
            ),
            Asked("merge", ["data", "merge", "data/en", "data/code", "--output", "merged"], writes=("merged*",)),
            Asked(
                "tokenize again",
                ["data", "tokenize", "text.jsonl", "--tokenizer", "tokenizer.json", "--channel", "en"]
                + ["--output", "data", "--tokens-per-part", "6000"],
                writes=("data/en*",),
            ),
            Asked(
                "append",
                ["data", "append", "text.jsonl", "--tokenizer", "tokenizer.json"]
                + ["--channel", "en", "--output", "data"],
                writes=("data/en*",),
            ),
            Asked("mix", ["data", "mix", "data/", "--share", "en=1", "--share", "code=2", "--tokens", "20000"]),
        ],
        preload=DATA,
        seals=[("channel", "data/en")],
        check=accepted.documents_are_those_of_the_files,
    ),
    Surface(
        "tokenizers",
        "tokenizers",
        [
            Target("tokenizer.json", "json", 3),
            Target("*/tokenizer.json", "json", 2),
            Target("*/tokenizer_config.json", "json", 2),
            Target("*/special_tokens_map.json", "json"),
            Target("*/added_tokens.json", "json"),
            Target("*/config.json", "json", 0.5),
            Target("*/tokenizer.model", "protobuf", 4),
            Target("tik/small.tiktoken", "lines", 2),
            Target("tik/small.tiktoken.json", "json", 2),
        ],
        [
            Asked("inspect file", ["data", "inspect-tokenizer", "{file}", "x=text.jsonl"]),
            Asked("inspect folder", ["data", "inspect-tokenizer", "{folder}", "x=text.jsonl", "--json"], weight=2),
            Asked(
                "tokenize",
                ["data", "tokenize", "text.jsonl", "--tokenizer", "{folder}", "--channel", "x", "--output", "out"],
                writes=("out*",),
                weight=3,
            ),
        ],
        preload=DATA,
        check=accepted.tokens_are_those_of_the_library,
    ),
    Surface(
        "packed text",
        "packed",
        [
            Target("text.jsonl", "jsonl", 2),
            Target("text.jsonl.gz", "jsonl.gz"),
            Target("text.jsonl.gz", "bytes"),
            Target("text.jsonl.bz2", "jsonl.bz2", 0.5),
            Target("text.jsonl.bz2", "bytes"),
            Target("text.jsonl.xz", "jsonl.xz", 0.5),
            Target("text.jsonl.xz", "bytes"),
            Target("text.jsonl.zst", "jsonl.zst", 0.5),
            Target("text.jsonl.zst", "bytes"),
            Target("text.json", "json", 2),
            Target("text.parquet", "bytes", 2),
            Target("plain.parquet", "bytes", 2),
        ],
        [
            Asked(
                "tokenize",
                ["data", "tokenize", "{file}", "--tokenizer", "tokenizer.json", "--channel", "x", "--output", "out"],
                writes=("out*",),
                weight=3,
            ),
            Asked("inspect-tokenizer", ["data", "inspect-tokenizer", "tokenizer.json", "x={file}"]),
        ],
        preload=DATA,
        check=accepted.documents_are_those_of_the_text,
    ),
    Surface(
        "pages",
        "pages",
        [
            Target("crawl.warc", "bytes", 2),
            Target("crawl.warc", "lines", 2),
            Target("crawl.warc.gz", "bytes"),
            Target("page.html", "bytes"),
            Target("page.html", "text"),
            Target("book.pdf", "bytes", 2),
        ],
        [
            Asked(
                "extract", ["data", "extract", "{file}", "--seconds-per-page", "5", "--output", "out"], writes=("out*",)
            )
        ],
        preload=(*LIGHT, "numpy", "datatrove", "data_prep.corpus.run_corpus", "data_prep.verbs.corpus_verbs"),
    ),
    Surface(
        "preparation",
        "prepared",
        [
            Target("corpus.yaml", "yaml", 3),
            Target("text.jsonl", "jsonl", 3),
            Target("words.txt", "text", 1.5),
            Target("tokenizer.json", "json", 1.5),
            Target("corpus/*/en/files.json", "json", 2),
            Target("corpus/*/en/.stages/plan.json", "json", 2),
            Target("corpus/*/en/.stages/*/executor.json", "json"),
            Target("corpus/*/en/.stages/*/stats/*", "json"),
            Target("corpus/*/en/.stages/*/completions/*", "text"),
            Target("corpus/*/en/*.jsonl*", "bytes"),
            Target("corpus/*/en/*.provenance", "provenance"),
        ],
        [
            *[
                Asked(f"{stage} --config", ["data", stage, "--config", "corpus.yaml"], writes=("corpus*",), weight=2)
                for stage in ("clean", "dedup", "order")
            ],
            Asked("clean", ["data", "clean", "text.jsonl", "--output", "out", "--workers", "1"], writes=("out*",)),
            Asked(
                "clean with a list",
                ["data", "clean", "text.jsonl", "--preset", "light", "--banned-words", "words.txt", "--output", "out"],
                writes=("out*",),
            ),
            Asked("dedup", ["data", "dedup", "text.jsonl", "--method", "exact", "--output", "out"], writes=("out*",)),
            Asked(
                "order",
                ["data", "order", "text.jsonl", "--by", "score", "--score-key", "id", "--output", "out"],
                writes=("out*",),
            ),
            Asked(
                "order similar", ["data", "order", "text.jsonl", "--by", "similar", "--output", "out"], writes=("out*",)
            ),
            Asked(
                "train-tokenizer",
                ["data", "train-tokenizer", "x=text.jsonl", "--vocab-size", "512", "--spare-ids", "8"]
                + ["--user-words", "words.txt", "--output", "new.json"],
                writes=("new.json*",),
            ),
            Asked(
                "train-tokenizer .model",
                ["data", "train-tokenizer", "x=text.jsonl", "--vocab-size", "512", "--spare-ids", "8"]
                + ["--user-words", "words.txt", "--output", "new.model"],
                writes=("new.model*",),
            ),
            Asked(
                "extend-tokenizer",
                ["data", "extend-tokenizer", "tokenizer.json", "x=text.jsonl", "--words", "words.txt"]
                + ["--output", "new.json"],
                writes=("new.json*",),
                weight=2,
            ),
        ],
        preload=DATA,
        limits=Limits(wall_s=30.0, processor_s=20.0),
        check=accepted.nothing_is_added_to_the_text,
    ),
    Surface(
        "Hugging Face model",
        "model",
        [
            Target("model/config.json", "json", 4),
            Target("model/generation_config.json", "json"),
            Target("model/model.safetensors", "safetensors", 3),
            Target("model/tokenizer_config.json", "json"),
            Target("model/special_tokens_map.json", "json", 0.5),
            Target("model/tokenizer.json", "json"),
        ],
        [
            Asked("from-hf", ["convert", "from-hf", "model", "out"], writes=("out*",), weight=2),
            Asked("inspect", ["checkpoint", "inspect", "model", "--json"]),
            Asked("inspect text", ["checkpoint", "inspect", "model"]),
            Asked("check", ["convert", "check", "model", "model"], silent=(65,)),
        ],
        preload=(*TORCH, "transformers", "safetensors", "tokenizers", "checkpoint_tools.from_hf"),
        limits=Limits(wall_s=60.0, processor_s=40.0),
        check=accepted.tensors_are_those_of_the_files,
    ),
    Surface(
        "model in parts",
        "model",
        [
            Target("parts/config.json", "json", 1),
            Target("parts/model.safetensors.index.json", "json", 4),
            Target("parts/model-0000*.safetensors", "safetensors", 1),
        ],
        [
            Asked("from-hf", ["convert", "from-hf", "parts", "out"], writes=("out*",), weight=2),
            Asked("inspect", ["checkpoint", "inspect", "parts", "--json"]),
            Asked("check", ["convert", "check", "parts", "parts"], silent=(65,)),
        ],
        preload=(*TORCH, "transformers", "safetensors", "tokenizers", "checkpoint_tools.from_hf"),
        limits=Limits(wall_s=60.0, processor_s=40.0),
        share=0.6,
        check=accepted.tensors_are_those_of_the_files,
    ),
    Surface(
        "quantized model",
        "model",
        [Target("quantized/config.json", "json", 2), Target("quantized/model.safetensors", "safetensors", 3)],
        [Asked("dequantize", ["convert", "dequantize", "quantized", "out"], writes=("out*",))],
        preload=(*TORCH, "safetensors", "checkpoint_tools.dequantize"),
        limits=Limits(wall_s=60.0, processor_s=40.0),
        share=0.3,
    ),
    Surface(
        "checkpoint",
        "run",
        [
            Target(f"{_CHECKPOINT}/manifest.json", "manifest", 3),
            Target(f"{_CHECKPOINT}/manifest.json", "json", 0.5),
            Target(f"{_CHECKPOINT}/.metadata", "pickle", 4),
            Target(f"{_CHECKPOINT}/metadata.json", "json", 1),
            Target(f"{_CHECKPOINT}/common.pt", "bytes", 1),
            Target(f"{_CHECKPOINT}/*.distcp", "bytes", 2),
            Target(f"{_CHECKPOINT}/tokenizer/tokenizer.json", "json", 0.5),
        ],
        [
            Asked("verify", ["checkpoint", "verify", _CHECKPOINT, "--deep"], silent=(65,)),
            Asked("verify --json", ["checkpoint", "verify", "run", "--json"], silent=(65,)),
            Asked("inspect", ["checkpoint", "inspect", _CHECKPOINT, "--json"], weight=2),
            Asked("inspect text", ["checkpoint", "inspect", _CHECKPOINT]),
            Asked("diff", ["checkpoint", "diff", _CHECKPOINT, "run/checkpoints/step_0000006"], codes=(0, 1, 64, 65)),
            Asked("pin", ["checkpoint", "pin", _CHECKPOINT], writes=(f"{_CHECKPOINT}/manifest*",), weight=0.3),
            Asked("list", ["checkpoint", "list", "run"], weight=0.5),
            Asked(
                "average",
                ["convert", "average", _CHECKPOINT, "run/checkpoints/step_0000006", "out"],
                writes=("out*",),
            ),
            Asked("to-hf", ["convert", "to-hf", _CHECKPOINT, "out"], writes=("out*",)),
        ],
        preload=(*TORCH, "transformers", "checkpoint_tools.average", "checkpoint_tools.to_hf"),
        limits=Limits(wall_s=60.0, processor_s=40.0),
        seals=[("checkpoint", _CHECKPOINT)],
    ),
    Surface(
        "recordings",
        "recordings",
        [
            Target("curve.csv", "csv", 2),
            Target("curve.csv.gz", "csv.gz"),
            Target("curve.csv.gz", "bytes"),
            Target("events.out*", "records", 4),
        ],
        [
            Asked("replay", ["replay", "{file}"]),
            Asked("replay --json", ["replay", "{file}", "--json"], weight=2),
        ],
        preload=(*LIGHT, "harness.watch.replay"),
    ),
    Surface(
        "labels",
        "recordings",
        [Target("labels.csv", "csv")],
        [Asked("replay", ["replay", "curve.csv", "--labels", "labels.csv", "--json"])],
        preload=(*LIGHT, "harness.watch.replay"),
        share=0.3,
    ),
)


SURFACES += (absurd_options(DATA, _CHECKPOINT, _WATCHED),)

TRAINER = ("torch", "numpy", "harness.train.worker", "harness.train.main", "torch._dynamo")
_TRAIN = Asked(
    "train",
    ["--run-dir", "run", "--config", "config.yaml", "--resume", "auto"],
    codes=(0, 64, 65, 75, 76, 77),
    writes=("run*",),
    is_worker=True,
)
_TRAINING = Limits(wall_s=120.0, processor_s=60.0, memory_bytes=2 << 30)

SURFACES += (
    Surface(
        "signals",
        "trainer",
        [Target("drop/*.json", "json")],
        [_TRAIN],
        preload=TRAINER,
        limits=_TRAINING,
        share=2,
        dropped_into="run/signals",
        check=accepted.steps_are_those_of_an_undisturbed_run,
    ),
    Surface(
        "training",
        "trainer",
        [
            Target("run/metrics.jsonl", "jsonl", 2),
            Target("run/events.jsonl", "jsonl", 2),
            Target("run/order.jsonl", "jsonl", 3),
            Target("run/resume_failures.jsonl", "jsonl", 1),
            Target("run/heartbeats/*.json", "json", 1),
            Target("run/config.yaml", "yaml", 1),
            Target("run/lock", "text", 0.5),
            Target("run/fence/*", "text", 0.5),
            Target("run/launches/*/*", "json", 0.5),
            Target("run/checkpoints/step_0000004/manifest.json", "manifest", 2),
            Target("run/checkpoints/step_0000004/.metadata", "pickle", 2),
            Target("run/checkpoints/step_0000004/metadata.json", "json", 0.5),
            Target("run/checkpoints/step_0000004/common.pt", "bytes", 1),
            Target("data/en/*.idx", "idx", 2),
            Target("data/en/parts.jsonl", "jsonl", 2),
            Target("data/en/source.json", "json", 1),
            Target("tokenizer.json", "json", 1),
        ],
        [_TRAIN],
        preload=TRAINER,
        limits=_TRAINING,
        share=2,
        seals=[("checkpoint", "run/checkpoints/step_0000004")],
        check=accepted.steps_are_those_of_an_undisturbed_run,
    ),
)


def surface_named(name: str) -> Surface:
    return next(surface for surface in SURFACES if surface.name == name)
