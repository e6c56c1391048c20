"""Which layer to name for which architecture: runs UniCAM on every family and writes the table of docs/architectures.md."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Iterator, NamedTuple, Union

import torch
import sequence_architectures
from families import Family, Misfit, build, layer_name
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

PAGE = Path(__file__).parents[1] / "architectures.md"
TABLES = ("table", "sequences")
"""The page's tables. Each stands behind a line ``<!-- NAME: written by scripts/architectures.py -->``."""
END = "<!-- end of the table -->"

LIBRARIES = ("torchvision", "timm", "transformers")
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Top left, top right, bottom left, bottom right."""


class Look(NamedTuple):
    """What UniCAM made of one family's layer."""

    given: tuple[int, ...]
    """Shape of what the layer gave."""
    canonical: Tensor
    """What feature transforms receive, (5, C, h, w): of an image, and of it with each of its corners changed."""
    distilled: Tensor
    residual: Tensor
    single: Tensor
    """The map of one image beside a reference population."""


class Stem(nn.Module):
    """A Base model of another family than all Students."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 16, stride=16)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.layer(x)).mean((2, 3)))


def all_families() -> list[Union[Family, Misfit]]:
    """The families of all libraries; importing the libraries takes seconds."""
    from families import timm_models, torchvision_models, transformers_models

    modules = (torchvision_models, timm_models, transformers_models)
    return [entry for module in modules for entry in (*module.FAMILIES, *module.MISFITS)]


def changed_corners(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Five images: noise, and the same with a third of its height and width brighter and noisier in each corner."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 3, *size, generator=generator).repeat(5, 1, 1, 1)
    (height, width), (h, w) = size, (size[0] // 3, size[1] // 3)
    for image, (bottom, right) in zip(images[1:], CORNERS):
        image[:, bottom * (height - h) :, right * (width - w) :][:, :h, :w] += 1 + torch.randn(3, h, w, generator=generator)
    return images


def drifts(canonical: Tensor) -> tuple[float, float]:
    """How a change moves over the grid when it moves over the image: the same way, and across.

    Of the changes that the corners of :func:`changed_corners` made, the centers of gravity, in half grids. The
    first number is the least of the four steps from left to right and from top to bottom, the second the
    largest step that they make sideways. On a grid that is the image's the first is larger.
    """
    changes = (canonical[1:] - canonical[0]).double().square().sum(1)
    shares = changes / changes.sum((1, 2), keepdim=True)
    rows, columns = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in shares.shape[1:])
    y, x = shares.sum(2) @ rows, shares.sum(1) @ columns
    across_image, down_image = (1, 0), (2, 0)
    right = [(x[i + 1] - x[i], y[i + 1] - y[i]) for i in down_image]
    down = [(y[i + 2] - y[i], x[i + 2] - x[i]) for i in across_image]
    along, sideways = zip(*right, *down)
    return float(min(along)), float(max(map(abs, sideways)))


def look_at(family: Family) -> Look:
    """Batch mode in both directions, and one image beside a reference population, with no hint about the layout."""
    student, base = build(family), Stem().eval()
    name = layer_name(student, family.layer)
    given: list[tuple[int, ...]] = []
    handle = student.get_submodule(name).register_forward_hook(lambda module, inputs, out: given.append(_shape(out)))
    received: list[Tensor] = []

    def noted(activations: Tensor) -> Tensor:
        received.append(activations.detach().clone())
        return global_average_pool(activations)

    images, labels = changed_corners(family.size), torch.tensor([0, 1, 0, 1, 1])
    unicam = UniCAM(student, name, base, "layer", feature_transform=noted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The population is")
        maps = unicam.attribute_transfer(images, labels)
        canonical = received[0]
        population = unicam.reference(images, labels)
        single = unicam.attribute(images[1:2].lerp(images[4:], 0.5), 0, reference=population)
    handle.remove()
    return Look(given[0], canonical, maps.distilled, maps.residual, single)


def _shape(output: object) -> tuple[int, ...]:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    values = output.values() if isinstance(output, dict) else output
    assert isinstance(values, (tuple, list)) or hasattr(values, "__iter__")
    return next(tuple(value.shape) for value in values if isinstance(value, Tensor))


def layout(look: Look) -> str:
    """In words what the layer gives, told from shapes alone."""
    _, channels, h, w = look.canonical.shape
    if len(look.given) == 3:
        front = look.given[1] - h * w
        return f"tokens, {front} in front" if front else "tokens"
    return "channels last" if look.given[1:] == (h, w, channels) else "channels first"


def row(family: Family, look: Look) -> str:
    """The family's line of the table."""
    grid = "×".join(map(str, look.canonical.shape[2:]))
    size = "×".join(map(str, family.size))
    return f"| {family.library} | {family.name} | `{family.layer}` | {layout(look)} | {grid} of {size} | {family.note} |"


def misfit_row(misfit: Misfit) -> str:
    return f"| {misfit.library} | {misfit.name} | {misfit.reason} |"


def table() -> Iterator[str]:
    families = all_families()
    yield "| library | family | layer | what it gives | map | note |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for family in families:
        if isinstance(family, Family):
            yield row(family, look_at(family))
    yield ""
    yield "Families without a map:"
    yield ""
    yield "| library | family | reason |"
    yield "| --- | --- | --- |"
    yield from (misfit_row(family) for family in families if isinstance(family, Misfit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose table is written anew")
    page: Path = parser.parse_args().page
    text = page.read_text()
    for name, rows in zip(TABLES, (table(), sequence_architectures.table())):
        begin = f"<!-- {name}: written by scripts/architectures.py -->"
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not end:
            raise SystemExit(f"{page} has no lines {begin} and {END} to write the table between.")
        text = "\n".join([before + begin, *rows, END + after])
    page.write_text(text)


if __name__ == "__main__":
    main()
