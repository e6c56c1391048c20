"""The families of Hugging Face transformers that classify images, built from configurations alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from torch import nn

from families import Family, Misfit

from captum_kd.command.last_layers import LAST_LAYERS

__all__ = ["FAMILIES", "MISFITS"]


def _of(architecture: str, name: str = "", **more: Any) -> Family:
    """``<architecture>ForImageClassification`` with the given ``settings`` in its configuration."""
    make = partial(_make, architecture, more.pop("settings", {}))
    layer = LAST_LAYERS["transformers"][architecture]
    return Family("transformers", f"{architecture} ({name})" if name else architecture, make, layer, **more)


def _make(architecture: str, settings: dict[str, Any]) -> nn.Module:
    config = getattr(transformers, f"{architecture}Config")(num_labels=5, **settings)
    model: nn.Module = getattr(transformers, f"{architecture}ForImageClassification")(config)
    return model


VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 96}
SWIN = {"image_size": 96, "embed_dim": 24, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 3}
FOUR = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
CVT = {"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "num_heads": [1, 1, 2]}
HGNET = {
    "stem_channels": [3, 16, 16], "stage_in_channels": [16, 32, 48, 64], "stage_mid_channels": [16, 16, 16, 16],
    "stage_out_channels": [32, 48, 64, 80], "stage_numb_of_layers": [2, 2, 2, 2], "hidden_sizes": [32, 48, 64, 80],
}

FAMILIES = [
    _of("Beit", settings=VIT),
    _of("Bit", settings={**FOUR, "hidden_sizes": [128, 128, 256, 256], "embedding_size": 32}),
    _of("ConvNext", settings=FOUR),
    _of("ConvNextV2", settings=FOUR),
    _of("Cvt", settings=CVT),
    _of("CLIP", settings={"vision_config": VIT}),
    _of("Data2VecVision", settings=VIT),
    _of("DeiT", settings=VIT),
    _of("Dinov2", settings=VIT),
    _of("Dinov2WithRegisters", settings=VIT),
    _of("DonutSwin", settings=SWIN),
    _of(
        "EfficientNet",
        settings={"width_coefficient": 0.5, "depth_coefficient": 0.2, "hidden_dim": 640}, size=(192, 192),
    ),
    _of(
        "FocalNet",
        settings={**FOUR, "embed_dim": 16, "image_size": 96}, note="Stages give several tensors.",
    ),
    _of("HGNetV2", settings=HGNET),
    _of(
        "Hiera",
        settings={"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}, size=(224, 224),
        note="Earlier stages keep tokens in the order of windows.",
    ),
    _of("IJepa", settings=VIT),
    _of("Levit", settings={"image_size": 192, "depths": [1, 1, 1]}, size=(192, 192), positive=False),
    _of("MetaClip2", settings={"vision_config": VIT}),
    _of("MobileNetV1", settings={"depth_multiplier": 0.25}),
    _of("MobileNetV2", settings={"depth_multiplier": 0.35}, size=(192, 192)),
    _of("MobileViT", settings={"image_size": 96}),
    _of("MobileViTV2", settings={"image_size": 192}, size=(192, 192), positive=False),
    _of("PoolFormer", settings=FOUR),
    _of("PPLCNet", settings={"scale": 0.25}, size=(192, 192)),
    _of("Pvt", settings={**FOUR, "image_size": 96, "num_attention_heads": [1, 1, 2, 2]}),
    _of(
        "PvtV2",
        settings={**FOUR, "mlp_ratios": [2, 2, 2, 2], "image_size": 96, "num_attention_heads": [1, 1, 2, 2]},
    ),
    _of("RegNet", settings={"hidden_sizes": [64, 64, 64, 64], "depths": [1, 1, 1, 1]}),
    _of("ResNet", settings={**FOUR, "embedding_size": 16}),
    _of("Segformer", settings={**FOUR, "num_attention_heads": [1, 1, 2, 2]}),
    _of("Siglip", settings={"vision_config": VIT}),
    _of("SwiftFormer", settings={"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 40]}),
    _of("Swin", settings=SWIN, note="Stages give several tensors."),
    _of("Swinv2", settings=SWIN, note="Stages give several tensors."),
    _of("TextNet", settings={"stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 40]}),
    _of("ViT", settings=VIT),
    _of("ViTMSN", settings=VIT),
]
MISFITS = [
    Misfit("transformers", "Dinat", "Needs the natten package, which is not among the test dependencies: not tried."),
    Misfit("transformers", "ImageGPT", "Takes color clusters as a sequence of words, no images."),
    Misfit("transformers", "Perceiver", "Its layers hold latents, which have no place in the image."),
    Misfit("transformers", "ShieldGemma2", "A language model that answers with words; its image tokens lie within a prompt."),
    Misfit("transformers", "Siglip2", "Takes patches cut beforehand, (N, T, C), and no image: pass grid=(h, w)."),
    Misfit("transformers", "TimmWrapper", "A model of timm: see there, the names are behind `timm_model.`."),
]
