"""The families of timm, one member of every module that its registry lists."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.models.convmixer import ConvMixer
from timm.models.focalnet import FocalNet
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.volo import VOLO
from torch import nn

from families import Family, Misfit, unfilled

__all__ = ["FAMILIES", "MISFITS"]


def _of(model: str, layer: str, name: str = "", **more: Any) -> Family:
    """A member of the module that the model's entry point lives in; ``settings`` go to its constructor.

    Of ``plain`` networks one of so many channels is kept, and they are made without the wait for their initial weights.
    """
    make = partial(_make, model, more.pop("settings", {}))
    if plain := more.pop("plain", 0):
        make = partial(unfilled, make, plain)
    module = timm.model_entrypoint(model).__module__.rsplit(".", 1)[-1]
    return Family("timm", f"{module} ({name})" if name else module, make, layer, **more)


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
    _of("beit_base_patch16_224", "blocks[-1]", settings=SMALL),
    _of("botnet26t_256", "stages[-1]", settings={"img_size": 128}, size=(128, 128)),
    _of("test_byobnet", "stages[-1]"),
    _of("cait_xxs24_224", "blocks[-1]", settings=SMALL, note="Before the class token joins."),
    _of(
        "coat_tiny", "norm4",
        settings={"img_size": 96, "embed_dims": (16, 16, 16, 16), "serial_depths": FOUR, "parallel_depth": 1},
        note="Parallel blocks give the tokens of three scales.",
    ),
    _of("convit_tiny", "blocks[-1]", settings={**SMALL, "local_up_to_layer": 1}),
    Family("timm", "convmixer", partial(ConvMixer, 32, 2, num_classes=5), "blocks[-1]"),
    _of("test_convnext", "stages[-1]"),
    _of("cpubone_nano", "stages[-1]", size=(256, 256)),
    _of("crossvit_tiny_240", "norm[0]", "fine branch", settings=CROSS, size=(240, 240), note="Blocks give both branches."),
    _of("crossvit_tiny_240", "norm[-1]", "coarse branch", settings=CROSS, size=(240, 240)),
    _of("csatv2", "stages[-1]", size=(192, 192)),
    _of("cs3darknet_focus_s", "stages[-1]"),
    _of("cspnext_tiny", "stages[-1]", settings={"depths": FOUR, "channels": WIDTHS}, size=(192, 192)),
    _of("davit_tiny", "stages[-1]", settings={"embed_dims": (16, 24, 32, 40), "num_heads": FOUR}),
    _of("deepseek_vit_412m", "encoder.blocks[-1]", settings={**SMALL, "img_size": 112}, size=(112, 112)),
    _of("deit_tiny_patch16_224", "blocks[-1]", settings=SMALL),
    _of("deit_tiny_distilled_patch16_224", "blocks[-1]", "distillation token", settings=SMALL),
    _of("densenet121", "features", settings={"growth_rate": 4, "block_config": (2, 2, 2, 2)}),
    _of("dla46x_c", "level5"),
    _of("dpn48b", "features"),
    _of("edgenext_xx_small", "stages[-1]", settings={"depths": (1, 2, 2, 2)}),
    _of("efficientformer_l1", "stages[-1]", settings={"depths": (1, 1, 1, 2), "embed_dims": WIDTHS}, size=(224, 224)),
    _of("efficientformerv2_s0", "stages[-1]", settings={"img_size": 96}),
    _of("test_efficientnet", "blocks[-1]"),
    _of("efficientvim_m1", "stages[-1].blocks[-1].ffn", size=(192, 192), note="The stage gives its hidden states as well."),
    _of("efficientvit_b0", "stages[-1]"),
    _of("efficientvit_m0", "stages[-1]"),
    _of("vit_tiny_patch16_dinov3_qkvb", "blocks[-1]", settings=SMALL),
    _of("fasternet_t0", "stages[-1]"),
    _of("fastvit_t8", "stages[-1]", settings={"layers": FOUR}),
    Family("timm", "focalnet", partial(FocalNet, depths=FOUR, embed_dim=16, num_classes=5), "layers[-1]"),
    _of("gcvit_xxtiny", "stages[-1]", settings={"img_size": 128}, size=(128, 128)),
    _of(
        "gemma4_vit_167m", "encoder.blocks[-1]",
        settings={"embed_dim": 48, "depth": 2, "num_heads": 3, "num_kv_heads": 3}, size=(192, 192),
    ),
    _of("ghostnet_050", "blocks[-1]"),
    _of("hardcorenas_b", "blocks[-1]"),
    _of("hgnetv2_b0", "stages[-1]"),
    _of(
        "hiera_tiny_224", "blocks[-1]",
        settings={"img_size": 128, "embed_dim": 24, "stages": FOUR}, size=(128, 128),
        note="Earlier stages keep tokens in the order of windows.",
    ),
    _of("sam2_hiera_tiny", "blocks[-1]", settings={"embed_dim": 24, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
    _of("hrnet_w18_small", "incre_modules[-1]", note="The coarsest of four branches; `stage4` gives a map of each."),
    _of("iformer_t", "stages[-1]"),
    _of("inception_next_atto", "stages[-1]"),
    _of("inception_resnet_v2", "conv2d_7b", size=(160, 160), plain=8),
    _of("inception_v3", "Mixed_7c", size=(160, 160), plain=8),
    _of("inception_v4", "features", size=(160, 160), plain=8),
    _of("lcnetv2_small", "stages[-1]"),
    _of("levit_128s", "stages[-1]", settings={"img_size": 96}, positive=False),
    _of("lowformer_b0", "stages[-1]", positive=False),
    _of("test_mambaout", "stages[-1]"),
    _of("maxvit_rmlp_pico_rw_256", "stages[-1]", "MaxViT", settings={"img_size": 128, "depths": FOUR}, size=(128, 128)),
    _of("test_coatnet", "stages[-1]", "CoAtNet", settings={"img_size": 96}),
    _of("poolformer_s12", "stages[-1]", "PoolFormer"),
    Family("timm", "metaformer (CAFormer)", partial(MetaFormer, **CAFORMER), "stages[-1]"),
    _of("mixer_s32_224", "blocks[-1]", "Mixer", settings={"img_size": 96}),
    _of("resmlp_12_224", "blocks[-1]", "ResMLP", settings={"img_size": 96}),
    _of("gmlp_ti16_224", "blocks[-1]", "gMLP", settings={"img_size": 96}),
    _of("mobilenetv3_small_050", "blocks[-1]"),
    _of(
        "mobilenetv5_base", "msfa",
        settings={"channel_multiplier": 0.25}, note="Fused to a fixed 16 x 16; `blocks[-1]` before that.",
    ),
    _of("mobilevit_xxs", "stages[-1]"),
    Family("timm", "mvitv2", partial(MultiScaleVit, MVIT, img_size=(96, 96), num_classes=5), "stages[-1]"),
    _of("naflexvit_so150m2_patch16_reg1_gap", "blocks[-1]", settings={"embed_dim": 48, "depth": 2, "num_heads": 3}),
    _of("nasnetalarge", "cell_17", settings={"stem_size": 8, "num_features": 384}),
    Family("timm", "nest", partial(Nest, img_size=96, embed_dims=(24, 48, 96), depths=(1, 1, 1), num_classes=5), "levels[-1]"),
    _of("nextvit_small", "stages[-1]", settings={"depths": (1, 1, 5, 1)}),
    _of("test_nfnet", "stages[-1]"),
    _of(
        "pit_ti_224", "transformers[-1].blocks",
        settings={"img_size": 96}, note="The stage gives the class token as a second tensor.",
    ),
    _of("pnasnet5large", "cell_11", plain=6),
    _of("pvt_v2_b0", "stages[-1]"),
    _of("qwen3_vit_88m", "encoder.blocks[-1]", settings={"embed_dim": 48, "depth": 2, "num_heads": 3}),
    _of("rdnet_tiny", "dense_stages[-1]", settings={"num_init_features": 16, "growth_rates": (16,) * 7}),
    _of("regnetx_002", "s4"),
    _of("repghostnet_050", "blocks[-1]"),
    _of("repvit_m1", "stages[-1]", settings={"depth": (1, 1, 2, 1), "embed_dim": WIDTHS}),
    _of("res2next50", "layer4", settings={"layers": FOUR}, plain=1),
    _of("resnest14d", "layer4"),
    _of("test_resnet", "layer4"),
    _of("resnetv2_18", "stages[-1]", settings={"layers": FOUR}),
    _of("rexnet_100", "features[-1]"),
    _of("selecsls42", "head", plain=8),
    _of("legacy_seresnet18", "layer4", settings={"layers": FOUR}),
    _of(
        "sequencer2d_s", "stages[-1]",
        settings={"layers": FOUR, "embed_dims": (24, 48, 48, 48), "hidden_sizes": (6, 12, 12, 12)},
    ),
    _of("shvit_s1", "stages[-1]"),
    _of("skresnet18", "layer4", settings={"layers": FOUR}),
    _of("starnet_s050", "stages[-1]"),
    _of("swiftformer_xs", "stages[-1]"),
    _of("swin_tiny_patch4_window7_224", "layers[-1]", settings=SWIN),
    _of("swinv2_tiny_window8_256", "layers[-1]", settings=SWIN),
    _of("swinv2_cr_tiny_224", "stages[-1]", settings=SWIN),
    _of("tiny_vit_5m_224", "stages[-1]", settings={"depths": FOUR}),
    _of(
        "tnt_s_legacy_patch16_224", "norm",
        settings={"img_size": 96, "depth": 2, "embed_dim": 96}, note="Its blocks give the inner tokens as well, folded.",
    ),
    _of("tresnet_m", "body.layer4", settings={"layers": FOUR, "width_factor": 0.5}),
    _of("twins_svt_small", "blocks[-1][-1]", settings={"depths": FOUR}),
    _of("vgg11", "features", settings={"mlp_ratio": 0.01}),
    _of("visformer_tiny", "stage3", settings={"img_size": 96}),
    _of("test_vit", "blocks[-1]", "ViT"),
    _of(
        "vit_small_patch14_reg4_dinov2", "blocks[-1]", "ViT with registers", settings={**SMALL, "img_size": 112}, size=(112, 112)
    ),
    _of("vit_tiny_r_s16_p8_224", "blocks[-1]", settings={"img_size": 128}, size=(128, 128)),
    _of("test_vit_relpos", "blocks[-1]", settings={"img_size": 96}),
    _of("samvit_base_patch16_224", "blocks[-1]", settings={**SMALL, "global_attn_indexes": (1,)}),
    _of("vitamin_small_224", "blocks[-1]", settings={"img_size": 96, "depth": 2}),
    Family("timm", "volo", partial(VOLO, FOUR, **VOLO_SETTINGS), "network[-1]"),
    _of("ese_vovnet19b_slim_dw", "stages[-1]"),
    _of("legacy_xception", "conv4", plain=8),
    _of("xception41p", "blocks[-1]", settings={"block_cfg": XCEPTION}),
    _of("xcit_nano_12_p8_224", "blocks[-1]", settings={"depth": 2}),
]
MISFITS: list[Misfit] = []
