"""A small report with everything in it, and names that try to be markup."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.metrics import Comparisons, TransferReport, compare_transfer

HOSTILE = "<img src=x onerror=alert(1)></script>\"'\u202eabc"
"""Markup, quotes and a mark that turns the order of letters."""


def _network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def _data(n: int = 36) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])
    return inputs, labels


@lru_cache(maxsize=None)
def full_report() -> TransferReport:
    """Two groups of Students, Bases, a Teacher, placebo Teachers, classes and inputs, with hostile names."""
    inputs, labels = _data()
    students = {HOSTILE: _network(0), "kd 2": _network(1), "hint 1": _network(2), "hint 2": _network(3)}
    bases = {"base 1": _network(4), f"base {HOSTILE}": _network(5), "base 3": _network(6)}
    return compare_transfer(
        students, bases, {f"layer {HOSTILE}": {name: "1" for name in (*students, *bases, "teacher")}, "3": "3"},
        DataLoader(TensorDataset(inputs, labels), 12), teacher=_network(9),
        placebo_teachers={f"placebo {i}": _network(20 + i) for i in range(4)},
        comparisons=Comparisons(groups={f"kd {HOSTILE}": [HOSTILE, "kd 2"], "hint": ["hint 1", "hint 2"]}),
        predictions=True, by_class=True, by_input=True, class_names=["cat", "dog", HOSTILE], confidence=0.95,
        n_permutations=20, show_progress=False,
    )  # fmt: skip


@lru_cache(maxsize=None)
def small_report() -> TransferReport:
    """One Student and one Base."""
    inputs, labels = _data()
    data = DataLoader(TensorDataset(inputs, labels), 12)
    return compare_transfer(_network(0), _network(1), ["1", "3"], data, n_permutations=20, show_progress=False)
