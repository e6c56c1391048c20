"""A measurement of TransferMonitor against two evaluation passes of the Student over the probe.

The bound is 1.1. Random weights; layers are the four stages and the pooled features. The first measurement, which
also measures Teacher and Base, is printed beside it. Run with
``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_monitor.py [inputs] [pixels] [device]``.
"""

import sys
import time

import torch
from ratios import at_most, ratio
from torchvision.models import resnet18, resnet34

from captum_kd.monitor import TransferMonitor

LAYERS = ["layer1", "layer2", "layer3", "layer4", "avgpool"]


def main(inputs: int = 500, pixels: int = 64, device: str = "cpu", repeats: int = 5) -> None:
    torch.manual_seed(0)
    teacher, base, student = (made(num_classes=10).eval().to(device) for made in (resnet34, resnet18, resnet18))
    labels = torch.arange(inputs) % 10
    data = list(zip(torch.randn(inputs, 3, pixels, pixels).split(100), labels.split(100)))

    def two_passes() -> None:
        with torch.no_grad():
            for _ in range(2):
                for images, _ in data:
                    float(student(images.to(device)).sum())

    for predictions in (True, False):
        monitor = TransferMonitor(teacher, base, LAYERS, data, predictions=predictions)
        start = time.perf_counter()
        monitor.step(student, 0)
        first = time.perf_counter() - start
        epochs = iter(range(1, 1000))
        name = f"a measurement over two passes, {inputs} inputs of {pixels} px on {device}, predictions={predictions}"
        print(at_most(name, ratio(lambda: monitor.step(student, next(epochs)), two_passes, repeats), 1.1), flush=True)
        print(f"the first one, with Teacher and Base: {first:.2f} s")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:2]), *given[2:])
