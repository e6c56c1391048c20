"""Similarity of the layers of ResNet-50 and ResNet-18 against bare forward passes of the two.

Random weights, 17 and 9 layers, 1,000 images. The products of flattened features take about 0.57 times the multiplications
of the passes at any image size; pooled features take next to nothing. Then: the errors of float32 features against the same
features in float64. Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_layers.py [images] [pixels]``.
"""

import sys

import torch
from ratios import at_most, ratio
from torch import Tensor
from torchvision.models import resnet18, resnet50

from captum_kd import flatten, global_average_pool
from captum_kd.metrics import layer_similarity

BLOCKS_50, BLOCKS_18 = (3, 4, 6, 3), (2, 2, 2, 2)


def layers(blocks: tuple[int, ...]) -> list[str]:
    return ["maxpool", *(f"layer{stage}.{block}" for stage, count in enumerate(blocks, 1) for block in range(count))]


def main(images: int = 1000, pixels: int = 64, repeats: int = 3) -> None:
    torch.manual_seed(0)
    models = resnet50().eval(), resnet18().eval()
    data = list(torch.randn(images, 3, pixels, pixels).split(50))

    def bare() -> None:
        with torch.no_grad():
            for batch in data:
                for model in models:
                    model(batch)

    for transform in (flatten, global_average_pool):

        def similarity() -> object:
            both = layers(BLOCKS_50), layers(BLOCKS_18)
            return layer_similarity(*models, *both, data, feature_transform=transform, show_progress=False)

        name = f"layer_similarity over bare passes, {images} images of {pixels} px, {transform.__name__}"
        print(at_most(name, ratio(similarity, bare, repeats), 1.5), flush=True)

    def wide(x: Tensor) -> Tensor:
        return x.double().flatten(1)

    both = layers(BLOCKS_50), layers(BLOCKS_18)
    few = data[: max(1, 200 // 50)]
    found = [layer_similarity(*models, *both, few, feature_transform=each, show_progress=False) for each in (flatten, wide)]
    for measure in found[0].measures:
        one, other = (torch.tensor(each.matrices[measure], dtype=torch.float64) for each in found)
        error = float((one - other).abs().max())
        print(at_most(f"largest error of {measure} from float32 features, {found[0].n} images", error, 1e-6), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
