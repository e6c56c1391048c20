"""The families of timm, one member of every module that its registry lists."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

import timm
from timm.models.convmixer import ConvMixer
from timm.models.focalnet import FocalNet
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.volo import VOLO
from torch import nn

from families import Family, Misfit, unfilled

from captum_kd.command.last_layers import LAST_LAYERS

__all__ = ["FAMILIES", "MISFITS"]


def _of(model: str, name: str = "", **more: Any) -> Family:
    """A member of the module that the model's entry point lives in; ``settings`` go to its constructor.

    Of ``plain`` networks one of so many channels is kept, and they are made without the wait for their initial weights.
    """
    make = partial(_make, model, more.pop("settings", {}))
    if plain := more.pop("plain", 0):
        make = partial(unfilled, make, plain)
    module = timm.model_entrypoint(model).__module__.rsplit(".", 1)[-1]
    return _family(f"{module} ({name})" if name else module, make, **more)


def _family(name: str, make: Callable[[], nn.Module], **more: Any) -> Family:
    """A member with the layer of the shared table."""
    return Family("timm", name, make, more.pop("layer", LAST_LAYERS["timm"][name.split(" (")[0]]), **more)


def _make(model: str, settings: dict[str, Any]) -> nn.Module:
    made: nn.Module = timm.create_model(model, pretrained=False, num_classes=5, **settings)
    return made


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 96}
FOUR = (1, 1, 1, 1)
WIDTHS = (16, 24, 32, 40)
SWIN = {"img_size": 96, "embed_dim": 24, "depths": FOUR, "num_heads": (1, 2, 2, 2)}
CROSS = {"depth": ((1, 1, 0),)}
CAFORMER: dict[str, Any] = {
    "depths": FOUR, "dims": (16, 24, 32, 64), "token_mixers": [SepConv, SepConv, Attention, Attention],
    "norm_layers": [LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2, "num_classes": 5,
}
MVIT = MultiScaleVitCfg(depths=FOUR, embed_dim=24)
VOLO_SETTINGS: dict[str, Any] = {"img_size": 96, "embed_dims": (24, 48, 48, 48), "num_heads": (1, 2, 2, 2), "num_classes": 5}
XCEPTION = [{"in_chs": ins, "out_chs": outs, "stride": 2} for ins, outs in ((64, 24), (24, 24), (24, 32), (32, 40))]

FAMILIES = [
    _of("beit_base_patch16_224", settings=SMALL),
    _of("botnet26t_256", settings={"img_size": 128}, size=(128, 128)),
    _of("test_byobnet"),
    _of("cait_xxs24_224", settings=SMALL, note="Before the class token joins."),
    _of(
        "coat_tiny",
        settings={"img_size": 96, "embed_dims": (16, 16, 16, 16), "serial_depths": FOUR, "parallel_depth": 1},
        note="Parallel blocks give the tokens of three scales.",
    ),
    _of("convit_tiny", settings={**SMALL, "local_up_to_layer": 1}),
    _family("convmixer", partial(ConvMixer, 32, 2, num_classes=5)),
    _of("test_convnext"),
    _of("cpubone_nano", size=(256, 256)),
    _of("crossvit_tiny_240", "fine branch", settings=CROSS, size=(240, 240), note="Blocks give both branches."),
    _of("crossvit_tiny_240", "coarse branch", layer="norm[-1]", settings=CROSS, size=(240, 240)),
    _of("csatv2", size=(192, 192)),
    _of("cs3darknet_focus_s"),
    _of("cspnext_tiny", settings={"depths": FOUR, "channels": WIDTHS}, size=(192, 192)),
    _of("davit_tiny", settings={"embed_dims": (16, 24, 32, 40), "num_heads": FOUR}),
    _of("deepseek_vit_412m", settings={**SMALL, "img_size": 112}, size=(112, 112)),
    _of("deit_tiny_patch16_224", settings=SMALL),
    _of("deit_tiny_distilled_patch16_224", "distillation token", settings=SMALL),
    _of("densenet121", settings={"growth_rate": 4, "block_config": (2, 2, 2, 2)}),
    _of("dla46x_c"),
    _of("dpn48b"),
    _of("edgenext_xx_small", settings={"depths": (1, 2, 2, 2)}),
    _of("efficientformer_l1", settings={"depths": (1, 1, 1, 2), "embed_dims": WIDTHS}, size=(224, 224)),
    _of("efficientformerv2_s0", settings={"img_size": 96}),
    _of("test_efficientnet"),
    _of("efficientvim_m1", size=(192, 192), note="The stage gives its hidden states as well."),
    _of("efficientvit_b0"),
    _of("efficientvit_m0"),
    _of("vit_tiny_patch16_dinov3_qkvb", settings=SMALL),
    _of("fasternet_t0"),
    _of("fastvit_t8", settings={"layers": FOUR}),
    _family("focalnet", partial(FocalNet, depths=FOUR, embed_dim=16, num_classes=5)),
    _of("gcvit_xxtiny", settings={"img_size": 128}, size=(128, 128)),
    _of(
        "gemma4_vit_167m",
        settings={"embed_dim": 48, "depth": 2, "num_heads": 3, "num_kv_heads": 3}, size=(192, 192),
    ),
    _of("ghostnet_050"),
    _of("hardcorenas_b"),
    _of("hgnetv2_b0"),
    _of(
        "hiera_tiny_224",
        settings={"img_size": 128, "embed_dim": 24, "stages": FOUR}, size=(128, 128),
        note="Earlier stages keep tokens in the order of windows.",
    ),
    _of("sam2_hiera_tiny", settings={"embed_dim": 24, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
    _of("hrnet_w18_small", note="The coarsest of four branches; `stage4` gives a map of each."),
    _of("iformer_t"),
    _of("inception_next_atto"),
    _of("inception_resnet_v2", size=(160, 160), plain=8),
    _of("inception_v3", size=(160, 160), plain=8),
    _of("inception_v4", size=(160, 160), plain=8),
    _of("lcnetv2_small"),
    _of("levit_128s", settings={"img_size": 96}, positive=False),
    _of("lowformer_b0", positive=False),
    _of("test_mambaout"),
    _of("maxvit_rmlp_pico_rw_256", "MaxViT", settings={"img_size": 128, "depths": FOUR}, size=(128, 128)),
    _of("test_coatnet", "CoAtNet", settings={"img_size": 96}),
    _of("poolformer_s12", "PoolFormer"),
    _family("metaformer (CAFormer)", partial(MetaFormer, **CAFORMER)),
    _of("mixer_s32_224", "Mixer", settings={"img_size": 96}),
    _of("resmlp_12_224", "ResMLP", settings={"img_size": 96}),
    _of("gmlp_ti16_224", "gMLP", settings={"img_size": 96}),
    _of("mobilenetv3_small_050"),
    _of(
        "mobilenetv5_base",
        settings={"channel_multiplier": 0.25}, note="Fused to a fixed 16 x 16; `blocks[-1]` before that.",
    ),
    _of("mobilevit_xxs"),
    _family("mvitv2", partial(MultiScaleVit, MVIT, img_size=(96, 96), num_classes=5)),
    _of("naflexvit_so150m2_patch16_reg1_gap", settings={"embed_dim": 48, "depth": 2, "num_heads": 3}),
    _of("nasnetalarge", settings={"stem_size": 8, "num_features": 384}),
    _family("nest", partial(Nest, img_size=96, embed_dims=(24, 48, 96), depths=(1, 1, 1), num_classes=5)),
    _of("nextvit_small", settings={"depths": (1, 1, 5, 1)}),
    _of("test_nfnet"),
    _of(
        "pit_ti_224",
        settings={"img_size": 96}, note="The stage gives the class token as a second tensor.",
    ),
    _of("pnasnet5large", plain=6),
    _of("pvt_v2_b0"),
    _of("qwen3_vit_88m", settings={"embed_dim": 48, "depth": 2, "num_heads": 3}),
    _of("rdnet_tiny", settings={"num_init_features": 16, "growth_rates": (16,) * 7}),
    _of("regnetx_002"),
    _of("repghostnet_050"),
    _of("repvit_m1", settings={"depth": (1, 1, 2, 1), "embed_dim": WIDTHS}),
    _of("res2next50", settings={"layers": FOUR}, plain=1),
    _of("resnest14d"),
    _of("test_resnet"),
    _of("resnetv2_18", settings={"layers": FOUR}),
    _of("rexnet_100"),
    _of("selecsls42", plain=8),
    _of("legacy_seresnet18", settings={"layers": FOUR}),
    _of(
        "sequencer2d_s",
        settings={"layers": FOUR, "embed_dims": (24, 48, 48, 48), "hidden_sizes": (6, 12, 12, 12)},
    ),
    _of("shvit_s1"),
    _of("skresnet18", settings={"layers": FOUR}),
    _of("starnet_s050"),
    _of("swiftformer_xs"),
    _of("swin_tiny_patch4_window7_224", settings=SWIN),
    _of("swinv2_tiny_window8_256", settings=SWIN),
    _of("swinv2_cr_tiny_224", settings=SWIN),
    _of("tiny_vit_5m_224", settings={"depths": FOUR}),
    _of(
        "tnt_s_legacy_patch16_224",
        settings={"img_size": 96, "depth": 2, "embed_dim": 96}, note="Its blocks give the inner tokens as well, folded.",
    ),
    _of("tresnet_m", settings={"layers": FOUR, "width_factor": 0.5}),
    _of("twins_svt_small", settings={"depths": FOUR}),
    _of("vgg11", settings={"mlp_ratio": 0.01}),
    _of("visformer_tiny", settings={"img_size": 96}),
    _of("test_vit", "ViT"),
    _of(
        "vit_small_patch14_reg4_dinov2", "ViT with registers", settings={**SMALL, "img_size": 112}, size=(112, 112)
    ),
    _of("vit_tiny_r_s16_p8_224", settings={"img_size": 128}, size=(128, 128)),
    _of("test_vit_relpos", settings={"img_size": 96}),
    _of("samvit_base_patch16_224", settings={**SMALL, "global_attn_indexes": (1,)}),
    _of("vitamin_small_224", settings={"img_size": 96, "depth": 2}),
    _family("volo", partial(VOLO, FOUR, **VOLO_SETTINGS)),
    _of("ese_vovnet19b_slim_dw"),
    _of("legacy_xception", plain=8),
    _of("xception41p", settings={"block_cfg": XCEPTION}),
    _of("xcit_nano_12_p8_224", settings={"depth": 2}),
]
MISFITS: list[Misfit] = []
