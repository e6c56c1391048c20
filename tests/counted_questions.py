"""Counts what the host asks of a device: operators whose result it waits for. On the CPU the same ones ask."""

from typing import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero, torch.ops.aten.equal)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class Questions(TorchDispatchMode):
    """Counts operators whose result the host waits for, and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_host = function.overloadpacket == torch.ops.aten._to_copy and kwargs.get("device") == torch.device("cpu")
        # Entries that a mask chooses have to be counted first.
        chosen = args[1] if function.overloadpacket in INDEXING else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in chosen)
        self.count += function.overloadpacket in ASKING or to_host or by_mask
        return function(*args, **kwargs)


def asked(call: Callable[[], object]) -> int:
    with Questions() as questions:
        call()
    return questions.count
