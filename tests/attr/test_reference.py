"""Reference populations: what they are, and what they may be used for."""

import copy
import pickle
import warnings

import pytest
import torch
from models import ConvNet, TwoInputs, images, labels
from torch import Tensor, nn

from captum_kd import ReferencePopulation, UniCAM, flatten

N, M = 3, 10

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def make(**settings) -> UniCAM:
    return UniCAM(ConvNet(seed=1), settings.pop("layer", "conv2"), ConvNet(seed=2), **settings)


def inputs(n: int = N, seed: int = 0) -> Tensor:
    return images(n, seed=seed)


@pytest.fixture
def unicam():
    return make()


@pytest.fixture
def population(unicam):
    return unicam.reference(inputs(M, seed=5), labels(M))


def tensors(value) -> list[Tensor]:
    """All tensors of a population, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, ReferencePopulation):
        value = list(vars(value).values())
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []


# ---------------------------------------------------------------------------- the object


def test_length_and_repr(unicam, population):
    assert len(population) == M
    assert repr(population) == "ReferencePopulation(10 labeled inputs, 1 layer(s))"
    several = make(layer=["conv1", "conv2"]).reference(inputs(5))
    assert repr(several) == "ReferencePopulation(5 unlabeled inputs, 2 layer(s))"
    assert population.is_labeled and not several.is_labeled


def test_holds_detached_tensors_and_no_activations(population):
    found = tensors(population)
    assert found and not any(tensor.requires_grad for tensor in found)
    # Nothing is larger than the pooled features, 10 inputs of 6 channels.
    assert max(tensor.untyped_storage().nbytes() for tensor in found) <= M * 10 * 8


def test_does_not_keep_the_activations_that_features_are_a_view_of():
    """The first row and column: 16 bytes of each input's 6 x 6 positions in 6 channels."""
    population = make(feature_transform=lambda x: x[:, :4, 0, 0]).reference(inputs(M))
    assert max(tensor.untyped_storage().nbytes() for tensor in tensors(population)) <= M * 4 * 4 + M * 8
    assert len(pickle.dumps(population)) < 10_000


@pytest.mark.parametrize("number", [5, 29, 30])
def test_a_small_one_is_warned_of_at_the_call(unicam, number):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unicam.reference(inputs(number))
    expected = [f"The population is {number} inputs; below 30 UniCAM maps follow chance"] if number < 30 else []
    assert [str(warning.message).split(".")[0] for warning in caught] == expected
    assert all(warning.filename == __file__ and "64 inputs or more" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copy_serves_as_well(unicam, population, copied):
    other = copied(population)
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(tensors(population), tensors(other)) if a.numel() > 1)
    expected = unicam.attribute(inputs(), labels(N), reference=population)
    assert torch.equal(unicam.attribute(inputs(), labels(N), reference=other), expected)


def test_using_it_does_not_change_it(unicam, population):
    before = [tensor.clone() for tensor in tensors(population)]
    unicam.attribute_transfer(inputs(), labels(N), reference=population)
    torch.testing.assert_close(tensors(population), before, rtol=0, atol=0)


def test_it_does_not_change_with_the_tensors_it_was_made_of():
    x, y, embeddings = inputs(M, seed=5), labels(M), torch.eye(3, dtype=torch.float64)
    unicam = make(class_embeddings=embeddings)
    population = unicam.reference(x, y)
    before = unicam.attribute(inputs(), labels(N), reference=population)
    for given in (x, y, embeddings):
        given.zero_()
    assert torch.equal(unicam.attribute(inputs(), labels(N), reference=population), before)


# -------------------------------------------------------------------------- what it serves


def test_order_of_the_references_does_not_matter(unicam, population):
    order = torch.randperm(M, generator=torch.Generator().manual_seed(0))
    other = unicam.reference(inputs(M, seed=5)[order], labels(M)[order])
    torch.testing.assert_close(
        unicam.attribute(inputs(), labels(N), reference=other),
        unicam.attribute(inputs(), labels(N), reference=population),
        rtol=1e-4,
        atol=1e-6,
    )


def test_serves_the_residual_direction_too(unicam, population):
    residual = unicam.residual()
    made_there = residual.reference(inputs(M, seed=5), labels(M))
    found = residual.attribute(inputs(), labels(N), reference=population)
    torch.testing.assert_close(found, residual.attribute(inputs(), labels(N), reference=made_there))
    torch.testing.assert_close(
        unicam.attribute(inputs(), labels(N), reference=made_there),
        unicam.attribute(inputs(), labels(N), reference=population),
    )
    assert not torch.allclose(found, unicam.attribute(inputs(), labels(N), reference=population))


def test_serves_another_unicam_made_alike(unicam, population):
    alike = make()
    expected = unicam.attribute(inputs(), labels(N), reference=population)
    torch.testing.assert_close(alike.attribute(inputs(), labels(N), reference=population), expected)


def test_serves_another_map_layer_ahead_of_the_same_feature_layer():
    """Only the features make a population."""
    population = make(layer="conv2", feature_layer="conv3").reference(inputs(M, seed=5), labels(M))
    assert make(layer="conv1", feature_layer="conv3").attribute(inputs(), 1, reference=population).shape[2:] == (12, 12)


def test_serves_layers_named_or_given_as_modules(population):
    student, base = ConvNet(seed=1), ConvNet(seed=2)
    by_module = UniCAM(student, student.conv2, base, base.conv2)
    assert by_module.attribute(inputs(), 1, reference=population).shape == (N, 1, 6, 6)


def test_a_labeled_population_serves_the_objective_without_labels(unicam, population):
    unlabeled = unicam.reference(inputs(M, seed=5))
    torch.testing.assert_close(
        unicam.attribute(inputs(), reference=population), unicam.attribute(inputs(), reference=unlabeled)
    )


def test_inputs_may_be_references_themselves(unicam, population):
    found = unicam.attribute(inputs(M, seed=5), labels(M), reference=population)
    assert found.isfinite().all() and found.abs().amax() > 0


def test_tuple_inputs_and_additional_arguments():
    unicam = UniCAM(TwoInputs(seed=1).double(), "mix", TwoInputs(seed=2).double())
    x, references = ((torch.randn(n, 4).double(), torch.randn(n, 3).double()) for n in (N, M))
    shift, reference_shift = torch.randn(N, 6).double(), torch.randn(M, 6).double()
    population = unicam.reference(references, labels(M), reference_shift, internal_batch_size=4)
    batch = unicam.attribute(x, labels(N), shift, reference=population)
    one = unicam.attribute((x[0][1:2], x[1][1:2]), 1, shift[1:2], reference=population)
    torch.testing.assert_close(one, batch[1:2])
    unshifted = unicam.reference(references, labels(M))
    assert not torch.allclose(unicam.attribute(x, labels(N), shift, reference=unshifted), batch)


# ---------------------------------------------------------------------------- what it does not


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        (lambda: make(layer="conv1"), "Student's layers"),
        (lambda: make(feature_layer="conv3"), "Student's layers"),
        (lambda: make(layer=["conv2", "conv1"]), "Student's layers"),
        (lambda: make(layer=["conv2"], base_layer=["conv1"]), "Base model's layers"),
        (lambda: make(feature_transform=flatten), "feature_transform"),
        (lambda: make(class_embeddings=torch.eye(3)), "class_embeddings"),
        (lambda: make(prefix_tokens=1), "Student's layout"),
    ],
    ids=[
        "layer",
        "feature layer",
        "several layers",
        "base layer",
        "transform",
        "embeddings",
        "layout",
    ],
)
def test_use_by_a_unicam_made_otherwise_is_an_error(population, other, setting):
    unicam = other()
    runs = []
    for model in (unicam.forward_func, unicam.base_func):
        model.register_forward_hook(lambda m, i, o: runs.append(m))
    with pytest.raises(ValueError, match=f"population was made with {setting}=.* but this call has") as error:
        unicam.attribute(inputs(), labels(N), reference=population)
    assert "Make a population with reference()" in str(error.value)
    assert runs == []


def test_use_at_the_layers_input_is_an_error(unicam, population):
    with pytest.raises(ValueError, match="attribute_to_layer_input=False, but this call has True"):
        unicam.attribute(inputs(), 1, attribute_to_layer_input=True, reference=population)
    at_input = unicam.reference(inputs(M), labels(M), attribute_to_layer_input=True)
    assert unicam.attribute(inputs(), 1, attribute_to_layer_input=True, reference=at_input).shape == (N, 1, 12, 12)


def test_inputs_of_another_size_with_features_that_keep_positions():
    unicam = make(feature_transform=flatten)
    population = unicam.reference(inputs(M), labels(M))
    with pytest.raises(ValueError, match="have 384 features, those of the reference population 216.*the same size"):
        unicam.attribute(images(N, 16, 16), 1, reference=population)


def test_inputs_of_another_size_with_pooled_features(unicam, population):
    assert unicam.attribute(images(N, 16, 20), 1, reference=population).shape == (N, 1, 8, 10)


def test_labels_with_a_population_without_labels(unicam):
    population = unicam.reference(inputs(M))
    runs = []
    unicam.forward_func.register_forward_hook(lambda m, i, o: runs.append(m))
    with pytest.raises(ValueError) as error:
        unicam.attribute(inputs(), labels(N), reference=population)
    assert "no labels" in str(error.value)
    assert "reference(inputs, target)" in str(error.value) and "target=None" in str(error.value)
    assert runs == []


def test_a_label_that_leaves_no_geometry_is_named_with_its_input():
    """A class so far away that beside it all others are one."""
    unicam = make(class_embeddings=torch.tensor([[0.0], [1.0], [1e8]], dtype=torch.float64))
    population = unicam.reference(inputs(4, seed=5), [0, 0, 1, 1])
    runs = []
    unicam.forward_func.register_forward_hook(lambda m, i, o: runs.append(m))
    with pytest.raises(ValueError) as error:
        unicam.attribute(inputs(), [0, 2, 2], reference=population)
    assert "input 1 (label 2)" in str(error.value) and "no geometry" in str(error.value)
    assert runs == []


def test_a_single_input_needs_no_company(unicam, population):
    assert unicam.attribute(inputs(1), 2, reference=population).shape == (1, 1, 6, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_models_converted_afterwards_need_a_new_population(population, dtype):
    converted = UniCAM(ConvNet(seed=1).to(dtype), "conv2", ConvNet(seed=2).to(dtype))
    x, references = inputs().to(dtype), inputs(M, seed=5).to(dtype)
    with pytest.raises(ValueError, match="Student's weights or buffers .* are not those"):
        converted.attribute(x, 1, reference=population)
    found = converted.attribute(x, 1, reference=converted.reference(references, labels(M)))
    assert found.dtype == dtype


def test_features_of_one_dimension():
    class Head(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.linear = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.tanh(x))

    unicam = UniCAM(Head(1), "linear", nn.Sequential(nn.Linear(4, 3)), "0")
    x = torch.randn(M, 4, generator=torch.Generator().manual_seed(0))
    population = unicam.reference(x, labels(M))
    assert unicam.attribute(x[:1], 1, reference=population).shape == (1, 1)


@pytest.mark.parametrize("change", [list, lambda layers: (), lambda layers: ("conv2",), lambda layers: (*layers, None)])
def test_layers_that_are_no_populations_are_refused(population, change):
    with pytest.raises(TypeError, match="tuple of at least one LayerReference"):
        ReferencePopulation(change(population.layers), population.settings)
