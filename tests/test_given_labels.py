"""Labels as users pass them: integers of every type are taken everywhere, negative and soft ones are refused everywhere."""

import numpy as np
import pytest
import torch
from models import ConvNet, Untouched, images, labels

from captum_kd import UniCAM
from captum_kd._utils.arguments import as_labels
from captum_kd.distance import distance_correlation
from captum_kd.distance.labels import LabelDistances, check_label_geometry, label_geometry
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import Localization, compare_transfer, keep_curve, relevance_score
from captum_kd.metrics.torchmetrics import RelevanceScore

N = 4
Y = [0, 1, 2, 1]
X12, Y12 = images(12), labels(12)

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only")


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor(Y)[:, None],
        *(torch.tensor(Y).to(dtype) for dtype in (torch.uint8, torch.int8, torch.uint16, torch.uint32, torch.uint64)),
        np.array(Y),
        np.array(Y, dtype=np.uint8),
        np.array(Y, dtype=np.uint64),
        np.array(Y)[:, None],
        np.array(Y, dtype=object),
        [np.int64(0), np.uint16(1), 2, np.int8(1)],
        [np.array(0), torch.tensor(1), torch.tensor([2]), 1],
        [[0], [1], [2], [1]],
        tuple(Y),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_integers_of_every_type_are_labels(given):
    found = as_labels(given, N)
    assert found.tolist() == Y and found.dtype == torch.int64 and found.shape == (N,)


@pytest.mark.parametrize("given", [3, np.int64(3), np.array(3), np.array([3]), torch.tensor(3, dtype=torch.uint8), [[3]]])
def test_one_label_is_for_all_inputs(given):
    assert as_labels(given, N).tolist() == [3] * N


def test_labels_that_have_no_int64_are_refused():
    with pytest.raises(ValueError, match="below 2"):
        as_labels(torch.from_numpy(np.array([2**63] * N, dtype=np.uint64)), N)
    with pytest.raises(ValueError, match="fit into 64 bits"):
        as_labels(np.array([2**64 - 1] * N, dtype=np.uint64), N)


@pytest.mark.parametrize(
    ("given", "error", "advice"),
    [
        (torch.zeros(N), TypeError, r"use target\.long\(\)"),
        ([0.0, 1.0, 2.0, 1.0], TypeError, r"use torch\.as_tensor\(target\)\.long\(\)"),
        (np.array([0.0, 1, 2, 1]), TypeError, r"use torch\.as_tensor\(target\)\.long\(\)"),
        (torch.tensor([0.2, 0.9, 0.4, 0.7]), TypeError, r"\(target > 0\.5\)\.long\(\)"),
        (torch.eye(N), TypeError, r"target\.argmax\(1\)"),
        (np.eye(N), TypeError, r"torch\.as_tensor\(target\)\.argmax\(1\)"),
        (torch.full((N, 3), 1 / 3), TypeError, r"target\.argmax\(1\).*class_embeddings=rows with target=range"),
        (torch.eye(N).long(), ValueError, r"pass target\.argmax\(1\)"),
        (np.eye(N, dtype=int), ValueError, r"pass torch\.as_tensor\(target\)\.argmax\(1\)"),
        (torch.tensor([0, 1, torch.nan, 1]), TypeError, "leave out inputs without a label"),
        (torch.zeros(N, dtype=torch.complex64), TypeError, "one class number per input"),
    ],
)
def test_what_to_do_with_numbers_that_are_no_labels(given, error, advice):
    with pytest.raises(error, match=advice):
        as_labels(given, N)


@pytest.mark.parametrize("given", [torch.tensor([0.2, 0.9, 0.4, 0.7]), torch.rand(N, 3), torch.eye(N), np.eye(N)])
def test_soft_labels_are_not_to_be_cut_off(given):
    with pytest.raises(TypeError) as error:
        as_labels(given, N)
    assert "use target.long()" not in str(error.value)


def test_soft_labels_may_be_points():
    """The score of classes that are the inputs' own rows is the distance correlation of features and rows."""
    rows = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    model = ConvNet(seed=1).eval()
    found = relevance_score(model, "conv1", X12, range(12), rows)
    torch.testing.assert_close(found, distance_correlation(model.conv1(X12).detach().flatten(1), rows))


# ------------------------------------------------------------------------------- negative labels

NEGATIVE = Y12.clone()
NEGATIVE[7] = -100


def unicam(**settings):
    return UniCAM(Untouched(), "conv2", Untouched(seed=1), **settings)


def compare(**settings):
    return compare_transfer(
        Untouched(), Untouched(seed=1), "conv2", settings.pop("data", [(X12, Y12)]), show_progress=False, **settings
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda y: unicam().attribute(X12, y),
        lambda y: unicam().attribute_transfer(X12, y),
        lambda y: unicam().reference(X12, y),
        lambda y: unicam(class_embeddings=torch.eye(3)).attribute(X12, y),
        lambda y: unicam(teacher_func=Untouched()).attribute(X12, y),
        lambda y: relevance_score(Untouched(), "conv2", X12, y),
        lambda y: keep_curve(Untouched(), X12, y, X12[:, :1]),
        lambda y: compare(data=[(X12, y)]),
        lambda y: compare(data=[(X12, y)], class_embeddings=torch.eye(3)),
        lambda y: compare(data=[{"pixel_values": X12, "labels": y}], population="batch"),
        lambda y: compare(localize=Localization("unicam", reference=(X12, y))),
        lambda y: class_prototypes(Untouched(), [(X12, y)]),
        lambda y: class_prototypes(Untouched(), [(X12, y)], num_classes=3),
        lambda y: RelevanceScore().update(X12, y),
        lambda y: label_geometry(torch.as_tensor(y), None, torch.float64),
        lambda y: check_label_geometry(torch.as_tensor(y), None),
        lambda y: LabelDistances(torch.as_tensor(y), None, torch.device("cpu")),
    ],
)
def test_negative_labels_are_refused_before_any_model_runs(call):
    for given in (NEGATIVE, NEGATIVE.numpy(), NEGATIVE.tolist()):
        with pytest.raises(ValueError, match='holds the negative label -100.*"no label".*[Ll]eave them out'):
            call(given)


def test_inputs_without_a_label_can_be_left_out_in_unpack():
    """As the error advises."""

    def labeled(batch):
        inputs, y = batch
        keep = y >= 0
        return inputs[keep], y[keep]

    pair = ConvNet(seed=1).eval(), ConvNet(seed=2).eval()
    report = compare_transfer(*pair, "conv2", [(X12, NEGATIVE)], unpack=labeled, show_progress=False)
    assert report.settings["n"] == 11


def test_a_metric_takes_numpy_labels_like_torch_ones():
    features = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    scores = []
    for given in (Y12, Y12[:, None], Y12.numpy(), Y12.to(torch.uint8), list(Y12.numpy())):
        metric = RelevanceScore()
        metric.update(features, given)
        scores.append(metric.compute())
    assert scores[0] != 0 and all(torch.equal(scores[0], score) for score in scores)
