"""Classes as points: tables from models and features, and which tables are fit."""

import pytest
import torch
from class_tables import F64, labels, table
from models import ConvNet, TinyTransformer, images
from reference import literal
from reference.geometries import correlation
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.distance import distance_correlation
from captum_kd.distance.centering import geometry
from captum_kd.distance.labels import label_geometry
from captum_kd.embeddings import check_class_embeddings, class_prototypes, classifier_embeddings
from captum_kd.metrics import relevance_score

# --------------------------------------------------------------------------------- tables


def test_no_table_is_no_table():
    assert check_class_embeddings(None) is None


@pytest.mark.parametrize(
    "value, error, words",
    [
        ([[1.0], [2.0]], TypeError, "got list"),
        (torch.tensor([[1], [2]]), TypeError, "a tensor of torch.int64"),
        (torch.rand(3), ValueError, r"\(num_classes, e\), .* got \(3,\)"),
        (torch.rand(1, 4), ValueError, "at least two classes"),
        (torch.rand(4, 0), ValueError, r"got \(4, 0\)"),
        (torch.tensor([[1.0], [torch.nan]]), ValueError, "non-finite"),
    ],
)
def test_unfit_tables_are_refused(value, error, words):
    with pytest.raises(error, match=words):
        check_class_embeddings(value)


def test_tables_are_copies_without_a_graph():
    given_table = table(3).float().requires_grad_()
    checked = check_class_embeddings(given_table)
    assert checked.dtype == F64 and not checked.requires_grad
    before = checked.clone()
    with torch.no_grad():
        given_table += 1
    torch.testing.assert_close(checked, before)


def test_a_float64_table_is_copied_too():
    given_table = table(3)
    checked = check_class_embeddings(given_table)
    before = checked.clone()
    given_table += 1
    torch.testing.assert_close(checked, before)


@pytest.mark.parametrize("size", [1e-300, 1e-25, 1e25, 1e300])
def test_size_of_a_table_does_not_matter(size):
    """Not even where squares in float32 would vanish or overflow."""
    y = torch.arange(12) % 3
    x = literal.embedded(y, table(3, 2, seed=1)).float()
    x += 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    expected = distance_correlation(x, table(3)[y])
    found = correlation(geometry(x), label_geometry(y, check_class_embeddings(table(3) * size), torch.float32))
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_a_table_of_zeros_passes_until_labels_need_it():
    zeros = check_class_embeddings(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="no geometry"):
        label_geometry(labels(0, 0, 1, 1), zeros, F64)


# --------------------------------------------------------------------- classifiers' weights


def test_embeddings_are_a_copy_of_the_classifiers_weights():
    layer = nn.Linear(5, 3)
    found = classifier_embeddings(layer)
    assert torch.equal(found, layer.weight) and not found.requires_grad
    with torch.no_grad():
        layer.weight += 1
    assert not torch.equal(found, layer.weight)


def test_a_pointwise_convolution_is_a_classifier():
    layer = nn.Conv2d(5, 3, 1)
    assert torch.equal(classifier_embeddings(layer), layer.weight[:, :, 0, 0])


@pytest.mark.parametrize("model", [ConvNet(), TinyTransformer(), nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 4))])
def test_a_models_last_layer_is_its_classifier(model):
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert torch.equal(classifier_embeddings(model), last.weight)
    assert torch.equal(classifier_embeddings(nn.DataParallel(model)), last.weight)


def test_a_reparametrized_classifier_is_found():
    model = ConvNet()
    weight_norm(model.fc)
    torch.testing.assert_close(classifier_embeddings(model), model.fc.weight.detach())


def test_dropout_and_softmax_behind_the_classifier_do_not_matter():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(), nn.Softmax(1))
    assert torch.equal(classifier_embeddings(model), model[1].weight)


class TwoHeads(nn.Module):
    """As distilled transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head, self.head_dist = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)


@pytest.mark.parametrize(
    "module, error, words",
    [
        (TwoHeads(), ValueError, r"2 linear layers of the shape \(3, 4\), .* 'head' \(4 to 3\), 'head_dist' \(4 to 3\)"),
        (
            nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
            ValueError,
            r"is '1' \(BatchNorm1d\), .* Candidates: '0' \(4 to 3\)",
        ),
        (nn.Sequential(nn.Linear(4, 3), nn.Conv2d(4, 3, 1)), ValueError, r"is '1' \(Conv2d\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), ValueError, "Sequential has no nn.Linear; pass its final layer"),
        (nn.Conv2d(3, 4, 3), ValueError, "1x1 and has one group"),
        (nn.Conv2d(4, 4, 1, groups=2), ValueError, "1x1 and has one group"),
        (nn.Linear(4, 1), ValueError, r"1 output\(s\); .* at least two classes"),
        (nn.LazyLinear(3), ValueError, "no weights yet; run the model once"),
        (torch.rand(3, 4), TypeError, "got Tensor"),
    ],
)
def test_a_classifier_that_cannot_be_told_is_an_error(module, error, words):
    with pytest.raises(error, match=words):
        classifier_embeddings(module)


def test_candidates_are_the_last_few():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    with pytest.raises(ValueError, match=r"12 linear layers .* \.\.\., '4' \(4 to 4\), .*'11'"):
        classifier_embeddings(model)


def test_non_finite_weights_are_refused():
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match="weights of Linear.* non-finite"):
        classifier_embeddings(layer)


def test_weights_serve_as_a_table():
    model, x, y = ConvNet(), images(12), torch.arange(12) % 3
    found = relevance_score(model, "conv2", x, y, classifier_embeddings(model))
    assert abs(float(found) - float(relevance_score(model, "conv2", x, y))) > 1e-4


# ------------------------------------------------------------------------------ prototypes

X, Y = images(20), torch.arange(20) * 7 % 3


def loader(batch_size: int = 6, x: Tensor = X, y: Tensor = Y) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def literal_prototypes(features: Tensor, y: Tensor) -> Tensor:
    """Class by class, input by input."""
    rows = []
    for label in range(int(y.max()) + 1):
        total = torch.zeros(features[0].numel(), dtype=F64)
        for feature, own in zip(features, y):
            if own == label:
                total += feature.double().flatten() / feature.double().norm()
        mean = total / int((y == label).sum())
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 6, 20])
@pytest.mark.parametrize("features", [pooled, torch.relu, lambda x: x.half()[:, :, 0]])
def test_prototypes_are_means_of_unit_length_features(features, batch_size):
    found = class_prototypes(features, loader(batch_size))
    assert found.dtype == F64 and found.device.type == "cpu"
    torch.testing.assert_close(found, literal_prototypes(features(X), Y), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=F64))


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_size_of_features_does_not_matter(size):
    found = class_prototypes(lambda x: x.double().flatten(1) * size, loader())
    torch.testing.assert_close(found, literal_prototypes(X, Y), rtol=0, atol=1e-12)


def test_prototypes_from_mappings_and_any_iterable():
    expected = class_prototypes(pooled, loader())
    mappings = ({"pixel_values": x, "labels": y} for x, y in loader())
    torch.testing.assert_close(class_prototypes(pooled, mappings, show_progress=True), expected)
    named = [{"image": x, "y": y} for x, y in loader()]
    unpacked = class_prototypes(pooled, named, unpack=lambda batch: (batch["image"], batch["y"]))
    torch.testing.assert_close(unpacked, expected)


def test_several_inputs_reach_the_extractor():
    found = class_prototypes(lambda a, b: pooled(a + b), [((X, X), Y)])
    torch.testing.assert_close(found, class_prototypes(pooled, [(X, Y)]))


def test_an_extractor_stays_as_it_is():
    """Mode, gradients and the global random state; no graph is recorded."""
    model = nn.Sequential(ConvNet(), nn.Linear(3, 64), nn.Dropout(0.5)).train()
    graphs = []
    model.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    state = torch.get_rng_state()
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    class_prototypes(model, batches)
    assert graphs == [False, False] and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_batches_move_to_the_extractors_device(monkeypatch):
    seen = []

    def extractor(x: Tensor) -> Tensor:
        seen.append(x.device.type)
        return torch.ones(len(x), 2)

    monkeypatch.setattr("captum_kd.embeddings.device_of", lambda model: torch.device("meta"))
    class_prototypes(extractor, loader())
    assert set(seen) == {"meta"}


def test_prototypes_of_two_classes_score_as_one_hot():
    model, y = ConvNet(), torch.arange(20) % 2
    table = class_prototypes(pooled, loader(y=y))
    ours, one_hot = (relevance_score(model, "conv2", X, y, embeddings) for embeddings in (table, None))
    torch.testing.assert_close(ours, one_hot)


def changing_width(x: Tensor) -> Tensor:
    return x.flatten(1)[:, : 4 + len(x)]


def spoiled(value: float):
    def features(x: Tensor) -> Tensor:
        rows = pooled(x)
        rows[1] = value
        return rows

    return features


GAPS = torch.tensor([0, 2, 5] * 6 + [0, 0])


@pytest.mark.parametrize(
    "features, data, options, error, words",
    [
        (pooled, [], {}, ValueError, "no batches"),
        (pooled, iter(()), {}, ValueError, "no batches"),
        (pooled, None, {}, TypeError, "data must be a DataLoader .* got NoneType"),
        (pooled, [X], {}, TypeError, "no labels can be found; .* unpack="),
        (pooled, TensorDataset(X, Y), {}, TypeError, "DataLoader"),
        (pooled, [(X, GAPS)], {}, ValueError, "no inputs of 3 of the 6 classes: 1, 3, 4. "),
        (pooled, [(X, Y)], {"num_classes": 4}, ValueError, "no inputs of 1 of the 4 classes that num_classes asks for: 3. "),
        (pooled, [(X, Y + 10**9)], {}, ValueError, "of the 1000000003 classes: 0, 1, 2, .*, ..."),
        (pooled, [(X, Y)], {"num_classes": 2}, ValueError, "Batch 0 holds the label 2; expected 0 to 1"),
        (pooled, [(X, Y), (X, Y - 1)], {}, ValueError, r"negative label -1 \(input 0\)"),
        (pooled, [(X, Y * 0)], {}, ValueError, "label 0 alone"),
        (pooled, [(X, Y)], {"num_classes": 1}, ValueError, "num_classes must be"),
        (pooled, [(X, Y)], {"num_classes": 3.0}, ValueError, "num_classes must be"),
        (None, [(X, Y)], {}, TypeError, "feature_func must be callable"),
        (lambda x: (x,), [(X, Y)], {}, TypeError, "must return a tensor .* got tuple"),
        (lambda x: x.mean(), [(X, Y)], {}, ValueError, r"\(N, ...\) features for N = 20 inputs, got \(\)"),
        (lambda x: x[:3], [(X, Y)], {}, ValueError, r"N = 20 inputs, got \(3, 3, 12, 12\)"),
        (changing_width, [(X, Y), (X[:2], Y[:2])], {}, ValueError, "6 features per input in batch 1, but 24 before"),
        (spoiled(torch.nan), [(X, Y), (X, Y)], {}, ValueError, "non-finite .* input 1 of batch 0"),
        (spoiled(0.0), [(X, Y)], {}, ValueError, "only zeros for input 1 of batch 0"),
        (lambda x: x, [(torch.cat([X, -X]), torch.cat([Y, Y]))], {}, ValueError, "features of class 0 cancel"),
    ],
)
def test_unfit_features_and_data_are_refused(features, data, options, error, words):
    with pytest.raises(error, match=words):
        class_prototypes(features, data, **options)
