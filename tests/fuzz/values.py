"""The models, inputs and other values that valid calls are made with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import captum_kd
from captum_kd import UniCAM
from captum_kd.metrics import TransferReport, inference

from fuzz.odd import TheModelsOwnError

PACKAGE = str(Path(captum_kd.__file__).parent)

N = 8


class Net(nn.Module):
    """(N, 3, 12, 12) to 3 classes, with in-place activations, batch normalization and dropout, in evaluation mode."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        try:
            for scale in more:
                x = x * scale
            hidden = self.relu(self.norm(self.conv1(x)))
            return self.fc(self.drop(torch.tanh(self.conv2(hidden)).mean((2, 3))))
        except Exception as error:
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
                    raise  # a hook's
                trace = trace.tb_next
            raise TheModelsOwnError from error


with torch.random.fork_rng():
    MODELS = [Net(seed).eval() for seed in (1, 2, 3)]
STUDENT, BASE, TEACHER = MODELS
STUDENT.conv1.requires_grad_(False)
STUDENT.conv2.weight.grad = torch.ones_like(STUDENT.conv2.weight)
STUDENT.fc.register_forward_hook(lambda module, args, output: None)

IMAGES = torch.rand(N, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 3
MAPS = torch.randn(N, 1, 3, 3, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(N, 12, 12, dtype=torch.bool)
MASKS[:, 2:7, 3:9] = True
TOKEN_MASK = torch.arange(6) < torch.tensor([6, 2, 3, 4, 5, 6, 1, 2])[:, None]
TOKEN_MAPS = torch.randn(N, 1, 6, generator=torch.Generator().manual_seed(6)) * TOKEN_MASK[:, None]
ACTIVATIONS = torch.randn(N, 4, 6, generator=torch.Generator().manual_seed(7))
WORDS = [[f"word{place}" for place in range(6)] for _ in range(N)]
FEATURES = torch.randn(N, 6, generator=torch.Generator().manual_seed(2))
OTHERS = torch.randn(N, 4, generator=torch.Generator().manual_seed(3))
TABLE = torch.randn(3, 4, generator=torch.Generator().manual_seed(4))
DISTANCES = {name: torch.cdist(x, x) for name, x in (("student", FEATURES), ("base", OTHERS), ("labels", TABLE[LABELS]))}
SCORES = torch.rand(5, 5, generator=torch.Generator().manual_seed(5))
ROWS = [
    {"student": "s", "base": "b", "layer": layer, "score": "fss", "value": 0.5, "low": 0.4, "high": 0.6, "p_value": None,
     "n": 8, "unique_share": None}
    for layer in ("layer1", "layer2")
]  # fmt: skip


def unicam() -> UniCAM:
    return UniCAM(STUDENT, "conv2", BASE)


def written(method: str, of: Any = None, **given: Any) -> str:
    """What a method of a report or of another result writes, in a folder of its own, for relative paths."""
    report = TransferReport(ROWS, None, [], {"n": 8}) if of is None else of
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text: str = getattr(report, method)(**given)
            assert [os.path.getsize(name) for name in os.listdir()] == [len(text.encode())] * (given.get("path") is not None)
        finally:
            os.chdir(here)
    return text


def several_products() -> inference.Products:
    draw = torch.Generator().manual_seed(6)
    of_models = {name: torch.randn(N, 5, generator=draw) for name in "sbcd"}
    distances = {name: torch.cdist(features, features) for name, features in of_models.items()}
    return inference.geometry_products({**distances, "labels": DISTANCES["labels"]})


def products() -> inference.Products:
    return inference.geometry_products(DISTANCES)
