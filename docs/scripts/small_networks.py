"""Many small multilayer perceptrons on scikit-learn's digits, trained at once.

The networks of one width, optimizer and number of steps are one batch of matrix products. Each network has its own first
weights, batches and recipe, and no network influences another, except a Teacher its Students.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping, Optional

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, relu

CLASSES = 10
BATCH = 32
TEMPERATURE = 4.0
SMOOTHING, DROPOUT = 0.1, 0.2
LEARNING_RATES = {"AdamW": 1e-2, "SGD": 1e-1}

Dataset = tuple[Tensor, Tensor]
"""Images (m, 64), float32 between 0 and 1, and their classes (m,)."""


@dataclass(frozen=True)
class Recipe:
    """The training of one network.

    Attributes:
        width (int): units of each of the two hidden layers.
        steps (int): number of batches.
        data (str): name of its data set.
        optimizer (str): a key of :data:`LEARNING_RATES`.
        technique (str, optional): "label smoothing", "dropout" or "mixup".
        teacher (str, optional): name of the network whose logits are distilled.
        alpha (float): weight of the distillation loss; the labels' loss has weight 1 - alpha.
        first_weights (str, optional): name of the network whose first weights are taken.
        pretrained (str, optional): name of the network whose trained hidden layers are taken.
    """

    width: int
    steps: int
    data: str
    optimizer: str = "AdamW"
    technique: Optional[str] = None
    teacher: Optional[str] = None
    alpha: float = 0.0
    first_weights: Optional[str] = None
    pretrained: Optional[str] = None


@dataclass(frozen=True)
class Networks:
    """Networks of one shape: weights (g, inputs, outputs) and biases (g, 1, outputs) of three layers, in this order."""

    first: list[Tensor]
    trained: list[Tensor]

    def one(self, place: int) -> "Networks":
        return Networks(*([each[place : place + 1] for each in weights] for weights in (self.first, self.trained)))


def digits(draw: torch.Generator, size: int, held_out: int) -> tuple[dict[str, Dataset], Dataset]:
    """Random data sets for training, and ``held_out`` images that are in none of them.

    Returns:
        tuple: "own" of ``size`` images, "teacher's" (as many others), "both", "twice" (own images and as many that are in
        neither of these) and "rotated" (further images by 0, 90, 180 and 270 degrees; the class is the rotation); and
        the images held out.
    """
    found = load_digits()
    images, labels = torch.from_numpy(found.images).float() / 16, torch.from_numpy(found.target).long()
    order = torch.randperm(len(labels), generator=draw)
    own, teachers, more, rest, _ = order.split([size, size, size, held_out, len(order) - 3 * size - held_out])
    turned = torch.cat([images[more].rot90(turns, (1, 2)) for turns in range(4)]).flatten(1)
    images = images.flatten(1)
    parts = {"own": own, "teacher's": teachers, "both": torch.cat([own, teachers]), "twice": torch.cat([own, more])}
    sets = {name: (images[part], labels[part]) for name, part in parts.items()}
    sets["rotated"] = turned, torch.arange(4).repeat_interleave(size)
    return sets, (images[rest], labels[rest])


def train(recipes: Mapping[str, Recipe], data: Mapping[str, Dataset], draw: torch.Generator) -> dict[str, Networks]:
    """Trained networks by name: first those that need no other network, then those that start from or learn from these."""
    trained: dict[str, Networks] = {}
    for needs_others in (False, True):
        groups: dict[tuple[int, int, str], list[str]] = {}
        for name, recipe in recipes.items():
            if needs_others == any((recipe.teacher, recipe.first_weights, recipe.pretrained)):
                groups.setdefault((recipe.width, recipe.steps, recipe.optimizer), []).append(name)
        for names in groups.values():
            group = _train_group([recipes[name] for name in names], data, trained, draw)
            trained.update({name: group.one(place) for place, name in enumerate(names)})
    return trained


def outputs(network: Networks, images: Tensor) -> tuple[Tensor, Tensor]:
    """Activations of the last hidden layer (n, width) and logits (n, classes)."""
    hidden, logits = _forward(network.trained, images[None])
    return hidden[0], logits[0]


def _train_group(
    recipes: list[Recipe], data: Mapping[str, Dataset], others: Mapping[str, Networks], draw: torch.Generator
) -> Networks:
    """Networks that differ neither in shape nor in optimizer and steps."""
    common, g = recipes[0], len(recipes)
    names = list(data)
    images, labels = (torch.cat([data[name][part] for name in names]) for part in range(2))
    sizes = torch.tensor([len(data[name][1]) for name in names])
    place = torch.tensor([names.index(recipe.data) for recipe in recipes])
    start, size = (sizes.cumsum(0) - sizes)[place, None], sizes[place, None]

    def has(technique: str) -> Tensor:
        return torch.tensor([recipe.technique == technique for recipe in recipes])[:, None, None].float()

    kept = 1 - DROPOUT * has("dropout")
    target_share = 1 - SMOOTHING * has("label smoothing")
    mixed, alpha = has("mixup"), torch.tensor([recipe.alpha for recipe in recipes])
    # A network without a Teacher has weight 0 for these targets.
    taught = torch.zeros(g, len(labels), CLASSES)
    for i, recipe in enumerate(recipes):
        if recipe.teacher:
            taught[i] = (outputs(others[recipe.teacher], images)[1] / TEMPERATURE).softmax(-1)

    first = _first_weights(recipes, others, draw)
    weights = [each.clone().requires_grad_() for each in first]
    optimizer: torch.optim.Optimizer
    rate = LEARNING_RATES[common.optimizer]
    if common.optimizer == "AdamW":
        optimizer = torch.optim.AdamW(weights, rate)
    else:
        optimizer = torch.optim.SGD(weights, rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / common.steps)) / 2)
    for _ in range(common.steps):
        rows = start + (torch.rand(g, BATCH, generator=draw) * size).long()
        x, y = images[rows], one_hot(labels[rows], CLASSES) * target_share + (1 - target_share) / CLASSES
        if mixed.any():  # with the same batch in another order
            share = 1 - mixed * torch.rand(g, 1, 1, generator=draw)
            x, y = (share * each + (1 - share) * each.roll(1, 1) for each in (x, y))
        masks = None
        if kept.min() < 1:
            masks = [(torch.rand(g, BATCH, common.width, generator=draw) < kept) / kept for _ in range(2)]
        logits = _forward(weights, x, masks)[1]
        loss = (1 - alpha) * -(y * log_softmax(logits, -1)).sum(-1).mean(-1)
        if alpha.any():
            aim = taught[torch.arange(g)[:, None], rows]
            loss = loss - alpha * TEMPERATURE**2 * (aim * log_softmax(logits / TEMPERATURE, -1)).sum(-1).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()  # no weight is in the loss of two networks
        optimizer.step()
        schedule.step()
    return Networks(first, [each.detach() for each in weights])


def _first_weights(recipes: list[Recipe], others: Mapping[str, Networks], draw: torch.Generator) -> list[Tensor]:
    """Kaiming's normal weights and biases of 0, unless a recipe takes those of another network."""
    width, weights = recipes[0].width, []
    for inputs, units in ((64, width), (width, width), (width, CLASSES)):
        weights.append(torch.randn(len(recipes), inputs, units, generator=draw) * math.sqrt(2 / inputs))
        weights.append(torch.zeros(len(recipes), 1, units))
    for place, recipe in enumerate(recipes):
        if recipe.first_weights:
            taken = others[recipe.first_weights].first
        elif recipe.pretrained:
            taken = others[recipe.pretrained].trained[:4]  # the last layer is new
        else:
            continue
        for own, other in zip(weights, taken):
            own[place] = other[0]
    return weights


def _forward(weights: list[Tensor], x: Tensor, masks: Optional[list[Tensor]] = None) -> tuple[Tensor, Tensor]:
    """Last hidden layer (g, n, width) and logits (g, n, classes) of inputs (g, n, 64)."""
    for layer in range(2):
        x = relu(torch.baddbmm(weights[2 * layer + 1], x, weights[2 * layer]))
        if masks:
            x = x * masks[layer]
    return x, torch.baddbmm(weights[5], x, weights[4])
