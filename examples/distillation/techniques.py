"""How Students learn from a guide: the losses, which are torchdistill's, and the layers that they look at.

- "response", Hinton et al. 2015: alpha * cross-entropy + (1 - alpha) * temperature^2 * KL divergence between the softened
  outputs. With ``response_loss="mse"`` the mean squared difference of the softened probabilities stands in the place of the
  divergence, as in the authors' code (KD_Lib's VanillaKD).
- "attention", Zagoruyko & Komodakis 2017: cross-entropy + attention_weight * the mean squared difference between the
  attention maps (squared activations, averaged over channels, of unit length), summed over all stages. That is the
  formula of the authors' code (torchdistill's mode "code"), whose weight is 1,000; equation 2 of their paper sums norms
  that are not squared, and its weight is about 0.1.
- "feature", Romero et al. 2015: cross-entropy + hint_weight * the mean squared difference between the features of the
  middle stage (the second of three, the third of four). Where their widths differ, a connector, a 1x1 convolution with
  batch normalization, stands on the Student's side; it learns with the Student and is thrown away. Romero et al. train
  on hints first and on labels afterwards; here one loss holds both, so that all techniques take the same steps.
- "hidden", for texts, after Jiao et al. 2020 (TinyBERT): the loss of "response" + hidden_weight * the mean squared difference
  between hidden states, over the tokens without padding, summed over the pairs of layers. One linear projection, from the
  Student's width to the guide's, serves all layers; it learns with the Student and is thrown away. TinyBERT trains on hidden
  states first and on outputs afterwards; here one loss holds both, as in Sun et al. 2019 (Patient KD).
- "random-teacher", a control: "response" with a guide that was never trained. The caller brings that guide.
- "shuffled-labels", a control: "response" with the guide's outputs exchanged among the images of a batch; hard labels stay.
- "published-attention", a control: the attention loss that the authors' code applies (KD_Lib's Attention on plain ResNets).
  It takes logits for attention maps and scales each number to length one, so the guide has no influence (``authors_losses``).

Where feature maps of Student and guide have different sizes, the larger one is reduced to the smaller one's.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torchdistill.core.forward_hook import ForwardHookManager
from torchdistill.losses.high_level import WeightedSumLoss
from torchdistill.losses.mid_level import ATLoss, KDLoss, SimpleLossWrapper

from distillation.authors_losses import (
    KD_LIB_TEMPERATURE, KD_LIB_WEIGHT, PublishedAttention, SoftenedDifference, SoftenedLabels,
)  # fmt: skip
from distillation.randomness import own_randomness
from distillation.settings import CONTROLS, TECHNIQUES, TEXT_TECHNIQUES, Settings
from distillation.task import Inputs, answer, on_device

__all__ = ["Technique", "evaluating", "exchanged", "make"]

Seen = dict[str, dict[str, Tensor]]
"""torchdistill's record of a pass: by layer, what it took ("input") or gave ("output")."""

LOGITS = "logits"
"""The networks' outputs in these records."""

_OF_TEXTS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], list[Tensor]]] = WeakKeyDictionary()
"""Outputs of guides by layers and tokens: neither guides nor texts change, so that no text passes a guide twice."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; each module's own mode comes back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Technique(nn.Module):
    """The loss of a Student that has a guide. Its parameters, if any, are the connector's.

    Made by :func:`make`. It sees both networks' layers only inside :meth:`watching`.

    Args:
        kind: its name, as in the settings.
        guide: a network that stays as it is.
        loss: takes records of both networks' layers and labels.
        pairs: names of layers, the Student's and the guide's.
        connector: from the Student's features to as many channels as the guide's.
        options: the settings that the loss depends on.
    """

    def __init__(
        self,
        kind: str,
        guide: nn.Module,
        loss: WeightedSumLoss,
        pairs: Sequence[tuple[str, str]] = (),
        connector: Optional[nn.Module] = None,
        options: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        # In a list, out of the module tree: the guide is not to be trained, switched to training mode or saved again.
        self._guide = [guide]
        self._loss = loss
        self._pairs = tuple(pairs)
        self.connector = connector
        self.options = options or {}
        self._hooks: Optional[tuple[ForwardHookManager, ForwardHookManager]] = None

    @property
    def guide(self) -> nn.Module:
        return self._guide[0]

    @contextmanager
    def watching(self, network: nn.Module, device: torch.device) -> Iterator[None]:
        """Brings the guide to the device and evaluation mode, and records both networks' layers; hooks and modes are put
        back afterwards."""
        self.guide.to(device)
        self._hooks = ForwardHookManager(device), ForwardHookManager(device)
        try:
            with evaluating(self.guide):
                of_student, of_guide = self._hooks
                for path, guide_path in self._pairs:
                    of_student.add_hook(network, path, requires_input=False, requires_output=True)
                    of_guide.add_hook(self.guide, guide_path, requires_input=False, requires_output=True)
                yield
        finally:
            for hooks in self._hooks:
                hooks.clear()
            self._hooks = None

    def forward(self, inputs: Inputs, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch that the Student has just passed on.

        Args:
            inputs: (N, 3, H, W), or token ids and mask by name: what the Student took.
            logits: (N, classes), its outputs.
            labels: (N,), the right ones.
        """
        if self._hooks is None:
            raise RuntimeError("The layers are not recorded here: call inside `with technique.watching(...)`.")
        student = _outputs(self._hooks[0])
        guide_logits, guide = self._of_guide(inputs)
        if self.kind == "shuffled-labels":
            guide_logits = exchanged(guide_logits)
        student[LOGITS], guide[LOGITS] = {"output": logits.float()}, {"output": guide_logits.float()}
        for path, guide_path in self._pairs:
            mine, theirs = student[path], guide[guide_path]
            if isinstance(inputs, dict):
                mine["output"] = mine["output"][inputs["attention_mask"].bool()]
            if self.connector is not None:
                mine["output"] = self.connector(mine["output"])
            # In half precision squares of activations would leave the range of numbers.
            mine["output"], theirs["output"] = mine["output"].float(), theirs["output"].float()
            if not isinstance(inputs, dict):
                mine["output"], theirs["output"] = _of_one_size(mine["output"], theirs["output"])
        return cast(Tensor, self._loss({"student": student, "teacher": guide}, {}, labels))

    @torch.no_grad()
    def _of_guide(self, inputs: Inputs) -> tuple[Tensor, Seen]:
        """The guide's logits and layers; of texts, what layers gave for their tokens, (tokens, width)."""
        assert self._hooks is not None
        if not isinstance(inputs, dict):
            return answer(self.guide, inputs), _outputs(self._hooks[1])
        paths = tuple(path for _, path in self._pairs)
        known = _OF_TEXTS.setdefault(self.guide, {})
        rows = []
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"]):
            text = ids[mask.bool()]
            key = (*paths, *text.tolist())
            if key not in known:
                # Alone and without padding: the same to the last digit in any batch, also after a resume.
                logits = answer(self.guide, {"input_ids": text[None], "attention_mask": torch.ones_like(text[None])})
                seen = _outputs(self._hooks[1])
                known[key] = [logits, *(seen[path]["output"][0] for path in paths)]
            rows.append(known[key])
        logits, *features = (torch.cat(parts) for parts in zip(*rows))
        return logits, {path: {"output": values} for path, values in zip(paths, features)}


def make(
    kind: str,
    guide: nn.Module,
    network: nn.Module,
    *,
    layers: Sequence[str],
    guide_layers: Sequence[str],
    settings: Settings,
    seed: int,
    sample: Inputs,
) -> Technique:
    """A technique by name.

    Args:
        kind: one of settings.TECHNIQUES, settings.TEXT_TECHNIQUES or settings.CONTROLS.
        guide: the Teacher, or the assistant.
        network: the Student; only looked at for the shapes of its layers.
        layers, guide_layers: names of the stages of both, from the first to the last. Where one has more of them than
            the other, its first ones have no partner.
        settings: weights and temperature.
        seed: of the connector's first weights.
        sample: inputs of one example or more; only looked at for shapes.

    Raises:
        ValueError: there is no such technique, the networks answer for different numbers of classes, or a layer's output
            is not (N, C, H, W).
    """
    known = tuple(dict.fromkeys((*TECHNIQUES, *TEXT_TECHNIQUES, *CONTROLS)))
    if kind not in known:
        raise ValueError(f"There is no technique {kind!r}; choose among {', '.join(known)}.")
    pairs = list(zip(reversed(layers), reversed(guide_layers)))[::-1]
    if kind == "feature":
        pairs = [pairs[len(pairs) // 2]]
    elif kind not in ("attention", "hidden"):
        pairs = []
    dimensions = 3 if kind == "hidden" else 4
    shapes = _shapes(network, [path for path, _ in pairs], sample, dimensions)
    guide_shapes = _shapes(guide, [path for _, path in pairs], sample, dimensions)
    if shapes[LOGITS] != guide_shapes[LOGITS]:
        raise ValueError(
            f"Student and guide must answer for the same classes; the Student has {shapes[LOGITS][-1]} outputs and the "
            f"guide {guide_shapes[LOGITS][-1]}."
        )
    if kind == "attention":
        return _attention(guide, pairs, settings)
    if kind == "feature":
        (path, guide_path), *_ = pairs
        return _feature(guide, pairs[0], shapes[path][1], guide_shapes[guide_path][1], settings, seed)
    if kind == "hidden":
        (path, guide_path), *_ = pairs
        return _hidden(guide, pairs, shapes[path][-1], guide_shapes[guide_path][-1], settings, seed)
    if kind == "published-attention":
        return _published_attention(guide)
    return _response(kind, guide, settings)


def _response(kind: str, guide: nn.Module, settings: Settings) -> Technique:
    options: dict[str, Any] = _softened(settings)
    if settings.response_loss == "mse":
        loss = _of_both(SoftenedDifference(settings.temperature))
        terms = {"labels": (_labels(), settings.alpha), "response": (loss, 1 - settings.alpha)}
        return Technique(kind, guide, _sum(terms), options={**options, "response_loss": "mse"})
    return Technique(kind, guide, _sum({"response": (_responses(options), 1.0)}), options=options)


def _published_attention(guide: nn.Module) -> Technique:
    terms = {
        "labels": (_labels(SoftenedLabels(KD_LIB_TEMPERATURE)), 1 - KD_LIB_WEIGHT),
        "attention": (_of_both(PublishedAttention()), KD_LIB_WEIGHT),
    }
    return Technique("published-attention", guide, _sum(terms))


def _attention(guide: nn.Module, pairs: list[tuple[str, str]], settings: Settings) -> Technique:
    loss = ATLoss(
        {
            path: {"student": {"path": path, "io": "output"}, "teacher": {"path": guide_path, "io": "output"}}
            for path, guide_path in pairs
        },
        mode="code",
    )
    terms = {"labels": (_labels(), 1.0), "attention": (loss, settings.attention_weight)}
    return Technique("attention", guide, _sum(terms), pairs, options={"attention_weight": settings.attention_weight})


def _feature(
    guide: nn.Module, pair: tuple[str, str], channels: int, guide_channels: int, settings: Settings, seed: int
) -> Technique:
    connector: Optional[nn.Module] = None
    if channels != guide_channels:
        with own_randomness(seed, "connector"):
            connector = nn.Sequential(
                nn.Conv2d(channels, guide_channels, 1, bias=False), nn.BatchNorm2d(guide_channels)
            )
    terms = {"labels": (_labels(), 1.0), "hints": (_of_both(nn.MSELoss(), pair), settings.hint_weight)}
    return Technique("feature", guide, _sum(terms), [pair], connector, {"hint_weight": settings.hint_weight})


def _hidden(
    guide: nn.Module, pairs: list[tuple[str, str]], width: int, guide_width: int, settings: Settings, seed: int
) -> Technique:
    with own_randomness(seed, "connector"):
        connector = nn.Linear(width, guide_width)
    options = _softened(settings)
    terms: dict[str, tuple[nn.Module, float]] = {"response": (_responses(options), 1.0)}
    terms |= {f"hidden {i}": (_of_both(nn.MSELoss(), pair), settings.hidden_weight) for i, pair in enumerate(pairs)}
    return Technique("hidden", guide, _sum(terms), pairs, connector, {**options, "hidden_weight": settings.hidden_weight})


def _softened(settings: Settings) -> dict[str, float]:
    return {"temperature": settings.temperature, "alpha": settings.alpha}


def _responses(options: dict[str, float]) -> KDLoss:
    """Hinton's loss."""
    return KDLoss(LOGITS, "output", LOGITS, "output", **options)


def _of_both(loss: nn.Module, pair: tuple[str, str] = (LOGITS, LOGITS)) -> SimpleLossWrapper:
    """A loss of what a pair of layers gives, the Student's first."""
    path, guide_path = pair
    return SimpleLossWrapper(
        loss,
        input={"is_from_teacher": False, "module_path": path, "io": "output"},
        target={"is_from_teacher": True, "module_path": guide_path, "io": "output"},
    )


def _labels(loss: Optional[nn.Module] = None) -> SimpleLossWrapper:
    return SimpleLossWrapper(
        loss or nn.CrossEntropyLoss(),
        input={"is_from_teacher": False, "module_path": LOGITS, "io": "output"},
        target={"uses_label": True},
    )


def _sum(terms: dict[str, tuple[nn.Module, float]]) -> WeightedSumLoss:
    return WeightedSumLoss(
        sub_terms={name: {"criterion": loss, "weight": weight} for name, (loss, weight) in terms.items()}
    )


def exchanged(rows: Tensor) -> Tensor:
    """Rows in another order, drawn from torch's generator, in which none keeps its place: one cycle through all."""
    if len(rows) < 2:
        raise ValueError("Outputs can be exchanged among two images or more; got a batch of one.")
    cycle = torch.randperm(len(rows))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return rows[order.to(rows.device)]


def _of_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    size = min(first.shape[-2:], second.shape[-2:])
    resized = (
        maps if maps.shape[-2:] == size else nn.functional.interpolate(maps, size, mode="bilinear", antialias=True)
        for maps in (first, second)
    )
    first, second = resized
    return first, second


def _outputs(hooks: ForwardHookManager) -> Seen:
    return dict(hooks.pop_io_dict())


@torch.no_grad()
def _shapes(network: nn.Module, paths: Sequence[str], sample: Inputs, dimensions: int) -> dict[str, torch.Size]:
    """Shapes of the outputs of layers, which must have so many dimensions, and of the network."""
    device = next(network.parameters()).device
    hooks = ForwardHookManager(device)
    try:
        for path in paths:
            hooks.add_hook(network, path, requires_input=False, requires_output=True)
        with evaluating(network):
            logits = answer(network, on_device(sample, device))
        shapes = {path: seen["output"].shape for path, seen in _outputs(hooks).items()}
    finally:
        hooks.clear()
    for path, shape in shapes.items():
        if len(shape) != dimensions:
            expected = "maps, (N, C, H, W)" if dimensions == 4 else "tokens, (N, T, width)"
            raise ValueError(f"Layers must give {expected}; {path} gives {tuple(shape)}. Name another layer.")
    return {**shapes, LOGITS: logits.shape}
