"""The layer to name in each family of architectures: docs/architectures.md shows the table, and tests run each row.

Families are modules of torchvision and timm, and names of classes of transformers without ``For...``. ``[-1]`` is the last
element of a sequence.
"""

__all__ = ["LAST_LAYERS"]

LAST_LAYERS: dict[str, dict[str, str]] = {
    "torchvision": {
        "alexnet": "features", "convnext": "features", "densenet": "features", "efficientnet": "features",
        "googlenet": "inception5b", "inception": "Mixed_7c", "maxvit": "blocks[-1]", "mnasnet": "layers",
        "mobilenetv2": "features", "mobilenetv3": "features", "regnet": "trunk_output", "resnet": "layer4",
        "shufflenetv2": "conv5", "squeezenet": "features", "swin_transformer": "features", "vgg": "features",
        "vision_transformer": "encoder.layers[-1]",
    },
    "timm": {
        "beit": "blocks[-1]", "byoanet": "stages[-1]", "byobnet": "stages[-1]", "cait": "blocks[-1]", "coat": "norm4",
        "convit": "blocks[-1]", "convmixer": "blocks[-1]", "convnext": "stages[-1]", "cpubone": "stages[-1]",
        "crossvit": "norm[0]", "csatv2": "stages[-1]", "cspnet": "stages[-1]", "cspnext": "stages[-1]", "davit": "stages[-1]",
        "deepseek_vit": "encoder.blocks[-1]", "deit": "blocks[-1]", "densenet": "features", "dla": "level5", "dpn": "features",
        "edgenext": "stages[-1]", "efficientformer": "stages[-1]", "efficientformer_v2": "stages[-1]",
        "efficientnet": "blocks[-1]", "efficientvim": "stages[-1].blocks[-1].ffn", "efficientvit_mit": "stages[-1]",
        "efficientvit_msra": "stages[-1]", "eva": "blocks[-1]", "fasternet": "stages[-1]", "fastvit": "stages[-1]",
        "focalnet": "layers[-1]", "gcvit": "stages[-1]", "gemma4_vit": "encoder.blocks[-1]", "ghostnet": "blocks[-1]",
        "hardcorenas": "blocks[-1]", "hgnet": "stages[-1]", "hiera": "blocks[-1]", "hieradet_sam2": "blocks[-1]",
        "hrnet": "incre_modules[-1]", "iformer": "stages[-1]", "inception_next": "stages[-1]", "inception_resnet_v2": "conv2d_7b",
        "inception_v3": "Mixed_7c", "inception_v4": "features", "lcnetv2": "stages[-1]", "levit": "stages[-1]",
        "lowformer": "stages[-1]", "mambaout": "stages[-1]", "maxxvit": "stages[-1]", "metaformer": "stages[-1]",
        "mlp_mixer": "blocks[-1]", "mobilenetv3": "blocks[-1]", "mobilenetv5": "msfa", "mobilevit": "stages[-1]",
        "mvitv2": "stages[-1]", "naflexvit": "blocks[-1]", "nasnet": "cell_17", "nest": "levels[-1]", "nextvit": "stages[-1]",
        "nfnet": "stages[-1]", "pit": "transformers[-1].blocks", "pnasnet": "cell_11", "pvt_v2": "stages[-1]",
        "qwen3_vit": "encoder.blocks[-1]", "rdnet": "dense_stages[-1]", "regnet": "s4", "repghost": "blocks[-1]",
        "repvit": "stages[-1]", "res2net": "layer4", "resnest": "layer4", "resnet": "layer4", "resnetv2": "stages[-1]",
        "rexnet": "features[-1]", "selecsls": "head", "senet": "layer4", "sequencer": "stages[-1]", "shvit": "stages[-1]",
        "sknet": "layer4", "starnet": "stages[-1]", "swiftformer": "stages[-1]", "swin_transformer": "layers[-1]",
        "swin_transformer_v2": "layers[-1]", "swin_transformer_v2_cr": "stages[-1]", "tiny_vit": "stages[-1]", "tnt": "norm",
        "tresnet": "body.layer4", "twins": "blocks[-1][-1]", "vgg": "features", "visformer": "stage3",
        "vision_transformer": "blocks[-1]", "vision_transformer_hybrid": "blocks[-1]", "vision_transformer_relpos": "blocks[-1]",
        "vision_transformer_sam": "blocks[-1]", "vitamin": "blocks[-1]", "volo": "network[-1]", "vovnet": "stages[-1]",
        "xception": "conv4", "xception_aligned": "blocks[-1]", "xcit": "blocks[-1]",
    },
    "transformers": {
        "Beit": "beit.layers[-1]", "Bit": "bit.encoder.stages[-1]", "CLIP": "vision_model.encoder.layers[-1]",
        "ConvNext": "convnext.encoder.stages[-1]", "ConvNextV2": "convnextv2.encoder.stages[-1]",
        "Cvt": "cvt.encoder.stages[-1].layers[-1]", "Data2VecVision": "data2vec_vision.encoder.layer[-1]",
        "DeiT": "deit.layers[-1]", "Dinov2": "dinov2.encoder.layer[-1]",
        "Dinov2WithRegisters": "dinov2_with_registers.encoder.layer[-1]", "DonutSwin": "donut.encoder.layers[-1].blocks[-1]",
        "EfficientNet": "efficientnet.encoder", "FocalNet": "focalnet.layernorm", "HGNetV2": "encoder.stages[-1]",
        "Hiera": "hiera.encoder.stages[-1]", "IJepa": "ijepa.layers[-1]", "Levit": "levit.encoder.stages[-1]",
        "MetaClip2": "vision_model.encoder.layers[-1]", "MobileNetV1": "mobilenet_v1.layer[-1]",
        "MobileNetV2": "mobilenet_v2.conv_1x1", "MobileViT": "mobilevit.conv_1x1_exp",
        "MobileViTV2": "mobilevitv2.encoder.layer[-1]", "PoolFormer": "poolformer.encoder", "PPLCNet": "encoder",
        "Pvt": "pvt.encoder", "PvtV2": "pvt_v2.encoder", "RegNet": "regnet.encoder.stages[-1]",
        "ResNet": "resnet.encoder.stages[-1]", "Segformer": "segformer.stages[-1]", "Siglip": "vision_model.encoder.layers[-1]",
        "SwiftFormer": "swiftformer.encoder", "Swin": "swin.layernorm", "Swinv2": "swinv2.layernorm",
        "TextNet": "textnet.encoder.stages[-1]", "ViT": "vit.layers[-1]", "ViTMSN": "vit.layers[-1]",
        # Text, audio and time series.
        "Albert": "albert.encoder", "AST": "audio_spectrogram_transformer.layers[-1]", "Bert": "bert.encoder.layer[-1]",
        "DebertaV2": "deberta.encoder.layer[-1]", "DistilBert": "distilbert.transformer.layer[-1]",
        "Electra": "electra.encoder.layer[-1]", "GPT2": "transformer.h[-1]", "Llama": "model.layers[-1]",
        "ModernBert": "model.layers[-1]", "MPNet": "mpnet.encoder.layer[-1]", "PatchTST": "model.encoder.layers[-1]",
        "Qwen2": "model.layers[-1]", "Qwen3": "model.layers[-1]", "Roberta": "roberta.encoder.layer[-1]",
        "T5": "transformer.encoder.block[-1]", "Wav2Vec2": "wav2vec2.encoder.layers[-1]",
    },
}  # fmt: skip
"""{library: {family: layer}}, the last stage or block."""
