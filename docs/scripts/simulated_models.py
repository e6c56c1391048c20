"""Populations of inputs as seen by two simulated models, and the true values of their scores.

An input has a label and a nuisance; each model sees the label's class mean, the nuisance and noise
of its own. What the two share makes them similar, what each takes from the label relevant. Inputs
are independent, or views of the same sources, as crops of one image are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

import torch
from torch import Tensor

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import Products, geometry_products, transfer_scores

DIMENSIONS = 16
SOURCE_SHARE = 0.5
"""The share of the noise's variance that all views of a source have in common."""
LABELINGS: dict[str, tuple[float, ...]] = {
    "2 balanced": (0.5, 0.5),
    "2 unbalanced": (0.9, 0.1),
    "10 balanced": (0.1,) * 10,
}


@dataclass(frozen=True)
class Population:
    """How inputs and features come about.

    Attributes:
        name (str): of the scenario.
        labeling (str): a key of :data:`LABELINGS`, the class shares.
        student_signal, base_signal (float): how far class means lie apart in each model's features.
        shared (float): size of the nuisance that both models see, beside their own noise of size 1.
        views (int): inputs of one source. They have its label, its nuisance and part of their noise in common. Each input
            on its own is distributed as with one view.
    """

    name: str
    labeling: str
    student_signal: float
    base_signal: float
    shared: float
    views: int = 1

    def draw(self, n: int, draw: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Distance matrices (n, n) of student, base and labels, float64, and the labels (n,)."""
        shares = torch.tensor(LABELINGS[self.labeling], dtype=torch.float64)
        source = torch.arange(n) // self.views
        sources = int(source[-1]) + 1
        labels = torch.multinomial(shares, sources, replacement=True, generator=draw)[source]
        signal, nuisance = self._means(len(shares))[labels], _normal(sources, draw)[source]

        def noise() -> Tensor:
            if self.views == 1:
                return _normal(n, draw)
            return SOURCE_SHARE**0.5 * _normal(sources, draw)[source] + (1 - SOURCE_SHARE) ** 0.5 * _normal(n, draw)

        features = {
            "student": self.student_signal * signal + self.shared * nuisance + noise(),
            "base": self.base_signal * signal + self.shared * nuisance + noise(),
        }
        distances = {name: euclidean_distances(value) for name, value in features.items()}
        distances["labels"] = (labels[:, None] != labels).double()
        return distances, labels

    def _means(self, classes: int) -> Tensor:
        """Class means (c, d): opposite for two classes, else scattered; the same for every draw."""
        means = _normal(classes, torch.Generator().manual_seed(20))
        means = torch.stack([means[0], -means[0]]) if classes == 2 else means
        return torch.nn.functional.normalize(means)


def _normal(n: int, draw: torch.Generator) -> Tensor:
    return torch.randn(n, DIMENSIONS, generator=draw, dtype=torch.float64)


def true_values(population: Population, inputs: int, seed: int) -> dict[str, float]:
    """The scores of the whole population, whose inputs are independent.

    Inner products of small samples are unbiased; their mean over many samples has hardly more
    error than that of one sample of all inputs, and takes time linear in their number.
    """
    draw, size, population = torch.Generator().manual_seed(seed), 200, replace(population, views=1)
    mean: Tensor | float = 0.0
    samples = max(1, inputs // size)
    for _ in range(samples):
        products = geometry_products(population.draw(size, draw)[0], leave_one_out=False)
        mean = mean + products.full / samples
    assert isinstance(mean, Tensor)
    whole = Products(products.names, mean, products.without, products.noise)
    return {name: whole.score(score)[0] for name, score in transfer_scores().items()}


def without_distilled(population: Population, inputs: int, seed: int) -> Population:
    """The population with the Student's signal chosen so that RS(S|B) is truly 0.

    Then RS_S = F RS_B: the Student follows the labels only as far as it resembles the Base.
    """

    def distilled(signal: float) -> float:
        # Always the same draws, so that the value depends smoothly on the signal.
        return true_values(replace(population, student_signal=signal), inputs, seed)["rs_distilled"]

    return replace(population, student_signal=_root(distilled, 0.0, population.base_signal))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function is 0 (regula falsi, Illinois variant)."""
    f_low, f_high = function(low), function(high)
    side = 0
    for _ in range(12):
        middle = (low * f_high - high * f_low) / (f_high - f_low)
        value = function(middle)
        if abs(value) < 1e-5:
            break
        if value > 0:
            high, f_high, f_low = middle, value, f_low / 2 if side == 1 else f_low
        else:
            low, f_low, f_high = middle, value, f_high / 2 if side == -1 else f_high
        side = 1 if value > 0 else -1
    return middle
