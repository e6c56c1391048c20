"""The relevance score against dcor on hooked activations, and what its numbers can and cannot say."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Columns, ConvNet, Untouched, activations, forbidden, images, labels
from reference.literal import r
from reference.several_bases import centered, left_of
from torch import Tensor, nn

from captum_kd import global_average_pool
from captum_kd.metrics import feature_similarity_score, relevance_score
from captum_kd.perturb import keep_relevant

N = 20
F64 = torch.float64
TABLE = torch.randn(3, 4, generator=torch.Generator().manual_seed(7), dtype=F64)
EMBEDDINGS = {"one-hot": None, "table": TABLE}


@pytest.fixture
def pair():
    return ConvNet(seed=1).double(), ConvNet(seed=2).double()


def inputs(n: int = N) -> Tensor:
    return images(n, dtype=F64)


def embedded(y: Tensor, table: Tensor | None):
    return (torch.eye(3, dtype=F64) if table is None else table)[y].numpy()


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("layer", ["conv1", "conv2", "pool", "fc"])
def test_score_is_that_of_dcor_on_hooked_activations(dcor, pair, layer, embeddings):
    x, y, table = inputs(), labels(N), EMBEDDINGS[embeddings]
    features, goal = activations(pair[0], layer, x).flatten(1).numpy(), embedded(y, table)
    found = relevance_score(pair[0], layer, x, y, table)
    assert float(found) == pytest.approx(dcor.u_distance_correlation_sqr(features, goal), abs=1e-9)
    found = relevance_score(pair[0], layer, x, y, table, estimator="biased")
    assert float(found) == pytest.approx(dcor.distance_correlation_sqr(features, goal), abs=1e-9)


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
def test_relevance_of_what_one_model_adds_is_that_of_dcor(dcor, pair, layer, embeddings):
    """Removal on the features' side only, and the partial distance correlation proper."""
    x, y, table = inputs(), labels(N), EMBEDDINGS[embeddings]
    own, other = (activations(model, layer, x).flatten(1).numpy() for model in pair)
    goal = embedded(y, table)
    p, q, g = (dcor.u_centered(dcor.distances.pairwise_distances(f)) for f in (own, other, goal))
    rest = dcor.u_complementary_projection(q)(p)
    expected = dcor.u_product(rest, g) / math.sqrt(dcor.u_product(rest, rest) * dcor.u_product(g, g))
    found = relevance_score(pair[0], layer, x, y, table, given=(pair[1], layer))
    assert float(found) == pytest.approx(expected, abs=1e-9)
    found = relevance_score(pair[0], layer, x, y, table, given=(pair[1], layer), remove_from="both")
    assert float(found) == pytest.approx(dcor.partial_distance_correlation(own, goal, other), abs=1e-9)


def test_settings_apply_to_both_models(dcor, pair):
    """Pooling, layer inputs, additional arguments and modules instead of names."""
    x, y, scale = inputs(), labels(N), torch.linspace(0.5, 2, N, dtype=F64)[:, None, None, None]
    own, other = (activations(model, "conv3", x, scale, at_input=True).mean((2, 3)).numpy() for model in pair)
    p, q, g = (dcor.u_centered(dcor.distances.pairwise_distances(f)) for f in (own, other, embedded(y, None)))
    rest = dcor.u_complementary_projection(q)(p)
    expected = dcor.u_product(rest, g) / math.sqrt(dcor.u_product(rest, rest) * dcor.u_product(g, g))
    found = relevance_score(
        pair[0],
        pair[0].conv3,
        x,
        y,
        None,
        scale,
        given=(pair[1], "conv3"),
        feature_transform=global_average_pool,
        attribute_to_layer_input=True,
        max_examples_per_batch=6,
    )
    assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("layer", ["conv2", "fc"])
def test_float32_follows_float64(pair, layer):
    singles = ConvNet(seed=1), ConvNet(seed=2)
    for given_models in (None, (pair[1], singles[1])):
        double, single = ((model, layer) for model in given_models) if given_models else (None, None)
        expected = relevance_score(pair[0], layer, inputs(), labels(N), TABLE, given=double)
        found = relevance_score(singles[0], layer, inputs().float(), labels(N), TABLE, given=single)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("target", [[0, 1, 2, 0, 1, 2, 0, 1], torch.arange(8) % 3, (torch.arange(8) % 3).int()])
def test_labels_may_be_lists_and_tensors_of_any_integer_type(pair, target):
    expected = relevance_score(pair[0], "fc", inputs(8), labels(8))
    assert float(relevance_score(pair[0], "fc", inputs(8), target)) == float(expected)


# ---------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("size", [1, 7, N, 1000])
def test_batch_size_has_no_effect(pair, size):
    def score(**kwargs):
        return float(relevance_score(pair[0], "conv2", inputs(), labels(N), given=(pair[1], "conv2"), **kwargs))

    assert score(max_examples_per_batch=size) == pytest.approx(score(), abs=1e-12)


def test_order_of_the_inputs_does_not_matter(pair):
    x, y, order = inputs(), labels(N), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for removed in (None, (pair[1], "conv2")):
        expected = float(relevance_score(pair[0], "conv2", x, y, given=removed))
        found = relevance_score(pair[0], "conv2", x[order], y[order], given=removed)
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_names_of_the_classes_do_not_matter(pair):
    x, y = inputs(), labels(N)
    renamed = torch.tensor([2, 0, 1])
    expected = float(relevance_score(pair[0], "conv2", x, y))
    assert float(relevance_score(pair[0], "conv2", x, renamed[y])) == pytest.approx(expected, abs=1e-12)
    assert float(relevance_score(pair[0], "conv2", x, 100 * y)) == pytest.approx(expected, abs=1e-12)
    tables = [float(relevance_score(pair[0], "conv2", x, y, table)) for table in (TABLE, TABLE[[2, 0, 1]])]
    assert abs(tables[0] - tables[1]) > 1e-3  # a table says which class is which


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_with_two_classes_the_table_does_not_matter(seed, width):
    model = ConvNet(seed=1).double()
    x, y = inputs(), labels(N, 2)
    table = torch.randn(2, width, generator=torch.Generator().manual_seed(seed), dtype=F64)
    expected = float(relevance_score(model, "conv2", x, y))
    assert float(relevance_score(model, "conv2", x, y, table)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_size_of_the_embeddings_does_not_matter(size):
    x = inputs().float()
    expected = float(relevance_score(ConvNet(seed=1), "conv2", x, labels(N), TABLE))
    found = relevance_score(ConvNet(seed=1), "conv2", x, labels(N), TABLE * size)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_features_that_are_the_embeddings_score_one():
    y = labels(N)
    found = relevance_score(Columns(0, 4), "layer", TABLE[y], y, TABLE)
    assert float(found) == pytest.approx(1, abs=1e-12)


# ------------------------------------------------- what the numbers can and cannot say

STUDENT, BASE = (Columns(0, 3), "layer"), (Columns(3, 8), "layer")
TASKS = st.fixed_dictionaries(
    {"n": st.integers(8, 40), "classes": st.integers(2, 4), "seed": st.integers(0, 10**6), "signal": st.floats(0, 3)}
)
fair = settings(deadline=None, max_examples=25)


def task(n: int, classes: int, seed: int, signal: float) -> tuple[Tensor, Tensor]:
    """Inputs whose columns are the features of two related models, with more or less of the labels in them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, 8, generator=generator, dtype=F64)
    x[:, 3:6] += 0.5 * x[:, :3]
    return x + signal * torch.randn(classes, 8, generator=generator, dtype=F64)[y], y


def relevances(x: Tensor, y: Tensor) -> tuple[float, ...]:
    """F, RS_S, RS_B, RS(S|B), RS(B|S)."""
    return (
        float(feature_similarity_score(*STUDENT, *BASE, x)),
        float(relevance_score(*STUDENT, x, y)),
        float(relevance_score(*BASE, x, y)),
        float(relevance_score(*STUDENT, x, y, given=BASE)),
        float(relevance_score(*BASE, x, y, given=STUDENT)),
    )


@fair
@given(TASKS)
def test_distilled_relevance_follows_from_the_whole_scores(population):
    """RS(S|B) = (RS_S - F RS_B) / sqrt(1 - F^2), and so for the residual."""
    f, student, base, distilled, residual = relevances(*task(**population))
    assert distilled == pytest.approx((student - f * base) / math.sqrt(1 - f**2), abs=1e-9)
    assert residual == pytest.approx((base - f * student) / math.sqrt(1 - f**2), abs=1e-9)


@fair
@given(TASKS)
def test_distilled_exceeds_residual_by_the_magnified_difference_of_the_whole_scores(population):
    """RS(S|B) - RS(B|S) = (RS_S - RS_B) sqrt((1 + F) / (1 - F)): same sign, however it is measured."""
    f, student, base, distilled, residual = relevances(*task(**population))
    assert distilled - residual == pytest.approx((student - base) * math.sqrt((1 + f) / (1 - f)), abs=1e-9)


@fair
@given(TASKS)
def test_partial_correlation_proper_is_the_distilled_relevance_over_what_is_left_of_the_labels(population):
    x, y = task(**population)
    _, _, base, distilled, _ = relevances(x, y)
    found = float(relevance_score(*STUDENT, x, y, given=BASE, remove_from="both"))
    assert found == pytest.approx(distilled / math.sqrt(1 - base**2), abs=1e-9)


@pytest.mark.parametrize("signal", [0.5, 2.0])
def test_models_of_equal_relevance_both_have_something_to_show(signal):
    """r sqrt((1 - F) / (1 + F)) > 0 each, without any transfer: a positive score is no evidence of it."""
    x, y = task(40, 2, 0, signal)
    within = torch.arange(40).reshape(2, 10, 2).flip(0).flatten()  # another order within each class
    assert torch.equal(y[within], y)
    x = torch.cat([x[:, :3], x[within, :3], x[:, :2]], dim=1)
    student, base = (Columns(0, 3), "layer"), (Columns(3, 6), "layer")
    f = float(feature_similarity_score(*student, *base, x))
    r = float(relevance_score(*student, x, y))
    assert r == pytest.approx(float(relevance_score(*base, x, y)), abs=1e-12) and r > 0.02
    for own, other in ((student, base), (base, student)):
        found = float(relevance_score(*own, x, y, given=other))
        assert found == pytest.approx(r * math.sqrt((1 - f) / (1 + f)), abs=1e-9) and found > 0


def test_labels_without_relation_to_the_features_score_zero_on_average():
    """Over permutations of the labels; the biased score does not."""
    x, y = task(24, 3, 0, 1.0)
    model = Columns(0, 8)
    found = torch.zeros(2, 200, dtype=F64)
    for seed in range(200):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        for row, estimator in enumerate(("unbiased", "biased")):
            found[row, seed] = relevance_score(model, "layer", x, y[order], estimator=estimator)
    unbiased, biased = found
    assert abs(float(unbiased.mean())) < 4 * float(unbiased.std()) / 200**0.5
    assert float(biased.min()) > 0 and float(biased.mean()) > 0.05


# ---------------------------------------------------------------------------- degenerate


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nothing_is_left_of_a_model_given_itself(dtype):
    model = ConvNet(seed=1).to(dtype)
    with pytest.warns(UserWarning, match="no geometry"):
        found = relevance_score(model, "conv2", inputs().to(dtype), labels(N), given=(model, "conv2"))
    assert float(found) == 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nothing_is_left_of_rescaled_features(dtype):
    model, base = ConvNet(seed=1).to(dtype), ConvNet(seed=1).to(dtype)
    with torch.no_grad():
        base.conv2.weight *= -3  # and another offset
        base.conv2.bias += 1
    with pytest.warns(UserWarning, match="no geometry"):
        found = relevance_score(model, "conv2", inputs().to(dtype), labels(N), given=(base, "conv2"))
    assert float(found) == 0


def test_constant_features_score_zero_with_a_warning(pair):
    with torch.no_grad():
        pair[0].conv2.weight.zero_()
    for removed in (None, (pair[1], "conv2")):
        with pytest.warns(UserWarning, match="no geometry"):
            found = relevance_score(pair[0], "conv2", inputs(), labels(N), given=removed)
        assert float(found) == 0


def test_constant_features_take_nothing_away(pair):
    expected = relevance_score(pair[0], "conv2", inputs(), labels(N))
    with torch.no_grad():
        pair[1].conv2.weight.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = relevance_score(pair[0], "conv2", inputs(), labels(N), given=(pair[1], "conv2"))
    assert float(found) == float(expected)


def test_nothing_is_left_behind(pair):
    models = [model.train() for model in pair]
    state = torch.random.get_rng_state()
    found = relevance_score(models[0], "conv2", inputs(), labels(N), given=(models[1], "conv2"))
    assert not found.requires_grad
    assert torch.equal(state, torch.random.get_rng_state())
    for model in models:
        assert model.training and all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"inputs": images(3), "target": [0, 0, 1], "given": None}, ValueError, "at least 4 inputs, got 3"),
        ({"inputs": images(4), "target": [0, 0, 1, 1]}, ValueError, "at least 5 inputs, got 4"),
        ({"inputs": None}, TypeError, "inputs must be a tensor"),
        ({"target": None}, TypeError, r"labels, got None: .* Pass one label per input, \(8,\) integers"),
        ({"target": labels(7)}, ValueError, r"target has shape \(7,\) for 8 inputs"),
        ({"target": labels(8).float()}, TypeError, "integer class labels, got a tensor of shape .8,. and torch.float32"),
        ({"target": ["cat"] * 8}, TypeError, "target must hold class labels"),
        ({"target": 2}, ValueError, "no geometry: all labels are equal"),
        ({"target": torch.arange(8)}, ValueError, "no geometry"),
        ({"target": [1, 0, 0, 0, 0, 0, 0, 0]}, ValueError, "one differs from the rest"),
        ({"class_embeddings": TABLE[:2]}, ValueError, "holds the label 2, .* labels 0 to 1"),
        ({"class_embeddings": torch.arange(3)}, TypeError, "class_embeddings must be a floating point tensor"),
        ({"layer": "relu_1"}, ValueError, "layer='relu_1' is no layer of forward_func .*'relu1'"),
        ({"given": (Untouched(), "fcc")}, ValueError, r"given\[1\]='fcc' is no layer of given\[0\] .*'fc'"),
        ({"given": (forbidden, "fc")}, ValueError, r"given\[0\] is a plain function"),
        ({"given": Untouched()}, TypeError, r"given must be a pair \(base_func, base_layer\)"),
        ({"given": ("base", "fc")}, TypeError, r"given\[0\] must be callable"),
        ({"estimator": "u"}, ValueError, "estimator must be"),
        ({"estimator": "biased"}, ValueError, "given needs estimator='unbiased'"),
        ({"remove_from": "y"}, ValueError, "remove_from must be 'x' or 'both', got 'y'"),
        ({"max_examples_per_batch": -1}, ValueError, "max_examples_per_batch must be a positive integer"),
        ({"feature_transform": "flat"}, TypeError, "feature_transform must be callable"),
        ({"prefix_tokens": -1}, ValueError, "prefix_tokens must be"),
    ],
)
def test_unfit_arguments_are_refused_before_any_model_runs(change, error, words):
    arguments = {
        "forward_func": Untouched(),
        "layer": "conv2",
        "inputs": images(8),
        "target": labels(8),
        "given": (Untouched(), "conv2"),
    }
    with pytest.raises(error, match=words):
        relevance_score(**{**arguments, **change})


@pytest.mark.parametrize("target", [2, range(8), [1] + [0] * 7])
def test_labels_without_geometry_are_told_the_ways_out_that_a_score_has(target):
    """It takes no reference population and needs labels."""
    with pytest.raises(ValueError) as error:
        relevance_score(Untouched(), "conv2", images(8), target)
    assert "Pass more inputs with at least two inputs in each of two classes." in str(error.value)
    assert "reference" not in str(error.value) and "None" not in str(error.value)


def test_four_inputs_are_enough_without_removal(pair):
    assert -1 <= float(relevance_score(pair[0], "conv2", inputs(4), [0, 0, 1, 1])) <= 1


@pytest.mark.parametrize("which", ["forward_func", r"given\[0\]"])
def test_non_finite_features_name_layer_and_model(pair, which):
    broken: nn.Module = pair[which != "forward_func"]
    with torch.no_grad():
        broken.conv2.weight[0] = torch.inf
    with pytest.raises(ValueError, match=f"layer 'conv2' of {which} gives non-finite features"):
        relevance_score(pair[0], "conv2", inputs(), labels(N), given=(pair[1], "conv2"))
    assert not broken.conv2._forward_hooks


# --------------------------------------------------------------------- several models


@pytest.mark.parametrize("remove_from", ["x", "both"])
def test_what_no_model_has_is_left_by_a_regression_on_all(pair, remove_from):
    x, y, third = inputs(), labels(N), ConvNet(seed=3).double()
    own, *others = (centered(activations(model, "conv2", x)) for model in (*pair, third))
    goal = centered(torch.eye(3)[y])
    expected = r(left_of(own, others), left_of(goal, others) if remove_from == "both" else goal)
    given = [(pair[1], "conv2"), (third, third.conv2)]
    found = relevance_score(pair[0], "conv2", x, y, given=given, remove_from=remove_from)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)
    for same in (given[::-1], [*given, given[0]]):
        again = relevance_score(pair[0], "conv2", x, y, given=same, remove_from=remove_from)
        assert float(again) == pytest.approx(float(expected), abs=1e-9)


def test_a_list_of_one_model_is_that_model(pair):
    one, listed = (relevance_score(pair[0], "conv2", inputs(), labels(N), given=each)
                   for each in ((pair[1], "conv2"), [(pair[1], "conv2")]))  # fmt: skip
    assert float(one) == float(listed)


def test_each_of_several_models_has_its_own_maps(pair):
    x, y, third = inputs(), labels(N), ConvNet(seed=3).double()
    maps = torch.rand(3, N, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    given = [(pair[1], "conv2"), (third, "conv2")]
    found = relevance_score(pair[0], "conv2", x, y, given=given, attributions=maps[0], base_attributions=[maps[1], maps[2]])
    own, *others = (
        centered(activations(model, "conv2", keep_reduced(x, each))) for model, each in zip((*pair, third), maps)
    )
    assert float(found) == pytest.approx(float(r(left_of(own, others), centered(torch.eye(3)[y]))), abs=1e-9)


def keep_reduced(x: Tensor, maps: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return keep_relevant(x, maps)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"given": []}, ValueError, "given is an empty list"),
        ({"given": [ConvNet(seed=2)]}, TypeError, "a list of such pairs"),
        ({"given": [(ConvNet(seed=2), "conv9")]}, ValueError, r"given\[0\]\[1\]"),
        ({"attributions": torch.ones(N, 1, 3, 3), "base_attributions": torch.ones(N, 1, 3, 3)}, ValueError, "a list of maps"),
        ({"attributions": torch.ones(N, 1, 3, 3)}, ValueError, "without base_attributions"),
    ],
)
def test_several_models_that_cannot_be(pair, change, error, said):
    given = [(pair[1], "conv2"), (ConvNet(seed=3).double(), "conv2")]
    with pytest.raises(error, match=said):
        relevance_score(pair[0], "conv2", inputs(), labels(N), **{"given": given, **change})
