from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.channels.long_documents import DocumentShape, LongDocuments, Pieces, lay_down
from data_prep.tokenizers.encoders import EncodedDocuments

END = 99


def encoded(documents: list[list[int]]) -> EncodedDocuments:
    flat = [token for document in documents for token in document]
    return EncodedDocuments(np.array(flat, dtype=np.uint32), np.array([len(d) for d in documents], dtype=np.int64))


def pieces_of(pieces: Pieces) -> list[list[int]]:
    return (
        [part.tolist() for part in np.split(pieces.ids, np.cumsum(pieces.lengths)[:-1])] if len(pieces.lengths) else []
    )


@pytest.mark.parametrize(
    ("shape", "expected", "per_document"),
    [
        (DocumentShape(end_id=None), [[1, 2, 3], [], [4], [5, 6, 7, 8, 9]], [1, 1, 1, 1]),
        (DocumentShape(end_id=END), [[1, 2, 3, END], [END], [4, END], [5, 6, 7, 8, 9, END]], [1, 1, 1, 1]),
        (
            DocumentShape(end_id=END, max_tokens=4, long_documents="drop"),
            [[1, 2, 3, END], [END], [4, END]],
            [1, 1, 1, 0],
        ),
        (
            DocumentShape(end_id=END, max_tokens=3, long_documents="split"),
            [[1, 2, END], [3, END], [END], [4, END], [5, 6, END], [7, 8, END], [9, END]],
            [2, 1, 1, 3],
        ),
        (
            DocumentShape(end_id=None, max_tokens=3, long_documents="split"),
            [[1, 2, 3], [], [4], [5, 6, 7], [8, 9]],
            [1, 1, 1, 2],
        ),
        (DocumentShape(end_id=None, begin_id=7), [[7, 1, 2, 3], [7], [7, 4], [7, 5, 6, 7, 8, 9]], [1, 1, 1, 1]),
        (
            DocumentShape(end_id=END, begin_id=7, max_tokens=4, long_documents="split"),
            [[7, 1, 2, END], [7, 3, END], [7, END], [7, 4, END], [7, 5, 6, END], [7, 7, 8, END], [7, 9, END]],
            [2, 1, 1, 3],
        ),
        (
            DocumentShape(end_id=None, max_tokens=1, long_documents="keep"),
            [[1, 2, 3], [], [4], [5, 6, 7, 8, 9]],
            [1] * 4,
        ),
    ],
)
def test_documents_as_they_are_written(
    shape: DocumentShape, expected: list[list[int]], per_document: list[int]
) -> None:
    pieces = lay_down(encoded([[1, 2, 3], [], [4], [5, 6, 7, 8, 9]]), shape)
    assert (pieces_of(pieces), pieces.per_document.tolist()) == (expected, per_document)


def one_by_one(documents: list[list[int]], shape: DocumentShape) -> list[list[list[int]]]:
    """The same, the slow way: the pieces of each document."""
    end = [] if shape.end_id is None else [shape.end_id]
    room = (shape.max_tokens or 10**9) - len(end)
    result = []
    for document in documents:
        if len(document) <= room or shape.long_documents == "keep":
            result.append([document + end])
        elif shape.long_documents == "drop":
            result.append([])
        else:
            result.append([document[i : i + room] + end for i in range(0, len(document), room)])
    return result


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12),
    end_id=st.sampled_from([None, END]),
    max_tokens=st.integers(2, 10),
    long_documents=st.sampled_from(get_args(LongDocuments)),
    wanted=st.integers(1, 40),
)
def test_any_documents_one_by_one(
    documents: list[list[int]], end_id: int | None, max_tokens: int, long_documents: LongDocuments, wanted: int
) -> None:
    shape = DocumentShape(end_id=end_id, max_tokens=max_tokens, long_documents=long_documents)
    pieces = lay_down(encoded(documents), shape)
    expected = one_by_one(documents, shape)
    assert pieces_of(pieces) == [piece for document in expected for piece in document]
    assert pieces.per_document.tolist() == [len(document) for document in expected]

    tokens = np.cumsum([0, *(sum(map(len, document)) for document in expected)])
    reaching = next((count for count, total in enumerate(tokens) if total >= wanted), None)
    assert pieces.num_documents_reaching(wanted) == reaching
    count = reaching or 0
    head, tail = pieces.split_at(count)
    assert pieces_of(head) == [piece for document in expected[:count] for piece in document]
    assert pieces_of(tail) == [piece for document in expected[count:] for piece in document]
    assert len(tail.per_document) == len(documents) - count
