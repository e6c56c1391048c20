"""Whatever is passed: a right result, or a ValueError or TypeError of the package's own that names the argument."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import warnings
from importlib.util import find_spec
from typing import Any, Iterable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from state import unchanged_state
from torch import Tensor

from captum_kd.metrics import TransferReport
from fuzz.cases import CASES, Case, public_names
from fuzz.odd import Opaque, TheModelsOwnError, odd_values
from fuzz.values import MODELS, PACKAGE


EXAMPLES = int(os.environ.get("CAPTUM_KD_FUZZ_EXAMPLES", "15"))
"""For each function. Some thousands were run when it was written; these few are for every change."""


def params(names: Iterable[str]) -> list[Any]:
    """The cases, without those whose optional package is not installed."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(needs is not None and find_spec(needs) is None, reason=f"needs {needs}"))
        for name in names
        for needs in [CASES[name].needs]
    ]


def test_every_public_function_and_method_is_fuzzed():
    covered = {name.split(",")[0] for name in CASES}
    results = ("TransferReport", "LayerSimilarity")
    without_arguments = {f"captum_kd.metrics.{name}.{method}" for name in results for method in ("to_dict", "to_markdown")}
    without_arguments |= {f"captum_kd.metrics.{name}.to_dataframe" for name in ("LayerSimilarity", "KeepCurve")}
    without_arguments |= {"captum_kd.metrics.inference.Products.rows"}
    without_arguments |= {f"captum_kd.monitor.TransferMonitor.{name}" for name in ("scalars", "state_dict", "to_dataframe")}
    metrics = ("FeatureSimilarityScore", "RelevanceScore", "TransferScores", "PredictionAgreement")
    without_arguments |= {f"captum_kd.metrics.torchmetrics.{name}.compute" for name in metrics}
    passed_by_the_package = {"captum_kd.ReferencePopulation", "captum_kd.ReferencePopulation.check"}
    of_matplotlib = {"captum_kd.visualization.TokenFigure", "captum_kd.visualization.TokenFigure.set"}
    assert set(public_names()) - without_arguments - passed_by_the_package - of_matplotlib == covered


@pytest.mark.parametrize("name", params(CASES))
def test_the_valid_calls_are_valid(name):
    case = CASES[name]
    arguments = case.valid()
    assert set(arguments) <= set(case.arguments)
    check(case, {}, arguments)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", params(name for name in CASES if CASES[name].arguments))
def test_every_argument_is_looked_at(name):
    """Chance may pass one over; and what is no argument for anything must be refused whoever is given it."""
    case = CASES[name]
    assert [argument for argument in case.arguments if not check(case, {argument: Opaque()}, case.valid())] == []


def test_no_argument_is_out_of_the_cases_sight():
    """Of all public functions only two pass on what they do not name, to an explanation; metrics pass theirs to torchmetrics."""
    collecting = {
        name
        for name, case in CASES.items()
        if not name.startswith("captum_kd.metrics.torchmetrics.")
        for each in inspect.signature(case.signature).parameters.values()
        if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    assert collecting == {"captum_kd.metrics.randomization_test", "captum_kd.metrics.sensitivity_max"}
    for name, function in public_names().items():
        if name in CASES and not isinstance(function, type):
            signatures = (getattr(each, "__wrapped__", each) for each in (function, CASES[name].signature))
            assert len({getattr(each, "__func__", each).__qualname__ for each in signatures}) == 1, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", params(name for name in CASES if CASES[name].arguments))
def test_any_arguments(name):
    case = CASES[name]

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.dictionaries(st.sampled_from(case.arguments), odd_values(), min_size=1, max_size=2))
    def run(odd: dict[str, Any]) -> None:
        check(case, odd, case.valid())

    run()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", params(CASES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_users_default_device_and_dtype_change_nothing(name, dtype):
    """What is made inside is made where and as it is needed; "meta" stands for any device that is not the inputs'."""
    case = CASES[name]
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = shown(case.call(**case.valid()))
        torch.manual_seed(0)
        arguments = case.valid()
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta"):
                found = shown(case.call(**arguments))
        finally:
            torch.set_default_dtype(before)
    assert found == expected


def shown(result: Any) -> Any:
    """Tensors as numbers, reports as they are written, objects as they say they are: comparable by ``==``."""
    if isinstance(result, Tensor):
        return str(result.dtype), result.tolist()
    if isinstance(result, TransferReport):
        return result.to_dict()
    if isinstance(result, dict):
        return {key: shown(value) for key, value in result.items()}
    if isinstance(result, (tuple, list)):
        return [shown(value) for value in result]
    return result if isinstance(result, (str, int, float, type(None))) else type(result)


def check(case: Case, odd: dict[str, Any], valid: dict[str, Any]) -> bool:
    """Whether the call was refused."""
    arguments = {**valid, **odd}
    with unchanged_state(MODELS, list(tensors_in(arguments.values())), except_for=["random"] if case.draws else []):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = case.call(**arguments)
                if case.check is not None:
                    case.check(result, arguments)
        except TheModelsOwnError:
            return True
        except (ValueError, TypeError) as error:
            assert odd, error
            check_message(case, odd, error)
            return True
    return False


def check_message(case: Case, odd: dict[str, Any], error: Exception) -> None:
    """The error is raised on purpose, names an argument that was changed, what came and what was expected."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    source = linecache.getline(file, line).strip()
    if not (file.startswith(PACKAGE) and source.startswith("raise ")):
        raise AssertionError(f"{type(error).__name__} by accident at {file}:{line}: {source}: {error}") from error
    message = str(error)
    words = [word for argument in odd for word in (argument, *case.known_as.get(argument, ()))]
    named = any(re.search(rf"(?<!\w){re.escape(word)}", message, re.I) for word in words)
    assert named, f"names none of {words}: {message}"
    assert re.search(r"\b(got|has|have|gives?|holds?|is|are|was|were|needs?|yields?|keeps)\b", message), f"what came? {message}"
    way_out = r"must|expected|pass|needs?|choose|between|at least|one of|make|use|there are|remove|leave|check|train"
    assert re.search(way_out, message, re.I), f"what was expected? {message}"


def tensors_in(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and not value.is_nested and not value.is_quantized:
            yield value
        elif isinstance(value, dict):
            yield from tensors_in(value.values())
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)
