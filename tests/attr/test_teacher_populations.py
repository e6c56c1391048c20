"""Reference populations made with a Teacher."""

import copy
import pickle

import pytest
import torch
from conv_pairs import M, N, inputs
from conv_teachers import conv, explain, make, references, watched
from models import labels

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_population_serves_as_well(copied):
    unicam = make(layer=["conv1", "conv2"])
    population = unicam.reference(references())
    other = copied(population)
    assert repr(population) == repr(other) == "ReferencePopulation(10 inputs with a Teacher, 2 layer(s))"
    for a, b in zip(population.layers, other.layers):
        assert a.teacher.points.data_ptr() != b.teacher.points.data_ptr()
        assert not a.teacher.points.requires_grad
    expected = unicam.attribute(inputs(), reference=population)
    assert all(map(torch.equal, unicam.attribute(inputs(), reference=other), expected))


@pytest.mark.parametrize(
    ("made_by", "used_by", "message"),
    [
        ({"teacher_func": None}, {}, "made with teacher_func=None, but this call has 'a Teacher'"),
        ({}, {"teacher_func": None}, "made with teacher_func='a Teacher', but this call has None"),
        ({}, {"teacher_func": conv(4, 9)}, "The Teacher's weights or buffers .* are not those the reference"),
        ({}, {"teacher_layer": "conv3"}, "made with Teacher's layers=.*conv2.* but this call has .*conv3"),
    ],
    ids=["without", "with", "another", "another layer"],
)
def test_a_population_made_with_another_teacher_is_an_error(made_by, used_by, message):
    population = make(**made_by).reference(references(), labels(M))
    unicam = make(**used_by)
    runs = watched(unicam.forward_func, unicam.base_func)
    with pytest.raises(ValueError, match=message) as error:
        unicam.attribute(inputs(), labels(N), reference=population)
    assert "Make a population with reference()" in str(error.value)
    assert runs == []


def test_a_population_serves_another_unicam_made_alike():
    torch.testing.assert_close(
        make().attribute(inputs(), reference=make().reference(references())), explain(make(), "reference", inputs())
    )


def test_a_population_serves_both_directions():
    unicam = make()
    population, there = unicam.reference(references()), unicam.residual().reference(references())
    residual = unicam.residual().attribute(inputs(), reference=population)
    torch.testing.assert_close(residual, unicam.residual().attribute(inputs(), reference=there))
    torch.testing.assert_close(
        unicam.attribute(inputs(), reference=there), unicam.attribute(inputs(), reference=population)
    )
