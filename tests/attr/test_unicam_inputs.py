"""Inputs, labels and further arguments in every form that Captum takes, in one forward pass or in several."""

import pytest
import torch
from conv_pairs import M, N, expected_flat_map, inputs, pair
from models import TwoInputs, activations, labels
from reference import literal
from torch import Tensor

from captum_kd import UniCAM, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.mark.parametrize("target", [labels(N), labels(N).tolist(), labels(N).int(), range(N), None])
def test_labels_in_every_form(target):
    student, base = pair()
    classes = torch.eye(3, dtype=torch.float64)[labels(N)]  # one row a label: range(N) means the same labels
    unicam = UniCAM(student, "conv2", base, class_embeddings=classes if isinstance(target, range) else None)
    x = inputs()
    own, other = activations(student, "conv2", x), global_average_pool(activations(base, "conv2", x))
    expected = literal.batch_map(own, global_average_pool, other, None if target is None else labels(N))
    torch.testing.assert_close(unicam.attribute(x, target), expected)


@pytest.mark.parametrize("target", [1, [1], torch.tensor(1), torch.tensor([1]), torch.tensor([[1]])])
def test_one_label_applies_to_all_inputs(target):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))
    found = unicam.attribute(inputs(), target, reference=population)
    torch.testing.assert_close(found, unicam.attribute(inputs(), [1] * N, reference=population))


def two_inputs() -> tuple[TwoInputs, TwoInputs, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator).double(), torch.randn(N, 3, generator=generator).double()
    return TwoInputs(seed=1).double(), TwoInputs(seed=2).double(), x


def test_tuple_inputs():
    student, base, x = two_inputs()
    own, other = activations(student, "mix", *x), activations(base, "mix", *x)
    found = UniCAM(student, "mix", base).attribute(x, labels(N))
    assert found.shape == (N, 1)
    torch.testing.assert_close(found, expected_flat_map(own, other, labels(N)))


@pytest.mark.parametrize("internal_batch_size", [None, 3])
@pytest.mark.parametrize("shift", ["per example", "constant", "row"])
def test_additional_forward_args(shift, internal_batch_size):
    """A tensor with one row per input goes along with the inputs, anything else goes to every batch."""
    student, base, x = two_inputs()
    value = {
        "per example": torch.randn(N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
        "constant": 0.5,
        "row": torch.linspace(-1, 1, 6, dtype=torch.float64),
    }[shift]
    found = UniCAM(student, "mix", base).attribute(
        x, labels(N), additional_forward_args=value, internal_batch_size=internal_batch_size
    )
    own, other = activations(student, "mix", *x, value), activations(base, "mix", *x, value)
    torch.testing.assert_close(found, expected_flat_map(own, other, labels(N)))
    assert not torch.allclose(found, UniCAM(student, "mix", base).attribute(x, labels(N)))


def test_several_additional_forward_args_as_a_tuple():
    seen = []

    def forward(x, *args):
        seen.append((x.shape[0], [getattr(arg, "shape", arg) for arg in args]))
        return student(x)

    student, base = pair()
    UniCAM(forward, student.conv2, base, base.conv2).reference(
        inputs(), additional_forward_args=(1.5,), internal_batch_size=6
    )
    assert seen == [(6, [1.5]), (2, [1.5])]


@pytest.mark.parametrize("mode", ["batch", "reference"])
@pytest.mark.parametrize("deeper", [False, True])
@pytest.mark.parametrize("internal_batch_size", [1, 3, N, 100])
def test_internal_batch_size_does_not_change_the_maps(internal_batch_size, deeper, mode):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3" if deeper else None)
    population = unicam.reference(inputs(M, seed=5), labels(M)) if mode == "reference" else None
    whole = unicam.attribute_transfer(inputs(), labels(N), reference=population)
    parts = unicam.attribute_transfer(
        inputs(), labels(N), reference=population, internal_batch_size=internal_batch_size
    )
    torch.testing.assert_close(tuple(parts), tuple(whole))


def test_internal_batch_size_bounds_the_forward_passes():
    student, base = pair()
    sizes = []
    student.register_forward_hook(lambda m, i, o: sizes.append(len(i[0])))
    UniCAM(student, "conv2", base).attribute(inputs(), labels(N), internal_batch_size=3)
    assert sizes == [3, 3, 2]


def test_internal_batch_size_does_not_change_a_reference_population():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    whole = unicam.reference(inputs(M), labels(M))
    parts = unicam.reference(inputs(M), labels(M), internal_batch_size=3)
    x, y = inputs(N, seed=3), labels(N)
    torch.testing.assert_close(unicam.attribute(x, y, reference=parts), unicam.attribute(x, y, reference=whole))


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("deeper", [False, True])
def test_reference_mode_gives_a_single_image_the_same_map_alone_and_in_any_batch(deeper, labeled):
    student, base = pair()
    unicam = UniCAM(student, "conv1", base, feature_layer="conv3" if deeper else None)
    population = unicam.reference(inputs(M, seed=5), labels(M) if labeled else None)
    x, y = inputs(), labels(N)
    batch = unicam.attribute(x, y if labeled else None, reference=population)
    for rows in ([0], [3], [7, 3, 0], [5, 5]):
        found = unicam.attribute(x[rows], y[rows] if labeled else None, reference=population)
        torch.testing.assert_close(found, batch[rows])


def test_one_forward_pass_of_each_model_serves_both_directions():
    student, base = pair()
    calls = []
    for name, model in (("student", student), ("base", base)):
        model.register_forward_hook(lambda m, i, o, name=name: calls.append(name))
    UniCAM(student, "conv1", base, feature_layer="conv3").attribute_transfer(inputs(), labels(N))
    assert sorted(calls) == ["base", "student"]


def test_progress_is_shown_when_asked_for(capsys):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    silent = unicam.attribute(inputs(), labels(N), internal_batch_size=4)
    assert capsys.readouterr().err == ""
    shown = unicam.attribute(inputs(), labels(N), internal_batch_size=4, show_progress=True)
    assert "ConvNet" in capsys.readouterr().err
    assert torch.equal(shown, silent)
