"""What loaders yield: every usual form is understood, and whatever is not says how to mend it."""

from collections import UserDict, namedtuple

import numpy
import pytest
import torch
from models import images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd._utils.batches import device_of, to_device, unpack_batch

N = 4
X, Y = images(N), torch.tensor([2, 0, 1, 2])
Pair = namedtuple("Pair", "image, label")


class Encoding(UserDict):
    """A mapping that is no dict, as Hugging Face's BatchEncoding is."""


# ------------------------------------------------------------------------- what is understood


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        Pair(X, Y),
        (X, Y, torch.arange(N), "paths"),
        (X, Y.tolist()),
        (X, tuple(Y.tolist())),
        (X, list(Y.numpy())),
        (X, Y.to(torch.int32)),
        (X, Y[:, None]),
        {"pixel_values": X, "labels": Y},
        {"label": Y, "pixel_values": X, "id": list("abcd")},
        Encoding(pixel_values=X, labels=Y.tolist()),
    ],
)
def test_usual_batches_give_inputs_and_labels(batch):
    inputs, labels = unpack_batch(batch)
    assert isinstance(inputs.student, tuple) and len(inputs.student) == 1 and inputs.student[0] is X
    assert inputs.student.names is None and inputs.student.token_mask is None and not inputs.own
    assert labels.dtype == torch.int64 and labels.device.type == "cpu"
    assert labels.tolist() == Y.tolist()


@pytest.mark.parametrize("container", [tuple, list])
def test_several_inputs_stay_several(container):
    inputs, labels = unpack_batch((container([X, X[:, :1]]), Y))
    assert [tuple(value.shape) for value in inputs.student] == [(N, 3, 12, 12), (N, 1, 12, 12)]
    assert labels.tolist() == Y.tolist()


def test_batches_of_a_loader():
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    assert [unpack_batch(batch).labels.tolist() for batch in loader] == [[2, 0, 1], [2]]


def test_numpy_labels():
    assert unpack_batch((X, Y.numpy())).labels.tolist() == Y.tolist()
    with pytest.raises(TypeError, match="labels"):
        unpack_batch((X, numpy.array([0.5, 1, 2, 3])))


def test_labels_are_a_copy():
    given = Y.clone()
    labels = unpack_batch((X, given)).labels
    given += 1
    assert labels.tolist() == Y.tolist()


def test_unpack_knows_other_batches():
    inputs, labels = unpack_batch({"image": X, "y": Y}, lambda batch: (batch["image"], batch["y"]))
    assert inputs.student[0] is X and labels.tolist() == Y.tolist()


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "batch, error, words",
    [
        (X, TypeError, r"yields a tensor of shape \(4, 3, 12, 12\), in which no labels .* unpack="),
        ([X], TypeError, "a list of 1, in which no labels"),
        ("batch", TypeError, "yields str"),
        ({"pixel_values": X}, ValueError, r"\['pixel_values'\], without labels; .* unpack="),
        ({"image": X, "target": Y}, ValueError, r"\['image', 'target'\], without labels; .* unpack="),
        ((X, None), TypeError, "None for labels"),
        (("path", Y), TypeError, "inputs of a batch must be a tensor"),
        ((X[:0], Y[:0]), ValueError, "must hold the examples"),
        (((X, X[:2]), Y), ValueError, r"\[4, 2\] rows"),
        ((X, Y[:3]), ValueError, "one label per input"),
        ((X, 1), ValueError, r"1 label\(s\) for 4 inputs"),
        ((X, [1]), ValueError, r"1 label\(s\) for 4 inputs"),
        ((X, Y[:1]), ValueError, r"1 label\(s\) for 4 inputs"),
        ((X, Y.float()), TypeError, "integer class labels"),
        ((X, ["cat"] * N), TypeError, "class labels"),
        ((X, torch.eye(N)), TypeError, r"shape \(4, 4\) .*argmax.* unpack="),
        ((X, torch.eye(N).long()), ValueError, r"shape \(4, 4\) .*argmax.* unpack="),
        ((X, torch.tensor([0, 1, -100, 1])), ValueError, r"negative label -100 \(input 2\).* unpack="),
    ],
)
def test_unfit_batches_are_refused(batch, error, words):
    with pytest.raises(error, match=words):
        unpack_batch(batch)


@pytest.mark.parametrize("returned", [X, None, (X,), (X, Y, Y), {"inputs": X, "labels": Y}])
def test_unpack_must_give_a_pair(returned):
    with pytest.raises(TypeError, match=r"unpack must return the pair \(inputs, labels\)"):
        unpack_batch((X, Y), lambda batch: returned)


# --------------------------------------------------------------------------------- devices


def test_a_models_device_is_that_of_its_parameters_or_buffers():
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm2d(2, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.Flatten()) is None
    assert device_of(lambda x: x) is None


def test_everything_in_a_batch_moves():
    meta = torch.device("meta")
    moved = to_device((X, [Y, "path"], {"mask": X}, Pair(X, 3)), meta)
    assert moved[0].device == moved[1][0].device == moved[2]["mask"].device == moved[3].image.device == meta
    assert moved[1][1] == "path" and moved[3] == (moved[3].image, 3) and isinstance(moved[3], Pair)


def test_without_a_device_nothing_moves():
    batch = (X, Y)
    assert to_device(batch, None) is batch
