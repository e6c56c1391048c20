"""The families of torchvision's classifiers, one member of every module that holds some."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from families import Family, Misfit, unfilled

from captum_kd.command.last_layers import LAST_LAYERS

__all__ = ["FAMILIES", "MISFITS"]


def _of(model: str, name: str = "", **more: Any) -> Family:
    """A member of the module that the model's builder lives in; ``settings`` go to the builder."""
    make = partial(_make, model, more.pop("settings", {}))
    module = _module(model)
    layer, make = LAST_LAYERS["torchvision"][module], more.pop("make", make)
    return Family("torchvision", f"{module} ({name})" if name else module, make, layer, **more)


def _module(model: str) -> str:
    return torchvision.models.get_model_builder(model).__module__.rsplit(".", 1)[-1]


def _make(model: str, settings: dict[str, Any]) -> nn.Module:
    made: nn.Module = torchvision.models.get_model(model, weights=None, num_classes=5, **settings)
    return made


INCEPTION = {"init_weights": False, "aux_logits": False}
SWIN: dict[str, Any] = {
    "patch_size": [4, 4], "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": [3, 3], "num_classes": 5
}
SWIN_V2 = {**SWIN, "block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
CONVNEXT = [CNBlockConfig(ins, outs, 1) for ins, outs in ((16, 24), (24, 32), (32, 40), (40, None))]
MAXVIT: dict[str, Any] = {
    "input_size": (96, 96), "stem_channels": 16, "partition_size": 3, "block_channels": [16, 24, 32], "block_layers": [1, 1, 1],
    "head_dim": 8, "stochastic_depth_prob": 0.0, "num_classes": 5,
}
VIT = {"image_size": 96, "patch_size": 16, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96, "num_classes": 5}

FAMILIES = [
    _of("alexnet", size=(128, 128)),
    _of("convnext_tiny", make=partial(ConvNeXt, CONVNEXT, num_classes=5)),
    _of("densenet121", make=partial(DenseNet, 4, (2, 2, 2, 2), 8, num_classes=5)),
    _of("efficientnet_b0", make=partial(unfilled, partial(_make, "efficientnet_b0", {}), 2), size=(192, 192)),
    _of("googlenet", make=partial(unfilled, partial(_make, "googlenet", INCEPTION), 8)),
    _of("inception_v3", make=partial(unfilled, partial(_make, "inception_v3", INCEPTION), 8), size=(160, 160)),
    _of("maxvit_t", make=partial(MaxVit, **MAXVIT)),
    _of("mnasnet0_5", size=(192, 192)),
    _of("mobilenet_v2", settings={"width_mult": 0.35}, size=(192, 192)),
    _of("mobilenet_v3_small", size=(192, 192)),
    _of("regnet_y_400mf"),
    _of("resnet18"),
    _of("shufflenet_v2_x0_5"),
    _of("squeezenet1_1"),
    _of("swin_t", name="Swin", make=partial(SwinTransformer, **SWIN)),
    _of("swin_v2_t", name="Swin v2", make=partial(SwinTransformer, **SWIN_V2)),
    _of("vgg11_bn", make=partial(unfilled, partial(_make, "vgg11_bn", {}), 8)),
    _of("vit_b_16", make=partial(torchvision.models.VisionTransformer, **VIT)),
]
MISFITS: list[Misfit] = []
