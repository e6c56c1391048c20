"""Passes end once all layers have run, with the results of complete passes, and only where nothing can differ."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from types import MethodType, SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from models import images, labels
from state import unchanged_state
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_kd import UniCAM, flatten
from captum_kd.metrics import ModelOptions, compare_transfer, feature_similarity_score

N = 8
pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:In training mode", "ignore:None of the inputs")

RUNS: list[str] = []  # outside of the models, whose attributes decide whether passes may end early


class Noted(nn.Identity):
    """Notes that it ran."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        RUNS.append(self.name)
        return x


class Net(nn.Module):
    """Three layers, each followed by a module that notes its run."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 5, 3)
        self.after_first, self.after_second, self.end = Noted("first"), Noted("second"), Noted("end")
        self.fc = nn.Linear(5, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_first(self.first(x).tanh())
        x = self.after_second(self.second(x).tanh())
        return self.end(self.fc(self.third(x).tanh().mean((2, 3))))


def pair(kind: type = Net, layer: Any = "second", **settings: Any) -> UniCAM:
    return UniCAM(kind(1), layer, kind(2), **settings)


def runs(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    RUNS.clear()
    result = call()
    return result, list(RUNS)


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [tensor for each in result for tensor in flat(each)]


def assert_equal(first: Any, second: Any) -> None:
    assert len(flat(first)) == len(flat(second))
    assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(second)))


def check(make: Callable[..., UniCAM], *, stops: bool, x: Tensor = images(N), **call: Any) -> None:
    """Three calls agree with complete passes; the second and third end early or not."""
    never, unicam = make(stop_early=False), make()
    expected, complete = runs(lambda: never.attribute_transfer(x, labels(len(x)), **call))
    for number in range(3):
        found, own = runs(lambda: unicam.attribute_transfer(x, labels(len(x)), **call))
        assert_equal(found, expected)
        if number and stops:
            assert "end" in complete and "end" not in own
        else:
            assert own == complete


SETTINGS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "several layers": {"layer": ["second", "first"]},
    "deeper features": {"layer": "first", "feature_layer": "second"},
    "several layers, deeper features": {"layer": ["first", "second"], "feature_layer": "third"},
    "own transform": {"feature_transform": flatten},
    "Teacher": {"teacher_func": Net(3), "teacher_layer": "third"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("at_input", (False, True))
def test_maps_are_those_of_complete_passes(settings, at_input):
    check(lambda **more: pair(**settings, **more), stops=True, attribute_to_layer_input=at_input)


def test_the_modules_behind_the_last_layer_do_not_run():
    unicam = pair(layer=["first", "second"])
    x, y = images(N), labels(N)
    assert runs(lambda: unicam.attribute_transfer(x, y))[1] == ["first", "second", "end"] * 2
    assert runs(lambda: unicam.attribute_transfer(x, y))[1] == ["first"] * 2


def test_each_shape_begins_with_a_complete_pass():
    unicam = pair()
    for n, expected in ((8, True), (8, False), (9, True), (8, False), (9, False)):
        assert ("end" in runs(lambda: unicam.attribute(images(n), labels(n)))[1]) is expected


def test_batches_of_one_call_end_early_after_the_first():
    for settings in ({}, {"layer": "first", "feature_layer": "second"}):
        complete = pair(**settings, stop_early=False).attribute_transfer(images(N), labels(N), internal_batch_size=2)
        unicam = pair(**settings)
        found, own = runs(lambda: unicam.attribute_transfer(images(N), labels(N), internal_batch_size=2))
        assert_equal(found, complete)
        assert own.count("end") == 2  # one for each model


def test_populations_and_reference_mode_end_early():
    complete, unicam = pair(stop_early=False), pair()
    expected = complete.attribute(images(2), labels(2), reference=complete.reference(images(N), labels(N)))
    for number in range(2):
        population, own = runs(lambda: unicam.reference(images(N), labels(N)))
        found, more = runs(lambda: unicam.attribute(images(2), labels(2), reference=population))
        assert ("end" in own, "end" in more) == (number == 0, number == 0)
        assert_equal(found, expected)


# ------------------------------------------------------------------------------- models whose passes must be complete


class Again(Net):
    """Runs its second layer again behind the third."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.after_first(self.first(x))))
        return self.end(self.second(x[:, :4]).mean((2, 3)))


class AgainIfBright(Net):
    """Runs its second layer again for bright images only."""

    def forward(self, x: Tensor) -> Tensor:
        bright = bool(x.mean() > 0.5)
        x = self.second(self.first(x))
        if bright:
            x = self.second(x)
        return self.end(self.third(x).mean((2, 3)))


class Recurrent(Net):
    """Runs its second layer as often as an attribute says."""

    times = 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            x = self.second(x)
        return self.end(self.third(x).mean((2, 3)))


class Inheriting(Net):
    """Its code calls a method of the same name, which is not followed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Keeping(Net):
    """Keeps what its decoder takes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(self.first(x))
        x = self.second(self.kept[-1])
        return self.end((self.third(x).mean() + self.kept.pop(0)).mean((2, 3)))


class Numbering(Net):
    """Counts its passes behind the layers."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)))
        self.passes += 1
        return self.end(x.mean((2, 3)))


class NumberingDeeper(Net):
    """Counts its passes in a list inside an object."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.counts = SimpleNamespace(passes=[[0]])

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)) * (1 + self.counts.passes[0][0]))
        self.counts.passes[0][0] += 1
        return self.end(x.mean((2, 3)))


class SecondName(Net):
    """Holds its second layer in an attribute that is no child."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.held = [self.second]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        if bool(x.mean() > 1e9):
            x = self.held[0](x)
        return self.end(self.third(x).mean((2, 3)))


class Averaging(Net):
    """Updates a buffer behind its layers."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)))
        self.mean.mul_(0.9).add_(x.mean())
        return self.end(x.mean((2, 3)))


class Shared(Net):
    """Has its second layer under two names."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.tied = self.second

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        if bool(x.mean() > 1e9):
            x = self.tied(x)
        return self.end(self.third(x).mean((2, 3)))


class Named(Net):
    """Calls its layers by names that the code does not show."""

    def forward(self, x: Tensor) -> Tensor:
        for name in ("first", "second", "third"):
            x = getattr(self, name)(x)
        return self.end(x.mean((2, 3)))


@pytest.mark.parametrize(
    "kind",
    (
        Again, AgainIfBright, Recurrent, Inheriting, Keeping, Numbering, NumberingDeeper, SecondName, Averaging, Shared, Named,
    ),  # fmt: skip
)
def test_passes_are_complete_where_they_could_differ(kind):
    check(lambda **more: pair(kind, **more), stops=False)


def test_a_layer_that_runs_again_for_other_values_gives_its_last_run():
    complete, unicam = pair(AgainIfBright, stop_early=False), pair(AgainIfBright)
    for x in (images(N) - 1, images(N) + 1, images(N) - 1):
        assert_equal(unicam.attribute_transfer(x, labels(N)), complete.attribute_transfer(x, labels(N)))


def test_a_layer_that_runs_more_often_later_gives_its_last_run():
    complete, unicam = pair(Recurrent, stop_early=False), pair(Recurrent)
    for times in (1, 2):
        for each in (complete, unicam):
            each.forward_func.times = each.base_func.times = times
        assert_equal(unicam.attribute_transfer(images(N), labels(N)), complete.attribute_transfer(images(N), labels(N)))


@pytest.mark.parametrize("on_class", (False, True))
def test_a_replaced_forward_method_is_another_model(monkeypatch, on_class):
    def forward(self: Net, x: Tensor) -> Tensor:
        run = self.second
        return self.third(run(run(self.first(x)))).mean((2, 3))

    complete, unicam = pair(stop_early=False), pair()
    for _ in range(2):
        unicam.attribute_transfer(images(N), labels(N))
    if on_class:
        monkeypatch.setattr(Net, "forward", forward)
    else:
        for model in (complete.forward_func, unicam.forward_func):
            model.forward = MethodType(forward, model)
    for _ in range(2):
        assert_equal(unicam.attribute_transfer(images(N), labels(N)), complete.attribute_transfer(images(N), labels(N)))


def test_training_mode_runs_everything():
    class Training(Net):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.drop, self.norm = nn.Dropout(), nn.BatchNorm1d(3)
            self.train()

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.drop(super().forward(x)))

    check(lambda **more: pair(Training, **more), stops=False)
    complete, unicam = pair(Training, stop_early=False), pair(Training)
    for each in (complete, unicam):
        for _ in range(3):
            each.attribute_transfer(images(N), labels(N))
    for ours, theirs in zip(unicam.forward_func.buffers(), complete.forward_func.buffers()):
        assert torch.equal(ours, theirs)


def test_the_mode_is_that_of_the_moment():
    unicam = pair()
    for training in (False, False, True, False):
        unicam.forward_func.after_second.train(training)
        ends = runs(lambda: unicam.attribute(images(N), labels(N)))[1].count("end")
    assert ends == 0
    unicam.forward_func.after_second.train()
    assert runs(lambda: unicam.attribute(images(N), labels(N)))[1].count("end") == 1


@pytest.mark.parametrize("register", ("register_forward_hook", "register_forward_pre_hook"))
def test_hooks_of_later_modules_run(register):
    unicam, seen = pair(), []
    x, y = images(N), labels(N)
    expected = [unicam.attribute_transfer(x, y) for _ in range(2)][0]
    with_hook = getattr(unicam.forward_func.third, register)(lambda *_: seen.append("hook"))
    assert_equal(unicam.attribute_transfer(x, y), expected)
    assert seen == ["hook"]
    with_hook.remove()
    assert runs(lambda: unicam.attribute_transfer(x, y))[1].count("end") == 0


def test_hooks_of_all_modules_run():
    unicam, seen = pair(), []
    for _ in range(2):
        unicam.attribute_transfer(images(N), labels(N))
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        unicam.attribute_transfer(images(N), labels(N))
    finally:
        handle.remove()
    assert seen.count("Linear") == 2


def test_plain_functions_and_further_arguments_run_to_the_end():
    student, base = Net(1), Net(2)
    check(lambda **more: UniCAM(lambda x: student(x), student.second, lambda x: base(x), base.second, **more), stops=False)

    class Scaled(Net):
        def forward(self, x: Tensor, scale: float) -> Tensor:
            return self.end(self.third(self.second(self.first(x * scale))).mean((2, 3)))

    check(lambda **more: pair(Scaled, **more), stops=False, additional_forward_args=(2.0,))


def test_a_bound_method_ends_early():
    class Encoder(Net):
        def encode(self, x: Tensor) -> Tensor:
            return self.end(self.second(self.first(x)))

    def make(**more: Any) -> UniCAM:
        student, base = Encoder(1), Encoder(2)
        return UniCAM(student.encode, student.second, base.encode, base.second, **more)

    check(make, stops=True)


# ------------------------------------------------------------------------------- models that catch the end of the pass


class Catching(Net):
    """Catches exceptions around its layers and goes on."""

    caught: Any = Exception

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.second(self.first(x))
        except self.caught:
            RUNS.append("caught")
            x = self.second(self.first(x * 0))
        return self.end(self.third(x).mean((2, 3)))


class Trying(Net):
    """Catches exceptions around its last layer."""

    caught: Any = Exception

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        try:
            x = self.second(x)
        except self.caught:
            RUNS.append("caught")
        return self.end(self.third(x[:, :4]).mean((2, 3)))


class TryingAll(Trying):
    caught = BaseException


class Replacing(Net):
    """Makes an error of its own of everything that its layer raises."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        try:
            x = self.second(x)
        except BaseException as error:
            raise RuntimeError("the second layer failed") from error
        return self.end(self.third(x).mean((2, 3)))


def test_models_that_catch_exceptions_end_early():
    check(lambda **more: pair(Trying, **more), stops=True)


@pytest.mark.parametrize("kind", (TryingAll, Replacing))
def test_models_that_catch_or_replace_everything_give_the_same_maps_and_are_not_stopped_again(kind):
    x, y = images(N), labels(N)
    expected = pair(kind, stop_early=False).attribute_transfer(x, y)
    unicam = pair(kind)
    for _ in range(4):
        found, own = runs(lambda: unicam.attribute_transfer(x, y))
        assert_equal(found, expected)
    assert own == ["end", "end"]


@pytest.mark.parametrize("layer", ("first", "second"))
def test_models_that_run_layers_again_when_they_catch_something_give_the_same_maps(layer):
    kind = type("All", (Catching,), {"caught": BaseException, "forward": Catching.forward})
    x, y = images(N), labels(N)
    expected = pair(kind, layer, stop_early=False).attribute_transfer(x, y)
    unicam = pair(kind, layer)
    for _ in range(3):
        assert_equal(unicam.attribute_transfer(x, y), expected)


@pytest.mark.parametrize("error", (RuntimeError, KeyboardInterrupt, SystemExit, type("Own", (BaseException,), {})))
def test_the_users_own_exceptions_stay_theirs(error):
    failing: list[bool] = []

    class Failing(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if failing:
                raise error("own")
            return self.end(self.third(self.second(x)).mean((2, 3)))

    unicam, x = pair(Failing), images(N)
    expected = unicam.attribute(x, labels(N))
    failing.append(True)
    with unchanged_state((unicam.forward_func, unicam.base_func), (x,)), pytest.raises(error, match="own"):
        unicam.attribute(x, labels(N))
    failing.clear()
    assert_equal(unicam.attribute(x, labels(N)), expected)


def test_an_interrupt_on_the_way_out_is_raised():
    class Interrupted(Net):
        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.second(self.first(x))
            except BaseException:
                signal.raise_signal(signal.SIGINT)
                raise
            return self.end(self.third(x).mean((2, 3)))

    unicam, x = pair(Interrupted), images(N)
    unicam.attribute(x, labels(N))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with unchanged_state((unicam.forward_func, unicam.base_func), (x,)), pytest.raises(KeyboardInterrupt):
            unicam.attribute(x, labels(N))
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------- contexts and wrappers


def test_contexts_of_the_model_end_properly():
    depth: list[int] = [0]

    @contextmanager
    def context():
        depth[0] += 1
        try:
            yield
        finally:
            depth[0] -= 1

    class Inside(Net):
        def forward(self, x: Tensor) -> Tensor:
            with context(), torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.save_on_cpu():
                x = self.third(self.second(self.first(x)))
            return self.end(x.mean((2, 3)))

    for settings in ({}, {"layer": "first", "feature_layer": "second"}):
        unicam, x = pair(Inside, **settings), images(N)
        with unchanged_state((unicam.forward_func, unicam.base_func), (x,)):
            for _ in range(3):
                unicam.attribute_transfer(x, labels(N))
                assert depth == [0] and saved_tensors_hooks() is None
        check(lambda **more: pair(Inside, **settings, **more), stops=True)


def saved_tensors_hooks() -> Any:
    """Hooks that are active; always None with torch 2.6, which has no function that returns them."""
    active = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return None if active is None else active(True)


# Reentrant checkpoints record no graph inside, and torch.autograd.grad does not pass them.
@pytest.mark.parametrize(
    ("reentrant", "layer", "deeper"),
    ((True, "second", None), (False, "second", None), (False, "first", "second"), (False, "second", "third")),
)
def test_activation_checkpointing(reentrant, layer, deeper):
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.after_first(self.first(x).tanh())
            x = checkpoint(self.middle, x, use_reentrant=reentrant)
            return self.end(self.fc(self.third(x).mean((2, 3))))

        def middle(self, x: Tensor) -> Tensor:
            return self.after_second(self.second(x).tanh()).sin()

    check(lambda **more: pair(Checkpointed, layer, feature_layer=deeper, **more), stops=True)
    assert saved_tensors_hooks() is None


def test_compiled_models_end_early():
    def make(**more: Any) -> UniCAM:
        student, base = (torch.compile(Net(seed), backend="eager") for seed in (1, 2))
        for model in (student, base):
            model(images(N))
        return UniCAM(student, "second", base, **more)

    check(make, stops=True)


def test_data_parallel_models_end_early_on_one_device():
    def make(**more: Any) -> UniCAM:
        return UniCAM(nn.DataParallel(Net(1)), "second", nn.DataParallel(Net(2)), **more)

    check(make, stops=True)


@pytest.mark.parametrize("mode", (torch.no_grad, torch.inference_mode, torch.enable_grad))
def test_passes_end_early_in_every_mode_of_the_caller(mode):
    with mode():
        check(pair, stops=True, x=images(N))


# ------------------------------------------------------------------------------- reports and scores


def test_a_report_ends_its_passes_early():
    loader = [(images(16, seed=seed), labels(16)) for seed in range(3)]

    def report(**options: Any) -> list[dict[str, Any]]:
        models = {"student": Net(1), "base": Net(2), "teacher": Net(3)}
        found = compare_transfer(
            layers=["first", "second"], data=loader, show_progress=False, model_options=ModelOptions(**options), **models
        )
        return found.to_dict()["rows"]

    complete, all_runs = runs(lambda: report(stop_early=False))
    found, own = runs(report)
    assert found == complete
    assert (all_runs.count("end"), own.count("end")) == (9, 3)


def test_scores_end_their_passes_early():
    score, own = runs(
        lambda: feature_similarity_score(Net(1), "first", Net(2), "first", images(N), max_examples_per_batch=2)
    )
    assert own.count("end") == 2
    torch.testing.assert_close(score, feature_similarity_score(Net(1), "first", Net(2), "first", images(N)))


def test_the_switch_is_checked():
    with pytest.raises(TypeError, match="stop_early"):
        pair(stop_early="no")
    with pytest.raises(TypeError, match="stop_early"):
        ModelOptions(stop_early=None)
