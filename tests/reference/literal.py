"""The method, formula by formula: broadcasting, loops and autograd in float64.

Nothing here is shared with the package.
"""

from typing import Callable, Optional, Sequence

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
