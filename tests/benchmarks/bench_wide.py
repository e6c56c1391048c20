"""Features that do not fit in memory: the peak of a report over ResNet-50's layer1 at 224 pixels.

802,816 numbers an image, two models, 1,000 images: 6.4 GB of features. Random ones stand for the networks', which would
only add their own memory. Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_wide.py [images]``.
"""

import sys

from peaks import peak_over_inputs
from ratios import at_most

BEFORE = """
import torch
from torch import nn
from captum_kd.metrics import Compute, compare_transfer

class Noise(nn.Module):
    def __init__(self, seed, width):
        super().__init__()
        self.layer1, self.seed, self.width = nn.Identity(), seed, width
    def forward(self, x):
        draw = torch.Generator().manual_seed(self.seed + int(x[0]))
        wide = torch.randn(len(x), self.width, generator=draw)
        wide[:, :8] += 40 * x[:, None] % 7
        return self.layer1(wide)

def report(n, width, limit):
    data = [(part, part.long() % 7) for part in torch.arange(float(n)).split(16)]
    return compare_transfer(Noise(1, width), Noise(2, width), "layer1", data, confidence=0.95,
                            compute=Compute(memory_limit=limit), show_progress=False)
report(64, 100, None)
"""


def main(images: int = 1000) -> None:
    call = f"found = report({images}, 802_816, 2**30); print(found.settings['features'])"
    peak = peak_over_inputs("", call, before=BEFORE)
    print(at_most(f"peak in MiB, {images} images of 802,816 features, two models", peak, 2048), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
