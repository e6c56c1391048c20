"""Bad input of the report, and what it leaves behind: nothing."""

import pytest
import torch
from models import ConvNet, TwoInputs, images, labels
from population import batches, by_score, compare, data, related
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.distance import distance_correlation


def untouched():
    model = related(1)

    def run(*args):
        raise AssertionError("a model ran")

    model.register_forward_pre_hook(run)
    return model


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": "conv22"}, ValueError, "Close matches: 'conv2'"),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": ["conv2", "conv2"]}, ValueError, "twice"),
        ({"layers": nn.Conv2d(1, 1, 1)}, TypeError, "a module belongs to one model|A module belongs to one model"),
        ({"layers": [nn.Conv2d(1, 1, 1)]}, TypeError, "model name: layer"),
        ({"layers": {"last": {"student": "conv3"}}}, ValueError, "has no layer for base"),
        ({"layers": {"last": {"student": "conv3", "basis": "conv3"}}}, ValueError, "names 'basis'"),
        ({"layers": {"last": 3}}, TypeError, "must be a layer's name"),
        ({"base": {"student": related(2)}}, ValueError, "Two models are called 'student'"),
        ({"base": {}}, ValueError, "empty"),
        ({"base": {1: related(2)}}, TypeError, "strings"),
        ({"base": 3}, TypeError, "base must be callable"),
        ({"teacher": {"t": related(2)}}, TypeError, "one model"),
        ({"confidence": 95}, ValueError, "between 0 and 1"),
        ({"confidence": True}, TypeError, "between 0 and 1"),
        ({"n_permutations": -1}, ValueError, "n_permutations"),
        ({"seed": 0.5}, ValueError, "seed"),
        ({"seed": 2**63}, ValueError, "seed must be below"),
        ({"feature_device": "gpux"}, ValueError, "no device that torch can use"),
        ({"feature_device": "meta"}, ValueError, "a device that holds numbers, got 'meta'; pass 'cpu'"),
        ({"shared_seeds": None}, TypeError, "shared_seeds must be a list"),
        ({"shared_seeds": [("student",)]}, TypeError, r"shared_seeds must hold pairs .*got \('student',\)"),
        ({"localize": "unicam", "reference": (images(9), None)}, TypeError, r"must hold labels, got \(inputs, None\)"),
        ({"localize": "gradcam", "keep": 10**400}, ValueError, "keep must be"),
        ({"groups": {"g": None}}, TypeError, "list of Students"),
        ({"groups": {}}, ValueError, "empty mapping"),
        ({"population": "batches"}, ValueError, "'all' or 'batch'"),
        ({"estimator": "best"}, ValueError, "estimator"),
        ({"feature_transform": 3}, TypeError, "feature_transform"),
        ({"unpack": 3}, TypeError, "unpack"),
        ({"class_embeddings": torch.zeros(3)}, ValueError, "class_embeddings"),
        ({"memory_limit": 0}, ValueError, "memory_limit"),
        ({"grid": (0, 1)}, ValueError, "grid"),
        ({"data": 3}, TypeError, "DataLoader"),
        ({"data": images(9)}, TypeError, r"data=\[\(inputs, labels\)\]"),
        ({"data": [images(9)]}, TypeError, "unpack="),
        ({"data": [(images(9), labels(8))]}, ValueError, "9 inputs"),
        ({"data": []}, ValueError, "no batches"),
        ({"class_embeddings": torch.randn(2, 4)}, ValueError, "label 2"),
    ],
)
def test_unfit_arguments_are_refused_before_any_model_runs(change, error, words):
    arguments = {"student": untouched(), "base": related(2), "layers": "conv2", "data": batches(9), **change}
    with pytest.raises(error, match=words):
        compare(**arguments)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([(images(4), labels(4))], "at least 5"),
        ([(images(9), torch.zeros(9, dtype=torch.long))], "no geometry"),
        ([(images(9), torch.arange(9))], "no geometry"),
        ([(images(9).fill_(float("nan")), labels(9))], "student gives non-finite features|layer 'conv2' of student"),
        ([(images(9), labels(9)), (images(9, 16, 16), labels(9))], "Resize them"),
    ],
)
@pytest.mark.filterwarnings("ignore:Only")
def test_data_that_cannot_be_scored(data, words):
    with pytest.raises(ValueError, match=words):
        compare(related(1), related(2), "conv2", data)


def test_no_usable_mini_batch():
    with pytest.raises(ValueError, match="None of the 2 mini-batches"):
        compare(related(1), related(2), "conv2", [(images(4), torch.arange(4))] * 2, population="batch")


def test_names_are_of_no_use_for_plain_functions():
    model = related(1)
    with pytest.raises(ValueError, match="model name: layer"):
        compare(lambda x: model(x), related(2), "conv2", batches(9))


def state(model):
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
    )


@pytest.mark.parametrize("localize", [None, "gradcam"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(localize, fails):
    student, base = related(1).train(), related(2)
    student.conv1.weight.requires_grad_(False)
    base.fc.weight.grad = torch.ones_like(base.fc.weight)
    before, random = [state(model) for model in (student, base)], torch.get_rng_state()
    if fails:
        def broken(loader):
            yield from loader[:2]
            raise RuntimeError("the disk is gone")

        with pytest.raises(RuntimeError, match="the disk is gone"):
            compare(student, base, "conv2", broken(batches(9)), localize=localize)
    else:
        compare(student, base, "conv2", batches(9), localize=localize, confidence=0.9, n_permutations=20)
    for old, model in zip(before, (student, base)):
        new = state(model)
        assert old[0] == new[0] and old[2] == new[2]
        for (flag, grad), (new_flag, new_grad) in zip(old[1], new[1]):
            assert flag == new_flag and (grad is new_grad is None or torch.equal(grad, new_grad))
    assert torch.equal(random, torch.get_rng_state())


def test_the_random_state_survives_a_loader_that_draws_from_it():
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    models = related(1), related(2)  # made first: they draw their weights
    before = torch.get_rng_state()
    compare(*models, "conv2", loader)
    assert torch.equal(before, torch.get_rng_state())


def test_several_inputs_and_further_arguments():
    left, right = torch.randn(30, 4), torch.randn(30, 3)
    y = labels(30)
    loader = [((left[:16], right[:16]), y[:16]), ((left[16:], right[16:]), y[16:])]
    student, base = TwoInputs(1), TwoInputs(2)
    report = compare(student, base, "mix", loader, additional_forward_args=0.5)
    expected = distance_correlation(student(left, right, 0.5).detach(), base(left, right, 0.5).detach())
    assert by_score(report, "mix")["fss"]["value"] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="one input of images"):
        compare(student, base, "mix", loader, localize="gradcam")


def test_a_layer_never_reached_is_named():
    class Lazy(ConvNet):
        def __init__(self):
            super().__init__()
            self.spare = nn.Identity()

    with pytest.raises(ValueError, match="never reached layer 'spare' of student"):
        compare(Lazy(), Lazy(), "spare", batches(9))
