"""Small models that judge documents, made with the libraries themselves."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

GOOD = (
    "The treaty was signed in the spring and the king kept most of what he had won in the war that year".split()  # noqa: SIM905
)
BAD = "click buy cheap subscribe winner casino offer free bonus discount deal prize voucher coupon sale".split()  # noqa: SIM905


def trained(file: Path, texts: Mapping[str, Sequence[str]]) -> Path:
    """Train a model of fastText that tells texts by their labels."""
    fasttext = pytest.importorskip("fasttext")
    lines = [f"__label__{label} {' '.join(text.split())}" for label, each in texts.items() for text in each] * 20
    random.Random(0).shuffle(lines)
    source = file.with_suffix(".txt")
    source.write_text("\n".join(lines) + "\n")
    for seed in range(20):
        with suppress(RuntimeError):  # the library's training ends with NaN for some seeds
            model = fasttext.train_supervised(
                str(source), dim=4, minn=1, maxn=3, lr=0.1, epoch=5, thread=1, verbose=0, seed=seed
            )
            model.save_model(str(file))
            break
    source.unlink()
    return file


def onnx_classifier(
    folder: Path, labels: Sequence[str] = ("bad", "hq"), inputs: Sequence[str] = ("input_ids",)
) -> Path:
    """Write a classifier that adds up a weight for each token: the words of `GOOD` speak for the last label."""
    onnx = pytest.importorskip("onnx")
    tokenizers = pytest.importorskip("tokenizers")
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(exist_ok=True)
    words = sorted({*map(str.lower, GOOD), *BAD})
    vocabulary = {"[UNK]": 0, **{word: number for number, word in enumerate(words, 1)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.zeros((len(vocabulary), len(labels)), dtype=np.float32)
    for word, number in vocabulary.items():
        table[number, -1] = 0.3 * ((word in map(str.lower, GOOD)) - (word in BAD))
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0),
        ],
        "classifier",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["texts", len(labels)])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    names = {str(number): label for number, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps({"id2label": names}))
    return folder / "model.onnx"
