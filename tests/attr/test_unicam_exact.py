"""UniCAM against the literal rendering of the method."""

import pytest
import torch
from conv_pairs import relative_difference
from models import ConvNet, activations, images, labels
from reference import literal

from captum_kd import UniCAM, flatten, global_average_pool

N, M = 9, 11
TRANSFORMS = {"pooled": global_average_pool, "flat": flatten}
EMBEDDINGS = {"one-hot": None, "table": torch.randn(3, 4, generator=torch.Generator().manual_seed(7))}

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.fixture
def pair():
    return ConvNet(seed=1).double(), ConvNet(seed=2).double()


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_batch_mode(pair, transform, labeled, embeddings):
    student, base = pair
    x = images(N, dtype=torch.float64)
    y = labels(N) if labeled else None
    unicam = UniCAM(
        student, "conv2", base, feature_transform=TRANSFORMS[transform], class_embeddings=EMBEDDINGS[embeddings]
    )
    expected = literal.batch_map(
        activations(student, "conv2", x),
        TRANSFORMS[transform],
        TRANSFORMS[transform](activations(base, "conv2", x)),
        y,
        EMBEDDINGS[embeddings],
    )
    assert relative_difference(unicam.attribute(x, y), expected) < 1e-6


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_reference_mode(pair, transform, labeled, embeddings):
    student, base = pair
    x, references = images(N, dtype=torch.float64), images(M, seed=5, dtype=torch.float64)
    y, reference_labels = (labels(N), labels(M)) if labeled else (None, None)
    f = TRANSFORMS[transform]
    unicam = UniCAM(student, "conv2", base, feature_transform=f, class_embeddings=EMBEDDINGS[embeddings])
    population = unicam.reference(references, reference_labels)
    expected = literal.reference_map(
        activations(student, "conv2", x),
        f,
        f(activations(base, "conv2", x)),
        f(activations(student, "conv2", references)),
        f(activations(base, "conv2", references)),
        y,
        reference_labels,
        EMBEDDINGS[embeddings],
    )
    assert relative_difference(unicam.attribute(x, y, reference=population), expected) < 1e-6


@pytest.mark.parametrize("mode", ["batch", "reference"])
def test_deeper_feature_layer(pair, mode):
    student, base = pair
    x, references = images(N, dtype=torch.float64), images(M, seed=5, dtype=torch.float64)
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3")

    def deep(a):
        a = student.conv3(student.relu2(student.conv2(torch.relu(a))))
        return global_average_pool(a)

    a, other = activations(student, "conv1", x), global_average_pool(activations(base, "conv3", x))
    if mode == "batch":
        expected = literal.batch_map(a, deep, other, labels(N))
        found = unicam.attribute(x, labels(N))
    else:
        own_references = global_average_pool(activations(student, "conv3", references))
        other_references = global_average_pool(activations(base, "conv3", references))
        expected = literal.reference_map(
            a, deep, other, own_references, other_references, labels(N), labels(M)
        )
        found = unicam.attribute(x, labels(N), reference=unicam.reference(references, labels(M)))
    assert relative_difference(found, expected) < 1e-6


@pytest.mark.parametrize("mode", ["batch", "reference"])
def test_nearly_identical_models_keep_their_digits(pair, mode):
    """After removal next to nothing is left; the rest is still exact."""
    student, _ = pair
    base = ConvNet(seed=1).double()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 1e-5 * torch.randn_like(parameter)
    x, references = images(N, dtype=torch.float64), images(M, seed=5, dtype=torch.float64)
    f = global_average_pool
    unicam = UniCAM(student, "conv2", base)
    own, other = activations(student, "conv2", x), f(activations(base, "conv2", x))
    if mode == "batch":
        expected, found = literal.batch_map(own, f, other, labels(N)), unicam.attribute(x, labels(N))
    else:
        expected = literal.reference_map(
            own,
            f,
            other,
            f(activations(student, "conv2", references)),
            f(activations(base, "conv2", references)),
            labels(N),
            labels(M),
        )
        found = unicam.attribute(x, labels(N), reference=unicam.reference(references, labels(M)))
    assert relative_difference(found, expected) < 1e-6


@pytest.mark.parametrize("mode", ["batch", "reference"])
@pytest.mark.parametrize("labeled", [True, False])
def test_transfer_is_distilled_and_residual(pair, mode, labeled):
    student, base = pair
    x = images(N, dtype=torch.float64)
    y = labels(N) if labeled else None
    unicam = UniCAM(student, "conv2", base)
    reference = None
    if mode == "reference":
        reference = unicam.reference(images(M, seed=5, dtype=torch.float64), labels(M) if labeled else None)
    both = unicam.attribute_transfer(x, y, reference=reference)
    torch.testing.assert_close(both.distilled, unicam.attribute(x, y, reference=reference))
    torch.testing.assert_close(both.residual, unicam.residual().attribute(x, y, reference=reference))
    if mode == "batch":
        torch.testing.assert_close(both.residual, UniCAM(base, "conv2", student).attribute(x, y))
    back = unicam.residual().residual().attribute_transfer(x, y, reference=reference)
    torch.testing.assert_close(back.distilled, both.distilled)
    assert not torch.allclose(both.distilled, both.residual)


def test_float32_follows_float64(pair):
    student, base = pair
    x = images(40, dtype=torch.float64)
    exact = UniCAM(student, "conv2", base).attribute(x, labels(40))
    single = UniCAM(ConvNet(seed=1), "conv2", ConvNet(seed=2)).attribute(x.float(), labels(40))
    assert single.dtype == torch.float32
    assert relative_difference(single.double(), exact) < 1e-4
