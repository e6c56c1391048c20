"""Calls that are interrupted at many moments, and the state that they have to leave as it was."""

from __future__ import annotations

import inspect
import opcode
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from types import CodeType, FrameType
from typing import Any, Callable, Iterator, Optional, Sequence

import torch
from models import ConvNet, images, labels
from state import state
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._models import hooks
from captum_kd._utils.fast_path import without_fast_path
from captum_kd.distance import precision
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import compare_transfer, feature_similarity_score, keep_curve, randomization_test

__all__ = ["CALLS", "MODELS", "Interrupted", "at_operation", "at_random_moments", "everything", "operations"]

N = 8
# Files whose code changes and restores state.
CHANGING = (
    *("captum_kd/_utils/interrupts.py", "captum_kd/_utils/context.py"),
    *("captum_kd/_utils/fast_path.py", "captum_kd/_models/hooks.py"),
    *("precision.py", "contextlib.py", "grad_mode.py", "hooks.py", "random.py", "warnings.py", "signal.py", "decorators.py"),
    *("captum_kd/metrics/_geometry_metric.py", "metrics/report/transfer_report.py", "torchmetrics/metric.py", "tempfile.py"),
    "captum_kd/metrics/_random_weights.py",
)


def everything(models: Sequence[nn.Module]) -> dict[str, Any]:
    """All of :func:`state.state`, the compiler's stance, the switch of precision, warnings, handlers and our counters."""
    kept = state(models)
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    kept["stance"] = None if dynamo is None else dynamo._stance.stance
    kept["precision"] = torch.get_float32_matmul_precision()
    kept["warnings"] = [each for each in warnings.filters if not _is_of_the_compiler(each)], warnings.showwarning
    kept["handlers"] = [(int(each), signal.getsignal(each)) for each in signal.Signals]
    shared = (hooks._eager, without_fast_path, precision._without_coarse_products, hooks._fork((), "cuda"))
    kept["counters"] = [(each._holders, len(each._stack._exit_callbacks), each._lock.locked()) for each in shared]
    return kept


def _is_of_the_compiler(warning_filter: Any) -> bool:
    """torch 2.6 adds this filter when it compiles, and an interrupted call may make it compile again."""
    return getattr(warning_filter[3], "pattern", None) == "torch.distributed"


# ------------------------------------------------------------------------------- models and calls


class Encoder(nn.Module):
    """PyTorch's encoder, which has a fast path, in eval mode."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(3, 8, 3, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
        self.head = nn.Linear(8, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def conv() -> tuple[tuple[nn.Module, nn.Module], str]:
    return (ConvNet(seed=1).train(), ConvNet(seed=2).eval()), "conv2"


def encoder() -> tuple[tuple[nn.Module, nn.Module], str]:
    return (Encoder(1), Encoder(2)), "patches"


def compiled() -> tuple[tuple[nn.Module, nn.Module], str]:
    """A compiled Student: its wrapper asks the compiler's stance at every call."""
    (student, base), layer = conv()
    run = torch.compile(student.eval(), backend="eager")
    run(images(N))
    return (run, base), layer


MODELS = {"conv": conv, "encoder": encoder, "compiled": compiled}

Call = Callable[[tuple[nn.Module, nn.Module], str, Tensor], Any]


def _unicam(models: tuple[nn.Module, nn.Module], layer: str) -> UniCAM:
    return UniCAM(models[0], layer, models[1])


CALLS: dict[str, Call] = {
    "attribute": lambda models, layer, x: _unicam(models, layer).attribute(x, labels(N)),
    "attribute_transfer": lambda models, layer, x: _unicam(models, layer).attribute_transfer(x, labels(N)),
    "reference": lambda models, layer, x: _unicam(models, layer).reference(x, labels(N)),
    "feature_similarity_score": lambda models, layer, x: feature_similarity_score(models[0], layer, models[1], layer, x),
    "keep_curve": lambda models, layer, x: keep_curve(models[0], x, labels(N), x[:, :1], shares=(0.5,)),
    "compare_transfer": lambda models, layer, x: compare_transfer(
        {"student": models[0]}, {"base": models[1]}, layer, [(x, labels(N))], show_progress=False
    ),
    "compare_transfer of the salient part": lambda models, layer, x: compare_transfer(
        {"student": models[0]}, {"base": models[1]}, layer, [(x, labels(N))], show_progress=False, localize="gradcam"
    ),
    "randomization_test": lambda models, layer, x: randomization_test(
        _unicam(models, layer), x, labels(N), modules=[layer], reference=(x, labels(N))
    ),
    "class_prototypes": lambda models, layer, x: class_prototypes(models[0], [(x, labels(N))]),
}


class Interrupted:
    """One of the calls, of one of the pairs of models."""

    def __init__(self, models: str, call: str) -> None:
        self.models, self._layer = MODELS[models]()
        self._call = CALLS[call]
        self._inputs = images(N)
        self()  # what is imported or compiled once has been

    def __call__(self) -> Any:
        return self._call(self.models, self._layer, self._inputs)


# ------------------------------------------------------------------------------- interrupts


# Sends its parent a SIGINT after each delay that it reads. A thread could not: it would wait until the main thread gives up the
# interpreter's lock, which is at few moments.
_SENDER = """
import os, signal, sys, time
for line in sys.stdin:
    time.sleep(float(line))
    os.kill(os.getppid(), signal.SIGINT)
"""


def at_random_moments(call: Callable[[], Any], times: int, seed: int = 0) -> Iterator[bool]:
    """Real SIGINTs from another process, each at a random moment of a call; gives whether the call was interrupted."""
    draw = random.Random(seed)
    call()
    start = time.perf_counter()
    call()
    lasts = time.perf_counter() - start
    command = [sys.executable, "-c", _SENDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as sender:
        assert sender.stdin is not None
        for _ in range(times):
            returned = False
            try:
                print(draw.uniform(0, lasts), file=sender.stdin, flush=True)
                call()
                returned = True
                time.sleep(lasts + 1)  # unless Python ignored it, as it does in finalizers
            except KeyboardInterrupt:
                pass
            yield not returned


class _Interrupt:
    """A trace function that calls SIGINT's handler ahead of one operation of the code that changes state."""

    def __init__(self, at: Optional[int]) -> None:
        self.left = at
        self.seen = 0
        self.first: dict[tuple[CodeType, int], int] = {}
        self.last: dict[tuple[CodeType, int], int] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.replace(os.sep, "/").endswith(CHANGING):
            return None
        frame.f_trace_opcodes = True
        return self.operation

    def operation(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and _may_raise_at(frame):
            if self.seen == self.left:
                self.left = None
                handler = signal.getsignal(signal.SIGINT)
                assert callable(handler)
                handler(signal.SIGINT, frame)
            self.first.setdefault((frame.f_code, frame.f_lasti), self.seen)
            self.last[frame.f_code, frame.f_lasti] = self.seen
            self.seen += 1
        return self.operation


def _may_raise_at(frame: FrameType) -> bool:
    """Whether an exception ahead of the next operation reaches the caller and does no harm.

    An exception ahead of POP_EXCEPT breaks Python 3.10's state of exceptions; it handles no real signal there. A generator's
    operations without a line end it, often while it is destroyed, when Python ignores exceptions.
    """
    if sys.version_info < (3, 11):
        return frame.f_code.co_code[frame.f_lasti] != opcode.opmap["POP_EXCEPT"]
    return frame.f_lineno is not None or not frame.f_code.co_flags & inspect.CO_GENERATOR


def operations(call: Callable[[], Any]) -> list[int]:
    """When a call first and last comes to each operation of the code that changes state, for :func:`at_operation`."""
    seen = _traced(call, _Interrupt(None))
    return sorted({*seen.first.values(), *seen.last.values()})


def at_operation(call: Callable[[], Any], number: int) -> bool:
    """Interrupts a call ahead of one of its operations; gives whether it raised."""
    try:
        _traced(call, _Interrupt(number))
    except KeyboardInterrupt:
        return True
    return False


def _traced(call: Callable[[], Any], interrupt: _Interrupt) -> _Interrupt:
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 reports operations only if a frame asks for it before settrace()
    sys.settrace(interrupt)
    try:
        call()
    finally:
        sys.settrace(before)
    return interrupt
