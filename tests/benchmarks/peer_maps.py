"""Maps of captum_kd beside Grad-CAM of pytorch-grad-cam and torchcam: what they cost, and on which architectures they work.

UniCAM needs two networks, so it is compared with Grad-CAM of both. All maps stay on the grid of the layer in captum_kd and
torchcam; pytorch-grad-cam always enlarges them to the images.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Callable, NamedTuple

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import models

from captum_kd import UniCAM

SIZE, CLASSES = 64, 10


class Architecture(NamedTuple):
    """A network, its layer, and how to bring the layer's output to (N, C, h, w).

    Attributes:
        make: builds it with random weights.
        layer: dotted name.
        to_grid: from the layer's output; None if it has this form already.
    """

    make: Callable[[], nn.Module]
    layer: str
    to_grid: Callable[[Tensor], Tensor] | None = None


def _channels_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def _tokens(output: Tensor) -> Tensor:
    side = int((output.shape[1] - 1) ** 0.5)
    return output[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _vit() -> nn.Module:
    return models.VisionTransformer(SIZE, 16, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=CLASSES)


ARCHITECTURES: dict[str, Architecture] = {
    "ResNet-18": Architecture(lambda: models.resnet18(num_classes=CLASSES), "layer4"),
    "DenseNet-121": Architecture(lambda: models.densenet121(num_classes=CLASSES), "features.denseblock3"),
    "VGG-11": Architecture(lambda: models.vgg11(num_classes=CLASSES), "features.15"),
    "MobileNetV3": Architecture(lambda: models.mobilenet_v3_small(num_classes=CLASSES), "features.8"),
    "EfficientNet-B0": Architecture(lambda: models.efficientnet_b0(num_classes=CLASSES), "features.5"),
    "ConvNeXt-T": Architecture(lambda: models.convnext_tiny(num_classes=CLASSES), "features.5"),
    "RegNet-Y": Architecture(lambda: models.regnet_y_400mf(num_classes=CLASSES), "trunk_output.block3"),
    "Swin-T": Architecture(lambda: models.swin_t(num_classes=CLASSES), "features.5", _channels_first),
    "SwinV2-T": Architecture(lambda: models.swin_v2_t(num_classes=CLASSES), "features.5", _channels_first),
    "ViT": Architecture(_vit, "encoder.layers.encoder_layer_1", _tokens),
}


def calibrated(network: nn.Module, images: Tensor) -> nn.Module:
    """In evaluation mode, with the batch statistics of some images: with those of random weights deep maps nearly vanish."""
    with torch.no_grad():
        for _ in range(20):
            network.train()(images)
    return network.eval()


def of_pytorch_grad_cam(network: nn.Module, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(network, [network.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(images, [ClassifierOutputTarget(int(label)) for label in labels]))


def of_torchcam(network: nn.Module, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(network, target_layer=layer) as cam:
        return cam(labels.tolist(), network(images))[0]


def of_captum(network: nn.Module, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    return LayerGradCam(network, network.get_submodule(layer)).attribute(images, labels)


GRAD_CAMS = {"pytorch-grad-cam": of_pytorch_grad_cam, "torchcam": of_torchcam, "Captum": of_captum}


def literal_grad_cam(network: nn.Module, at: Architecture, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM of the layer's output on its grid, (N, h, w), with ReLU."""
    seen: list[Tensor] = []
    hook = network.get_submodule(at.layer).register_forward_hook(lambda *call: seen.append(call[2]))
    scores = network(images).gather(1, labels[:, None]).sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(scores, seen)
    grid = at.to_grid or (lambda output: output)
    return (grid(gradient).mean((2, 3), keepdim=True) * grid(seen[0])).sum(1).relu().detach()


def outcome(found: Any, expected: Tensor) -> str:
    """"right" if the positive part of a map is the definition's up to shift and scale, else what is wrong."""
    maps = torch.as_tensor(found).detach().float()
    maps = maps.reshape(len(maps), *maps.shape[-2:]).relu()
    if maps.shape[-2:] != expected.shape[-2:]:
        expected = interpolate(expected[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]
    if maps.shape != expected.shape:
        return f"a map of {' x '.join(map(str, maps.shape[1:]))}"
    difference = float((_scaled(maps) - _scaled(expected)).abs().mean())
    return "right" if difference < 0.01 else f"wrong, by {difference:.2f} of its range"


def _scaled(maps: Tensor) -> Tensor:
    """Each map between 0 and 1; empty maps stay 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def tried(make_map: Callable[[], Any], expected: Tensor) -> str:
    try:
        return outcome(make_map(), expected)
    except Exception as error:  # what a peer says is the result
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:90]


def on_architectures() -> dict[str, dict[str, str]]:
    """For each architecture what each package's Grad-CAM gives without a reshape function, and what UniCAM gives."""
    found: dict[str, dict[str, str]] = {}
    for name, at in ARCHITECTURES.items():
        torch.manual_seed(0)
        images, labels = torch.rand(8, 3, SIZE, SIZE), torch.arange(8) % 4
        network, base = (calibrated(at.make(), images) for _ in range(2))
        expected = literal_grad_cam(network, at, images, labels)
        found[name] = {}
        for package, call in GRAD_CAMS.items():
            found[name][package] = tried(functools.partial(call, network, at.layer, images, labels), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unicam = UniCAM(network, at.layer, base)
            expected = literal_unicam(network, base, at, images, labels)
            found[name]["UniCAM"] = tried(functools.partial(unicam.attribute, images, labels), expected)
    return found


def literal_unicam(network: nn.Module, base: nn.Module, at: Architecture, images: Tensor, labels: Tensor) -> Tensor:
    """UniCAM of outputs that were brought to (N, C, h, w) first: of a model whose last module is that grid."""

    class Grid(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.grid = inner, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            seen: list[Tensor] = []
            hook = self.inner.get_submodule(at.layer).register_forward_hook(lambda *call: seen.append(call[2]))
            self.inner(x)
            hook.remove()
            return self.grid((at.to_grid or (lambda output: output))(seen[0]))

    maps = UniCAM(Grid(network), "grid", Grid(base), channels_last=False).attribute(images, labels)
    return maps[:, 0].relu()
