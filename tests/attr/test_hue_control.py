"""The map follows what was taught: Students of a Teacher that names the hue of the background, and of one that names the shape.

The Teachers are written by hand, so that each one knows exactly one of the two. The Base learns the shapes from labels of
which most are set by the hue.
"""

from typing import Callable, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from captum_kd import UniCAM

SIDE, SIZE, CLASSES = 16, 6, 4
HUES = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6], [0.45, 0.45, 0.1]])
STEPS = 8


def shapes() -> Tensor:
    """(4, 6, 6): a plus, a ring, a diagonal cross, stripes."""
    drawn = torch.zeros(CLASSES, SIZE, SIZE)
    drawn[0, :, 2:4] = drawn[0, 2:4, :] = 1.0
    drawn[1] = 1.0
    drawn[1, 1:5, 1:5] = 0.0
    drawn[2] = torch.eye(SIZE) + torch.eye(SIZE).flip(0)
    drawn[3, ::2] = 1.0
    return drawn


class Scenes(NamedTuple):
    images: Tensor
    shapes: Tensor
    hues: Tensor
    masks: Tensor


def paint(count: int, seed: int) -> Scenes:
    """One shape at a random place on a background of one of four hues; shape and hue are independent."""
    generator = torch.Generator().manual_seed(seed)
    shape, hue = torch.randint(CLASSES, (2, count), generator=generator)
    ink, masks = torch.zeros(count, SIDE, SIDE), torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i, (top, left) in enumerate(torch.randint(SIDE - SIZE + 1, (count, 2), generator=generator).tolist()):
        box = slice(top, top + SIZE), slice(left, left + SIZE)
        ink[i][box], masks[i][box] = shapes()[shape[i]], True
    images = HUES[hue][:, :, None, None] * (1 - ink[:, None]) + 0.9 * ink[:, None]
    return Scenes(images + 0.1 * torch.randn(images.shape, generator=generator), shape, hue, masks)


class ShapeTeacher(nn.Module):
    """Names the shape: the best match of a template of each."""

    def __init__(self) -> None:
        super().__init__()
        templates = shapes() - shapes().mean((1, 2), keepdim=True)
        self.templates = templates / templates.flatten(1).norm(dim=1)[:, None, None]
        self.logits = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        matches = functional.conv2d(x.mean(1, keepdim=True), self.templates[:, None]).amax((2, 3))
        return self.logits(8 * matches)


class HueTeacher(nn.Module):
    """Names the hue of the background: the color nearest to the mean color of the image's border."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        border = torch.cat([x[:, :, [0, -1]].flatten(2), x[:, :, :, [0, -1]].flatten(2)], 2).mean(2)
        return self.logits(-16 * torch.cdist(border, HUES))


def trained(loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, seed: int) -> nn.Module:
    """A small network with map layer "6"; ``loss`` takes outputs and rows."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(150):
        rows = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        loss(network(images[rows]), rows).backward()
        optimizer.step()
    return network.eval()


def distilled_from(teacher: nn.Module, images: Tensor, seed: int) -> nn.Module:
    soft = teacher(images).softmax(1)
    return trained(lambda logits, rows: functional.cross_entropy(logits, soft[rows]), images, seed)


def object_auc(maps: Tensor, masks: Tensor) -> float:
    """Probability that a pixel of the object has a larger value than one outside, averaged over images; .5 is chance."""
    pixels = functional.interpolate(maps, masks.shape[-2:], mode="bilinear").flatten(1)
    inside = masks.flatten(1)
    wins = [(row[at][:, None] > row[~at]).double().mean() for row, at in zip(pixels, inside)]
    return float(torch.stack(wins).mean())


class Networks(NamedTuple):
    teachers: dict[str, nn.Module]
    students: dict[str, nn.Module]
    base: nn.Module


@pytest.fixture(scope="module")
def networks() -> Networks:
    with torch.random.fork_rng():
        scenes = paint(512, seed=0)
        by_hue = torch.rand(512, generator=torch.Generator().manual_seed(1)) < 0.6
        labels = torch.where(by_hue, scenes.hues, scenes.shapes)
        teachers = {"shape": ShapeTeacher(), "hue": HueTeacher()}
        students = {name: distilled_from(teacher, scenes.images, seed=1) for name, teacher in teachers.items()}
        base = trained(lambda logits, rows: functional.cross_entropy(logits, labels[rows]), scenes.images, seed=2)
    return Networks(teachers, students, base)


def auc_of(networks: Networks, student: str, teacher: str) -> float:
    """Of the integrated distilled maps of one Teacher's Student, with the same Teacher or the other one."""
    scenes, reference = paint(64, seed=3), paint(128, seed=4)
    unicam = UniCAM(
        networks.students[student], "6", networks.base, teacher_func=networks.teachers[teacher], teacher_layer="logits"
    )
    maps = unicam.attribute(scenes.images, reference=unicam.reference(reference.images), n_steps=STEPS)
    return object_auc(maps, scenes.masks)


def test_teachers_and_students_know_what_they_should(networks: Networks) -> None:
    scenes = paint(256, seed=5)
    taught = {"shape": scenes.shapes, "hue": scenes.hues}
    for name, of in taught.items():
        assert (networks.teachers[name](scenes.images).argmax(1) == of).float().mean() > 0.95
        assert (networks.students[name](scenes.images).argmax(1) == of).float().mean() > 0.95


def test_students_of_the_shape_teacher_have_maps_on_the_object(networks: Networks) -> None:
    assert auc_of(networks, "shape", "shape") > 0.95


def test_students_of_the_hue_teacher_have_maps_on_the_background(networks: Networks) -> None:
    assert auc_of(networks, "hue", "hue") < 0.48


def test_the_map_of_one_student_follows_the_teacher_that_is_asked_about(networks: Networks) -> None:
    assert auc_of(networks, "shape", "hue") < 0.3
