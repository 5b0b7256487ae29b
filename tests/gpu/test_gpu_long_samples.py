"""Long samples and documents on a GPU: the tests that a CPU passes, and memory that follows lengths."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compared import DTYPES, assert_same, random
from gpu_runs import column, train, write_text
from pretended import end_if_pretended

from harness.model import context
from harness.model.attention.bounds import documents_at, stretches_of
from harness.model.attention.core import CoreAttention, attend_stretch
from harness.model.attention.rules import Rules
from harness.parallel.ranks import Place
from harness.run import metric_names as names

S, B, N, G, D = 264, 2, 8, 2, 64
BORDERS = {"samples": [0, S, 2 * S], "documents": [0, 3, 98, 117, 118, S, S + 1, S + 211, 2 * S]}
"""Odd lengths, among them documents of one token."""
RULES = {"plain": Rules(), "window": Rules(window=33)}


def written_out(borders: list[int], rules: Rules, *parts: torch.Tensor) -> torch.Tensor:
    """Softmax over a matrix of scores: `[S, B, N, D]`."""
    number = torch.bucketize(torch.arange(2 * S), torch.tensor(borders), right=True).view(2, 1, S)
    behind = torch.arange(S)[:, None] - torch.arange(S)
    mask = (number[..., None] == number[:, :, None]) & (behind >= 0) & (behind < (rules.window or S))
    query, key, value = parts[0], *(x.repeat_interleave(N // G, dim=2) for x in parts[1:])
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / D**0.5
    return torch.einsum("bnst,tbnd->sbnd", scores.masked_fill(~mask, float("-inf")).softmax(-1), value)


def heads(dtype: torch.dtype) -> list[torch.Tensor]:
    return [random(S, B, number, D, dtype=dtype, seed=seed) for seed, number in enumerate((N, G, G))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("borders", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_stretches_of_all_ranks_are_the_whole(
    num_ranks: int, borders: list[int], rules: Rules, dtype: torch.dtype, device: torch.device
) -> None:
    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        outputs = []
        for rank in range(num_ranks):
            place = Place(rank=rank, size=num_ranks)
            own = context.own_part(query.transpose(0, 1), place).transpose(0, 1)
            for stretch in stretches_of(S, B, place, borders, device):
                outputs.append(attend_stretch(own[stretch.rows], key, value, stretch, rules))
        return context.in_order(torch.cat(outputs), num_ranks)

    assert_same(ours, lambda *parts: written_out(borders, rules, *parts), *heads(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_documents_are_the_same_as_alone(dtype: torch.dtype, device: torch.device) -> None:
    lengths = [5, 1, 120, 7, 131]
    starts = [0, *itertools.accumulate(lengths)]
    parts = [random(starts[-1], 1, number, D, dtype=dtype, seed=number).to(device) for number in (N, G, G)]
    documents = documents_at(torch.tensor(starts, dtype=torch.int32), device)
    packed = CoreAttention()(*parts, packed_seq_params=SimpleNamespace(documents=documents))
    alone = [CoreAttention()(*(x[start:end] for x in parts)) for start, end in itertools.pairwise(starts)]
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(packed, torch.cat(alone), **tolerance)


@pytest.mark.parametrize("document", [None, 4096], ids=["sample", "documents"])
def test_memory_follows_the_tokens(document: int | None, device: torch.device) -> None:
    peaks = []
    for length in (16384, 32768):
        parts = [
            torch.randn(length, 1, number, D, device=device, dtype=torch.bfloat16, requires_grad=True)
            for number in (N, G, G)
        ]
        packed = None
        if document is not None:
            starts = torch.arange(0, length + 1, document, dtype=torch.int32)
            packed = SimpleNamespace(documents=documents_at(starts, device))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        CoreAttention()(*parts, packed_seq_params=packed).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.2 * peaks[0]


KINDS: dict[str, dict[str, Any]] = {
    "documents": {},
    "windows": {"model.window_size": 33},
    "latent": {
        "model.num_query_groups": None,
        "model.multi_latent_attention": True,
        "model.kv_lora_rank": 32,
        "model.qk_head_dim": 32,
        "model.qk_pos_emb_head_dim": 16,
        "model.v_head_dim": 32,
    },
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_and_the_cpu_keep_documents_apart_alike(kind: str, text: Path, tmp_path: Path) -> None:
    """Both go on from one checkpoint, in fp32."""
    changes = {"data.reset_at_document_borders": True, "checkpoint.save_every_steps": 3, **KINDS[kind]}
    runs = []
    for name in ("gpu", "cpu"):
        train(text, tmp_path / name, {**changes, "run.stop_at_step": 3})
        on_gpu = name == "gpu"
        runs.append(train(text, tmp_path / name, {**changes, "run.stop_at_step": 6}, on_gpu=on_gpu, resume="must"))
    end_if_pretended()
    on_gpu_losses, on_cpu_losses = (column(run, names.LM_LOSS) for run in runs)
    assert on_cpu_losses == pytest.approx(on_gpu_losses, rel=1e-3)


@pytest.mark.parametrize("documents", [False, True], ids=["samples", "documents"])
@pytest.mark.parametrize("way", ["allgather", "a2a"])
def test_ranks_that_share_samples_train_the_same(way: str, documents: bool, text: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs 2 GPUs")
    changes = {"run.stop_at_step": 5, "data.reset_at_document_borders": documents}
    alone = train(text, tmp_path / "alone", changes)
    shares = {"parallel.context_parallel_size": 2, "parallel.cp_comm_type": way}
    shared = train(text, tmp_path / "shared", {**changes, **shares})
    end_if_pretended()
    for name in (names.LM_LOSS, names.GRAD_NORM):
        assert column(shared, name) == pytest.approx(column(alone, name), rel=1e-4)
