"""Digests are equal for equal things, in any process, and differ for others."""

import subprocess
import sys
import types

import pytest
import torch
from torch import Tensor, nn

from captum_kd import flatten, global_average_pool
from captum_kd._models.reachable import modules_of
from captum_kd._utils.checksums import checksum
from captum_kd.metrics._fingerprints import digest_of_callable


class Slotted:
    __slots__ = ()


# ------------------------------------------------------------------------------- functions


def test_lists_and_names_that_have_no_value_yet_count():
    def of(widths, is_given):
        if is_given:
            later = 3

        def transform(x):
            return x[:, widths[0]], later

        return transform

    digests = [digest_of_callable(of(*case)) for case in (([1, 2], False), ([1, 3], False), ([1, 2], True))]
    assert len(set(digests)) == 3
    assert digest_of_callable(of([1, 2], False)) == digests[0]


@pytest.mark.parametrize("kind", [set, frozenset, tuple, list, dict.fromkeys])
def test_containers_count_by_what_is_in_them(kind):
    """In whatever order a set gives it, which differs between equal ones and between processes."""

    def of(values):
        return lambda x: (x, values)

    first, same, more, other = kind("abhipq"), kind("abhipq"), kind("abhipqz"), kind("abhipz")
    digests = [digest_of_callable(of(each)) for each in (first, same, more, other)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    if kind in (set, frozenset):  # these share a place in the table: a set gives them as they came
        assert digest_of_callable(of(kind([8, 0, 16]))) == digest_of_callable(of(kind([16, 8, 0])))


def test_functions_that_hold_each_other_end():
    def ping(x):
        return pong(x)

    def pong(x):
        return model(ping(x))

    model = nn.Sequential(nn.Linear(2, 2))
    assert modules_of(ping) == list(model.modules())
    assert digest_of_callable(ping) == digest_of_callable(ping) != digest_of_callable(pong)


def test_installed_functions_are_known_by_name():
    """Their code is another in another version of Python."""
    assert digest_of_callable(torch.nn.functional.normalize) != digest_of_callable(torch.nn.functional.relu)
    function = types.FunctionType(flatten.__code__, {}, "global_average_pool")
    function.__module__, function.__qualname__ = global_average_pool.__module__, global_average_pool.__qualname__
    assert digest_of_callable(function) == digest_of_callable(global_average_pool)


SCRIPT = """
import functools, torch
from captum_kd.metrics._fingerprints import digest_of_callable
names, table, linear = {"a", "bc", "def", 3}, {"x": 1.5, 2: (None, ...)}, torch.nn.Linear(2, 2)
torch.nn.init.ones_(linear.weight), torch.nn.init.zeros_(linear.bias)
def transform(x, *, names=names): return table if x in {"p", "q", "r"} else linear(x)
digest = digest_of_callable(functools.partial(transform, y=torch.relu, x=slice(1, 2)))
"""


def test_digests_are_those_of_another_process():
    here = {"__name__": "script"}
    exec(compile(SCRIPT, "script", "exec"), here)
    command = f"there = {{'__name__': 'script'}}; exec(compile({SCRIPT!r}, 'script', 'exec'), there); print(there['digest'])"
    path = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}
    ran = subprocess.run([sys.executable, "-c", command], env=path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == here["digest"]


def test_objects_that_say_nothing_of_themselves_count_by_type():
    def of(value):
        return digest_of_callable(lambda x: value)

    assert of(open) != of(Slotted())
    assert of(i for i in ()) == of(i for i in ())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_scripted_and_compiled_functions_and_modules():
    def pooled(x: Tensor) -> Tensor:
        return x.mean(2)

    def greatest(x: Tensor) -> Tensor:
        return x.amax(2)

    first, second = torch.jit.script(pooled), torch.jit.script(greatest)
    assert digest_of_callable(first) == digest_of_callable(torch.jit.script(pooled)) != digest_of_callable(second)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for function in (pooled, model):
        assert digest_of_callable(torch.compile(function, backend="eager")) == digest_of_callable(function)
    scripted = modules_of(torch.jit.script(model))
    assert [type(module) for module in modules_of(torch.compile(model, backend="eager"))] == [nn.Sequential, nn.Linear, nn.ReLU]
    weights = (checksum([p for m in found for p in m.parameters(recurse=False)]) for found in (scripted, [model[0]]))
    assert len(set(weights)) == 1
