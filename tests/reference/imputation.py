"""Linear imputation as it is defined: one sparse system an image, solved directly in float64."""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu, spsolve
from torch import Tensor

OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def mean_of_neighbors(height: int, width: int) -> sparse.csr_matrix:
    """(H W, H W): direct neighbors weigh 1/6, diagonal ones 1/12, and what lies outside goes to the others."""
    pixels = np.arange(height * width)
    y, x = np.divmod(pixels, width)
    weights = sparse.csr_matrix((height * width, height * width))
    for dy, dx in OFFSETS:
        inside = (0 <= y + dy) & (y + dy < height) & (0 <= x + dx) & (x + dx < width)
        neighbors = ((y + dy) * width + x + dx)[inside]
        values = np.full(len(neighbors), 1 / 6 if dy == 0 or dx == 0 else 1 / 12)
        weights += sparse.csr_matrix((values, (pixels[inside], neighbors)), shape=weights.shape)
    sums = np.asarray(weights.sum(1)).ravel()
    return sparse.csr_matrix(sparse.diags(1 / np.where(sums > 0, sums, 1)) @ weights)


def impute(image: Tensor, keep: Tensor, factorized: bool = False) -> Tensor:
    """One image (C, H, W) with its mask (H, W); all channels share a factorization, by one of scipy's two ways."""
    channels, height, width = image.shape
    known = keep.flatten().numpy()
    filled = image.double().flatten(1).numpy().copy()
    if not known.all():
        weights = mean_of_neighbors(height, width)[~known]
        matrix = sparse.csc_matrix(sparse.identity((~known).sum()) - weights[:, ~known])
        right = weights[:, known] @ filled[:, known].T
        solution = splu(matrix).solve(right) if factorized else spsolve(matrix, right)
        filled[:, ~known] = solution.reshape(-1, channels).T
    return torch.from_numpy(filled).reshape(channels, height, width)


def impute_all(images: Tensor, keep: Tensor, factorized: bool = False) -> Tensor:
    """(N, C, H, W) with masks (N, 1, H, W), one image after the other."""
    return torch.stack([impute(image, mask[0], factorized) for image, mask in zip(images, keep)])
