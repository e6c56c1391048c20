"""The families of Hugging Face transformers that classify images, built from configurations alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from torch import nn

from families import Family, Misfit

__all__ = ["FAMILIES", "MISFITS"]


def _of(architecture: str, layer: str, name: str = "", **more: Any) -> Family:
    """``<architecture>ForImageClassification`` with the given ``settings`` in its configuration."""
    make = partial(_make, architecture, more.pop("settings", {}))
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
    _of("Beit", "beit.layers[-1]", settings=VIT),
    _of("Bit", "bit.encoder.stages[-1]", settings={**FOUR, "hidden_sizes": [128, 128, 256, 256], "embedding_size": 32}),
    _of("ConvNext", "convnext.encoder.stages[-1]", settings=FOUR),
    _of("ConvNextV2", "convnextv2.encoder.stages[-1]", settings=FOUR),
    _of("Cvt", "cvt.encoder.stages[-1].layers[-1]", settings=CVT),
    _of("CLIP", "vision_model.encoder.layers[-1]", settings={"vision_config": VIT}),
    _of("Data2VecVision", "data2vec_vision.encoder.layer[-1]", settings=VIT),
    _of("DeiT", "deit.layers[-1]", settings=VIT),
    _of("Dinov2", "dinov2.encoder.layer[-1]", settings=VIT),
    _of("Dinov2WithRegisters", "dinov2_with_registers.encoder.layer[-1]", settings=VIT),
    _of("DonutSwin", "donut.encoder.layers[-1].blocks[-1]", settings=SWIN),
    _of(
        "EfficientNet", "efficientnet.encoder",
        settings={"width_coefficient": 0.5, "depth_coefficient": 0.2, "hidden_dim": 640}, size=(192, 192),
    ),
    _of(
        "FocalNet", "focalnet.layernorm",
        settings={**FOUR, "embed_dim": 16, "image_size": 96}, note="Stages give several tensors.",
    ),
    _of("HGNetV2", "encoder.stages[-1]", settings=HGNET),
    _of(
        "Hiera", "hiera.encoder.stages[-1]",
        settings={"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}, size=(224, 224),
        note="Earlier stages keep tokens in the order of windows.",
    ),
    _of("IJepa", "ijepa.layers[-1]", settings=VIT),
    _of("Levit", "levit.encoder.stages[-1]", settings={"image_size": 192, "depths": [1, 1, 1]}, size=(192, 192), positive=False),
    _of("MetaClip2", "vision_model.encoder.layers[-1]", settings={"vision_config": VIT}),
    _of("MobileNetV1", "mobilenet_v1.layer[-1]", settings={"depth_multiplier": 0.25}),
    _of("MobileNetV2", "mobilenet_v2.conv_1x1", settings={"depth_multiplier": 0.35}, size=(192, 192)),
    _of("MobileViT", "mobilevit.conv_1x1_exp", settings={"image_size": 96}),
    _of("MobileViTV2", "mobilevitv2.encoder.layer[-1]", settings={"image_size": 192}, size=(192, 192), positive=False),
    _of("PoolFormer", "poolformer.encoder", settings=FOUR),
    _of("PPLCNet", "encoder", settings={"scale": 0.25}, size=(192, 192)),
    _of("Pvt", "pvt.encoder", settings={**FOUR, "image_size": 96, "num_attention_heads": [1, 1, 2, 2]}),
    _of(
        "PvtV2", "pvt_v2.encoder",
        settings={**FOUR, "mlp_ratios": [2, 2, 2, 2], "image_size": 96, "num_attention_heads": [1, 1, 2, 2]},
    ),
    _of("RegNet", "regnet.encoder.stages[-1]", settings={"hidden_sizes": [64, 64, 64, 64], "depths": [1, 1, 1, 1]}),
    _of("ResNet", "resnet.encoder.stages[-1]", settings={**FOUR, "embedding_size": 16}),
    _of("Segformer", "segformer.stages[-1]", settings={**FOUR, "num_attention_heads": [1, 1, 2, 2]}),
    _of("Siglip", "vision_model.encoder.layers[-1]", settings={"vision_config": VIT}),
    _of("SwiftFormer", "swiftformer.encoder", settings={"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 40]}),
    _of("Swin", "swin.layernorm", settings=SWIN, note="Stages give several tensors."),
    _of("Swinv2", "swinv2.layernorm", settings=SWIN, note="Stages give several tensors."),
    _of("TextNet", "textnet.encoder.stages[-1]", settings={"stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 40]}),
    _of("ViT", "vit.layers[-1]", settings=VIT),
    _of("ViTMSN", "vit.layers[-1]", settings=VIT),
]
MISFITS = [
    Misfit("transformers", "Dinat", "Needs the natten package, which is not among the test dependencies: not tried."),
    Misfit("transformers", "ImageGPT", "Takes color clusters as a sequence of words, no images."),
    Misfit("transformers", "Perceiver", "Its layers hold latents, which have no place in the image."),
    Misfit("transformers", "ShieldGemma2", "A language model that answers with words; its image tokens lie within a prompt."),
    Misfit("transformers", "Siglip2", "Takes patches cut beforehand, (N, T, C), and no image: pass grid=(h, w)."),
    Misfit("transformers", "TimmWrapper", "A model of timm: see there, the names are behind `timm_model.`."),
]
