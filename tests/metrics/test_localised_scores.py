"""Scores around the salient region: each model's images reduced by its own maps, then FSS and RS as ever."""

import functools
import inspect

import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvNet, SeveralOutputs, Untouched, activations, forbidden, images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import feature_similarity_score, relevance_score
from captum_kd.perturb import keep_relevant

N = 16
F64 = torch.float64


@pytest.fixture(scope="module")
def pair():
    return ConvNet(seed=1).double(), ConvNet(seed=2).double()


X, Y = images(N, dtype=F64), labels(N)


def maps(seed: int = 0, size: tuple[int, int] = (6, 6), n: int = N) -> Tensor:
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gradcam(model: nn.Module, layer: str = "conv2") -> Tensor:
    return LayerGradCam(model, model.get_submodule(layer)).attribute(X, Y)


def reduced(attributions: Tensor, keep: float = 0.5, x: Tensor = X) -> Tensor:
    """What the scores are documented to do: half of the pixels, noise from seed 0."""
    return keep_relevant(x, attributions, keep=keep, generator=torch.Generator().manual_seed(0))


def by_hand(model: nn.Module, attributions: Tensor, layer: str = "conv2", keep: float = 0.5):
    return activations(model, layer, reduced(attributions, keep)).flatten(1).numpy()


def black(inputs: Tensor, attributions: Tensor) -> Tensor:
    """Another way to leave out the rest."""
    return inputs * (torch.nn.functional.interpolate(attributions, inputs.shape[2:]) > 0)


def fss(pair, attributions, base_attributions, x=X, **options) -> float:
    options = {"attributions": attributions, "base_attributions": base_attributions, **options}
    return float(feature_similarity_score(pair[0], "conv2", pair[1], "conv2", x, **options))


def rs(pair, x=X, y=Y, **options) -> float:
    return float(relevance_score(pair[0], "conv2", x, y, **options))


# -------------------------------------------------------------------------------- values


def test_similarity_is_that_of_features_of_reduced_images(dcor, pair):
    own, other = (gradcam(model) for model in pair)
    expected = dcor.u_distance_correlation_sqr(by_hand(pair[0], own), by_hand(pair[1], other))
    assert fss(pair, own, other) == pytest.approx(expected, abs=1e-6)
    assert abs(expected - fss(pair, None, None)) > 1e-3


def test_relevance_is_that_of_features_of_reduced_images(dcor, pair):
    own, goal = gradcam(pair[0]), torch.eye(3, dtype=F64)[Y].numpy()
    expected = dcor.u_distance_correlation_sqr(by_hand(pair[0], own), goal)
    assert rs(pair, attributions=own) == pytest.approx(expected, abs=1e-6)
    assert abs(expected - rs(pair)) > 1e-3


@pytest.mark.parametrize("remove_from", ["x", "both"])
def test_distilled_relevance_reduces_each_model_by_its_own_maps(dcor, pair, remove_from):
    own, other = (gradcam(model) for model in pair)
    ours, theirs = by_hand(pair[0], own), by_hand(pair[1], other)
    goal = torch.eye(3, dtype=F64)[Y].numpy()
    if remove_from == "both":
        expected = dcor.partial_distance_correlation(ours, goal, theirs)
    else:
        p, q, g = (dcor.u_centered(torch.cdist(*[torch.from_numpy(v)] * 2).numpy()) for v in (ours, theirs, goal))
        rest = p - dcor.u_product(p, q) / dcor.u_product(q, q) * q
        expected = dcor.u_product(rest, g) / (dcor.u_product(rest, rest) * dcor.u_product(g, g)) ** 0.5
    found = rs(
        pair, given=(pair[1], "conv2"), attributions=own, base_attributions=other, remove_from=remove_from
    )
    assert found == pytest.approx(expected, abs=1e-6)


def test_another_share_by_partial(dcor, pair):
    own, other = maps(1), maps(2)
    expected = dcor.u_distance_correlation_sqr(by_hand(pair[0], own, keep=0.3), by_hand(pair[1], other, keep=0.3))
    found = fss(pair, own, other, perturb_func=functools.partial(keep_relevant, keep=0.3))
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found - fss(pair, own, other)) > 1e-4


def test_another_way_to_reduce(pair):
    own, other = maps(1), maps(2)
    expected = distances_of(pair, black(X, own), black(X, other))
    assert fss(pair, own, other, perturb_func=black) == pytest.approx(expected, abs=1e-9)


def distances_of(pair, x: Tensor, base_x: Tensor) -> float:
    """FSS of two sets of features, through a model that only passes features on."""
    features = [activations(model, "conv2", inputs).flatten(1) for model, inputs in zip(pair, (x, base_x))]
    both = [Passed(feature) for feature in features]
    return float(feature_similarity_score(both[0], "layer", both[1], "layer", x))


class Passed(nn.Module):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.layer = features, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.features)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1), (3, 5), (6, 6), (12, 12)]))
def test_equal_models_with_equal_maps_are_alike(seed, size):
    """Both models' images get the same noise."""
    attributions = maps(seed, size)
    model = ConvNet(seed=3).double()
    assert fss((model, ConvNet(seed=3).double()), attributions, attributions.clone()) == pytest.approx(1, abs=1e-12)


def test_equal_models_with_other_maps_are_not(pair):
    assert fss((pair[0], pair[0]), maps(1), maps(2)) < 0.95


def test_scores_repeat_and_do_not_depend_on_the_callers_seed(pair):
    partial = functools.partial(keep_relevant, keep=0.4, noise=0.5)
    for perturb_func in (None, partial):
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(fss(pair, maps(1), maps(2), perturb_func=perturb_func))
        assert found[0] == found[1]


@pytest.mark.parametrize("batch_size", [1, 5, N, 100])
def test_batch_size_does_not_matter(pair, batch_size):
    own, other = maps(1), maps(2)
    options = {"max_examples_per_batch": batch_size}
    assert fss(pair, own, other, **options) == pytest.approx(fss(pair, own, other), abs=1e-12)
    options |= {"given": (pair[1], "conv2"), "attributions": own, "base_attributions": other}
    whole = rs(pair, **{**options, "max_examples_per_batch": None})
    assert rs(pair, **options) == pytest.approx(whole, abs=1e-12)


def test_maps_may_have_the_images_resolution(pair):
    own, other = (nn.functional.interpolate(maps(seed), (12, 12), mode="bilinear") for seed in (1, 2))
    assert fss(pair, own, other) == pytest.approx(fss(pair, maps(1), maps(2)), abs=1e-12)


def test_with_half_precision_maps_the_same_pixels_stay(pair):
    attributions = torch.arange(N * 36, dtype=F64).reshape(N, 1, 6, 6) % 37
    assert rs(pair, attributions=attributions.half()) == pytest.approx(rs(pair, attributions=attributions), abs=1e-12)


class ImageAndScale(nn.Module):
    """Two inputs, of which the second is the image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, scale: Tensor, image: Tensor, shift: float) -> Tensor:
        return self.net(image * scale[:, :, None, None] + shift)


def test_of_several_inputs_the_image_is_reduced(pair):
    scale = torch.rand(N, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    wrapped = ImageAndScale(pair[0])
    found = relevance_score(wrapped, "net.conv2", (scale, X), Y, None, 0.5, attributions=maps(1))
    whole = relevance_score(wrapped, "net.conv2", (scale, reduced(maps(1))), Y, None, 0.5)
    assert float(found) == pytest.approx(float(whole), abs=1e-12)


def test_nothing_is_left_behind(pair):
    model, x = ConvNet(seed=5), images(N).requires_grad_()
    before, values = torch.get_rng_state(), x.detach().clone()
    attributions = maps(1).float().requires_grad_()
    found = relevance_score(model, "conv2", x, Y, attributions=attributions)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, values)
    assert not found.requires_grad and attributions.grad is None and x.grad is None
    assert all(not module._forward_hooks and module.training for module in model.modules())


def test_a_perturb_func_that_raises_gives_the_random_state_back(pair):
    before = torch.get_rng_state()

    def broken(inputs: Tensor, attributions: Tensor) -> Tensor:
        torch.rand(3)
        raise KeyError("of the user")

    with pytest.raises(KeyError, match="of the user"):
        rs(pair, attributions=maps(1), perturb_func=broken)
    assert torch.equal(torch.get_rng_state(), before)


def test_maps_say_which_pixels_stay(pair):
    """The tensors that perturb_func receives are the images and the maps as they were passed."""
    seen = []

    def spy(inputs: Tensor, attributions: Tensor) -> Tensor:
        seen.append((inputs, attributions))
        return inputs

    own, other = maps(1), maps(2, (3, 4))
    whole = fss(pair, None, None)
    assert fss(pair, own, other, perturb_func=spy) == whole
    assert [torch.equal(given_maps, expected) for (_, given_maps), expected in zip(seen, (own, other))] == [True, True]
    assert all(torch.equal(inputs, X) for inputs, _ in seen)


def test_a_function_that_works_in_place_does_not_reach_the_images(pair):
    before = X.clone()
    fss(pair, maps(1), maps(2), perturb_func=lambda inputs, attributions: inputs.mul_(2))
    assert torch.equal(X, before)


# -------------------------------------------------------------------------------- errors


def spoiled(value: float) -> Tensor:
    attributions = maps()
    attributions[3, 0, 1, 2] = value
    return attributions


UNFIT = [
    (maps(n=7), ValueError, "has 7 maps for 16 inputs"),
    (maps(size=(24, 24)), ValueError, "maps of 24x24 for 12x12 pixels"),
    (spoiled(torch.nan), ValueError, "non-finite .* in map 3"),
    (spoiled(torch.inf), ValueError, "non-finite .* in map 3"),
    ((maps(), maps()), TypeError, "a tuple of 2, .* choose one"),
    ([maps()], TypeError, "a list of 1, .* choose one"),
    (X, ValueError, r"\(N, 1, h, w\), .*\.sum\(1, keepdim=True\)"),
    (maps()[:, 0], ValueError, r"by .unsqueeze\(1\)"),
    (maps().long(), TypeError, "tensor of torch.int64"),
    (maps().numpy(), TypeError, "got ndarray"),
]


@pytest.mark.parametrize("unfit, error, words", UNFIT)
def test_unfit_maps_are_refused_before_any_model_runs(unfit, error, words):
    models, perturb = (Untouched(), Untouched()), {"perturb_func": forbidden}
    with pytest.raises(error, match=f"^attributions .*{words}"):
        fss(models, unfit, maps(), **perturb)
    with pytest.raises(error, match=f"^base_attributions .*{words}"):
        fss(models, maps(), unfit, **perturb)
    with pytest.raises(error, match=f"^attributions .*{words}"):
        rs(models, attributions=unfit, **perturb)
    options = {"given": (models[1], "conv2"), "attributions": maps(), "base_attributions": unfit}
    with pytest.raises(error, match=f"^base_attributions .*{words}"):
        rs(models, **options, **perturb)


@pytest.mark.parametrize(
    "own, other, words",
    [
        (maps(), None, "attributions was passed without base_attributions: .* the same maps twice"),
        (None, maps(), "base_attributions was passed without attributions: .* own maps"),
    ],
)
def test_each_model_needs_its_own_maps(own, other, words):
    models = (Untouched(), Untouched())
    with pytest.raises(ValueError, match=words):
        fss(models, own, other)
    with pytest.raises(ValueError, match=words):
        rs(models, given=(models[1], "conv2"), attributions=own, base_attributions=other)


def test_arguments_without_their_counterpart_are_refused():
    models = (Untouched(), Untouched())
    with pytest.raises(ValueError, match="base_attributions are maps of the model in given="):
        rs(models, attributions=maps(), base_attributions=maps())
    for call in (lambda: rs(models, perturb_func=black), lambda: fss(models, None, None, perturb_func=black)):
        with pytest.raises(ValueError, match="perturb_func is applied to .* pass attributions"):
            call()
    with pytest.raises(TypeError, match="perturb_func must be callable"):
        fss(models, maps(), maps(), perturb_func="black")


@pytest.mark.parametrize(
    "x, words",
    [
        (X.flatten(1), r"one input of images .*, but 0 of the inputs are; they have the shapes \(16, 432\)"),
        ((X, X), "2 of the inputs are"),
        (X.long(), "floating point, but 0 of"),
    ],
)
def test_there_must_be_one_image(x, words):
    with pytest.raises(ValueError, match=words):
        fss((Untouched(), Untouched()), maps(), maps(), x)


@pytest.mark.parametrize(
    "result, error, words",
    [
        (X[:3], ValueError, r"of shape \(16, 3, 12, 12\), got shape \(3, 3, 12, 12\)"),
        (X * torch.nan, ValueError, "got non-finite values"),
        (None, TypeError, "perturb_func must return the perturbed images, .* got NoneType"),
    ],
)
def test_what_perturb_func_returns_is_checked(result, error, words):
    with pytest.raises(error, match=words):
        rs((Untouched(), None), attributions=maps(), perturb_func=lambda inputs, attributions: result)


def test_images_that_are_not_finite_are_refused_before_the_model_runs():
    x = X.clone()
    x[2] = torch.nan
    with pytest.raises(ValueError, match="2"):
        rs((Untouched(), None), x, attributions=maps())


@pytest.mark.filterwarnings("ignore:The population is")
def test_of_a_layer_with_several_outputs_one_map_is_chosen():
    model = SeveralOutputs("tuple").double()
    several = UniCAM(model, "split", SeveralOutputs("tuple", seed=1).double()).attribute(X, Y)
    assert isinstance(several, tuple)
    with pytest.raises(TypeError, match=r"choose one, for example attributions\[0\]"):
        relevance_score(model, "split", X, Y, attributions=several)
    assert torch.isfinite(relevance_score(model, "split", X, Y, attributions=several[0]))


@pytest.mark.parametrize("score", [feature_similarity_score, relevance_score])
def test_arguments_are_keywords(score):
    parameters = inspect.signature(score).parameters
    for name in ("attributions", "base_attributions", "perturb_func"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY and parameters[name].default is None
