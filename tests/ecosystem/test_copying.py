"""Copies and pickles of what users keep, and Lightning's modules as models."""

import copy
import pickle

import pytest
import torch
from models import ConvNet, images, labels
from torch import nn

from captum_kd import ReferencePopulation, TransferAttributions, UniCAM, flatten
from captum_kd.metrics import TransferReport, compare_transfer, keep_curve

N = 8

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only .* inputs")


def deep_copy(value):
    return copy.deepcopy(value)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


ways = pytest.mark.parametrize("again", [deep_copy, pickled])


def unicam(**more):
    return UniCAM(ConvNet(seed=1), "conv2", ConvNet(seed=2), **more)


@ways
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"feature_transform": flatten, "class_embeddings": torch.eye(3)},
        {"teacher_func": ConvNet(seed=3)},
        {"feature_layer": "conv3"},
    ],
    ids=["plain", "embeddings", "teacher", "deeper"],
)
def test_copies_of_unicam_explain_alike_and_hold_models_of_their_own(again, settings):
    original = unicam(**settings)
    other = again(original)
    expected = original.attribute(images(N), labels(N))
    assert torch.equal(other.attribute(images(N), labels(N)), expected)
    with torch.no_grad():
        other.forward_func.conv1.weight.mul_(-1)
    assert torch.equal(original.attribute(images(N), labels(N)), expected)
    assert not torch.equal(other.attribute(images(N), labels(N)), expected)


@ways
def test_copies_of_a_population_serve_the_original(again):
    original = unicam()
    population = original.reference(images(N), labels(N))
    other = again(population)
    assert isinstance(other, ReferencePopulation)
    single = images(1, seed=3)
    expected = original.attribute(single, 0, reference=population)
    assert torch.equal(original.attribute(single, 0, reference=other), expected)
    assert torch.equal(again(original).attribute(single, 0, reference=other), expected)


@ways
def test_copies_of_both_maps_are_named_pairs(again):
    maps = unicam().attribute_transfer(images(N), labels(N))
    other = again(maps)
    assert isinstance(other, TransferAttributions)
    assert torch.equal(other.distilled, maps.distilled) and torch.equal(other.residual, maps.residual)


@ways
def test_copies_of_reports_say_the_same(again):
    data = [(images(N), labels(N))]
    report = compare_transfer(ConvNet(seed=1), ConvNet(seed=2), ["conv2"], data, confidence=0.9, show_progress=False)
    other = again(report)
    assert isinstance(other, TransferReport)
    assert other.to_dict() == report.to_dict() and str(other) == str(report)
    other.rows[0]["value"] = 7.0
    assert report.rows[0]["value"] != 7.0


@ways
def test_copies_of_keep_curves_say_the_same(again):
    curve = keep_curve(ConvNet(), images(N), labels(N), torch.rand(N, 1, 3, 3), shares=(0.5, 0.9))
    assert repr(again(curve)) == repr(curve)


def test_lightning_modules_are_models():
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = ConvNet(seed=seed)

        def forward(self, x):
            return {"logits": self.net(x)}

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0])["logits"], batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    student, base = Task(1).eval(), Task(2).eval()
    maps = UniCAM(student, "net.conv2", base).attribute_transfer(images(N), labels(N))
    plain = unicam()
    for found, expected in zip(maps, plain.attribute_transfer(images(N), labels(N))):
        assert torch.equal(found, expected)
    report, of_nets = (
        compare_transfer(*pair, [layer], [(images(N), labels(N))], localize="gradcam", show_progress=False)
        for pair, layer in (((student, base), "net.conv2"), ((student.net, base.net), "conv2"))
    )
    assert [row["value"] for row in report.rows] == [row["value"] for row in of_nets.rows]
