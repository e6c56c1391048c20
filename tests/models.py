"""Small models with known layers, shared by the tests."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two convolutional stages; (N, 3, 12, 12) to 3 classes. In-place activations, as torchvision has them."""

    def __init__(self, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, width, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, 5, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        x = self.relu1(self.conv1(x * scale))
        x = self.relu2(self.conv2(x))
        return self.fc(self.pool(torch.tanh(self.conv3(x))).flatten(1))


def forbidden(*_: Any) -> Any:
    """In the place of what must not run."""
    raise AssertionError("nothing should have run")


class Untouched(ConvNet):
    """A model that must not run."""

    forward = forbidden


class TwoInputs(nn.Module):
    """A model of two inputs and an additional argument per example."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.left = nn.Linear(4, 6)
        self.right = nn.Linear(3, 6)
        self.mix = nn.Linear(6, 5)

    def forward(self, left: Tensor, right: Tensor, shift: Any = None) -> Tensor:
        hidden = torch.tanh(self.left(left)) + torch.tanh(self.right(right))
        return self.mix(hidden if shift is None else hidden + shift)


class Split(nn.Module):
    """A layer with several outputs in a chosen container."""

    def __init__(self, container: str) -> None:
        super().__init__()
        self.container = container
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(3, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Any:
        a, b = self.first(x), self.second(x)
        return {
            "tuple": lambda: (a, b, "no tensor"),
            "dict": lambda: {"a": a, "b": b, "step": 3},
            "dataclass": lambda: Outputs(a, b),
            "named tuple": lambda: NamedOutputs(a, b),
        }[self.container]()


@dataclass
class Outputs:
    a: Tensor
    b: Tensor


class NamedOutputs(NamedTuple):
    a: Tensor
    b: Tensor


class SeveralOutputs(nn.Module):
    def __init__(self, container: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.split = Split(container)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.split(x)
        if isinstance(out, dict):
            a, b = out["a"], out["b"]
        elif isinstance(out, (Outputs, NamedOutputs)):
            a, b = out.a, out.b
        else:
            a, b = out[0], out[1]
        return self.head(torch.tanh(a)).mean((2, 3)) + b.mean((1, 2, 3))[:, None]


class TinyTransformer(nn.Module):
    """Patches to tokens with class tokens in front, as ViT does it."""

    def __init__(self, patch: int = 4, width: int = 8, prefix: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, dropout=0.0)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], dim=1)
        return self.fc(self.norm(self.block(tokens)).mean(1))


class ChannelsLast(nn.Module):
    """A stage that works on (N, h, w, C), as Swin does."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.stage = nn.Linear(width, width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.stage(self.embed(x).permute(0, 2, 3, 1))).mean((1, 2)))


def images(n: int, height: int = 12, width: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def labels(n: int, classes: int = 3) -> Tensor:
    return torch.arange(n) % classes


class Columns(nn.Module):
    """Features by choice: its layer gives some columns of the input, (N, d)."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.columns = slice(start, stop)
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, self.columns])


def activations(model: nn.Module, layer: str, *args: Any, at_input: bool = False) -> Tensor:
    """What a layer gives, or is given, by a hook of the tests' own."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, given, output: kept.append((given[0] if at_input else output).detach().clone())
    )
    with torch.no_grad():
        model(*args)
    handle.remove()
    return kept[-1]


class TinyResNet(nn.Module):
    """Stages called as torchvision's ResNets call them; (N, 3, 32, 32) to 4 classes, layer4 at 4 x 4."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU(inplace=True))
            for before, after, stride in ((3, 4, 1), (4, 6, 2), (6, 8, 2), (8, 8, 2))
        )
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
