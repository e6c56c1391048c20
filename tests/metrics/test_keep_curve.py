"""Accuracy by the share of salient pixels kept: against a loop over images, and what it does not depend on."""

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvNet, forbidden, images, labels
from torch import Tensor, nn

from captum_kd.metrics import KeepCurve, keep_curve, random_attributions
from captum_kd.perturb import keep_relevant

N = 9
F64 = torch.float64
SHARES = (0.2, 0.5, 0.9)


def maps(seed: int = 0, n: int = N, size: tuple[int, int] = (6, 6)) -> Tensor:
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(seed))


def bright(x: Tensor) -> Tensor:
    """Class 1 where the upper left corner is bright, class 0 where it is dark."""
    corner = x[:, :, :2, :2].mean((1, 2, 3))
    return torch.stack([-corner, corner], 1)


def corners() -> tuple[Tensor, Tensor, Tensor]:
    """Images whose class is the sign of a corner, the rest pulling the other way; maps of that corner."""
    y = torch.arange(N) % 2
    x = (1.0 - 2 * y)[:, None, None, None].expand(N, 3, 8, 8).clone()
    x[:, :, :2, :2] *= -1
    attributions = torch.zeros(N, 1, 8, 8)
    attributions[:, :, :2, :2] = 1
    return x, y, attributions


def net(x: Tensor) -> Tensor:
    """Three classes that hang on every pixel."""
    values = x.flatten(1)
    return values @ torch.randn(values.shape[1], 3, generator=torch.Generator().manual_seed(1)).to(x)


def curve(model, attributions, x=None, y=None, **options):
    x, y = images(N) if x is None else x, labels(N) if y is None else y
    return keep_curve(model, x, y, attributions, **{"shares": SHARES, **options})


# -------------------------------------------------------------------------------- values


def test_accuracy_is_that_of_a_loop_over_shares():
    """Without noise nothing is random: each image reduced on its own, the model asked, right answers counted."""
    x, y, attributions = images(N), labels(N), maps()
    found = curve(net, attributions, noise=0.0)
    for row, share in enumerate(SHARES):
        right = []
        for i in range(N):
            kept = keep_relevant(x[i : i + 1], attributions[i : i + 1], keep=share, noise=0.0)
            right.append(int(net(kept)[0].argmax()) == int(y[i]))
        assert found.correct[row].tolist() == right
        assert float(found.accuracy[row]) == pytest.approx(sum(right) / N)


def test_noise_is_that_of_one_generator_going_on_from_share_to_share():
    generator = torch.Generator().manual_seed(5)
    found = curve(net, maps(), noise=0.7, generator=torch.Generator().manual_seed(5))
    for row, share in enumerate(SHARES):
        kept = keep_relevant(images(N), maps(), keep=share, noise=0.7, generator=generator)
        assert found.correct[row].tolist() == (net(kept).argmax(1) == labels(N)).tolist()


def test_maps_of_what_decides_keep_the_accuracy_and_their_opposite_loses_it():
    x, y, attributions = corners()
    found = keep_curve(bright, x, y, {"object": attributions, "background": -attributions})
    assert found["object"].accuracy.tolist() == [1.0] * 9
    assert found["background"].accuracy[:-1].tolist() == [0.0] * 8  # the corner is imputed from what surrounds it
    assert float(found["object"].area) == 1 and float(found["background"].area) < 0.2


def test_default_shares_are_tenths():
    assert keep_curve(net, images(N), labels(N), maps()).shares.tolist() == pytest.approx([i / 10 for i in range(1, 10)])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_area_is_the_mean_of_the_trapezoids(data):
    k, n = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 8))
    shares = sorted(data.draw(st.sets(st.integers(1, 99), min_size=k, max_size=k)))
    shares = [share / 100 for share in shares]
    correct = torch.tensor(data.draw(st.lists(st.booleans(), min_size=k * n, max_size=k * n))).reshape(k, n)
    found = KeepCurve.of(shares, correct)
    accuracy = [sum(row) / n for row in correct.tolist()]
    area = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(shares, shares[1:], accuracy, accuracy[1:]))
    assert float(found.area) == pytest.approx(area / (shares[-1] - shares[0]), abs=1e-12)
    each = [
        sum((b - a) * (p + q) / 2 for a, b, p, q in zip(shares, shares[1:], own, own[1:])) / (shares[-1] - shares[0])
        for own in correct.T.tolist()
    ]
    assert found.areas.tolist() == pytest.approx(each, abs=1e-12)
    mean = sum(each) / n
    spread = math.sqrt(sum((value - mean) ** 2 for value in each) / (n - 1) / n)
    assert float(found.area_standard_error) == pytest.approx(spread, abs=1e-12)


def test_area_of_a_single_share_is_the_accuracy_there():
    found = curve(net, maps(), shares=[0.4])
    assert float(found.area) == float(found.accuracy[0])
    assert found.areas.tolist() == found.correct[0].double().tolist()


def test_one_input_has_no_standard_error():
    found = curve(net, maps(n=1), images(1), 0)
    assert found.area_standard_error is None and found.correct.shape == (3, 1)
    assert found.accuracy_standard_error is None


def test_result_is_of_known_types():
    found = curve(ConvNet().double(), maps().double(), images(N, dtype=F64))
    assert found.shares.dtype == found.accuracy.dtype == found.area.dtype == found.areas.dtype == F64
    assert found.correct.dtype == torch.bool and found.correct.shape == (len(SHARES), N)
    assert not any(tensor.requires_grad for tensor in found)


# ------------------------------------------------------------------- what does not matter


@pytest.mark.parametrize("batch_size", [1, 4, N, 50])
def test_batch_size_does_not_matter(batch_size):
    """With images whose numbers do not divide into the random generator's blocks, and strong noise."""
    x, attributions = images(N, 7, 5), maps(size=(3, 2))
    whole = curve(net, attributions, x, noise=2.0)
    found = curve(net, attributions, x, noise=2.0, max_examples_per_batch=batch_size)
    assert torch.equal(found.correct, whole.correct)


def test_batch_size_bounds_the_forward_passes():
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return bright(x)

    curve(model, maps(), y=labels(N, 2), max_examples_per_batch=4)
    assert seen == [4, 4, 1] * len(SHARES)


def test_groups_of_images_do_not_disturb_batches(monkeypatch):
    """Images beyond what is reduced at once: batches end with their group, and every input is asked once."""
    whole, seen = curve(net, maps(), noise=0.0), []
    module = importlib.import_module("captum_kd.metrics.keep_curve")  # the name itself is the function's
    monkeypatch.setattr(module, "_REDUCED_AT_ONCE", 4 * 3 * 12 * 12 + 1)
    found = curve(lambda x: seen.append(len(x)) or net(x), maps(), noise=0.0, max_examples_per_batch=3)
    assert torch.equal(found.correct, whole.correct)
    assert seen == [3, 1, 3, 1, 1] * len(SHARES)


def test_curves_share_their_noise():
    """A map by another name has the same curve, wherever it stands among others."""
    alone = curve(net, maps(1), noise=1.0)
    found = curve(net, {"a": maps(1), "other": maps(2), "b": maps(1)}, noise=1.0)
    assert list(found) == ["a", "other", "b"]
    assert torch.equal(found["a"].correct, alone.correct) and torch.equal(found["b"].correct, alone.correct)
    assert not torch.equal(found["other"].correct, alone.correct)


def test_results_repeat_and_leave_the_global_state_alone():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(curve(net, maps(), noise=1.0).correct)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)
    assert not torch.equal(found[0], curve(net, maps(), noise=1.0, generator=torch.Generator().manual_seed(9)).correct)


def test_model_and_inputs_stay_as_they_are():
    model = nn.Sequential(ConvNet(), nn.Dropout(0.5)).train()
    graphs, x, attributions = [], images(N).requires_grad_(), maps().requires_grad_()
    model.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    values, state = x.detach().clone(), torch.get_rng_state()
    curve(model, attributions, x)
    assert set(graphs) == {False} and torch.is_grad_enabled() and x.requires_grad and x.grad is None
    assert torch.equal(x, values) and torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules()) and attributions.grad is None


# ------------------------------------------------------------------------ arguments' forms


def test_further_inputs_and_arguments_go_along():
    """Tensors with a row for each example follow the batches, everything else is constant."""
    seen = []

    def model(scale: Tensor, x: Tensor, shift: Tensor, constant: Tensor, word: str) -> Tensor:
        seen.append((scale[:, 0].tolist(), shift.tolist(), constant.tolist(), word))
        return bright(x)

    x, y, attributions = corners()
    order = torch.arange(N, dtype=torch.float32)
    args = (order * 10, torch.tensor([1.0, 2, 3, 4]), "word")
    found = keep_curve(
        model, (order[:, None], x), y, attributions, shares=[0.5], additional_forward_args=args, max_examples_per_batch=4
    )
    assert found.accuracy.tolist() == [1.0]
    rows = [list(range(0, 4)), list(range(4, 8)), [8]]
    assert seen == [(own, [10.0 * i for i in own], [1, 2, 3, 4], "word") for own in rows]


@pytest.mark.parametrize(
    "wrap, transform",
    [
        (lambda logits: SimpleNamespace(logits=logits), None),
        (lambda logits: {"logits": logits, "loss": None}, None),
        (lambda logits: (logits, "state"), lambda output: output[0]),
    ],
)
def test_logits_are_found_in_the_output(wrap, transform):
    x, y, attributions = corners()
    found = keep_curve(lambda x: wrap(bright(x)), x, y, attributions, output_transform=transform)
    assert float(found.area) == 1


def test_labels_may_be_one_for_all_or_a_list():
    x, y, attributions = corners()
    of_list = keep_curve(bright, x, y.tolist(), attributions).correct
    assert torch.equal(of_list, keep_curve(bright, x, y, attributions).correct)
    assert keep_curve(bright, x, 1, attributions, shares=[0.5]).correct[0].tolist() == (y == 1).tolist()


def test_shares_may_be_a_tensor():
    assert torch.equal(curve(net, maps(), shares=torch.tensor(SHARES, dtype=F64)).correct, curve(net, maps()).correct)


# --------------------------------------------------------------------------------- chance


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 1000), st.sampled_from([1e-20, 1.0, 1e20]))
def test_random_maps_have_the_values_of_given_ones(height, width, seed, scale):
    like = maps(seed, 3, (height, width)).double().cumsum(3) * scale
    found = random_attributions(like)
    assert found.shape == like.shape and found.dtype == like.dtype
    # The same values exactly, ties included, in other places.
    assert torch.equal(found.flatten(1).sort(1).values, like.flatten(1).sort(1).values)


@pytest.mark.parametrize("relu", [False, True])
def test_random_maps_are_smooth_where_given_ones_are(relu):
    """Differences between neighbors are about as large; independent draws of the same values differ far more."""
    like = torch.nn.functional.interpolate(maps(1, 50, (4, 4)), (16, 16), mode="bilinear")
    like = like.relu() if relu else like

    def roughness(values):
        return float(values.diff(dim=2).abs().mean() + values.diff(dim=3).abs().mean())

    shuffled = like.flatten(2)[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(0))].view_as(like)
    assert roughness(random_attributions(like)) < 2 * roughness(like) < roughness(shuffled)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_maps_do_not_follow_given_ones(seed):
    """Not even those that were drawn at random themselves, in the same shape."""
    like = maps(seed, n=400, size=(7, 7))
    found = random_attributions(like)
    raise_together = torch.stack([found.flatten(1), like.flatten(1)], 1)
    correlations = torch.tensor([float(torch.corrcoef(pair)[0, 1]) for pair in raise_together])
    assert abs(float(correlations.mean())) < 4 / math.sqrt(400 * 24)  # 24 pairs of conjugate phases
    # Nor do they have a favorite place.
    peaks = torch.bincount(found.flatten(1).argmax(1), minlength=49)
    assert float(peaks.max()) < 30


def test_random_maps_keep_as_much_of_an_image_as_given_ones():
    """Independent noise does not: what is imputed from scattered pixels is nearly right."""
    x = images(60, 32, 32).cumsum(2).cumsum(3)
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)
    offsets = (torch.arange(8.0) - 3.5).square()
    like = torch.exp(-(offsets[:, None] + offsets) / 8).expand(60, 1, 8, 8)

    def error(attributions: Tensor) -> float:
        return float((keep_relevant(x, attributions, keep=0.3, noise=0.0) - x).square().mean())

    assert error(random_attributions(like)) == pytest.approx(error(like), rel=0.35)
    assert error(maps(n=60, size=(8, 8))) < 0.7 * error(like)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_a_constant_map_has_a_random_counterpart_all_the_same(value):
    found = random_attributions(torch.full((5, 1, 6, 6), value))
    assert float(found.flatten(1).std(1).min()) > 0.5
    assert len(set(found.flatten(1).argmax(1).tolist())) > 1


def test_random_maps_repeat_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    first, again = random_attributions(maps()), random_attributions(maps())
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(3)
    other, further = (random_attributions(maps(), generator=generator) for _ in range(2))
    assert not torch.equal(first, other) and not torch.equal(other, further)


def test_random_maps_of_unfit_maps_are_refused():
    with pytest.raises(ValueError, match="like has non-finite values"):
        random_attributions(maps() / 0)
    with pytest.raises(TypeError, match="like is a tuple of 2"):
        random_attributions((maps(), maps()))
    with pytest.raises(ValueError, match="like must have shape"):
        random_attributions(maps()[:, 0])


# --------------------------------------------------------------------------------- errors


def spoiled() -> Tensor:
    attributions = maps()
    attributions[4] = torch.nan
    return attributions


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"attributions": maps(n=5)}, ValueError, "^attributions has 5 maps for 9 inputs"),
        ({"attributions": {"own": maps(), "other": maps(n=5)}}, ValueError, r"^attributions\['other'\] has 5 maps"),
        ({"attributions": maps(size=(13, 12))}, ValueError, "maps of 13x12 for 12x12 pixels"),
        ({"attributions": spoiled()}, ValueError, "non-finite .* map 4"),
        ({"attributions": (maps(), maps())}, TypeError, "choose one"),
        ({"attributions": {}}, ValueError, "empty mapping"),
        ({"attributions": None}, TypeError, "got NoneType"),
        ({"shares": (0.0, 0.5)}, ValueError, r"shares\[0\] must be a share between 0 and 1, .* got 0.0"),
        ({"shares": (0.5, 1.0)}, ValueError, r"shares\[1\] must be a share"),
        ({"shares": (10, 20)}, ValueError, r"shares\[0\] must be a share"),
        ({"shares": (math.nan,)}, ValueError, r"shares\[0\] must be a share"),
        ({"shares": (0.5, 0.2)}, ValueError, r"must increase, got \(0.5, 0.2\)"),
        ({"shares": (0.5, 0.5)}, ValueError, "must increase"),
        ({"shares": ()}, ValueError, "at least one share"),
        ({"shares": 0.5}, ValueError, "at least one share"),
        ({"noise": -0.1}, ValueError, "noise"),
        ({"noise": math.nan}, ValueError, "noise"),
        ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch must be a positive integer"),
        ({"target": None}, TypeError, "target must hold the inputs' labels"),
        ({"target": [0, 1]}, ValueError, "for 9 inputs"),
        ({"target": torch.rand(N)}, TypeError, "integer class labels"),
        ({"inputs": images(N).flatten(1)}, ValueError, "keep_curve needs exactly one input of images"),
        ({"inputs": (images(N), images(N))}, ValueError, "2 of the inputs are"),
        ({"inputs": images(N)[:0]}, ValueError, "must hold the examples"),
        ({"forward_func": "model"}, TypeError, "forward_func must be callable"),
    ],
)
def test_unfit_arguments_are_refused_before_the_model_runs(change, error, words):
    arguments = {"forward_func": forbidden, "inputs": images(N), "target": labels(N), "attributions": maps()}
    with pytest.raises(error, match=words):
        keep_curve(**{**arguments, **change})


@pytest.mark.parametrize(
    "model, error, words",
    [
        (lambda x: x, TypeError, r"gives no logits \(N, classes\), got shape \(9, 3, 12, 12\); pass output_transform="),
        (lambda x: (bright(x),), TypeError, "got tuple"),
        (lambda x: bright(x)[:4], ValueError, "logits of 4 rows for 9 inputs"),
        (lambda x: bright(x)[:, :1], ValueError, "one logit per input, but two classes need two: let output_transform return"),
        (bright, ValueError, "the label 2, but forward_func gives logits of the classes 0 to 1 only"),
        (lambda x: x[:, :, 0, 0] / 0, ValueError, "non-finite logits"),
    ],
)
def test_what_the_model_returns_is_checked(model, error, words):
    with pytest.raises(error, match=words):
        curve(model, maps())


def test_the_way_out_for_one_logit_works():
    x, y, attributions = corners()
    found = keep_curve(
        lambda x: bright(x)[:, 1:],
        x,
        y,
        attributions,
        output_transform=lambda out: torch.cat([torch.zeros_like(out), out], 1),
    )
    assert float(found.area) == 1


def test_a_model_that_raises_gives_the_random_state_back():
    state = torch.get_rng_state()

    def model(x: Tensor) -> Tensor:
        torch.rand(3)
        raise KeyError("of the user")

    with pytest.raises(KeyError, match="of the user"):
        curve(model, maps())
    assert torch.equal(torch.get_rng_state(), state)
