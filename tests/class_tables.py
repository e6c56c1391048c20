"""Labels and tables of class embeddings."""

import torch
from torch import Tensor

F64 = torch.float64


def table(classes: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(classes, width, generator=torch.Generator().manual_seed(seed), dtype=F64)


def labels(*values: int) -> Tensor:
    return torch.tensor(values)
