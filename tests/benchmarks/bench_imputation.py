"""Imputation against solving one image after the other with scipy's two sparse direct solvers.

The peers get the symmetric system, built without a loop over pixels, and factorize it once for an image's
channels. Their whole job, from image and mask to solution, is what the goal is about; the bare solving of
systems that lie ready is shown too.

Run with ``python tests/benchmarks/bench_imputation.py``; needs scipy and torchvision.
"""

import warnings

import numpy as np
import torch
from ratios import at_least, at_most, ratio
from scipy import sparse
from scipy.sparse.linalg import splu, spsolve
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models import resnet18

from captum_kd.perturb import noisy_linear_imputation

N, SIZE = 16, 224


class System:
    """One image's equations, ready to be solved."""

    def __init__(self, image: Tensor, keep: Tensor) -> None:
        height, width = keep.shape
        index = np.arange(height * width).reshape(height, width)
        rows, columns, values = [], [], []
        for dy, dx, weight in ((0, 1, 2.0), (1, 0, 2.0), (1, 1, 1.0), (1, -1, 1.0)):
            here = index[: height - dy, max(0, -dx) : width - max(0, dx)].ravel()
            there = index[dy:, max(0, dx) : width - max(0, -dx)].ravel()
            rows += [here, there]
            columns += [there, here]
            values += [np.full(here.size, weight)] * 2
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        weights = sparse.csr_matrix(entries, shape=(index.size, index.size))
        known = keep.numpy().ravel()
        equations = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()[~known]
        self.matrix = equations[:, ~known].tocsc()
        self.right = -(equations[:, known] @ image.double().flatten(1).numpy()[:, known].T)

    def spsolve(self) -> object:
        return spsolve(self.matrix, self.right)

    def splu(self) -> object:
        return splu(self.matrix).solve(self.right)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    images = torch.rand(N, 3, SIZE, SIZE)
    maps = interpolate(torch.rand(N, 1, 7, 7), (SIZE, SIZE), mode="bilinear").flatten(1)
    scattered = torch.rand(N, SIZE * SIZE)
    model = resnet18().eval()
    goals = {"blobs": (10, 5, 4), "scattered": (4, 3, 2)}  # maps give blobs
    for name, values in (("blobs", maps), ("scattered", scattered)):
        keep = (values > values.median(1, keepdim=True).values).reshape(N, 1, SIZE, SIZE)
        systems = [System(image, mask[0]) for image, mask in zip(images, keep)]

        def ours(tolerance: float = 1e-2, noise: float = 0.0) -> Tensor:
            return noisy_linear_imputation(images, keep, noise=noise, tolerance=tolerance)

        for solver in ("spsolve", "splu"):
            value = ratio(lambda: [getattr(System(image, mask[0]), solver)() for image, mask in zip(images, keep)], ours, 3)
            print(at_least(f"{solver} / ours, half removed, {name}, tolerance 1e-2", value, goals[name][0]), flush=True)
        value = ratio(lambda: [system.splu() for system in systems], ours, 3)
        print(at_least(f"splu, matrices ready / ours, half removed, {name}, tolerance 1e-2", value, goals[name][1]), flush=True)
        value = ratio(lambda: [system.splu() for system in systems], lambda: ours(1e-3, 0.01), 3)
        print(at_least(f"splu, matrices ready / ours, {name}, default tolerance and noise", value, goals[name][2]), flush=True)
        with torch.no_grad():
            value = ratio(lambda: ours(1e-2), lambda: model(images), 5)
        print(at_most(f"ours / ResNet-18 forward, half removed, {name}, tolerance 1e-2", value, 1), flush=True)


if __name__ == "__main__":
    main()
