"""Labels as a geometry: distances between classes, and when labels give none."""

import pytest
import torch
from class_tables import F64, labels, table
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import literal
from reference.geometries import correlation

from captum_kd.distance.centering import CENTERINGS, center, geometry, u_shift
from captum_kd.distance.labels import LabelDistances, check_label_geometry, label_distances, label_geometry, label_norms

# ------------------------------------------------------------------------------ distances


def test_without_a_table_classes_are_equally_far_apart():
    """One-hot vectors of different classes are at distance sqrt(2), whatever the labels' values."""
    found = label_distances(labels(3, 0, 1000), labels(0, 3))
    assert found.dtype == F64
    torch.testing.assert_close(found, 2**0.5 * torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=F64))


def test_a_table_is_looked_up():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    found = label_distances(labels(0, 1, 1, 2), labels(1, 2), points)
    torch.testing.assert_close(found, torch.tensor([[5.0, 3], [0, 4], [0, 4], [4, 0]], dtype=F64))


def test_an_identity_table_is_one_hot():
    y = torch.arange(12) % 5
    torch.testing.assert_close(label_distances(y, y, torch.eye(5)), label_distances(y, y))


@pytest.mark.parametrize("embeddings", [None, table(4)])
def test_distances_by_tile_are_those_of_the_matrix(embeddings):
    y = labels(0, 2, 2, 3, 0, 2, 1, 3, 3)
    whole = label_distances(y, y, embeddings)
    source = LabelDistances(y, embeddings, y.device)
    torch.testing.assert_close(source.block(slice(2, 7), slice(5, 9)), whole[2:7, 5:9])
    shift, exact = source.shift()
    torch.testing.assert_close(shift, u_shift(whole))
    assert exact


@pytest.mark.parametrize("label", [3, 5])
def test_labels_outside_the_table_are_refused(label):
    with pytest.raises(ValueError, match=f"holds the label {label}, .* labels 0 to 2"):
        label_distances(labels(0, 1), labels(1, label), table(3))
    with pytest.raises(ValueError, match=f"holds the label {label}"):
        label_geometry(labels(0, 1, 0, 1, label), table(3), F64)


# ------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("embeddings", [None, table(3)])
def test_geometry_is_that_of_the_embeddings_as_features(embeddings):
    y = labels(0, 1, 2, 1, 0, 0, 2, 1)
    embedded = literal.embedded(y, embeddings)
    found = label_geometry(y, embeddings, F64)
    torch.testing.assert_close(found.matrix, literal.u_centered(literal.distances(embedded)))
    torch.testing.assert_close(
        label_geometry(y, embeddings, F64, "biased").matrix, geometry(embedded, "biased").matrix
    )


def test_geometry_has_the_type_asked_for():
    found = label_geometry(labels(0, 0, 1, 1), table(2), torch.float32)
    assert found.matrix.dtype == found.raw_norm.dtype == torch.float32


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10**6), st.integers(1, 20), st.lists(st.integers(0, 1), min_size=4, max_size=20))
def test_two_classes_have_one_geometry_whatever_the_table(seed, width, drawn):
    y = labels(*drawn, 0, 0, 1, 1)
    found = correlation(label_geometry(y, table(2, width, seed), F64), label_geometry(y, None, F64))
    assert float(found) == pytest.approx(1, abs=1e-12)


def test_three_classes_have_as_many_geometries_as_tables():
    y = torch.arange(12) % 3
    found = correlation(label_geometry(y, torch.tensor([[0.0], [1.0], [5.0]]), F64), label_geometry(y, None, F64))
    assert float(found) < 0.9


WITHOUT = {
    "all equal": labels(2, 2, 2, 2, 2),
    "all distinct": labels(4, 1, 0, 3, 2),
    "one against the rest": labels(0, 0, 1, 0, 0),
    "one against the rest, first": labels(7, 0, 0, 0),
    "a thousand equal": torch.ones(1000, dtype=torch.long),
}


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("case", WITHOUT)
def test_labels_without_geometry_are_an_error(case, estimator):
    """The biased estimator keeps one against the rest, and the equidistant."""
    if estimator == "biased" and "equal" not in case:
        assert label_geometry(WITHOUT[case], None, F64, estimator).matrix.norm() > 0
        check_label_geometry(WITHOUT[case], None, estimator)
        return
    with pytest.raises(ValueError, match="no geometry: all labels are equal, all are distinct, or one") as error:
        label_geometry(WITHOUT[case], None, F64, estimator)
    for way_out in ("reference=", "two inputs", "target=None"):
        assert way_out in str(error.value)
    with pytest.raises(ValueError) as by_class:
        check_label_geometry(WITHOUT[case], None, estimator)
    assert str(by_class.value) == str(error.value)


@pytest.mark.parametrize("estimator", CENTERINGS)
@pytest.mark.parametrize("embeddings", [None, table(4)])
def test_norms_by_class_are_those_of_the_matrix(estimator, embeddings):
    target, classes = labels(0, 2, 2, 3, 0, 2, 1, 3, 3), labels(0, 1, 2, 3)
    expected = center(label_distances(target, target, embeddings), estimator)
    found = label_norms(label_distances(classes, classes, embeddings), target.bincount().double(), estimator)
    assert found == pytest.approx((float(expected.matrix.norm()), float(expected.raw_norm)), rel=1e-12)


def test_the_error_shows_the_first_labels():
    with pytest.raises(ValueError, match=r"the 9 inputs .* \(labels: 3, 3, 3, 3, 3, 3, 3, 3, \.\.\.\)"):
        label_geometry(labels(*[3] * 9), None, F64)


def test_an_unknown_estimator_is_never_taken_for_another():
    with pytest.raises(ValueError, match="estimator must be 'unbiased' or 'biased', got 'u'"):
        label_geometry(labels(0, 0, 1, 1), None, F64, "u")


@pytest.mark.parametrize("gap", [0, 1e-8])
def test_classes_that_a_table_hardly_tells_apart_count_as_one(gap):
    """Classes 0 and 1 in one place, or nearly so, leave label 2 alone against the rest."""
    points = torch.tensor([[0.0], [gap], [1.0]], dtype=F64)
    with pytest.raises(ValueError, match="no geometry"):
        label_geometry(labels(0, 1, 2, 1, 0), points, F64)
    label_geometry(labels(0, 1, 2, 1, 0), points + torch.tensor([[0.0], [1e-4], [0.0]]), F64)


@pytest.mark.parametrize("check", [label_geometry, check_label_geometry])
def test_equal_embeddings_are_named_only_where_they_may_be_the_cause(check):
    settings = (F64,) if check is label_geometry else ()
    with pytest.raises(ValueError, match=r"\(labels: 0, 1, 2, 1, 0\)\. Or class_embeddings has equal rows .* Pass a labeled"):
        check(labels(0, 1, 2, 1, 0), torch.ones(3, 4), *settings)
    for y, embeddings in ((labels(1, 1, 1, 1), torch.ones(3, 4)), (labels(0, 1, 2, 3), None)):
        with pytest.raises(ValueError, match=r"\)\. Pass a labeled"):
            check(y, embeddings, *settings)


def test_distinct_labels_have_a_geometry_under_a_table():
    label_geometry(torch.arange(6), table(6), F64)


@pytest.mark.parametrize("values", [(0, 0, 1, 1), (0, 0, 1, 2), (0, 1, 0, 1, 0)])
def test_fewest_labels_with_a_geometry(values):
    assert float(label_geometry(labels(*values), None, F64).matrix.norm()) > 0.1
