"""The feature similarity score of two models against dcor on their hooked activations, and what it promises."""

import pytest
import torch
from models import Columns, ConvNet, TinyTransformer, TwoInputs, Untouched, activations, forbidden, images
from torch import Tensor, nn

from captum_kd import flatten_to_unit_length, global_average_pool
from captum_kd.distance.centering import CENTERINGS
from captum_kd.metrics import feature_similarity_score

N = 20
F64 = torch.float64
LAYERS = ["conv1", "relu1", "conv2", "conv3", "pool", "fc"]


@pytest.fixture
def pair():
    return ConvNet(seed=1).double(), ConvNet(seed=2).double()


def inputs(n: int = N) -> Tensor:
    return images(n, dtype=F64)


def gaussians(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("layer", LAYERS)
def test_score_is_that_of_dcor_on_hooked_activations(dcor, pair, layer):
    x = inputs()
    own, other = (activations(model, layer, x).flatten(1).numpy() for model in pair)
    found = feature_similarity_score(pair[0], layer, pair[1], layer, x)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(own, other), abs=1e-9)
    found = feature_similarity_score(pair[0], layer, pair[1], layer, x, estimator="biased")
    assert float(found) == pytest.approx(dcor.distance_correlation_sqr(own, other), abs=1e-9)


def test_layers_and_architectures_may_differ(dcor, pair):
    x, wider = inputs(), ConvNet(width=9, seed=3).double()
    own, other = activations(pair[0], "conv1", x), activations(wider, "conv2", x)
    expected = dcor.u_distance_correlation_sqr(own.flatten(1).numpy(), other.flatten(1).numpy())
    for second in ("conv2", wider.conv2):
        found = feature_similarity_score(pair[0], pair[0].conv1, wider, second, x)
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_features_may_be_pooled(dcor, pair):
    x = inputs()
    own, other = (activations(model, "conv2", x).mean((2, 3)).numpy() for model in pair)
    found = feature_similarity_score(pair[0], "conv2", pair[1], "conv2", x, feature_transform=global_average_pool)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(own, other), abs=1e-9)


def test_layer_inputs_may_be_compared(dcor, pair):
    x = inputs()
    own, other = (activations(model, "fc", x, at_input=True).numpy() for model in pair)
    found = feature_similarity_score(pair[0], "fc", pair[1], "fc", x, attribute_to_layer_input=True)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(own, other), abs=1e-9)


def test_prefix_tokens_are_left_out(dcor):
    models = [TinyTransformer(prefix=2, seed=seed).double().eval() for seed in (1, 2)]
    x = images(N, 16, 16, dtype=F64)
    own, other = (activations(model, "block", x)[:, 2:].flatten(1).numpy() for model in models)
    found = feature_similarity_score(models[0], "block", models[1], "block", x)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(own, other), abs=1e-9)


def test_several_inputs_and_additional_arguments(dcor):
    models = [TwoInputs(seed=seed).double() for seed in (1, 2)]
    args = gaussians(N, 4, 0), gaussians(N, 3, 1), gaussians(N, 6, 2)
    own, other = (activations(model, "mix", *args).numpy() for model in models)
    found = feature_similarity_score(models[0], "mix", models[1], "mix", args[:2], args[2], max_examples_per_batch=7)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(own, other), abs=1e-9)


@pytest.mark.parametrize("layer", ["conv2", "fc"])
def test_float32_follows_float64(pair, layer):
    expected = feature_similarity_score(pair[0], layer, pair[1], layer, inputs())
    singles = ConvNet(seed=1), ConvNet(seed=2)
    found = feature_similarity_score(singles[0], layer, singles[1], layer, inputs().float())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("types", [(torch.float32, F64), (F64, torch.float32), (torch.bfloat16, torch.float32)])
def test_models_of_different_precision(types, pair):
    """Both see the same numbers as far as their types hold them."""

    def typed(model: nn.Module, dtype: torch.dtype):
        model = model.to(dtype)
        return lambda x: model(x.to(dtype))

    expected = feature_similarity_score(pair[0], "conv2", pair[1], "conv2", inputs())
    functions = [typed(model, dtype) for model, dtype in zip(pair, types)]
    found = feature_similarity_score(functions[0], pair[0].conv2, functions[1], pair[1].conv2, inputs())
    assert float(found) == pytest.approx(float(expected), abs=2e-2 if torch.bfloat16 in types else 1e-5)


# ---------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("size", [1, 7, N - 1, N, 1000])
def test_batch_size_has_no_effect(pair, size):
    def score(**kwargs):
        return float(feature_similarity_score(pair[0], "conv2", pair[1], "conv2", inputs(), **kwargs))

    assert score(max_examples_per_batch=size) == pytest.approx(score(), abs=1e-12)


def test_batch_size_bounds_what_the_models_see(pair):
    rows: list[int] = []

    def counted(x: Tensor) -> Tensor:
        rows.append(len(x))
        return pair[0](x)

    feature_similarity_score(counted, pair[0].conv2, pair[1], "conv2", inputs(), max_examples_per_batch=6)
    assert rows == [6, 6, 6, 2]


def test_order_of_inputs_and_of_models_does_not_matter(pair):
    x, order = inputs(), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    expected = float(feature_similarity_score(pair[0], "conv2", pair[1], "conv2", x))
    for student, base, images_ in ((*pair, x[order]), (pair[1], pair[0], x)):
        found = feature_similarity_score(student, "conv2", base, "conv2", images_)
        assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", CENTERINGS)
def test_a_model_is_like_itself(pair, estimator):
    found = feature_similarity_score(pair[0], "conv2", pair[0], "conv2", inputs(), estimator=estimator)
    assert float(found) == pytest.approx(1, abs=1e-12)


def test_constant_features_score_zero_with_a_warning(pair):
    with torch.no_grad():
        pair[1].conv2.weight.zero_()
    with pytest.warns(UserWarning, match="no geometry"):
        found = feature_similarity_score(pair[0], "conv2", pair[1], "conv2", inputs())
    assert float(found) == 0


def test_nothing_is_left_behind(pair):
    student = pair[0].train()
    for parameter in student.fc.parameters():
        parameter.requires_grad_(False)
    state = torch.random.get_rng_state()
    found = feature_similarity_score(student, "conv2", pair[1], "conv2", inputs().requires_grad_())
    assert not found.requires_grad
    assert student.training and not student.fc.weight.requires_grad and student.conv1.weight.requires_grad
    assert all(parameter.grad is None for parameter in student.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    assert torch.equal(state, torch.random.get_rng_state())


# ------------------------------------------------------------- the authors' published score


def published(own: Tensor, other: Tensor) -> float:
    """Biased distance correlation of rows scaled to unit length, written out."""

    def centered(features: Tensor) -> Tensor:
        rows = torch.stack([row / row.norm() for row in features])
        d = torch.stack([torch.stack([(a - b).norm() for b in rows]) for a in rows])
        return d - d.mean(0) - d.mean(1, keepdim=True) + d.mean()

    p, q = centered(own), centered(other)
    n2 = len(p) ** 2
    return float(((p * q).sum() / n2) / ((p**2).sum() / n2 * (q**2).sum() / n2).sqrt())


def test_published_score_over_mini_batches(pair):
    """Averaged over batches of 5: every batch is a call of its own."""
    x = inputs()
    own, other = (activations(model, "conv2", x).flatten(1) for model in pair)
    expected = [published(own[i : i + 5], other[i : i + 5]) for i in range(0, N, 5)]
    found = [
        feature_similarity_score(
            pair[0],
            "conv2",
            pair[1],
            "conv2",
            x[i : i + 5],
            estimator="biased",
            feature_transform=flatten_to_unit_length,
        )
        for i in range(0, N, 5)
    ]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected, dtype=F64), rtol=0, atol=1e-10)


D = 2048
FIRST, SECOND = Columns(0, D), Columns(D, 2 * D)


def independent(n: int, seed: int, **kwargs) -> float:
    """The score of independent Gaussian features, 2,048 wide."""
    return float(feature_similarity_score(FIRST, "layer", SECOND, "layer", gaussians(n, 2 * D, seed), **kwargs))


@pytest.mark.parametrize("n, expected", [(5, 1.000), (32, 0.996), (500, 0.943)])
def test_published_score_of_unrelated_features_tends_to_one(n, expected):
    found = independent(n, 0, estimator="biased", feature_transform=flatten_to_unit_length)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n, spread, draws", [(5, 0.44, 400), (32, 0.04, 100)])
def test_unbiased_score_of_unrelated_features_is_zero_on_average(n, spread, draws):
    found = torch.tensor([independent(n, seed) for seed in range(draws)])
    assert abs(float(found.mean())) < 4 * spread / draws**0.5
    assert float(found.std()) == pytest.approx(spread, rel=0.25)


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"inputs": images(3)}, ValueError, "at least 4 inputs, got 3"),
        ({"inputs": [images(8)]}, TypeError, "inputs must be a tensor or a tuple of tensors, got list"),
        ({"inputs": (images(8), images(7))}, ValueError, r"\[8, 7\] rows"),
        ({"layer": "conv_2"}, ValueError, "layer='conv_2' is no layer of forward_func .*'conv2'"),
        ({"base_layer": "cnv1"}, ValueError, "base_layer='cnv1' is no layer of base_func .*'conv1'"),
        ({"layer": 3}, TypeError, "layer must be an nn.Module or a dotted name, got int"),
        ({"forward_func": forbidden}, ValueError, "layer='conv2' is a name, but forward_func is a plain function"),
        ({"base_func": "base"}, TypeError, "base_func must be callable .* got str"),
        ({"estimator": "u"}, ValueError, "estimator must be 'unbiased' or 'biased', got 'u'"),
        ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch must be a positive integer"),
        ({"feature_transform": 1}, TypeError, "feature_transform must be callable"),
        ({"grid": (0, 3)}, ValueError, "grid must be"),
    ],
)
def test_unfit_arguments_are_refused_before_any_model_runs(change, error, words):
    arguments = {
        "forward_func": Untouched(),
        "layer": "conv2",
        "base_func": Untouched(),
        "base_layer": "conv2",
        "inputs": images(8),
    }
    with pytest.raises(error, match=words):
        feature_similarity_score(**{**arguments, **change})


@pytest.mark.parametrize("which", ["forward_func", "base_func"])
def test_non_finite_features_name_layer_and_model(pair, which):
    broken = pair[which == "base_func"]
    with torch.no_grad():
        broken.conv2.bias[1] = torch.nan
    with pytest.raises(ValueError, match=f"layer 'conv2' of {which} gives non-finite features"):
        feature_similarity_score(pair[0], "conv2", pair[1], "conv2", inputs())
    assert not broken.conv2._forward_hooks


def test_layers_that_never_run_are_named(pair):
    pair[1].spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="never reached layer 'spare' of base_func"):
        feature_similarity_score(pair[0], "conv2", pair[1], "spare", inputs())


def test_transforms_must_give_rows(pair):
    with pytest.raises(ValueError, match=r"feature_transform must turn .* into \(20, d\), got \(20, 6, 6, 6\)"):
        feature_similarity_score(pair[0], "conv2", pair[1], "conv2", inputs(), feature_transform=lambda a: a)
