"""The report's numbers: those of dcor, one layer and pair at a time, whatever the batches."""

import pytest
import torch
from models import ChannelsLast, ConvNet, TinyTransformer, images, labels
from population import N, PAIR, TEACHER, batches, by_score, compare, data, dcor_scores, hooked, related
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import flatten_to_unit_length, global_average_pool
from captum_kd.distance import euclidean_distances
from captum_kd.metrics import feature_similarity_score, relevance_score
from captum_kd.metrics.inference import geometry_products, jackknife, label_permutation_p_value, transfer_scores

LAYERS = ["conv1", "conv2", "conv3"]


@pytest.mark.parametrize("size", [1, 4, 7, N])
def test_rows_are_those_of_dcor_layer_by_layer_whatever_the_batch_size(size):
    student, base, teacher = related(1), related(2), related(3, width=9)
    report = compare(student, base, LAYERS, batches(size), teacher=teacher)
    x, y = data()
    for layer in LAYERS:
        expected = dcor_scores(*(hooked(m, layer, x) for m in (student, base)), y, hooked(teacher, layer, x))
        rows = by_score(report, layer)
        assert list(rows) == [*PAIR, *TEACHER]
        assert {score: row["value"] for score, row in rows.items()} == pytest.approx(expected, abs=1e-6)


def test_nearly_equal_models_keep_their_digits():
    """Removal leaves a thousandth of the geometry: float32 distances would be wrong in the sixth digit."""
    student = related(1)
    base = related(1)
    with torch.no_grad():
        base.conv2.weight += 2e-3 * torch.randn(base.conv2.weight.shape, generator=torch.Generator().manual_seed(0))
    x, y = images(90), labels(90)
    report = compare(student, base, "conv2", [(x, y)])
    expected = dcor_scores(hooked(student, "conv2", x), hooked(base, "conv2", x), y)
    assert expected["fss"] > 0.999
    found = {score: row["value"] for score, row in by_score(report, "conv2").items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_rows_agree_with_the_metric_functions():
    student, base = related(1), related(2)
    x, y = data()
    rows = by_score(compare(student, base, ["conv2"], batches(8), feature_transform=global_average_pool), "conv2")
    s, b, how = (student, "conv2"), (base, "conv2"), {"feature_transform": global_average_pool}
    assert rows["fss"]["value"] == pytest.approx(float(feature_similarity_score(*s, *b, x, **how)), abs=1e-5)
    assert rows["rs_distilled"]["value"] == pytest.approx(float(relevance_score(*s, x, y, given=b, **how)), abs=1e-5)
    assert rows["rs_residual"]["value"] == pytest.approx(float(relevance_score(*b, x, y, given=s, **how)), abs=1e-5)


def test_rows_are_every_student_with_every_base_at_every_layer():
    students = {"kd 1": related(1), "kd 2": related(2)}
    bases = {"base 1": related(3), "base 2": related(4), "base 3": related(5)}
    report = compare(students, bases, ["conv2", "conv1"], batches(10))
    keys = [(row["student"], row["base"], row["layer"], row["score"]) for row in report.rows]
    in_pairs = [(s, b, layer, score) for s in students for b in bases for layer in ("conv2", "conv1") for score in PAIR]
    assert keys == in_pairs + [(s, "all Bases", layer, "rs_distilled_all") for s in students for layer in ("conv2", "conv1")]
    x, y = data()
    expected = dcor_scores(hooked(students["kd 2"], "conv1", x), hooked(bases["base 3"], "conv1", x), y)
    found = by_score(report, "conv1", "kd 2", "base 3")
    assert {score: row["value"] for score, row in found.items()} == pytest.approx(expected, abs=1e-6)


def test_unique_share_stands_on_the_rows_of_what_is_left_after_removal():
    rows = by_score(compare(related(1), related(2), "conv2", batches(9), teacher=related(3)), "conv2")
    left = 1 - rows["fss"]["value"] ** 2
    for score, row in rows.items():
        expected = pytest.approx(left) if score.endswith(("_distilled", "_residual")) else None
        assert row["unique_share"] == expected, score


def test_data_are_read_once_and_every_model_sees_each_input_once():
    class Counting:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(batches(10))

    loader, seen = Counting(), []
    models = [related(seed) for seed in range(3)]
    for model in models:
        model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    compare({"a": models[0], "b": models[1]}, models[2], LAYERS, loader)
    assert loader.passes == 1 and sum(seen) == 3 * N


@pytest.mark.parametrize("form", ["loader", "mapping", "generator", "unpack"])
def test_any_loader_will_do(form):
    x, y = data()
    expected = by_score(compare(related(1), related(2), "conv1", [(x, y)]), "conv1")["fss"]["value"]
    settings = {}
    if form == "loader":
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
    elif form == "mapping":
        loader = [{"pixel_values": a, "labels": b} for a, b in batches(8)]
    elif form == "generator":
        loader = iter(batches(8))
    else:
        loader = [{"image": a, "class": b} for a, b in batches(8)]
        settings["unpack"] = lambda batch: (batch["image"], batch["class"])
    found = by_score(compare(related(1), related(2), "conv1", loader, **settings), "conv1")["fss"]["value"]
    assert found == pytest.approx(expected, abs=1e-9)


def test_layers_may_differ_from_model_to_model():
    student, base, teacher = TinyTransformer(seed=1), ConvNet(seed=2), ChannelsLast(seed=3)
    x, y = data()
    layers = {
        "middle": {"student": "block", "base": base.conv2, "teacher": "embed"},
        "last": {"student": "norm", "base": "conv3", "teacher": "stage"},
    }
    report = compare(student, base, layers, batches(11), teacher=teacher)
    tokens = hooked(student, "norm", x)[:, 8:]  # without the class token
    expected = dcor_scores(tokens, hooked(base, "conv3", x), y, hooked(teacher, "stage", x))
    found = {score: row["value"] for score, row in by_score(report, "last").items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_layout_hints_are_of_student_and_base_and_not_of_a_teacher_that_tells_by_itself():
    x, y = data()
    student, base, teacher = TinyTransformer(seed=1), TinyTransformer(seed=2), TinyTransformer(patch=2, seed=3)
    report = compare(student, base, "block", [(x, y)], teacher=teacher, grid=(3, 3), prefix_tokens=1)
    tokens = [hooked(model, "block", x)[:, 8:] for model in (student, base, teacher)]  # without the class token
    expected = dcor_scores(tokens[0], tokens[1], y, tokens[2])
    assert {k: row["value"] for k, row in by_score(report, "block").items()} == pytest.approx(expected, abs=1e-6)


def test_class_embeddings_shape_the_labels():
    x, y = data()
    table = torch.tensor([[0.0], [1.0], [5.0]])
    found = by_score(compare(related(1), related(2), "conv2", batches(8), class_embeddings=table), "conv2")
    expected = relevance_score(related(1), "conv2", x, y, table)
    assert found["rs_student"]["value"] == pytest.approx(float(expected), abs=1e-5)


def test_progression_is_the_similarity_with_the_models_own_last_layer():
    student, base, teacher = related(1), related(2), related(3)
    x, _ = data()
    report = compare(student, base, LAYERS, batches(8), teacher=teacher, progression=True, confidence=0.9)
    for role, model in (("student", student), ("base", base), ("teacher", teacher)):
        for layer in LAYERS:
            row = by_score(report, layer)[f"progression_{role}"]
            expected = float(feature_similarity_score(model, layer, model, "conv3", x))
            assert row["value"] == pytest.approx(expected, abs=1e-5)
            assert row["low"] <= row["value"] <= row["high"] and row["p_value"] is None
        assert by_score(report, "conv3")[f"progression_{role}"]["value"] == pytest.approx(1.0)


# ------------------------------------------------------------------------ intervals


def test_intervals_and_p_values_come_from_jackknife_and_permutation():
    student, base, teacher = related(1), related(2), related(3)
    x, y = data()
    report = compare(student, base, "conv2", batches(8), teacher=teacher, confidence=0.9, n_permutations=200, seed=5)
    one_hot = torch.nn.functional.one_hot(y).double()
    features = {"student": student, "base": base, "teacher": teacher}
    distances = {name: euclidean_distances(hooked(model, "conv2", x)) for name, model in features.items()}
    products = geometry_products({**distances, "labels": euclidean_distances(one_hot)})
    apart = euclidean_distances(torch.eye(3, dtype=torch.float64))
    for name, row in by_score(report, "conv2").items():
        expected = jackknife(products, transfer_scores(teacher="teacher")[name], 0.9)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
        if name in ("rs_student", "rs_base", "rs_teacher"):
            p = label_permutation_p_value(distances[name[3:]], y, apart, permutations=200, seed=5)
            assert row["p_value"] == pytest.approx(p, abs=1e-12)
        elif name in ("rs_distilled", "rs_residual"):
            assert row["p_value"] == pytest.approx(expected.p_value, rel=1e-4)
        else:
            assert row["p_value"] is None  # independence is no null where all models see the same inputs


def test_no_intervals_and_no_p_values_unless_asked_for():
    report = compare(related(1), related(2), "conv2", batches(8))
    assert all(row["low"] is row["high"] is row["p_value"] is None for row in report.rows)


def test_no_permutations_no_p_value_of_whole_models():
    rows = by_score(compare(related(1), related(2), "conv2", batches(8), confidence=0.9, n_permutations=0), "conv2")
    assert rows["rs_student"]["p_value"] is None and rows["rs_distilled"]["p_value"] is not None


def test_a_copy_of_the_base_has_nothing_distilled():
    with pytest.warns(UserWarning, match="no geometry"):
        report = compare(related(1), related(1), "conv2", batches(8), confidence=0.95)
    row = by_score(report, "conv2")["rs_distilled"]
    assert row["value"] == 0 and row["low"] is row["p_value"] is None
    assert by_score(report, "conv2")["fss"]["value"] == pytest.approx(1.0)


# ---------------------------------------------------------------------- mini-batches


def test_mini_batch_scores_are_means_over_the_loaders_batches():
    """Biased similarity of unit-length features, relevance by unbiased products, averaged."""
    student, base = related(1), related(2)
    report = compare(
        student, base, "conv2", batches(8, n=40),
        population="batch", estimator="biased", feature_transform=flatten_to_unit_length,
    )  # fmt: skip
    s, b, how = (student, "conv2"), (base, "conv2"), {"feature_transform": flatten_to_unit_length}
    similar, distilled = [], []
    for x, y in batches(8, n=40):
        similar.append(float(feature_similarity_score(*s, *b, x, estimator="biased", **how)))
        distilled.append(float(relevance_score(*s, x, y, given=b, **how)))
    rows = by_score(report, "conv2")
    assert rows["fss"]["value"] == pytest.approx(sum(similar) / 5, abs=1e-5)
    assert rows["rs_distilled"]["value"] == pytest.approx(sum(distilled) / 5, abs=1e-5)
    assert report.settings["batches"] == {"used": 5, "left_out": 0}


def test_unfit_mini_batches_are_left_out_counted_and_told():
    x, _ = data(24)
    y = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 2, 0, 0, 1])
    loader = list(zip(x.split(6), y.split(6)))  # the second has one class; the others two with two inputs or more
    with pytest.warns(UserWarning, match="1 mini-batches were left out"):
        report = compare(related(1), related(2), "conv2", loader, population="batch")
    assert report.settings["batches"] == {"used": 3, "left_out": 1}
    assert report.settings["n"] == 18 and report.settings["class_counts"] == {"0": 7, "1": 10, "2": 1}


def dead_on_zeros(seed):
    """A model that puts all black images in one place and has no bias to tell them apart."""
    model = related(seed)
    with torch.no_grad():
        model.conv1.bias.zero_()
        model.conv2.bias.zero_()
    return model


def test_mini_batches_that_do_not_define_a_score_are_in_no_mean_of_it():
    loader = batches(8, n=40)
    black = (torch.zeros(8, 3, 12, 12), labels(8))
    students, bases = dead_on_zeros(1), {"base 1": dead_on_zeros(2), "base 2": dead_on_zeros(3)}
    expected = compare(students, bases, "conv2", loader, population="batch", confidence=0.9)
    with pytest.warns(UserWarning, match="scores of single mini-batches were left out of the means"):
        found = compare(students, bases, "conv2", [*loader, black], population="batch", confidence=0.9)
    for row, same in zip(found.rows, expected.rows):
        assert {**row, "n": 0} == {**same, "n": 0}
    tests = zip(found.seed_control["tests"], expected.seed_control["tests"])
    assert all(one["statistic"] == pytest.approx(other["statistic"]) for one, other in tests)


def test_mini_batches_whose_classes_share_a_point_are_left_out():
    table = torch.tensor([[0.0], [0.0], [5.0]])
    x, y = data(24)
    same = (images(8), torch.arange(8) % 2)
    with pytest.warns(UserWarning, match="1 mini-batches were left out"):
        report = compare(
            related(1), related(2), "conv2", [(x, y), same], population="batch", class_embeddings=table
        )
    assert report.settings["batches"] == {"used": 1, "left_out": 1}


def test_biased_reports_are_biased_throughout():
    students, bases = {"s": related(1)}, {"b": related(2), "c": related(3)}
    report = compare(students, bases, ["conv2", "conv3"], batches(9), estimator="biased", progression=True)
    x, _ = data()

    def fss(one, other, layers=("conv2", "conv2")):
        return float(feature_similarity_score(one, layers[0], other, layers[1], x, estimator="biased"))

    row = by_score(report, "conv2", "s", "b")["progression_student"]
    assert row["value"] == pytest.approx(fss(students["s"], students["s"], ("conv2", "conv3")), abs=1e-5)
    (test,) = (t for t in report.seed_control["tests"] if (t["score"], t["layer"]) == ("fss", "conv2"))
    across = (fss(students["s"], bases["b"]) + fss(students["s"], bases["c"])) / 2
    assert test["statistic"] == pytest.approx(fss(bases["b"], bases["c"]) - across, abs=1e-5)


def test_mini_batches_of_four_score_everything_but_removal():
    x, _ = data(12)
    y = torch.arange(12) // 2 % 2
    report = compare(related(1), related(2), "conv2", list(zip(x.split(4), y.split(4))), population="batch")
    rows = by_score(report, "conv2")
    assert rows["rs_distilled"]["value"] is None and rows["fss"]["value"] is not None
    assert any("need 5" in note for note in report.notes)


def test_unique_shares_are_of_the_batches_that_scores_with_removal_are_of():
    x, _ = data(24)
    y = torch.arange(24) // 2 % 2
    whole, fours = (x[4:], y[4:]), (x[:4], y[:4])
    alone, mixed = (
        by_score(compare(related(1), related(2), "conv2", loader, population="batch"), "conv2")["rs_distilled"]
        for loader in ([whole], [fours, whole])
    )
    assert mixed == alone and mixed["n"] == 20


def test_intervals_of_mini_batches_are_those_of_the_mean_over_batches():
    from scipy import stats

    loader = batches(8, n=40)
    report = compare(related(1), related(2), "conv2", loader, population="batch", confidence=0.9)
    values = [float(feature_similarity_score(related(1), "conv2", related(2), "conv2", x)) for x, _ in loader]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    row = by_score(report, "conv2")["fss"]
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert all(row["p_value"] is None for row in report.rows)
