"""Class embeddings from a trained model, and checks of any class embeddings.

Without embeddings classes are one-hot, with equal distances. :func:`classifier_embeddings` and
:func:`class_prototypes` compute embeddings from a trained model. Any other (num_classes, e) tensor can be used, for
example a text model's vectors of the class names. With two classes the choice has no effect: there is only one distance,
and scores and maps do not depend on its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Callable, Optional

import torch
from torch import Tensor, nn

from captum_kd._models.hooks import run_model, same_random_state
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import check_callable, check_model
from captum_kd._utils.batches import Unpack, batches_of, device_of, to_device, unpack_batch
from captum_kd._utils.interrupts import changed_state, interruptible, without_gradients
from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import check_int, check_bool, check_dense, check_features

__all__ = ["check_class_embeddings", "class_prototypes", "classifier_embeddings"]

CANCELED = 1e-6
"""A mean of unit vectors with at most this norm consists of rounding errors."""


def classifier_embeddings(module: nn.Module) -> Tensor:
    """Class embeddings from a classifier's weights: one row for each class.

    Rows of classes that the model treats as similar have similar directions. With two classes every table gives
    the same scores and maps as one-hot.

    Args:
        module (nn.Module): the final layer, an ``nn.Linear`` or a 1x1 ``nn.Conv2d``; or a whole model whose
            last module with parameters, in the order of ``named_modules()``, is an ``nn.Linear``. A model with
            a second linear layer of the same shape is ambiguous.

    Returns:
        Tensor: (num_classes, e), a detached copy, of the weights' dtype and on their device.

    Raises:
        TypeError: not a module.
        ValueError: a model with no or several possible classifiers (the candidates are named); an adapter (LoRA) that
            is not merged into its layer; a layer with fewer than two classes, or with missing or non-finite weights.

    Example::

        >>> table = classifier_embeddings(teacher.fc)  # (10, 512)
        >>> relevance_score(student, "layer3", images, labels, table)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Linear, a 1x1 nn.Conv2d or a model, got {type(module).__name__}.")
    _check_unadapted(module)
    layer = module if isinstance(module, (nn.Linear, nn.Conv2d)) else _classifier_of(module)
    weight = layer.weight
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{type(layer).__name__} has no weights yet; run the model once first.")
    check_dense(weight, f"The weight of {type(layer).__name__}")
    if weight.dim() == 4 and (tuple(weight.shape[2:]) != (1, 1) or getattr(layer, "groups", 1) != 1):
        raise ValueError(
            f"A convolution is a classifier if it is 1x1 and has one group, got {layer}; pass the final layer."
        )
    table: Tensor = weight.detach().clone().flatten(1)
    if table.shape[0] < 2:
        raise ValueError(
            f"{layer} has {table.shape[0]} output(s); embeddings need a row for each of at least two classes. With two "
            "classes one-hot (None) gives the same scores as any table."
        )
    if not is_finite(table):
        raise ValueError(f"The weights of {layer} have non-finite values (NaN or infinity).")
    return table


def _check_unadapted(model: nn.Module) -> None:
    """Raises a ValueError if the last layer has an unmerged adapter, such as LoRA."""
    names = [name for name, _ in model.named_parameters() if "parametrizations" not in name.split(".")]
    path = names[-1].split(".")[:-1] if names else []
    for depth in range(len(path) + 1):
        module = model.get_submodule(".".join(path[:depth]))
        parts = [*module._modules, *module._parameters]
        is_merged = isinstance(module, nn.Linear) and getattr(module, "merged", False)  # loralib's in evaluation mode
        if not is_merged and any(name == "base_layer" or name.startswith("lora") for name in parts):
            raise ValueError(
                f"{type(module).__name__} adds an adapter's weights to those of its layer, so no single table holds its "
                "classifier. Merge them first: for peft, pass model.merge_and_unload(); for loralib, call eval(); for others, "
                "pass an nn.Linear whose weight is the sum."
            )


def _classifier_of(model: nn.Module) -> nn.Linear:
    weighted = [
        (name, module)
        for name, module in model.named_modules()
        # A reparametrized layer keeps its own parameters one level below itself.
        if "parametrizations" not in name.split(".")
        and (isinstance(module, nn.Linear) or next(module.parameters(recurse=False), None) is not None)
    ]
    linear: list[tuple[str, nn.Linear]] = [item for item in weighted if isinstance(item[1], nn.Linear)]
    kind = type(model).__name__
    if not linear:
        raise ValueError(f"{kind} has no nn.Linear; pass its final layer, for example a 1x1 nn.Conv2d.")
    last_name, last = linear[-1]
    if weighted[-1][0] != last_name:
        name, module = weighted[-1]
        raise ValueError(
            f"The last module of {kind} with parameters is {name!r} ({type(module).__name__}), not an nn.Linear, so its "
            f"classifier is unknown; pass the layer itself. Candidates: {_listed(linear)}."
        )
    equals = [item for item in linear if item[1].weight.shape == last.weight.shape]
    if len(equals) > 1:
        raise ValueError(
            f"{kind} has {len(equals)} linear layers of the shape {tuple(last.weight.shape)}, any of which may be the "
            f"classifier; pass the layer itself. Candidates: {_listed(equals)}."
        )
    return last


def _listed(named: list[tuple[str, nn.Linear]]) -> str:
    shown = [f"{name!r} ({layer.in_features} to {layer.out_features})" for name, layer in named[-8:]]
    return ("..., " if len(named) > 8 else "") + ", ".join(shown)


@without_gradients
def class_prototypes(
    feature_func: Callable[..., Tensor],
    data: Iterable[Any],
    *,
    num_classes: Optional[int] = None,
    unpack: Optional[Unpack] = None,
    show_progress: bool = False,
) -> Tensor:
    r"""Class embeddings from features: the mean of the unit-length features of each class, at unit length.

    .. math:: E_c \propto \sum_{i: y_i = c} x_i / \|x_i\|

    With features of an image and text model these are the prototypes that the authors use. With two classes
    every table gives the same scores and maps as one-hot.

    Args:
        feature_func (callable): from the inputs of a batch to (N, ...) features, flattened here: a model without
            its head, ``clip.get_image_features``, any function. It runs in its present mode (call ``eval()``
            first), without gradients. If it is an ``nn.Module``, batches are moved to the device of its parameters.
        data (iterable): a DataLoader or any iterable of batches, (inputs, labels) or mappings with
            ``pixel_values`` and ``labels``. It is iterated over once.
        num_classes (int, optional): expected number of classes. Default: the largest label plus 1
        unpack (callable, optional): from a batch of another kind to (inputs, labels).
        show_progress (bool): Captum's progress display over the batches.

    Returns:
        Tensor: (num_classes, e), float64, on the CPU, rows of length 1. Sums are float64 whatever the features.

    Raises:
        TypeError: a feature_func that cannot be called or returns no tensor, data that cannot be iterated over,
            batches without labels.
        ValueError: no batches, a class without inputs (named), labels outside the classes, features that are
            non-finite, all zero, of differing width, or that cancel within a class.

    Source: Snell, Swersky & Zemel, "Prototypical Networks", NeurIPS 2017, for prototypes as means.

    Example::

        >>> backbone = torch.nn.Sequential(*list(resnet.children())[:-1]).eval()
        >>> table = class_prototypes(backbone, loader)  # (10, 512)
        >>> UniCAM(student, "layer4", base, class_embeddings=table)
    """
    check_model(feature_func, "feature_func")
    if num_classes is not None:
        num_classes = check_int(num_classes, "num_classes", 2, or_none=True)
    if unpack is not None:
        check_callable(unpack, "unpack")
    show_progress = check_bool(show_progress, "show_progress")
    if not isinstance(data, Iterable) or isinstance(data, (Tensor, str, bytes)):
        raise TypeError(f"data must be a DataLoader or an iterable of batches, got {type(data).__name__}.")
    device = device_of(feature_func)
    warn_of_modes(feature_func=feature_func)
    sums: dict[int, Tensor] = {}  # by class, since a wrong label may be very large
    counts: dict[int, int] = {}
    width: Optional[int] = None
    for number, batch in enumerate(batches_of(data, "Class prototypes", show_progress)):
        inputs, labels = unpack_batch(batch, unpack)
        assert labels is not None
        if num_classes is not None and int(labels.max()) >= num_classes:
            raise ValueError(
                f"Batch {number} holds the label {int(labels.max())}; expected 0 to {num_classes - 1}. Raise num_classes, or "
                "leave out such inputs in unpack=."
            )
        values = to_device(inputs.student, device)
        with changed_state(same_random_state(values)), interruptible():
            features = run_model(feature_func, values)
        directions = _unit_rows(features, len(labels), number)
        width = width or directions.shape[1]
        if directions.shape[1] != width:
            raise ValueError(
                f"feature_func gives {directions.shape[1]} features per input in batch {number}, but {width} before; "
                "all inputs need the same size, or features must be pooled over positions."
            )
        for label in labels.unique().tolist():
            of_class = directions[labels == label]
            sums[label] = sums.get(label, 0) + of_class.sum(0)
            counts[label] = counts.get(label, 0) + len(of_class)
    return _prototypes(sums, counts, num_classes)


def _unit_rows(features: Any, n: int, batch: int) -> Tensor:
    """Features of a batch as (n, d) float64 rows of length 1 on the CPU."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"feature_func must return a tensor (N, ...), got {type(features).__name__}; wrap it in a function that "
            "takes the tensor out (pooler_output, for example)."
        )
    check_features(features, "What feature_func gives")
    if features.dim() < 2 or features.shape[0] != n or features.numel() == 0:
        raise ValueError(f"feature_func must give (N, ...) features for N = {n} inputs, got {tuple(features.shape)}.")
    rows = features.detach().cpu().double().flatten(1)
    if not is_finite(rows):
        index = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ValueError(f"feature_func gives non-finite features (NaN or infinity) for input {index} of batch {batch}.")
    size = rows.abs().amax(1, keepdim=True)  # squares of very small or large features would leave float64
    if bool((size == 0).any()):
        index = int((size[:, 0] == 0).nonzero()[0])
        raise ValueError(
            f"feature_func gives only zeros for input {index} of batch {batch}: they have no direction. Choose features "
            "ahead of the last activation, or leave the input out."
        )
    directions: Tensor = torch.nn.functional.normalize(rows / size, dim=1)
    return directions


def _prototypes(sums: dict[int, Tensor], counts: dict[int, int], num_classes: Optional[int]) -> Tensor:
    if not sums:
        raise ValueError("data yields no batches; pass a loader that holds inputs (a used-up iterator is empty).")
    classes = max(sums) + 1 if num_classes is None else num_classes
    lacking = classes - len(sums)
    if lacking:
        named = "" if num_classes is None else " that num_classes asks for"
        first = [label for label in range(min(classes, len(sums) + 8)) if label not in sums][:8]
        raise ValueError(
            f"data holds no inputs of {lacking} of the {classes} classes{named}: {', '.join(map(str, first))}"
            f"{', ...' if lacking > len(first) else ''}. Pass a loader that holds them, or labels without gaps from 0 on."
        )
    if classes < 2:
        raise ValueError("data holds the label 0 alone; embeddings need at least two classes.")
    means = torch.stack([sums[label] / counts[label] for label in range(classes)])
    norms = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    if bool((norms <= CANCELED).any()):
        label = int((norms[:, 0] <= CANCELED).nonzero()[0])
        raise ValueError(
            f"The features of class {label} cancel: their mean has no direction. Choose other features, or leave the "
            "class out."
        )
    prototypes: Tensor = means / norms
    return prototypes


def check_class_embeddings(class_embeddings: Optional[Tensor]) -> Optional[Tensor]:
    """A detached float64 copy of (num_classes, e) embeddings on the CPU, or None for one-hot.

    The copy is scaled by a power of two to entries of at most about 1, so that no digits are lost in float32. Scores and
    maps do not depend on the scale.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: not two-dimensional, fewer than two rows, or non-finite.
    """
    if class_embeddings is None:
        return None
    if not isinstance(class_embeddings, Tensor) or not class_embeddings.is_floating_point():
        raise TypeError(
            "class_embeddings must be a floating point tensor of shape (num_classes, e) or None for "
            f"one-hot, got {_kind(class_embeddings)}."
        )
    check_dense(class_embeddings, "class_embeddings")
    if class_embeddings.dim() != 2 or class_embeddings.shape[0] < 2 or class_embeddings.shape[1] == 0:
        raise ValueError(
            "class_embeddings must have shape (num_classes, e), one row for each of at least two classes, "
            f"got {tuple(class_embeddings.shape)}."
        )
    if not bool(torch.isfinite(class_embeddings).all()):
        raise ValueError("class_embeddings has non-finite values (NaN or infinity); all must be finite.")
    table = class_embeddings.detach().to("cpu", torch.float64, copy=True)
    largest = float(table.abs().max())
    return table / (math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0)


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
