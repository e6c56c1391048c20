"""Tensors that hold no plain array of real numbers are refused by the argument's name, wherever they come in."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from averages import net, x, y
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.distance import distance_correlation
from captum_kd.embeddings import class_prototypes, classifier_embeddings
from captum_kd.metrics import compare_transfer, feature_similarity_score, localization_score, relevance_score
from captum_kd.metrics.torchmetrics import FeatureSimilarityScore, LayerFeatures, RelevanceScore, TransferScores
from captum_kd.perturb import keep_relevant

N = 8
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda value: value.to("meta"),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "nested": lambda value: torch.nested.nested_tensor([value[0], value[1]]),
    "sparse": lambda value: value.to_sparse(),
}
X, IMAGES, LABELS = torch.randn(N, 5), x(N), y(N)
MAPS = torch.rand(N, 1, 10, 10)
NETS = net("varying", 1), net("varying", 2)


def updated(metric: Any, *args: Any, **kwargs: Any) -> Any:
    metric.update(*args, **kwargs)
    return metric


FEATURES: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "distance_correlation": ("y", lambda odd: distance_correlation(X, odd)),
    "FeatureSimilarityScore, student": ("student", lambda odd: updated(FeatureSimilarityScore(), odd, X)),
    "FeatureSimilarityScore, base": ("base", lambda odd: updated(FeatureSimilarityScore(), X, odd)),
    "RelevanceScore, features": ("features", lambda odd: updated(RelevanceScore(), odd, LABELS)),
    "RelevanceScore, given": ("given", lambda odd: updated(RelevanceScore(), X, LABELS, given=odd)),
    "TransferScores": ("base", lambda odd: updated(TransferScores(), X, odd, LABELS)),
    "class_prototypes": ("feature_func", lambda odd: class_prototypes(lambda _: odd, [(IMAGES, LABELS)])),
    "feature_transform": (
        "feature_transform",
        lambda odd: relevance_score(NETS[0], "norm", IMAGES, LABELS, feature_transform=lambda _: odd),
    ),
    "feature_transform of maps": (
        "feature_transform",
        lambda odd: UniCAM(NETS[0], "norm", NETS[1], feature_transform=lambda _: odd).attribute(IMAGES, LABELS),
    ),
}
INPUTS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "LayerFeatures": ("inputs", lambda odd: LayerFeatures(NETS[0], "norm")(odd)),
    "feature_similarity_score": ("inputs", lambda odd: feature_similarity_score(NETS[0], "norm", NETS[1], "norm", odd)),
    "relevance_score": ("inputs", lambda odd: relevance_score(NETS[0], "norm", odd, LABELS)),
    "attribute": ("inputs", lambda odd: UniCAM(NETS[0], "norm", NETS[1]).attribute(odd, LABELS)),
    "reference": ("inputs", lambda odd: UniCAM(NETS[0], "norm", NETS[1]).reference(odd, LABELS)),
    "compare_transfer": ("inputs", lambda odd: compare_transfer(*NETS, ["norm"], [(odd, LABELS)], show_progress=False)),
    "class_prototypes": ("inputs", lambda odd: class_prototypes(lambda value: value, [(odd, LABELS)])),
    "keep_relevant": ("inputs", lambda odd: keep_relevant(odd, MAPS)),
    "keep_relevant, maps": ("attributions", lambda odd: keep_relevant(IMAGES, odd)),
    "localization_score": ("attributions", lambda odd: localization_score(odd, MAPS > 0.5)),
    "localization_score, masks": ("masks", lambda odd: localization_score(MAPS, odd)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", FEATURES)
def test_odd_features(where, kind):
    name, call = FEATURES[where]
    with pytest.raises(TypeError, match=f"{name}.* must be an ordinary dense tensor, got one.* that is .*{kind}"):
        call(KINDS[kind](X))


@pytest.mark.parametrize("where", FEATURES)
def test_complex_features(where):
    name, call = FEATURES[where]
    with pytest.raises(TypeError, match=f"{name}.* must be real, got .*complex64"):
        call(X.to(torch.complex64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", INPUTS)
def test_odd_inputs(where, kind):
    name, call = INPUTS[where]
    with pytest.raises(TypeError, match=rf"\b{name}\b.* must be .*, got (one.* that is .*{kind}|.*torch\.)"):
        call(KINDS[kind](IMAGES))


@pytest.mark.parametrize(
    "update, words",
    [
        (lambda: updated(FeatureSimilarityScore(), None, 1), "student must be a tensor of features .* got None"),
        (lambda: updated(FeatureSimilarityScore(), X, 1), "base must be a tensor of features .* got 1"),
        (lambda: updated(FeatureSimilarityScore(), X, X.numpy()), "base must be a tensor of features .* got ndarray"),
        (lambda: updated(RelevanceScore(), None, LABELS), "features must be a tensor of features .* got None"),
        (lambda: updated(RelevanceScore(), X, None), "target must be one label for each"),
        (lambda: updated(TransferScores(), X, None, LABELS), "base must be a tensor of features .* got None"),
        (lambda: updated(TransferScores(), X, X, "ab"), "target must hold class labels"),
    ],
)
def test_nonsense_that_a_metric_is_updated_with(update, words):
    with pytest.raises(TypeError, match=words):
        update()


def test_metrics_keep_nothing_of_a_refused_update():
    scores = TransferScores()
    with pytest.raises(TypeError):
        scores.update(X, X.to("meta"), LABELS)
    assert scores.student == scores.base == scores.target == []


def test_whole_numbers_beyond_float32_keep_their_digits():
    counts = torch.arange(N)[:, None] ** 2 + 2**30
    metric = FeatureSimilarityScore()
    metric.update(counts, torch.arange(N)[:, None] ** 2)
    assert float(metric.compute()) == pytest.approx(1, abs=1e-9)


class Giving(nn.Module):
    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.make, self.layer = make, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.make(images))


@pytest.mark.parametrize("kind", KINDS)
def test_odd_activations(kind):
    odd = Giving(KINDS[kind])
    words = f"that is .*{kind}|returned no floating point tensor"
    with pytest.raises((TypeError, ValueError), match=f"layer 'layer' of forward_func.*({words})"):
        UniCAM(odd, "layer", NETS[1], "norm").attribute(IMAGES, LABELS)
    with pytest.raises((TypeError, ValueError), match=f"layer 'layer' of base_func.*({words})"):
        feature_similarity_score(NETS[1], "norm", odd, "layer", IMAGES)


def test_layers_may_pass_nested_tensors_on():
    """PyTorch's transformers make some of padded sequences; a layer behind them is ordinary again."""

    class Padding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nest, self.layer = nn.Identity(), nn.Identity()

        def forward(self, values: Tensor) -> Tensor:
            nested = self.nest(torch.nested.nested_tensor(list(values)))
            return self.layer(nested.to_padded_tensor(0.0))

    values = torch.randn(N, 6)
    found = relevance_score(Padding(), "layer", values, LABELS)
    assert float(found) == pytest.approx(float(relevance_score(nn.Sequential(nn.Identity()), "0", values, LABELS)))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: UniCAM(model, "norm", NETS[1]),
        lambda model: UniCAM(NETS[1], "norm", model),
        lambda model: feature_similarity_score(model, "norm", NETS[1], "norm", IMAGES),
        lambda model: relevance_score(model, "norm", IMAGES, LABELS),
        lambda model: compare_transfer(NETS[0], model, ["norm"], [(IMAGES, LABELS)], show_progress=False),
        lambda model: LayerFeatures(model, "norm"),
        lambda model: class_prototypes(model, [(IMAGES, LABELS)]),
    ],
)
def test_models_without_values(call):
    with pytest.raises(ValueError, match=r"weights without values \(device 'meta'\) in Conv2d; load them"):
        call(net("varying", 1).to("meta"))


def test_classifiers_without_values():
    with pytest.raises(TypeError, match="The weight of Linear must be an ordinary dense tensor.* 'meta'"):
        classifier_embeddings(nn.Linear(3, 4, device="meta"))
