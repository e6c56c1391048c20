"""What several processes must have been given alike, told before any model runs."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from captum_kd.attr.fingerprints import digest_of_tensors
from captum_kd.metrics.report.subjects import Subject
from captum_kd.processes import Processes

__all__ = ["agree", "check_models"]


def check_models(subjects: Sequence[Subject], processes: Processes) -> None:
    """Raises a ValueError for models whose forward passes wait for other processes: these have other batches, or none."""
    if type(processes) is Processes:
        return
    for subject in subjects:
        if isinstance(subject.model, DistributedDataParallel):
            raise ValueError(
                f"{subject} is a DistributedDataParallel, whose forward passes wait for those of the other processes; pass the "
                "model in it, its .module."
            )


def agree(
    processes: Processes,
    subjects: Sequence[Subject],
    labels: Sequence[str],
    class_embeddings: Optional[Tensor],
    arguments: Mapping[str, object],
) -> None:
    """Raises a ValueError in all processes unless all have the same layers, models, classes and arguments."""
    values: dict[str, object] = {"layers": list(labels), "student, base, teacher": [str(each) for each in subjects]}
    for subject in subjects:
        values[f"layers of {subject}"] = [layer.name for layer in subject.layers]
        values[f"the weights of {subject}"] = _weights(subject.model)
    if class_embeddings is None:
        values["class_embeddings"] = None
    else:
        values["class_embeddings"] = (*class_embeddings.shape, digest_of_tensors([class_embeddings]))
    processes.agree({**values, **arguments})


def _weights(model: Any) -> Optional[str]:
    """A digest, None where a process may have other weights than the next: functions, and models cut into shards."""
    if not isinstance(model, nn.Module):
        return None
    tensors = [each for each in (*model.parameters(), *model.buffers()) if not is_lazy(each) and each.is_floating_point()]
    if any(type(each).__name__ in ("DTensor", "FlatParameter") for each in tensors):
        return None
    return str(digest_of_tensors([each.detach() for each in tensors]))
