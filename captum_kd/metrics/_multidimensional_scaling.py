"""Points in two dimensions from distances (classical multidimensional scaling), and their alignment (Procrustes)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def classical_scaling(squares: Array) -> tuple[Array, Optional[float]]:
    """The two principal axes of points with these squared distances.

    With distances between feature vectors these are the first two principal components. Each axis points to its largest
    coordinate, since its sign is arbitrary.

    Args:
        squares (Array): (n, n) squared distances.

    Returns:
        tuple: coordinates (n, 2), float64, with mean 0; and the share of the sum of all squared distances that they show, which
        is their share of the variance. None if all distances are 0.

    Source: Torgerson, Psychometrika 1952.
    """
    from scipy.linalg import eigh  # imported here so that import captum_kd stays fast

    n = len(squares)
    rows = squares.mean(0)
    products = (rows[:, None] + rows - squares - rows.mean()) / 2
    variance = float(np.trace(products))
    points = np.zeros((n, 2))
    if variance <= 0.0:
        return points, None
    kept = min(n, 2)
    values, vectors = eigh(products, subset_by_index=[n - kept, n - 1])
    found = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))
    points[:, :kept] = found * np.where(found.max(0) < -found.min(0), -1.0, 1.0)
    return points, min(1.0, float(np.maximum(values, 0.0).sum()) / variance)


def aligned(points: Array, target: Array, places: Optional[tuple[list[int], list[int]]] = None) -> Array:
    """The points after the rotation or reflection about 0 that brings them closest to a target, in least squares.

    Args:
        points, target (Array): (n, 2) and (m, 2).
        places (tuple, optional): the rows of both that belong together.
            Default: None, all rows in the same order

    Source: Schoenemann, Psychometrika 1966 (orthogonal Procrustes problem).
    """
    from scipy.linalg import orthogonal_procrustes

    own, its = (points, target) if places is None else (points[places[0]], target[places[1]])
    result: Array = points @ orthogonal_procrustes(own, its)[0] if len(own) else points
    return result
