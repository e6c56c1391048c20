"""Removal and correlation of centered distances, matrix by matrix: what the package computes from Gram matrices."""

import torch
from torch import Tensor

from captum_kd.distance.centering import Geometry


def inner_product(p: Geometry, q: Geometry) -> Tensor:
    return (p.matrix * q.matrix).sum()


def remove(p: Geometry, q: Geometry) -> Geometry:
    """What of p is left once q is taken away; a q without geometry takes nothing."""
    if float(q.matrix.norm()) <= 1e-12 * float(q.raw_norm):
        return p
    return Geometry(p.matrix - inner_product(p, q) / inner_product(q, q) * q.matrix, p.raw_norm)


def correlation(p: Geometry, q: Geometry) -> Tensor:
    return inner_product(p, q) / (inner_product(p, p).sqrt() * inner_product(q, q).sqrt())


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
