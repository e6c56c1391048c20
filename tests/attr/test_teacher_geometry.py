"""Teachers without a geometry of their own, or with the Base's: nothing is left to follow."""

import warnings

import pytest
import torch
from conv_pairs import N, inputs, relative_difference
from conv_teachers import MODES, conv, explain, layer_of, literal_map, make, pooled, references, teacher_of_width
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def beside_a_teacher_without_geometry(mode):
    teacher = teacher_of_width()
    nn.init.zeros_(teacher.conv2.weight)
    unicam = make(teacher_func=teacher)
    return unicam, unicam.reference(references()) if mode == "reference" else None


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_without_geometry_warns_and_gives_zeros(mode):
    unicam, population = beside_a_teacher_without_geometry(mode)
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher"):
        both = unicam.attribute_transfer(inputs(), reference=population)
    assert torch.equal(both.distilled, torch.zeros(N, 1, 6, 6))
    assert torch.equal(both.residual, torch.zeros(N, 1, 6, 6))


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_without_geometry_is_warned_of_at_the_call(mode):
    unicam, population = beside_a_teacher_without_geometry(mode)
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher") as record:
        unicam.attribute_transfer(inputs(), reference=population)
    assert {warning.filename for warning in record if "Teacher" in str(warning.message)} == {__file__}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_teacher_that_is_the_base_gives_zeros(scale, mode, dtype):
    """What the Student has beside the Base is orthogonal to the Base, and what the Base has beside the Student follows the
    Base as closely as it can: all else would be rounding errors."""
    student, base, teacher = conv(1).to(dtype), conv(2).to(dtype), conv(2).to(dtype)
    with torch.no_grad():
        teacher.conv2.weight *= scale
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher)
    population = unicam.reference(references().to(dtype)) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the geometry of the Teacher is left"):
        both = unicam.attribute_transfer(inputs().to(dtype), reference=population)
    for maps in both:
        assert torch.equal(maps, torch.zeros(N, 1, 6, 6, dtype=dtype))


def test_only_inputs_that_the_teacher_does_not_tell_apart_from_the_population_are_concerned():
    """Of features that are constant but for one input, that input alone can follow the Teacher."""

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer((x.mean((1, 2, 3)) > 10).double()[:, None])

    unicam = make(teacher_func=Bright(), teacher_layer="layer")
    population = unicam.reference(references())
    x = inputs()
    x[2] += 20
    with pytest.warns(UserWarning, match=f"{N} of {N} inputs"):
        # One against the rest is no geometry either: its U-centered matrix is zero.
        assert unicam.attribute(x, reference=population).abs().amax() == 0
    both_kinds = references()
    both_kinds[:2] += 20
    population = unicam.reference(both_kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unicam.attribute(x, reference=population).flatten(1).abs().amax(1).min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_teacher_that_is_nearly_the_base_keeps_its_digits(mode):
    student, base, teacher = conv(1), conv(2), conv(2)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 1e-5 * torch.randn_like(parameter)
    unicam = UniCAM(student, "conv2", base, teacher_func=teacher)
    expected = literal_map(
        mode, layer_of(student, "conv2"), global_average_pool, pooled(base, "conv2"), pooled(teacher, "conv2"), inputs()
    )
    assert relative_difference(explain(unicam, mode, inputs()), expected) < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_a_base_without_geometry_takes_nothing_away(mode):
    student, base, teacher = conv(1), conv(2), teacher_of_width()
    nn.init.zeros_(base.conv2.weight)
    found = explain(UniCAM(student, "conv2", base, teacher_func=teacher), mode, inputs())
    another = conv(4)
    nn.init.zeros_(another.conv2.weight)
    assert found.abs().amax() > 0
    torch.testing.assert_close(
        found, explain(UniCAM(student, "conv2", another, teacher_func=teacher), mode, inputs())
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_student_that_is_the_base_warns_and_gives_zeros(mode):
    unicam = make(base_func=conv(1))
    population = unicam.reference(references()) if mode == "reference" else None
    with pytest.warns(UserWarning, match="Nothing of the features is left"):
        found = unicam.attribute(inputs(), reference=population)
    assert torch.equal(found, torch.zeros(N, 1, 6, 6))
