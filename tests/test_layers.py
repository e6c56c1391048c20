"""How models are run: as they run when their gradients are asked for, and alone on the machine or not."""

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Iterator

import pytest
import torch
from models import ConvNet, activations, images, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, flatten
from captum_kd._models.hooks import capture_layers, same_random_state
from captum_kd._models.layer_names import resolve_layer
from captum_kd._utils.context import Overlapping
from captum_kd.metrics import feature_similarity_score

N, M = 8, 10

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


# ------------------------------------------------------- PyTorch's fast path of attention


class Text(nn.Module):
    """PyTorch's own encoder over padded sequences. In eval mode without gradients its fast path drops the padding."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids), src_key_padding_mask=ids == 0).mean(1))


def sentences(n: int = N, seed: int = 0) -> Tensor:
    ids = torch.randint(1, 20, (n, 9), generator=torch.Generator().manual_seed(seed))
    ids[::2, 6:] = 0
    return ids


def uneven(a: Tensor) -> Tensor:
    """Features for layers that end in a normalization: means over the width, and gradients of them, would be 0."""
    return (a * torch.linspace(0.5, 2, a.shape[-1], dtype=a.dtype)).flatten(1)


@pytest.fixture
def text():
    return Text(1).double().eval(), Text(2).double().eval()


@pytest.fixture
def slow_path():
    """Switches the fast path off for what the tests compute themselves."""

    def run(call):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return call()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)

    return run


@pytest.mark.parametrize(
    "layer", ["encoder", "encoder.layers.0", "encoder.layers.1", "encoder.layers.1.linear1", "encoder.layers.0.norm2"]
)
def test_layers_of_padded_encoders_give_maps_over_their_tokens(text, slow_path, layer):
    student, base = text
    own, other = (slow_path(lambda: activations(model, layer, sentences()).mT) for model in (student, base))
    expected = literal.batch_map(own, uneven, uneven(other), labels(N))
    found = UniCAM(student, layer, base, feature_transform=uneven).attribute(sentences(), labels(N))
    assert found.shape == (N, 1, 9)
    torch.testing.assert_close(found, expected)


def test_scores_of_padded_encoders(text, slow_path):
    student, base = text
    name = "encoder.layers.0"
    score = feature_similarity_score(student, name, base, name, sentences(), feature_transform=flatten)
    own, other = (slow_path(lambda: activations(model, "encoder.layers.0", sentences())) for model in text)
    identity = nn.Identity()
    expected = feature_similarity_score(
        lambda x: identity(own), identity, lambda x: identity(other), identity, sentences(), channels_last=True,
        feature_transform=flatten,
    )  # fmt: skip
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("features", ["encoder", "head"])
def test_batches_transfer_and_residual_of_padded_encoders_agree(text, features):
    """Some of the passes record gradients, others do not."""
    student, base = text
    unicam = UniCAM(student, "embedding", base, feature_layer=features, feature_transform=uneven)
    whole = unicam.attribute(sentences(), labels(N))
    torch.testing.assert_close(unicam.attribute(sentences(), labels(N), internal_batch_size=3), whole)
    both = unicam.attribute_transfer(sentences(), labels(N))
    torch.testing.assert_close(both.distilled, whole)
    torch.testing.assert_close(both.residual, unicam.residual().attribute(sentences(), labels(N)))


@pytest.mark.parametrize("features", ["encoder", "head"])
def test_reference_mode_of_padded_encoders_does_not_depend_on_the_fast_path(text, slow_path, features):
    unicam = UniCAM(text[0], "embedding", text[1], feature_layer=features, feature_transform=uneven)

    def explain() -> Tensor:
        population = unicam.reference(sentences(M, seed=5), labels(M))
        return unicam.attribute(sentences(3), labels(3), reference=population)

    torch.testing.assert_close(explain(), slow_path(explain))


class Asking(nn.Module):
    """Notes whether the fast path is on when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.answers: list[bool] = []
        self.inside = lambda: None

    def forward(self, x: Tensor) -> Tensor:
        self.inside()
        self.answers.append(torch.backends.mha.get_fastpath_enabled())
        return self.layer(x)


def run(model: nn.Module) -> None:
    capture_layers(model, [resolve_layer(model, "layer", model="forward_func", argument="layer")], (torch.ones(2, 3),))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()])
def test_the_fast_path_is_as_it_was_after_a_pass(before, error):
    model = Asking()

    def fail():
        raise error

    torch.backends.mha.set_fastpath_enabled(before)
    try:
        if error is None:
            run(model)
            assert model.answers == [False]
        else:
            model.inside = fail
            with pytest.raises(type(error)):
                run(model)
        assert torch.backends.mha.get_fastpath_enabled() is before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_the_fast_path_stays_off_until_the_last_of_several_threads_is_done():
    """The switch is the process's: a thread that ends must not switch it on under another one."""
    first, second = Asking(), Asking()
    second_runs, first_is_done = threading.Event(), threading.Event()

    def wait_for_the_first():
        second_runs.set()
        assert first_is_done.wait(60)

    second.inside = wait_for_the_first
    thread = threading.Thread(target=run, args=(second,))

    def start_the_second():
        thread.start()
        assert second_runs.wait(60)

    first.inside = start_the_second
    run(first)
    first_is_done.set()
    thread.join()
    assert (first.answers, second.answers) == ([False], [False])
    assert torch.backends.mha.get_fastpath_enabled()


# --------------------------------------------------------------------- other threads' models


class Interrupted(nn.Module):
    """While it makes its tokens another thread runs a model of its own, with a grid of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        thread = threading.Thread(target=nn.MaxPool2d(5, 5), args=(x,))
        thread.start()
        thread.join()
        return self.tokens(torch.cat([tokens[:, :1], tokens], dim=1))


def test_grids_of_other_threads_models_are_not_seen():
    """Theirs, 3 x 3 with 8 prefix tokens for 17, would be the later one."""
    unicam = UniCAM(Interrupted(), "tokens", Interrupted())
    assert unicam.attribute(images(N, 16, 16)).shape == (N, 1, 4, 4)


class Meeting(ConvNet):
    """Waits in the middle of a pass until another thread is there too, in a pass of the same model."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.barrier = threading.Barrier(2)
        self.conv3.register_forward_hook(self._wait)

    def _wait(self, *args: Any) -> None:
        self.barrier.wait(60)


def in_two_threads(run: Callable[[int], Any]) -> list[Any]:
    """What ``run(0)`` and ``run(1)`` return when they run at once."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run, range(2)))


@pytest.mark.parametrize("features", [None, "conv3"])
@pytest.mark.parametrize("at_input", [False, True])
def test_threads_that_look_at_one_model_at_once_see_their_own_inputs(features, at_input):
    model, base = Meeting(), ConvNet(seed=2)
    options = {"attribute_to_layer_input": at_input}

    def attribute(student: nn.Module, thread: int) -> Tensor:
        unicam = UniCAM(student, "conv2", base, feature_layer=features)
        return unicam.attribute(images(N, seed=thread), labels(N), **options)

    found = in_two_threads(lambda thread: attribute(model, thread))
    torch.testing.assert_close(found, [attribute(ConvNet(seed=1), thread) for thread in range(2)])


def test_a_change_of_the_process_lasts_from_the_first_of_several_threads_to_the_last():
    """Each undoing its own would undo the other's: one end and one beginning lie between those of the other."""
    events: list[str] = []

    @contextmanager
    def change() -> Iterator[None]:
        events.append("made")
        yield
        events.append("undone")

    shared = Overlapping(change)
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def run(thread: int) -> None:
        if thread == 0:
            with shared():
                assert second_is_in.wait(60)
            events.append("first is out")
            first_is_out.set()
        else:
            with shared():
                second_is_in.set()
                assert first_is_out.wait(60)

    in_two_threads(run)
    assert events == ["made", "first is out", "undone"]
    with pytest.raises(KeyError), shared():
        raise KeyError
    assert events[3:] == ["made", "undone"]


def test_the_random_state_is_as_it_was_before_the_first_of_two_threads():
    first_has_drawn, second_has_drawn = threading.Event(), threading.Event()

    def first() -> None:
        with same_random_state(()):
            torch.rand(3)
            first_has_drawn.set()
            assert second_has_drawn.wait(60)

    before = torch.get_rng_state()
    thread = threading.Thread(target=first)
    thread.start()
    assert first_has_drawn.wait(60)
    with same_random_state(()):
        torch.rand(3)
        second_has_drawn.set()
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------- containers


@dataclass
class Annotated:
    """More than its constructor takes: what a model adds later has to arrive as well."""

    a: Tensor
    b: Tensor
    pooled: Tensor = field(init=False)
    steps: int = field(default=0, init=False)
    unset: Tensor = field(init=False)
    made = 0

    def __post_init__(self) -> None:
        type(self).made += 1


@dataclass(frozen=True)
class Frozen:
    a: Tensor
    pooled: Tensor = field(init=False)


@dataclass(frozen=True, slots=True)
class Slotted:
    a: Tensor
    pooled: Tensor = field(init=False)


@dataclass
class ModelOutput(OrderedDict):
    """Attributes and items are one, as in Hugging Face's outputs."""

    a: Tensor
    pooled: Any = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) is not None:
                super().__setitem__(entry.name, getattr(self, entry.name))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, entry.name) for entry in fields(self))


def annotated(a: Tensor) -> Annotated:
    out = Annotated(a, a[:, :2])
    out.pooled, out.steps, out.comment = a.mean((2, 3)), 3, "said by the model"
    return out


def with_pooled(kind: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def make(a: Tensor) -> Any:
        out = kind(a)
        object.__setattr__(out, "pooled", a.mean((2, 3)))
        return out

    return make


class Contained(nn.Module):
    """Its layer gives a container, whose attributes or items its head uses."""

    def __init__(self, make: Callable[[Tensor], Any], use: Callable[[Any], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.layer = nn.Identity()
        self.head = nn.Linear(4, 3)
        self.make, self.use = make, use
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.make(self.conv(x)))
        self.seen.append(out)
        return self.head(torch.tanh(self.use(out)))


def means(a: Tensor) -> Tensor:
    return a.square().mean((2, 3))


USES = {
    "attribute": (annotated, lambda out: means(out.a)),
    "attribute without init": (annotated, lambda out: out.pooled),
    "frozen": (with_pooled(Frozen), lambda out: means(out.a)),
    "frozen without init": (with_pooled(Frozen), lambda out: out.pooled),
    "slots": (with_pooled(Slotted), lambda out: out.pooled),
    "item": (lambda a: ModelOutput(a, a.mean((2, 3))), lambda out: means(out["a"])),
    "attribute of a mapping": (lambda a: ModelOutput(a, a.mean((2, 3))), lambda out: means(out.a)),
}


@pytest.mark.parametrize("internal_batch_size", [None, 3])
@pytest.mark.parametrize("use", USES)
def test_what_a_model_reads_of_a_container_gets_the_gradients(use, internal_batch_size):
    """As a layer that gives the same tensors in a tuple."""
    make, read = USES[use]
    names = [name for name in ("a", "b", "pooled") if hasattr(make(torch.ones(2, 3, 4, 4)), name)]

    def as_tuple(a: Tensor) -> tuple[Tensor, ...]:
        out = make(a)
        return tuple(getattr(out, name) for name in names)

    def from_tuple(values: tuple[Tensor, ...]) -> Tensor:
        out = make(values[0])
        for name, value in zip(names, values):
            object.__setattr__(out, name, value)
            if isinstance(out, ModelOutput):
                OrderedDict.__setitem__(out, name, value)
        return read(out)

    def explain(*functions: Any) -> Any:
        student, base = (Contained(*functions, seed=seed).double() for seed in (1, 2))
        unicam = UniCAM(student, "layer", base, feature_layer="head")
        return unicam.attribute(images(N, dtype=torch.float64), labels(N), internal_batch_size=internal_batch_size)

    found = explain(make, read)
    assert len(found) == len(names)
    assert max(float(single.abs().amax()) for single in found) > 0
    torch.testing.assert_close(found, explain(as_tuple, from_tuple))


def test_containers_arrive_whole_behind_the_layer():
    student, base = (Contained(annotated, lambda out: out.pooled, seed) for seed in (1, 2))
    Annotated.made = 0
    UniCAM(student, "layer", base, feature_layer="head").attribute(images(N), labels(N))
    (out,) = student.seen
    assert (out.steps, out.comment, hasattr(out, "unset")) == (3, "said by the model", False)
    assert Annotated.made == 2  # once a model: copies are not constructed again


# --------------------------------------------------------------- inputs that models change


class InPlace(nn.Module):
    """May normalize its inputs where they lie; convolves them as they are."""

    def __init__(self, seed: int, in_place: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.in_place = in_place
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        x, shift = (x.sub_(0.5), shift.mul_(2)) if self.in_place else (x - 0.5, shift * 2)
        return self.head(torch.tanh(self.conv(x).mean((2, 3)) + shift))


@pytest.mark.parametrize("made_in_inference_mode", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("features", [None, "head"])
@pytest.mark.parametrize("internal_batch_size", [None, 3])
def test_models_may_change_their_inputs_in_place(features, inside, internal_batch_size, made_in_inference_mode):
    """Neither the caller nor the other model nor a second pass of the same one sees it."""
    shift = torch.linspace(-1, 1, N * 4, dtype=torch.float64).reshape(N, 4)

    def explain(models: list[InPlace], *values: Tensor) -> Tensor:
        unicam = UniCAM(models[0], "conv", models[1], feature_layer=features)
        return unicam.attribute(values[0], labels(N), values[1], internal_batch_size=internal_batch_size)

    plain, in_place = ([InPlace(seed, kind).double() for seed in (1, 2)] for kind in (False, True))
    expected = explain(plain, images(N, dtype=torch.float64), shift)
    with torch.inference_mode(made_in_inference_mode):
        values = images(N, dtype=torch.float64), shift.clone()
    with torch.inference_mode(inside):
        torch.testing.assert_close(explain(in_place, *values), expected)
    assert torch.equal(values[0], images(N, dtype=torch.float64)) and torch.equal(values[1], shift)


@pytest.mark.parametrize("features", [None, "head"])
def test_first_layers_take_inputs_made_in_inference_mode(features):
    """Gradients of a convolution's weights would have to save them, which PyTorch refuses."""
    student, base = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3)).double() for _ in range(2))
    unicam = UniCAM(student, "1", base, feature_layer=None if features is None else "2")
    expected = unicam.attribute(images(N, dtype=torch.float64), labels(N))
    with torch.inference_mode():
        x = images(N, dtype=torch.float64)
    torch.testing.assert_close(unicam.attribute(x, labels(N)), expected)
