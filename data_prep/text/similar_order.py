"""An order in which documents of like content are neighbours: clusters of TF-IDF vectors, walked from near to near.

Words, Chinese characters and pairs of them are hashed; each is weighted by its rarity (Salton and Buckley 1988) and the
vector of a document is projected to a few dimensions at random (Achlioptas 2003). The vectors may lie on disk: they are
read in pieces.

Shapes: N documents (or points), T terms of a document, K centres.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.text.shingles import POWERS, mixed, unit_hashes

TERM_BITS = 18
DIMENSIONS = 512
TARGETS_PER_TERM = 4
"""Dimensions that a term adds to or takes from."""
DOCUMENTS_PER_CLUSTER = 500
MAX_CLUSTERS = 4096
TRAINING_VECTORS_PER_CLUSTER = 64
ROUNDS = 10
CHUNK = 8192
LONGEST_WALK = 4096
"""Points; the work grows with their square."""

Vectors = NDArray[Any]


class DocumentFrequencies:
    """Number of documents in which each (hashed) term occurs."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts = np.zeros(1 << TERM_BITS, dtype=np.int64)
        self.documents = 0
        for text in texts:
            terms, _ = _terms(text)
            self.counts[terms] += 1
            self.documents += 1

    def vector(self, text: str) -> Vectors:
        """Return the projected TF-IDF vector of a document, of length 1 (0 if it has no term), [DIMENSIONS]."""
        terms, occurrences = _terms(text)
        shared = self.counts[terms] > 1
        # A term that no other document has makes no documents alike, and only shortens the rest of the vector.
        terms, occurrences = terms[shared], occurrences[shared]  # [T] each
        rarity = np.log((1 + self.documents) / (1 + self.counts[terms]))
        weights = (1 + np.log(occurrences)) * rarity
        vector = np.zeros(DIMENSIONS, dtype=np.float64)
        # Random projection: each term adds its weight to a few dimensions, with signs, that its hash chooses.
        bits = mixed(terms.astype(np.uint64) + np.uint64(1))
        for target in range(TARGETS_PER_TERM):
            chosen = bits >> np.uint64(16 * target)
            signs = 1.0 - 2.0 * ((chosen >> np.uint64(15)) & np.uint64(1)).astype(np.float64)
            np.add.at(vector, (chosen % np.uint64(DIMENSIONS)).astype(np.int64), signs * weights)
        length = np.linalg.norm(vector)
        return (vector / length if length else vector).astype(np.float32)


def similar_order(vectors: Vectors, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the documents in an order in which neighbours are similar, [documents].

    The vectors [documents, DIMENSIONS] have length 1 and any precision. The seed chooses the first centres.
    """
    count = len(vectors)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    centres = _centres(vectors, min(MAX_CLUSTERS, -(-count // DOCUMENTS_PER_CLUSTER)), seed)
    nearest = _nearest(vectors, centres)  # [N]
    # Members of each cluster without a search for each: documents sorted by cluster, cut where the cluster changes.
    by_cluster = np.argsort(nearest, kind="stable")
    borders = np.searchsorted(nearest[by_cluster], np.arange(len(centres) + 1))
    order = []
    for cluster in _walk(centres):
        members = by_cluster[borders[cluster] : borders[cluster + 1]]
        order.append(members[_inside(vectors[members].astype(np.float32))])
    return np.concatenate(order)


def _terms(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct terms of a text, hashed, and their occurrences, [T] each: units and pairs of neighbours."""
    units = unit_hashes(text)
    pairs = mixed(units[:-1] * POWERS[0] + units[1:] * POWERS[1])
    hashed = (np.concatenate([units, pairs]) >> np.uint64(64 - TERM_BITS)).astype(np.int64)
    terms, occurrences = np.unique(hashed, return_counts=True)
    return terms, occurrences


def _centres(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Return the centres of a sample's clusters by spherical k-means (Dhillon and Modha 2001)."""
    generator = np.random.default_rng(seed)
    size = min(len(vectors), count * TRAINING_VECTORS_PER_CLUSTER)
    sample = vectors[np.sort(generator.choice(len(vectors), size, replace=False))].astype(np.float32)
    centres = sample[generator.choice(size, count, replace=False)]
    for _ in range(ROUNDS):
        nearest = _nearest(sample, centres)
        # The new centre is the mean direction of its vectors: their sum, made of length 1.
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A centre to which no vector is nearest stays where it is.
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> NDArray[np.int64]:
    """Return the nearest centre of each vector, [vectors]."""
    pieces = (vectors[begin : begin + CHUNK].astype(np.float32) for begin in range(0, len(vectors), CHUNK))
    return np.concatenate([np.argmax(piece @ centres.T, axis=1) for piece in pieces])


def _inside(members: Vectors) -> NDArray[np.int64]:
    """Return the order inside a cluster: a walk if it is small, else along the direction in which it is widest."""
    if len(members) <= LONGEST_WALK:
        return _walk(members)
    # The first principal component of the first documents.
    spread = members - members.mean(axis=0)
    direction = np.linalg.svd(spread[:CHUNK], full_matrices=False)[2][0]
    return np.argsort(spread @ direction, kind="stable")


def _walk(points: Vectors) -> NDArray[np.int64]:
    """Return a walk from the first point, each step to the nearest point that was not visited yet."""
    left = np.ones(len(points), dtype=bool)
    order = np.zeros(len(points), dtype=np.int64)
    here = 0
    for place in range(len(points)):
        order[place] = here
        left[here] = False
        if place + 1 < len(points):
            here = int(np.argmax(np.where(left, points @ points[here], -np.inf)))
    return order
