"""The matrix nearest to being orthogonal, by the Newton-Schulz iteration, and the size that an update of it has.

Pure functions of one matrix. The iteration and its coefficients are those of Jordan et al. 2024
(https://kellerjordan.github.io/posts/muon/), which `torch.optim.Muon` has too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from harness.config.schema import MuonScale

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: singular values between 0 and 1 come close to 1 within few steps, and then stay near it."""
_LEAST_NORM = 1e-7


def orthogonalized(matrix_RC: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Return the matrix with all singular values near 1, `[rows, columns]`; computed in the format of its numbers.

    `X <- a X + (b A + c A A) X` with `A = X X^T`. It begins at a Frobenius norm of 1, which no singular value exceeds.
    """
    is_tall = matrix_RC.size(0) > matrix_RC.size(1)
    x = matrix_RC.mT if is_tall else matrix_RC  # A is then the smaller of both
    x = x / x.norm().clamp(min=_LEAST_NORM)
    a, b, c = _COEFFICIENTS
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def each_orthogonalized(matrix_RC: torch.Tensor, projections: Sequence[int], num_steps: int) -> torch.Tensor:
    """Orthogonalize each projection of a matrix on its own.

    `projections` are the rows of each; if they add up to fewer than the matrix has, they are repeated along its rows,
    and rows of the same projection belong together.
    """
    columns = matrix_RC.size(1)
    grouped_GRC = matrix_RC.view(-1, sum(projections), columns)
    parts = [
        orthogonalized(part_GRC.reshape(-1, columns), num_steps).view(part_GRC.shape)
        for part_GRC in torch.split(grouped_GRC, list(projections), dim=1)
    ]
    return torch.cat(parts, dim=1).view(matrix_RC.shape)


def projection_scales(rows: int, columns: int, projections: Sequence[int], scale: MuonScale) -> tuple[float, ...]:
    """Return the factor of the update of each projection that a matrix stacks."""
    repeats = rows // sum(projections)
    return tuple(_scale(repeats * own, columns, scale) for own in projections)


def _scale(rows: int, columns: int, scale: MuonScale) -> float:
    """Return the factor for a projection, in Megatron's terms (`get_muon_scale_factor` of emerging-optimizers)."""
    match scale:
        case "spectral":  # Liu et al. 2025 (arXiv:2502.16982): the root mean square is equal for all shapes
            return math.sqrt(max(rows, columns))
        case "shape_scaling":  # Jordan et al. 2024
            return math.sqrt(max(1.0, rows / columns))
        case "unit_rms_norm":  # Bernstein 2025 (https://jeremybernste.in/writing/deriving-muon)
            return math.sqrt(rows / columns)
