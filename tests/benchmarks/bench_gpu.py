"""Distances on a GPU: against bare products, against the CPU's values, memory, and what is asked of the device.

Run with ``PYTHONPATH=tests/benchmarks:. python tests/benchmarks/bench_gpu.py [--largest 262144]``; needs a CUDA device. Products
are in float32 without TF32, whose 10 bits are too few for distances, on both sides of every ratio.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from typing import Any, Callable

import torch
import torch.distributed as dist
from ratios import at_most, ratio, seconds
from torch import Tensor, nn

from captum_kd.distance import distance_correlation, semipartial_distance_correlation
from captum_kd.metrics import Compute, compare_transfer, relevance_score

GPU = torch.device("cuda")


def features(n: int, d: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, device=GPU, dtype=dtype, generator=torch.Generator(GPU).manual_seed(seed))


def linear(width: int, seed: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(width, width)).requires_grad_(False).to(GPU)
    model[0].weight.copy_(features(width, width, seed))
    return model


def bare_products(*sets: Tensor, block: int = 4096) -> None:
    for each in sets:
        for rows in each.split(block):
            for columns in each.split(block):
                rows @ columns.T


def against_products() -> None:
    for n, d, dtype in (
        (1000, 2048, torch.float32),
        (4000, 2048, torch.float32),
        (16_000, 256, torch.float32),
        (16_000, 2048, torch.float32),
        (64_000, 2048, torch.float32),
        (16_000, 2048, torch.float64),
    ):
        x, y, z = (features(n, d, seed, dtype) for seed in range(3))
        where = f"n={n}, d={d}, {str(dtype)[6:]}"
        value = ratio(lambda: distance_correlation(x, y), lambda: bare_products(x, y), 7)
        print(at_most(f"ours / bare blocked products, {where}", value, 4), flush=True)
        value = ratio(lambda: semipartial_distance_correlation(x, y, z), lambda: bare_products(x, y, z), 7)
        print(at_most(f"partial / bare blocked products, {where}", value, 4), flush=True)


def against_the_cpu() -> None:
    """The largest difference relative to the value, from float64 on the CPU; with copies among the inputs, too."""
    for n, copies in ((500, 0), (6000, 0), (6000, 50)):
        for dtype, goal in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            x, y, z = (features(n, 64, seed, dtype) for seed in range(3))
            y, z = y + x, z + x / 2
            x[:copies] = x[n - copies :]
            found = torch.stack([distance_correlation(x, y), semipartial_distance_correlation(x, y, z)]).double().cpu()
            x, y, z = (each.double().cpu() for each in (x, y, z))
            expected = torch.stack([distance_correlation(x, y), semipartial_distance_correlation(x, y, z)])
            apart = float(((found - expected) / expected).abs().max())
            print(at_most(f"difference from the CPU, n={n}, {copies} copies, {str(dtype)[6:]}", apart, goal), flush=True)


def questions(call: Callable[[], object]) -> int:
    """How often the host waited for the device."""
    call()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def asked() -> None:
    x, y, z = (features(8192, 512, seed) for seed in range(3))
    labels = torch.arange(8192, device=GPU) % 10
    model, other = linear(512, 1), linear(512, 2)

    def with_gradients(block: int) -> None:
        leaf = x.clone().requires_grad_()
        distance_correlation(leaf, y, block_size=block).backward()

    calls: dict[str, Callable[[int], object]] = {
        "distance_correlation": lambda block: distance_correlation(x, y, block_size=block),
        "semipartial_distance_correlation": lambda block: semipartial_distance_correlation(x, y, z, block_size=block),
        "relevance_score": lambda block: relevance_score(model, "0", x, labels, given=(other, "0"), block_size=block),
        "with gradients": with_gradients,
    }
    for name, call in calls.items():
        few, many = (questions(lambda: call(block)) for block in (4096, 512))
        print(at_most(f"{name}: questions with 136 blocks / with 3, which are {few}", many / max(1, few), 1), flush=True)


def large(largest: int, d: int = 2048) -> None:
    n = 65_536
    while n <= largest:
        x, y = (features(n, d, seed) for seed in range(2))
        distance_correlation(x[:9000], y[:9000])
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        took = seconds(lambda: distance_correlation(x, y))
        peak = (torch.cuda.max_memory_allocated() - held) / 2**20
        rate = 2 * n * n * d / took / 1e12
        print(f"n={n:,}, d={d:,}: {took:.2f} s, {rate:.1f} TFLOP/s of products, peak {peak:,.0f} MiB over the inputs", flush=True)
        del x, y
        n *= 4


def rates() -> None:
    """What the cost model takes from data sheets."""
    a, b = features(8192, 8192, 0), features(8192, 8192, 1)
    wide, other = a.double(), b.double()
    print(f"products, float32: {2 * 8192**3 / _each(lambda: a @ b) / 1e12:.1f} TFLOP/s")
    print(f"products, float64: {2 * 8192**3 / _each(lambda: wide @ other) / 1e12:.1f} TFLOP/s")
    buffer = torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    print(f"copies on the device: {2 * 2**30 / _each(lambda: buffer.clone()) / 1e12:.2f} TB/s read and written")
    pinned = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    print(f"copies from the host: {2**28 / _each(lambda: buffer[: 1 << 28].copy_(pinned)) / 1e9:.1f} GB/s, pinned")
    small = torch.zeros(8, device=GPU)
    print(f"a kernel takes at least {_each(lambda: [small.add_(1) for _ in range(1000)]) / 1000 * 1e6:.1f} us")


def _each(call: Callable[[], object], repeats: int = 10) -> float:
    call()
    return sorted(seconds(call) for _ in range(repeats))[repeats // 2]


def images(n: int) -> Tensor:
    """Coarse patterns: of noise an untrained network makes nearly the same of every image."""
    return torch.nn.functional.interpolate(3 * torch.randn(n, 3, 4, 4), 224)


def report() -> None:
    """A report of two ResNet-50, networks included, with features on the GPU and on the host."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    student, base = (resnet50().eval().requires_grad_(False).to(GPU) for _ in range(2))
    data = [(images(64), torch.arange(64) % 10) for _ in range(16)]

    def networks() -> None:
        with torch.no_grad():
            for x, _ in data:
                x = x.to(GPU)
                student(x), base(x)

    for where in ("cuda", "cpu"):
        for layers in (["layer4"], ["avgpool"]):
            call: Any = lambda: compare_transfer(  # noqa: E731
                student, base, layers, data, compute=Compute(feature_device=where), confidence=None, show_progress=False
            )
            value = ratio(call, networks, 2)
            print(f"report of 1,024 images, {layers[0]}, features on {where} / the networks alone: {value:.2f}", flush=True)


def by_nccl() -> None:
    """One process and its group: the same report as without."""
    from captum_kd.metrics.torchmetrics import FeatureSimilarityScore, RelevanceScore

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("nccl", store=dist.FileStore(os.path.join(folder, "store"), 1), rank=0, world_size=1)
        try:
            x, y = (features(5000, 64, seed) for seed in range(2))
            y = y + x
            labels = torch.arange(5000, device=GPU) % 10
            fss, rs = FeatureSimilarityScore().to(GPU), RelevanceScore().to(GPU)
            for part in range(0, 5000, 500):
                here = slice(part, part + 500)
                fss.update(x[here], y[here])
                rs.update(x[here], labels[here])
            expected = distance_correlation(x, y), relevance_score(nn.Sequential(nn.Identity()), "0", x, labels)
            for name, found, value in zip(("FSS", "RS"), (fss.compute(), rs.compute()), expected):
                apart = abs(float(found) / float(value) - 1)
                print(at_most(f"{name} over nccl, one process / without", apart, 1e-5), flush=True)
        finally:
            dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--largest", type=int, default=262_144, help="inputs of the largest population; default: %(default)s")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_gpu.py needs a CUDA device, and torch finds none here.")
    torch.backends.cuda.matmul.allow_tf32 = False
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    torch.zeros(1, device=GPU)
    start = time.perf_counter()
    for part in (rates, against_products, against_the_cpu, asked, report, by_nccl, lambda: large(options.largest)):
        part()
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
