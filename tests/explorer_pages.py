"""Maps of images and texts with names that try to be markup, and a minimal page around the explorer."""

from pathlib import Path
from typing import Any, Mapping, Optional

import torch
from torch import Tensor

import captum_kd.page.explorer as explorer_module
from captum_kd.attr import InputMaps
from captum_kd.page.explorer import SCRIPTS, STYLES, explorer

HOSTILE = "<img src=x onerror=alert(1)></script>\"'"
FOLDER = Path(explorer_module.__file__).parent


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image_maps(n: int = 8, side: int = 32, grid: int = 4, **changes: Any) -> InputMaps:
    """Two Students, two Bases (one pair is missing), two layers; the Student's Grad-CAM is the same given both Bases."""
    pairs = [("kd", "base"), ("kd", "base 2"), (HOSTILE, "base")]
    grad_cams = {"kd": random(n, 1, 3, 3, seed=50), HOSTILE: random(n, 1, 3, 3, seed=51)}
    maps = {
        layer: {
            pair: {
                "net": random(n, 1, grid, grid, seed=10 * place + number),
                "distilled": random(n, 1, grid, grid, seed=10 * place + number + 5) * 1e-3,
                "Grad-CAM": grad_cams[pair[0]] * (place + 1),
            }
            for number, pair in enumerate(pairs)
        }
        for place, layer in enumerate(["layer3", "layer4"])
    }
    labels = torch.arange(n) % 3
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
    given = {
        "maps": maps,
        "images": torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)),
        "labels": labels,
        "class_names": ["cat", "dog", HOSTILE],
        # The Student is right at even inputs, the Base at the first half.
        "predictions": {
            "kd": torch.where(torch.arange(n) % 2 == 0, labels, (labels + 1) % 3),
            "base": torch.where(torch.arange(n) < n // 2, labels, (labels + 1) % 3),
            "teacher": labels,
        },
        "masks": masks,
        "same_scale": [["net", "distilled"]],
        "units": dict.fromkeys(["net", "distilled"], "gain of J per position"),
        "indices": torch.arange(n) + 100,
    }
    return InputMaps(**{**given, **changes})


def text_maps(**changes: Any) -> InputMaps:
    texts = ["[CLS] where is moz ##amb ##ique ? [SEP]", f"[CLS] who wrote {HOSTILE.replace(' ', '_')} ? [SEP]"]
    tokens = [text.split() for text in texts]
    longest = max(map(len, tokens))
    mask = torch.tensor([[place < len(each) for place in range(longest)] for each in tokens])
    net, residual = (random(2, 1, longest, seed=seed) * mask[:, None] for seed in range(2))
    maps = {"encoder.1": {("kd", "base"): {"net": net, "residual": residual}}}
    given = {"maps": maps, "tokens": tokens, "token_mask": mask, "same_scale": [["net", "residual"]]}
    given["units"] = dict.fromkeys(["net", "residual"], "gain of J per word")
    return InputMaps(**{**given, "labels": torch.tensor([0, 1]), "class_names": ["place", "human"], **changes})


def report_inputs(n: int = 8) -> dict[str, Any]:
    """Parts that put the inputs of ``image_maps`` in the order n - 1, ..., 0 at layer3; layer4 is missing."""
    of_layer = {"group_of_students": None, "layer": "layer3"}
    parts = [{"label": 0, "distilled": 0.01 * place, "residual": None} for place in range(n)]
    rows = [{**of_layer, "input": 100 + place, **part} for place, part in enumerate(parts)]
    caution = "layer3, distilled: it is unknown whether another seed has the same inputs on top."
    return {"rows": rows, "reliability": [{**of_layer, "score": "distilled", "sentence": caution}]}


def page(maps: InputMaps, inputs: Optional[Mapping[str, Any]] = None) -> str:
    """A whole page that holds nothing but the explorer."""
    html, data = explorer(maps, inputs)
    style, script = ("\n".join(FOLDER.joinpath(name).read_text() for name in names) for names in (STYLES, SCRIPTS))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Explorer</title><link rel="icon" href="data:,">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 sans-serif; margin: 1rem; }} {style}</style></head>"
        f'<body><main>{html}</main><script type="application/json" id="explorer-data">{data}</script>'
        f"<script>{script}</script></body></html>"
    )
