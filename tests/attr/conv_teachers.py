"""A Teacher beside a Student and a Base of two convolutional stages, and the maps that UniCAM should give."""

from typing import Any, Callable

from conv_pairs import M, inputs
from models import ConvNet, TinyTransformer, activations
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

MODES = ["batch", "reference"]


def conv(seed: int, width: int = 6) -> ConvNet:
    return ConvNet(width=width, seed=seed).double()


def teacher_of_width(width: int = 9) -> ConvNet:
    return conv(3, width)


def references() -> Tensor:
    return inputs(M, seed=5)


def make(**arguments: Any) -> UniCAM:
    arguments = {"teacher_func": teacher_of_width(), "base_func": conv(2), **arguments}
    return UniCAM(arguments.pop("forward_func", conv(1)), arguments.pop("layer", "conv2"), **arguments)


def explain(unicam: UniCAM, mode: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    population = unicam.reference(references()) if mode == "reference" else None
    return unicam.attribute(x, *args, reference=population, **kwargs)


def literal_map(
    mode: str,
    own: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    other: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """``own`` gives the activations of inputs, ``other`` and ``teacher`` features."""
    if mode == "batch":
        return literal.teacher_batch_map(own(x), features, other(x), teacher(x))
    r = references()
    return literal.teacher_reference_map(own(x), features, other(x), teacher(x), features(own(r)), other(r), teacher(r))


def layer_of(model: nn.Module, name: str, at_input: bool = False) -> Callable[[Tensor], Tensor]:
    return lambda x: activations(model, name, x, at_input=at_input)


def pooled(model: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: global_average_pool(activations(model, name, x))


def tokens_of(model: TinyTransformer, side: int, prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda x: activations(model, "block", x)[:, prefix:].transpose(1, 2).unflatten(2, (side, side))


def watched(*models: nn.Module) -> list[nn.Module]:
    """The models that have run."""
    runs: list[nn.Module] = []
    for model in models:
        model.register_forward_pre_hook(lambda m, i: runs.append(m))
    return runs
