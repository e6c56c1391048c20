"""What a pass went through before a layer is noted at the first pass of inputs of a shape, and used at the next."""

import torch
from models import ConvNet, images, labels

from captum_kd import UniCAM
from captum_kd._models.extraction import FeatureExtractor


def traced(unicam: UniCAM) -> list[int]:
    return [len(extractor.traces) for extractor in unicam._removal.models.values()]


def test_modules_are_hooked_once_for_a_shape(monkeypatch):
    hooked = []
    register = torch.nn.modules.module.register_module_forward_hook
    monkeypatch.setattr(
        torch.nn.modules.module, "register_module_forward_hook", lambda hook: hooked.append(hook) or register(hook)
    )
    unicam = UniCAM(ConvNet(width=4, seed=1).eval(), "conv2", ConvNet(width=4, seed=2).eval())
    first = unicam.attribute_transfer(images(8), labels(8))
    assert len(hooked) == 2 and traced(unicam) == [1, 1]
    again = unicam.attribute_transfer(images(8), labels(8))
    assert len(hooked) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    unicam.attribute_transfer(images(9), labels(9))
    assert len(hooked) == 4 and traced(unicam) == [2, 2]


def test_further_arguments_may_change_the_way_and_are_traced_anew():
    class Chooses(ConvNet):
        def forward(self, x, wide=False):
            return super().forward(x)

    unicam = UniCAM(Chooses(width=4, seed=1).eval(), "conv2", Chooses(width=4, seed=2).eval())
    unicam.attribute_transfer(images(8), labels(8), additional_forward_args=(True,))
    assert traced(unicam) == [0, 0]


def test_observers_share_no_traces():
    one, two = (FeatureExtractor(torch.nn.Identity(), (), lambda x: x) for _ in range(2))
    assert one.traces is not two.traces
