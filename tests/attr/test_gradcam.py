"""Grad-CAM of several layers at once: Captum's own maps where it has them, a grid where it has none."""

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from models import ChannelsLast, ConvNet, SeveralOutputs, TinyTransformer, images, labels
from torch import nn

from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.inputs import ModelInputs
from captum_kd.attr.grad_cam import layer_gradcams


def layers_of(model, *names):
    return [resolve_layer(model, name, model="forward_func", argument="layer") for name in names]


def gradcams(model, names, x, y, **settings):
    return layer_gradcams(model, layers_of(model, *names), ModelInputs((x,)), y, **settings)


@pytest.mark.parametrize("names", [("conv1",), ("conv1", "relu1", "conv2", "relu2", "conv3")])
@pytest.mark.parametrize("trainable", [True, False])
def test_maps_are_those_of_captum_at_every_layer(names, trainable):
    model = ConvNet().requires_grad_(trainable)
    x, y = images(6), labels(6)
    with torch.no_grad():
        maps = gradcams(model, names, x, y)
    for name, values in zip(names, maps):
        expected = LayerGradCam(model, model.get_submodule(name)).attribute(x, y)
        torch.testing.assert_close(values, expected)
        assert not values.requires_grad


def unit(maps):
    return torch.nn.functional.normalize(maps.flatten(1), dim=1)


def test_high_resolution_maps_are_products_position_by_position_of_the_softmax_output_up_to_scale():
    model, x, y = ConvNet().double(), images(5).double(), labels(5)
    (values,) = gradcams(model, ["conv2"], x, y, high_resolution=True)
    product = LayerGradientXActivation(lambda z: model(z).softmax(1), model.conv2).attribute(x, y)
    torch.testing.assert_close(unit(values), unit(product.sum(1, keepdim=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_high_resolution_maps_of_sure_models_keep_their_digits(dtype):
    model, x, y = ConvNet(), images(5), labels(5)
    with torch.no_grad():
        model.fc.weight *= 1000  # softmax outputs of 0 and 1 exactly
    expected = unit(gradcams(model.double(), ["conv2"], x.double(), y, high_resolution=True)[0])
    found = unit(gradcams(model.to(dtype), ["conv2"], x.to(dtype), y, high_resolution=True)[0])
    assert float((found.double() * expected).sum(1).min()) > (0.999 if dtype == torch.float32 else 0.95)


@pytest.mark.parametrize("high_resolution", [False, True])
@pytest.mark.parametrize("labeled", [False, True])
def test_a_map_does_not_depend_on_the_rest_of_the_batch(labeled, high_resolution):
    model, x, y = ConvNet(), images(5), labels(5) if labeled else None
    raise_together = gradcams(model, ["conv1", "conv2"], x, y, high_resolution=high_resolution)
    for place in range(5):
        part = slice(place, place + 1)
        alone = gradcams(model, ["conv1", "conv2"], x[part], None if y is None else y[part], high_resolution=high_resolution)
        for found, expected in zip(alone, raise_together):
            torch.testing.assert_close(found, expected[part])


def test_high_resolution_maps_are_of_the_log_odds():
    model, x, y = ConvNet().double(), images(5).double(), labels(5)
    (values,) = gradcams(model, ["conv2"], x, y, high_resolution=True)
    product = LayerGradientXActivation(lambda z: model(z).softmax(1).logit(), model.conv2).attribute(x, y)
    torch.testing.assert_close(values, product.sum(1, keepdim=True))


def test_labels_made_in_inference_mode_serve():
    model, x = ConvNet(), images(4)
    expected = gradcams(model, ["conv2"], x, labels(4))[0]
    with torch.inference_mode():
        found = gradcams(model, ["conv2"], images(4), labels(4))[0]
    torch.testing.assert_close(found, expected)


def test_layer_inputs_can_be_explained():
    model, x, y = ConvNet(), images(4), labels(4)
    (values,) = gradcams(model, ["conv3"], x, y, at_input=True)
    expected = LayerGradCam(model, model.conv3).attribute(x, y, attribute_to_layer_input=True)
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize(("model", "name"), [(TinyTransformer(prefix=2), "block"), (ChannelsLast(), "stage")])
def test_tokens_and_channels_last_layers_give_maps_on_their_grid(model, name):
    (values,) = gradcams(model, [name], images(4), labels(4))
    assert values.shape == (4, 1, 3, 3)


def test_token_maps_weigh_channels_by_gradients_over_the_grid_alone():
    model, x, y = TinyTransformer(prefix=1), images(3), labels(3)
    kept = []
    handle = model.block.register_forward_hook(lambda m, i, o: kept.append(o.retain_grad() or o))
    model(x).gather(1, y[:, None]).sum().backward()
    handle.remove()
    a, g = kept[0][:, 1:].detach(), kept[0].grad[:, 1:]
    expected = (a * g.mean(1, keepdim=True)).sum(2).view(3, 1, 3, 3)
    torch.testing.assert_close(gradcams(model, ["block"], x, y)[0], expected)


def test_gradients_of_parameters_and_inputs_stay_as_they_were():
    model, x = ConvNet(), images(4).requires_grad_()
    gradcams(model, ["conv1", "conv2"], x, labels(4))
    assert x.grad is None and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_explained_is_named():
    model, x = ConvNet(), images(4)
    with pytest.raises(ValueError, match="label 3, but forward_func gives"):
        gradcams(model, ["conv1"], x, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="no positions"):
        gradcams(model, ["fc"], x, labels(4))
    with pytest.raises(ValueError, match="2 tensors"):
        gradcams(SeveralOutputs("tuple"), ["split"], x, labels(4))

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x.mean((2, 3))) + self.conv(x).detach().mean()

    with pytest.raises(ValueError, match="do not depend on layer 'conv'"):
        gradcams(Detached(), ["conv"], x, labels(4))

    class Constant(Detached):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="do not depend on layer 'conv'"):
        gradcams(Constant(), ["conv"], x, labels(4))
    with pytest.raises(ValueError, match="does not fit layer 'norm'"):
        gradcams(TinyTransformer(), ["norm"], torch.randn(4, 3, 12, 16), labels(4), hints=LayoutHints(grid=(5, 5)))
    with pytest.raises(ValueError, match="label 3, but base_func gives"):
        layer_gradcams(model, layers_of(model, "conv1"), ModelInputs((x,)), torch.tensor([0, 1, 2, 3]), model="base_func")


@pytest.mark.parametrize("n", [4, 16])
def test_layers_of_time_first_have_the_maps_of_their_batch_first_twins(n):
    class Tokens(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.block = nn.Conv2d(3, 8, 3, 3), nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
            self.batch_first = batch_first

        def forward(self, x):
            tokens = self.block(self.conv(x).flatten(2).permute((0, 2, 1) if self.batch_first else (2, 0, 1)))
            return tokens.sin().mean(1 if self.batch_first else 0)[:, :3]

    found, expected = (gradcams(Tokens(first).eval(), ["block"], images(n), labels(n))[0] for first in (False, True))
    assert found.shape == (n, 1, 4, 4) and found.any()
    torch.testing.assert_close(found, expected)
