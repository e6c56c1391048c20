"""The method, formula by formula: broadcasting, loops and autograd in float64.

Nothing here is shared with the package.
"""

from typing import Callable, Optional, Sequence

import numpy as np
import torch
from torch import Tensor


def distances(x: Tensor) -> Tensor:
    n = x.shape[0]
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    # The square root of the diagonal's zeros would have an infinite slope.
    return torch.where(off_diagonal, squares.masked_fill(~off_diagonal, 1.0).sqrt(), torch.zeros_like(squares))


def u_centered(d: Tensor) -> Tensor:
    n = d.shape[0]
    rows, columns, total = d.sum(1, keepdim=True), d.sum(0, keepdim=True), d.sum()
    p = d - rows / (n - 2) - columns / (n - 2) + total / ((n - 1) * (n - 2))
    return p * (1 - torch.eye(n, dtype=d.dtype))


def inner(p: Tensor, q: Tensor) -> Tensor:
    n = p.shape[0]
    return (p * q).sum() / (n * (n - 3))


def r(p: Tensor, q: Tensor) -> Tensor:
    return inner(p, q) / (inner(p, p) * inner(q, q)).sqrt()


def without(p: Tensor, q: Tensor) -> Tensor:
    return p - inner(p, q) / inner(q, q) * q


def without_all(p: Tensor, others: list[Tensor]) -> Tensor:
    """The residual of least squares over all pairs of inputs."""
    columns = torch.stack([q.flatten() for q in others], 1).detach()
    coefficients = torch.linalg.solve(columns.T @ columns, columns.T @ p.flatten())
    return p - (columns @ coefficients).view_as(p)


def embedded(labels: Tensor, embeddings: Optional[Tensor]) -> Tensor:
    if embeddings is None:
        embeddings = torch.eye(int(labels.max()) + 1)
    return embeddings.double()[labels]


def objective(own: Tensor, other: Tensor, labels: Optional[Tensor], embeddings: Optional[Tensor] = None) -> Tensor:
    rest = without(u_centered(distances(own)), u_centered(distances(other)))
    if labels is None:
        return rest.max(1).values.sum()
    return r(rest, u_centered(distances(embedded(labels, embeddings))))


def teacher_objective(own: Tensor, other: Tensor, teacher: Tensor) -> Tensor:
    """In batch mode and, the added input being one row of the population, in reference mode."""
    return r(without(u_centered(distances(own)), u_centered(distances(other))), u_centered(distances(teacher)))


def added_objective(
    own: Tensor, other: Tensor, labels: Optional[Tensor], embeddings: Optional[Tensor] = None
) -> Tensor:
    """Reference mode: the added input is the first row."""
    if labels is not None:
        return objective(own, other, labels, embeddings)
    rest = without(u_centered(distances(own)), u_centered(distances(other)))
    return rest[0, 1:].max()


def several_bases_objective(own: Tensor, others: list[Tensor], target: Optional[Tensor]) -> Tensor:
    """Of an input that is the first row, with all other models removed and a target given by its points."""
    rest = without_all(u_centered(distances(own)), [u_centered(distances(other)) for other in others])
    return rest[0, 1:].max() if target is None else r(rest, u_centered(distances(target)))


def weighted_map(activations: Tensor, gradient: Tensor) -> Tensor:
    alpha = gradient.flatten(2).mean(2)
    return torch.einsum("nk,nk...->n...", alpha, activations)[:, None]


def batch_map(
    activations: Tensor,
    features: Callable[[Tensor], Tensor],
    other: Tensor,
    labels: Optional[Tensor] = None,
    embeddings: Optional[Tensor] = None,
) -> Tensor:
    a = activations.detach().double().requires_grad_()
    j = objective(features(a), other.double(), labels, embeddings)
    return weighted_map(a.detach(), torch.autograd.grad(j, a)[0])


def reference_map(
    activations: Tensor,
    features: Callable[[Tensor], Tensor],
    other: Tensor,
    own_references: Tensor,
    other_references: Tensor,
    labels: Optional[Tensor] = None,
    reference_labels: Optional[Tensor] = None,
    embeddings: Optional[Tensor] = None,
) -> Tensor:
    maps = []
    for i in range(activations.shape[0]):
        a = activations[i : i + 1].detach().double().requires_grad_()
        raise_together = None
        if labels is not None and reference_labels is not None:
            raise_together = torch.cat([labels[i : i + 1], reference_labels])
        j = added_objective(
            torch.cat([features(a), own_references.double()]),
            torch.cat([other[i : i + 1].double(), other_references.double()]),
            raise_together,
            embeddings,
        )
        maps.append(weighted_map(a.detach(), torch.autograd.grad(j, a)[0]))
    return torch.cat(maps)


def teacher_batch_map(
    activations: Tensor, features: Callable[[Tensor], Tensor], other: Tensor, teacher: Tensor
) -> Tensor:
    a = activations.detach().double().requires_grad_()
    j = teacher_objective(features(a), other.double(), teacher.double())
    return weighted_map(a.detach(), torch.autograd.grad(j, a)[0])


def teacher_reference_map(
    activations: Tensor,
    features: Callable[[Tensor], Tensor],
    other: Tensor,
    teacher: Tensor,
    own_references: Tensor,
    other_references: Tensor,
    teacher_references: Tensor,
) -> Tensor:
    maps = []
    for i in range(activations.shape[0]):
        a = activations[i : i + 1].detach().double().requires_grad_()
        j = teacher_objective(
            torch.cat([features(a), own_references.double()]),
            torch.cat([other[i : i + 1].double(), other_references.double()]),
            torch.cat([teacher[i : i + 1].double(), teacher_references.double()]),
        )
        maps.append(weighted_map(a.detach(), torch.autograd.grad(j, a)[0]))
    return torch.cat(maps)


def share_over_placebos(
    own: Tensor, other: Tensor, teacher: Tensor, placebos: Sequence[Tensor], labels: Optional[Tensor] = None
) -> Tensor:
    """The Teacher's share of own given other, minus the mean share of the placebos; with labels, beyond the labels."""
    rest = without(u_centered(distances(own)), u_centered(distances(other)))

    def share(features: Tensor) -> Tensor:
        target = u_centered(distances(features))
        return r(rest, target if labels is None else without(target, u_centered(distances(embedded(labels, None)))))

    return share(teacher) - torch.stack([share(each) for each in placebos]).mean()


def gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return [(1 + node) / 2 for node in nodes.tolist()], [weight / 2 for weight in weights.tolist()]


def integrated_gradients(
    features: Tensor, baselines: Tensor, objective_of: Callable[[int, Tensor], Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    """For each input: the mean gradient of its objective from its baseline to its features, and J(x) - J(b).

    ``objective_of(i, z)`` is the objective with input i at features z, all others where they are.
    """
    mean_gradients, gains = [], []
    for i in range(len(features)):
        x, b = features[i].detach().double(), baselines[i].detach().double()
        total = torch.zeros_like(x)
        for node, weight in zip(*gauss_legendre(steps)):
            z = (b + node * (x - b)).requires_grad_()
            total = total + weight * torch.autograd.grad(objective_of(i, z), z)[0]
        mean_gradients.append(total)
        gains.append(objective_of(i, x) - objective_of(i, b))
    return torch.stack(mean_gradients), torch.stack(gains)


def replaced(features: Tensor, i: int, row: Tensor) -> Tensor:
    return torch.cat([features[:i], row[None], features[i + 1 :]])


def pooled_map(activations: Tensor, gradients: Tensor, baselines: Tensor) -> Tensor:
    """Of activations (N, C, h, w), mean gradients (N, C) at their averages and baselines (N, C): the sum over the
    positions is the gradient times the way from the baseline."""
    positions = activations[0, 0].numel()
    return torch.einsum("nk,nkhw->nhw", gradients / positions, activations - baselines[..., None, None])[:, None]
