"""Inputs as points in two dimensions, against scikit-learn, scipy and invariances."""

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from models import ConvNet, Untouched, activations, images, labels
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from state import unchanged_state
from text.encoders import Encoder, rows, sentences
from torch import Tensor, nn
from torch.nn.functional import pad

from captum_kd import flatten, global_average_pool
from captum_kd.metrics import ModelOptions, TokenPositions, compare_transfer, input_embeddings

N = 40


def batches(size: int = 16, n: int = N) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images(n).split(size), labels(n).split(size)))


def networks() -> dict[str, nn.Module]:
    return {"Teacher": ConvNet(8, seed=1).eval(), "Student": ConvNet(6, seed=2).eval(), "Base": ConvNet(6, seed=3).eval()}


def embed(models: Any = None, layer: Any = "conv2", data: Any = None, **kwargs: Any) -> Any:
    return input_embeddings(
        networks() if models is None else models, layer, batches() if data is None else data, show_progress=False, **kwargs
    )


def same_shape(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(pdist(one) - pdist(other)).max() <= tolerance * pdist(one).max())


@pytest.mark.parametrize("transform", [flatten, global_average_pool])
def test_classical_scaling_is_pca_of_the_features_of_scores(transform):
    models = networks()
    found = embed(models, feature_transform=transform)
    for name, model in models.items():
        features = transform(activations(model, "conv2", images(N))).double().numpy()
        pca = PCA(2, svd_solver="full").fit(features)
        assert same_shape(found.coordinates[name], pca.transform(features))
        assert found.shares[name] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    assert torch.equal(found.labels, labels(N)) and found.n == N
    assert found.layers == dict.fromkeys(models, "conv2") and found.feature_transform == transform.__name__


def test_flatten_is_the_default_of_images_and_batches_do_not_matter():
    one, other = embed(), embed(data=batches(7), feature_transform=flatten)
    for name in one.coordinates:
        torch.testing.assert_close(one.coordinates[name], other.coordinates[name], rtol=0, atol=1e-5)


def test_all_pictures_are_aligned_with_the_first():
    found = embed()
    first = found.coordinates["Teacher"].numpy()
    for points in list(found.coordinates.values())[1:]:
        _, theirs, _ = procrustes(first, points.numpy())
        np.testing.assert_allclose(points / np.linalg.norm(points), theirs / np.linalg.norm(theirs), atol=1e-8)


@pytest.mark.parametrize("reflected", [False, True])
def test_rotations_and_reflections_of_the_features_change_nothing(reflected):
    def turned(activations: Tensor) -> Tensor:
        features = activations.flatten(1).double()
        width = features.shape[1]
        turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(width)).double())[0]
        return features @ (turn * torch.where(torch.arange(width) == 0, -1.0, 1.0) if reflected else turn)

    models = {"Teacher": networks()["Teacher"]}
    plain, other = (embed(models, feature_transform=each).coordinates["Teacher"] for each in (flatten, turned))
    # One axis may change its sign if its two largest coordinates are equal; they are not.
    torch.testing.assert_close(plain, other, rtol=0, atol=2e-5)


def test_units_are_those_of_the_features_even_if_they_are_huge():
    plain = embed()
    large = embed(feature_transform=lambda values: values.flatten(1) * 2.0**70)
    for name in plain.coordinates:
        torch.testing.assert_close(large.coordinates[name] / 2.0**70, plain.coordinates[name], rtol=0, atol=1e-5)


def test_layers_by_model_and_modules():
    models = networks()
    found = embed(models, {"Teacher": models["Teacher"].conv3, "Student": "conv2", "Base": "conv1"})
    assert found.layers == {"Teacher": "conv3", "Student": "conv2", "Base": "conv1"}
    alone = embed({"Student": models["Student"]}, "conv2")
    assert same_shape(found.coordinates["Student"], alone.coordinates["Student"])


def test_layers_of_a_report():
    models = networks()
    report = compare_transfer(models["Student"], models["Base"], {"a": "conv1", "late": "conv2"}, batches(), show_progress=False)
    pair = {"student": models["Student"], "base": models["Base"]}
    expected = embed(pair, "conv2")
    for layer in (report.settings["layers"]["late"], {"late": report.settings["layers"]["late"]}):
        found = embed(pair, layer)
        assert found.layers == {"student": "conv2", "base": "conv2"}
        torch.testing.assert_close(found.coordinates, expected.coordinates, rtol=0, atol=0)
    # Not every model of a report must be drawn.
    assert embed({"base": models["Base"]}, report.settings["layers"]["late"]).layers == {"base": "conv2"}
    with pytest.raises(ValueError, match="layer has 2 layers, 'a', 'late'"):
        embed(pair, report.settings["layers"])


def test_single_models_may_have_inputs_of_their_own():
    models = networks()
    data = [({"student": x, "Base": 2 * x}, y) for x, y in batches()]
    found = embed(models, data=data)
    other = embed({"Base": models["Base"]}, data=[(2 * x, y) for x, y in batches()])
    assert same_shape(found.coordinates["Base"], other.coordinates["Base"])


def test_data_without_labels():
    found = embed(data=[x for x, _ in batches()], labels=False)
    assert found.labels is None
    with pytest.raises(TypeError, match="no labels can be found"):
        embed(data=[x for x, _ in batches()])


def test_constant_features_have_no_picture():
    models = networks()
    for dead in ("Teacher", "Base"):
        nn.init.zeros_(models[dead].conv2.weight)
    with pytest.warns(UserWarning, match="layer 'conv2' of model 'Teacher' does not tell the inputs apart"):
        found = embed(models)
    assert found.shares["Teacher"] is None and found.shares["Base"] is None and not found.coordinates["Teacher"].any()
    assert same_shape(found.coordinates["Student"], embed({"Student": models["Student"]}).coordinates["Student"])


def test_averages_that_are_only_rounding_have_no_picture():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(images(2))
    with pytest.warns(UserWarning, match="does not tell the inputs apart"):
        embed({"net": model}, "1", feature_transform=global_average_pool)


def test_padding_of_text_changes_nothing():
    models = {"Teacher": Encoder(1, width=32), "Student": Encoder(2)}

    def found(padded_to: int, size: int) -> Any:
        inputs = {**sentences(N, padded_to=padded_to), "labels": labels(N)}
        return embed(models, "encoder.layers.1", [rows(inputs, slice(i, i + size)) for i in range(0, N, size)])

    one, other = found(10, N), found(17, 8)
    assert one.feature_transform == "global_average_pool"
    for name in models:
        assert one.shares[name] == pytest.approx(other.shares[name], abs=1e-5)
        torch.testing.assert_close(one.coordinates[name], other.coordinates[name], rtol=0, atol=1e-4)


def test_tsne_gets_the_distances_and_starts_from_the_classical_scaling(monkeypatch):
    from captum_kd.metrics import input_embeddings as module

    seen = []

    class Recorded:
        def __init__(self, **options: Any) -> None:
            self.options = options

        def fit_transform(self, distances: np.ndarray) -> np.ndarray:
            seen.append((distances, self.options))
            return self.options["init"] + 3

    models = networks()
    scaled = embed(models, feature_transform=global_average_pool)
    monkeypatch.setattr(sys.modules[module.__module__], "_tsne_class", lambda: Recorded)
    found = embed(models, method="tsne", feature_transform=global_average_pool, seed=5)
    assert found.shares == dict.fromkeys(models) and found.method == "tsne"
    for (distances, options), (name, model) in zip(seen, models.items()):
        assert (options["metric"], options["perplexity"], options["random_state"]) == ("precomputed", 13.0, 5)
        start = scaled.coordinates[name] / scaled.coordinates[name][:, 0].std(correction=0) * 1e-4
        np.testing.assert_allclose(options["init"], start, rtol=0, atol=2e-7)  # aligned with rounded points
        features = activations(model, "conv2", images(N)).mean((2, 3)).double()
        expected = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        np.testing.assert_allclose(distances / distances.max(), expected / expected.max(), atol=1e-5)
        assert float(found.coordinates[name].mean(0).abs().max()) < 1e-7


def test_tsne_repeats():
    one, other = (embed(method="tsne", feature_transform=global_average_pool, perplexity=9) for _ in range(2))
    assert all(torch.equal(one.coordinates[name], other.coordinates[name]) for name in one.coordinates)


def test_tsne_separates_classes_that_the_features_separate():
    class Clusters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    y = torch.arange(120) % 4
    x = 6 * torch.eye(4)[y] + torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    points = embed({"net": Clusters()}, "layer", [(x, y)], method="tsne").coordinates["net"]
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (y[nearest] == y).double().mean() > 0.95


def test_tsne_without_scikit_learn_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        embed({"net": Untouched().eval()}, method="tsne")
    embed({"Student": networks()["Student"]})


def test_models_and_random_state_stay_as_they_were():
    models = networks()
    values = [images(N)]
    with unchanged_state(list(models.values()), values):
        embed(models)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(models)
    models["Base"].train()
    models["Base"].dropout = nn.Dropout()
    with pytest.warns(UserWarning, match="In training mode: Base"):
        embed(models)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "method must be", {"method": "umap"}),
        (TypeError, "models must be a dict of models by name", {"models": ConvNet()}),
        (ValueError, "models is an empty mapping", {"models": {}}),
        (TypeError, "names in models must be strings", {"models": {1: ConvNet()}}),
        (TypeError, r"models\['Student'\]", {"models": {"Student": 3}}),
        (ValueError, "conv9", {"layer": "conv9"}),
        (ValueError, "no layer for 'Student'", {"layer": {"Teacher": "conv1"}}),
        (ValueError, "no layer for", {"layer": 3}),
        (ValueError, r"layer has 2 layers, 'a', 'b'; pass one of them, as in layer\['a'\]", {"layer": {"a": {}, "b": {}}}),
        (ValueError, "no layer for 'Teacher'", {"layer": {"a": {}}}),
        (TypeError, "data must be a DataLoader", {"data": images(N)}),
        (ValueError, "The data hold 3 inputs", {"data": batches(n=3)}),
        (ValueError, "The data hold 0 inputs", {"data": []}),
        (ValueError, "perplexity must be less than the number of inputs, 40", {"method": "tsne", "perplexity": 40}),
        (ValueError, "perplexity must be a positive number", {"perplexity": 0}),
        (ValueError, "leave out positions", {"model_options": ModelOptions(positions=TokenPositions())}),
        (TypeError, "feature_transform", {"feature_transform": "flatten"}),
        (TypeError, "labels", {"labels": labels(N)}),
    ],
)  # fmt: skip
def test_bad_input(error, message, change):
    with pytest.raises(error, match=message):
        embed(**change)


def test_inputs_of_other_sizes_and_too_many():
    x, y = images(N), labels(N)
    with pytest.raises(ValueError, match="Model 'Teacher' gives .* features, but earlier batches had .*: the inputs differ"):
        embed(data=[(x, y), (pad(x, (0, 4, 0, 4)), y)])
    embed(data=[(x, y), (pad(x, (0, 4, 0, 4)), y)], feature_transform=global_average_pool)
    many = torch.zeros(5000, 1)
    with pytest.raises(ValueError, match="more than 4096 inputs"):
        embed({"net": nn.Sequential(nn.Linear(1, 1))}, "0", [(many, many[:, 0].long())])


def test_repr_is_short_and_has_the_shares():
    assert "shares={'Teacher': 0." in repr(embed()) and "tensor" not in repr(embed())
