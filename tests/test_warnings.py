"""Warnings are issued at the user's line, whoever calls whom on the way to their cause."""

import warnings
from contextlib import contextmanager
from typing import Iterator

import torch
from captum.attr import NoiseTunnel
from models import ConvNet, images, labels

from captum_kd import UniCAM
from captum_kd.perturb import keep_relevant, relevant_pixels


@contextmanager
def warned_of_here(words: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield
    assert {warning.filename for warning in record if words in str(warning.message)} == {__file__}


def test_below_a_public_function():
    with warned_of_here("the same value at many pixels"):
        relevant_pixels(torch.zeros(1, 1, 8, 8), (8, 8))


def test_below_a_public_function_that_another_one_calls():
    with warned_of_here("the same value at many pixels"):
        keep_relevant(images(1), torch.zeros(1, 1, 12, 12))


def test_below_a_method_that_captum_calls():
    tunnel = NoiseTunnel(UniCAM(ConvNet(seed=1), "conv2", ConvNet(seed=2)))
    with warned_of_here("follow chance"):
        tunnel.attribute(images(3), nt_samples=4, target=labels(3))
