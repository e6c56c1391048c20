"""Similarities of two sets of features, in float64 and term by term.

HSIC_1 is formula (4) of Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
"""

import torch
from torch import Tensor

from reference.literal import distances, r, u_centered


def fss(x: Tensor, y: Tensor) -> float:
    return float(r(u_centered(distances(x)), u_centered(distances(y))))


def hsic_1(x: Tensor, y: Tensor) -> float:
    """The unbiased estimator of HSIC with linear kernels."""
    n = len(x)
    k, m = (kernel - torch.diag(kernel.diagonal()) for kernel in (x @ x.T, y @ y.T))
    ones = torch.ones(n, dtype=k.dtype)
    first = torch.trace(k @ m)
    second = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (ones @ k @ m @ ones)
    return float((first + second - third) / (n * (n - 3)))


def cka(x: Tensor, y: Tensor) -> float:
    return hsic_1(x, y) / (hsic_1(x, x) * hsic_1(y, y)) ** 0.5
