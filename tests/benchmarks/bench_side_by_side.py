"""captum_kd beside other packages on the same work, in one run: time, memory, values, and where they fail.

    pip install -e '.[peers]'
    export OMP_NUM_THREADS=1 PYTHONPATH=tests/benchmarks:.
    python tests/benchmarks/bench_side_by_side.py --output docs/tables/side_by_side.md

One thread. Both sides run in turn; a ratio is the other's processor time divided by that of captum_kd, the median of all rounds
with the smallest and the largest. Above 1 captum_kd is faster; below 1 it loses, and the table says so. Memory is the peak of a
process of its own over the inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from statistics import median
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import torch
from peaks import peak_over_inputs
from peer_maps import ARCHITECTURES, GRAD_CAMS, on_architectures
from ratios import measured
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from captum_kd.distance import distance_correlation
from captum_kd.metrics import layer_similarity
from captum_kd.perturb import noisy_linear_imputation

PACKAGES = ("captum", "grad-cam", "torchcam", "dcor", "hyppo", "torch-cka", "ckatorch", "pytorch-cka", "torch", "numpy")
LAYERS = ["layer1", "layer2", "layer3", "layer4"]


class Row(NamedTuple):
    work: str
    other: str
    time: str
    values: str


def times(own: Callable[[], object], other: Callable[[], object], rounds: int) -> str:
    """The other's time divided by ours."""
    torch.set_num_threads(1)  # importing some packages changes it
    own(), other()  # first calls pay for memory and compilation
    ratios = [measured(other).busy / measured(own).busy for _ in range(rounds)]
    value = median(ratios)
    return f"{value:.2g} ({min(ratios):.2g} to {max(ratios):.2g})" + " **slower**" * (value < 1)


# ----------------------------------------------------------------------------- maps

SCENE = """
import torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads(1)
from torchvision.models import resnet18
from peer_maps import GRAD_CAMS
from captum_kd import UniCAM
torch.manual_seed(0)
student, base = resnet18(num_classes=10).eval(), resnet18(num_classes=10).eval()
images, labels = torch.rand(16, 3, 128, 128), torch.arange(16) % 4
unicam = UniCAM(student, "layer4", base)
population = unicam.reference(torch.rand(64, 3, 128, 128), torch.arange(64) % 4, internal_batch_size=16)
"""
OURS = "unicam.attribute_transfer(images, labels, reference=population, n_steps=16)"


def maps(rounds: int) -> Iterator[Row]:
    scope: dict[str, Any] = {}
    exec(SCENE, scope)  # the same statements as in the processes that measure memory
    own_peak = _peak(OURS)
    work = (
        "distilled, residual and net map beside 64 references, against Grad-CAM of both networks; ResNet-18, 16 images of "
        "128 px"
    )
    for package in GRAD_CAMS:
        call = f"[GRAD_CAMS[{package!r}](each, 'layer4', images, labels) for each in (student, base)]"
        ratio = times(lambda: eval(OURS, scope), lambda: eval(call, scope), rounds)
        peak = _peak(call)
        yield Row(work, package, ratio, f"peak {peak:.0f} MiB, captum_kd {own_peak:.0f} MiB")


def _peak(call: str) -> float:
    """MiB of a call on 16 images after one on two of them, in a process of its own: the smaller of two runs."""
    first = f"{SCENE}everything = images, labels\nimages, labels = images[:2], labels[:2]\n{call}\nimages, labels = everything"
    return min(peak_over_inputs("", call, before=first) for _ in range(2))


def architectures() -> list[str]:
    found = on_architectures()
    columns = [*GRAD_CAMS, "UniCAM"]
    right = {package: sum(of[package] == "right" for of in found.values()) for package in columns}
    lines = ["| network, layer | " + " | ".join(f"{each}: {right[each]} of {len(found)}" for each in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for name, of in found.items():
        cells = [f"{name}, `{ARCHITECTURES[name].layer}`", *(of[each].replace("|", "/") for each in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ----------------------------------------------------------------------------- scores


def distances(rounds: int) -> Iterator[Row]:
    import dcor
    from hyppo.independence import Dcorr

    for n, d in ((500, 512), (1000, 64), (64, 64)):
        generator = torch.Generator().manual_seed(n)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        y = x[:, : d // 2] + torch.randn(n, d // 2, generator=generator, dtype=torch.float64)
        a, b = x.numpy(), y.numpy()
        others: dict[str, Callable[[], float]] = {
            "dcor": lambda: float(dcor.u_distance_correlation_sqr(a, b)),
            "hyppo": lambda: float(Dcorr(bias=False).statistic(a, b)),
        }
        for package, call in others.items():
            ratio = times(lambda: distance_correlation(x, y), call, rounds)
            difference = abs(call() - float(distance_correlation(x, y)))
            work = f"unbiased squared distance correlation, n = {n}, d = {d}, float64"
            yield Row(work, package, ratio, f"differ by {difference:.0e}")


def layer_matrices(rounds: int) -> Iterator[Row]:
    torch.manual_seed(0)
    first, second = resnet18(num_classes=10).eval(), resnet18(num_classes=10).eval()
    loader = DataLoader(TensorDataset(torch.rand(128, 3, 64, 64)), batch_size=32)
    expected = _ours(first, second, loader)
    work = "CKA of 4 x 4 layers, two ResNet-18, 128 images of 64 px in batches of 32"
    for package, call in CKA_PACKAGES.items():
        try:
            ratio = times(lambda: _ours(first, second, loader), lambda: call(first, second, loader), rounds)
        except Exception as error:  # a package's error is its row of the table
            yield Row(work, package, "", f"no matrix: {type(error).__name__}: {error}"[:110])
            continue
        difference = float((call(first, second, loader) - expected).abs().max())
        yield Row(work, package, ratio, f"differ by {difference:.1e} at most from CKA of all inputs at once")
    dead, alive = resnet18(num_classes=10).eval(), second
    nn.init.zeros_(dead.layer4[1].bn2.weight)
    dead.layer4.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Row("the same, one layer constant", "captum_kd", "", _said(lambda: _ours(dead, alive, loader)))
        for package, call in CKA_PACKAGES.items():
            yield Row("the same, one layer constant", package, "", _said(lambda: call(dead, alive, loader)))


def _ours(first: nn.Module, second: nn.Module, loader: DataLoader[Any]) -> Tensor:
    found = layer_similarity(first, second, LAYERS, LAYERS, loader, measures="cka", show_progress=False)
    return torch.tensor([[torch.nan if value is None else value for value in row] for row in found.matrices["cka"]])


def _torch_cka(first: nn.Module, second: nn.Module, loader: DataLoader[Any]) -> Tensor:
    from torch_cka import CKA

    cka = CKA(first, second, "first", "second", LAYERS, LAYERS)
    cka.compare(loader, loader)
    return _freed(cka.export()["CKA"], first, second)


def _ckatorch(first: nn.Module, second: nn.Module, loader: DataLoader[Any]) -> Tensor:
    from ckatorch import CKA

    return _freed(CKA(first, second, LAYERS, LAYERS, "first", "second")(loader, epochs=1), first, second)


def _pytorch_cka(first: nn.Module, second: nn.Module, loader: DataLoader[Any]) -> Tensor:
    from cka import compute_cka

    return compute_cka(first, second, loader, layers=LAYERS, model2_layers=LAYERS, progress=False)[0]


def _freed(matrix: Tensor, *networks: nn.Module) -> Tensor:
    """Removes the hooks that some packages leave, so that the next call does not pay for them."""
    for network in networks:
        for name in LAYERS:
            hooks = network.get_submodule(name)._forward_hooks
            for key in [key for key, hook in hooks.items() if hasattr(hook, "func")]:
                del hooks[key]
    return matrix


CKA_PACKAGES = {"torch_cka": _torch_cka, "ckatorch": _ckatorch, "pytorch-cka": _pytorch_cka}


def _said(call: Callable[[], Tensor]) -> str:
    try:
        matrix = call().float()
    except Exception as error:  # a package's error is its row of the table
        return f"no matrix: {type(error).__name__}: {error}"[:110]
    last = matrix[-1]
    if last.isnan().all() and not matrix[:-1].isnan().any():
        return "no value for this layer, and a note"
    return f"{int(last.isnan().sum())} NaN; for this layer {float(last.min()):.2f} to {float(last.max()):.2f}, as if it were data"


# ----------------------------------------------------------------------------- the rest


def imputation(rounds: int) -> Iterator[Row]:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    torch.manual_seed(0)
    images = torch.rand(4, 3, 112, 112)
    ranks = nn.functional.interpolate(torch.rand(4, 1, 7, 7), (112, 112), mode="bilinear").flatten(1).argsort(1).argsort(1)
    keep = (ranks >= 112 * 112 // 2).view(4, 1, 112, 112)
    other = NoisyLinearImputer(noise=0.0)

    def theirs() -> Tensor:
        return torch.stack([other(image, mask[0].float()) for image, mask in zip(images, keep)])

    def ours() -> Tensor:
        return noisy_linear_imputation(images, keep, noise=0.0)

    difference = float((theirs() - ours()).abs().max())
    work = "imputation of half of the pixels (ROAD), 4 images of 112 px"
    ratio = times(ours, theirs, rounds)
    yield Row(work, "pytorch-grad-cam", ratio, f"differ by {difference:.0e} at most (captum_kd is exact to 1e-3)")


def imports(rounds: int) -> Iterator[Row]:
    code = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"

    def seconds(module: str) -> float:
        done = subprocess.run([sys.executable, "-c", code.format(module)], check=True, capture_output=True, text=True)
        return float(done.stdout)

    names = {
        "captum_kd": "captum_kd", "Captum": "captum.attr", "pytorch-grad-cam": "pytorch_grad_cam", "torchcam": "torchcam.methods",
        "hyppo": "hyppo", "dcor": "dcor", "torch_cka": "torch_cka", "pytorch-cka": "cka",
    }  # fmt: skip
    found = {name: [seconds(module) for _ in range(rounds)] for name, module in names.items()}
    for name in [*names][1:]:
        other, own = median(found[name]), median(found["captum_kd"])
        yield Row("import", name, f"{other / own:.2f}" + " **slower**" * (other < own), f"{other:.1f} s, captum_kd {own:.1f} s")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each pair; default: %(default)s")
    parser.add_argument("--output", type=Path, help="also write the tables into this file")
    arguments = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        # Threads of numpy that wait for work take processor time, and another package's call would pay for it.
        parser.error("set OMP_NUM_THREADS=1 first")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of other packages
        for part in (maps, distances, layer_matrices, imputation, imports):
            for row in part(arguments.rounds):
                print(" | ".join(row), flush=True)
                rows.append(row)
        table = architectures()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        "# Side by side", "",
        "Written by `tests/benchmarks/bench_side_by_side.py` in one run, with one thread. The ratio is the processor time of the "
        "other package divided "
        f"by that of captum_kd: the median of {arguments.rounds} rounds, the smallest and the largest. Below 1 captum_kd is "
        "slower. Memory is the peak above what a process held after a pass over the 64 references and the same call on two "
        f"images. {versions}.",
        "",
        "| work | against | ratio of times | memory, values |", "| --- | --- | --- | --- |",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows), "",
        "## Maps without a reshape function", "",
        "Each package gets the network, the layer and the images, and nothing that tells it the layout. A map is right if its "
        "positive part is that of the definition on the grid of the layer, up to shift and scale.",
        "",
        *table, "",
    ]  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
