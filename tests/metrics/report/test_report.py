"""What the report says and writes."""

import csv
import io
import json
import warnings
from collections import OrderedDict

import pytest
import torch
from matplotlib.figure import Figure
from population import batches, by_score, compare, data, related

from captum_kd import flatten, global_average_pool
from captum_kd.metrics import TransferReport
from captum_kd.metrics.report.transfer_report import COLUMNS


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(*args, **kwargs)


@pytest.fixture(scope="module")
def report():
    students = {"kd 1": related(1), "kd 2": related(2)}
    bases = {"base 1": related(3), "base | 2": related(4)}
    return quiet(
        students, bases, ["conv2", "conv3"], batches(9), teacher=related(5), confidence=0.95, n_permutations=50,
        progression=True,
    )  # fmt: skip


def test_the_dictionary_is_plain_and_a_copy(report):
    first = report.to_dict()
    assert set(first) == {"rows", "seed_control", "placebos", "classes", "inputs", "similarities", "notes", "settings"}
    assert all(set(row) == set(COLUMNS) for row in first["rows"])
    first["rows"][0]["value"] = "changed"
    assert report.to_dict()["rows"][0]["value"] != "changed"


def test_json_holds_everything(report, tmp_path):
    text = report.to_json(tmp_path / "report.json")
    assert json.loads(text) == json.loads((tmp_path / "report.json").read_text("utf-8")) == report.to_dict()


def test_csv_holds_the_rows(report, tmp_path):
    text = report.to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes().decode() == text
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(read) == len(report.rows) and list(read[0]) == list(COLUMNS)
    for found, row in zip(read, report.rows):
        assert found["base"] == row["base"] and float(found["value"]) == row["value"]
        assert found["p_value"] == ("" if row["p_value"] is None else repr(row["p_value"]))


def test_files_are_written_whole_or_not_at_all(report, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("before")

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr("captum_kd.metrics.report.transfer_report.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        report.to_json(tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "before"


def test_markdown_has_a_line_for_every_pair_and_layer(report):
    text = report.to_markdown()
    assert text.count("| kd 2 | base \\| 2 | conv3 |") == 3  # scores, the Teacher's, progression
    value = by_score(report, "conv3", "kd 2", "base | 2")["rs_distilled"]["value"]
    assert f"{value:.3f}" in text
    test = report.seed_control["tests"][0]
    assert "- " + test["sentence"].removesuffix(" " + " ".join(test["caveats"])) in text.splitlines()
    assert all(text.count(f"- {caveat}") == 1 for caveat in test["caveats"])


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("length", [6, 60])
def test_printed_table_fits_100_columns(students, length):
    label = "l" * length
    layers = {label: "conv2", label[:-1] + "m": "conv3"}
    models = {f"student {'x' * length} {i}": related(i) for i in range(students)}
    report = quiet(models, related(9), layers, batches(9), teacher=related(5), confidence=0.95, progression=True)
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split() and line.split()[0].endswith("m") for line in lines)


def test_printed_table_shows_values_intervals_and_p_values_of_a_pair():
    report = quiet(related(1), related(2), "conv2", batches(9), confidence=0.95, n_permutations=50)
    text = str(report)
    for score, row in by_score(report, "conv2").items():
        assert f"{row['value']:.3f}" in text
    row = by_score(report, "conv2")["rs_student"]
    assert f"[{row['low']:.2f},{row['high']:.2f}]".replace("0.", ".") in text.replace(" [", "[")
    assert "Classes: 0: 11, 1: 11, 2: 11" in text


def test_printed_table_shows_mean_and_range_of_several_pairs(report):
    values = [row["value"] for row in report.rows if row["layer"] == "conv2" and row["score"] == "fss"]
    assert len(values) == 4
    assert f"{sum(values) / 4:.3f}" in str(report)
    assert "mean over their 4 pairs" in " ".join(str(report).split())


def test_layers_that_cannot_be_decided_share_a_sentence_in_print(report):
    text = " ".join(str(report).split())
    limit = (
        "With 2 Students and 2 Bases no p-value can be below 0.333 after correction over 2 layers; 4 and 4 could decide."
    )
    assert text.count(limit) == 1 and "- ? cannot be decided. " in text
    (test, _) = (test for test in report.seed_control["tests"] if test["score"] == "rs_distilled")
    assert f"RS of distilled features {test['statistic']:+.3f}? " in text


def test_one_layers_verdicts_are_told_one_by_one_and_mini_batches_as_such():
    """And a model that gives every input the same features has no score in any mini-batch."""
    constant = related(1)
    torch.nn.init.zeros_(constant.conv2.weight)
    students, bases = {"hinton 1": related(2), "hinton 2": constant}, {"base 1": related(3), "base 2": related(4)}
    with pytest.warns(UserWarning):
        report = compare(students, bases, "conv2", batches(11), population="batch")
    assert {row["value"] for row in report.rows if row["student"] == "hinton 2" and row["score"] == "fss"} == {0.0}
    text = " ".join(str(report).split())
    assert "mean of 3 mini-batches" in text
    assert "RS of distilled features - " in text and text.count("Some pairs of models have no score") == 1


def test_same_seed_same_bytes():
    texts = [quiet(related(1), related(2), "conv2", batches(9), confidence=0.9, seed=3).to_json() for _ in range(2)]
    assert texts[0] == texts[1]


def test_the_plot_is_a_figure_with_every_score(report):
    figure = report.plot(title="scores")
    assert isinstance(figure, Figure) and figure._suptitle.get_text() == "scores"


def test_settings_hold_all_that_the_numbers_depend_on(report):
    settings = report.settings
    assert settings["class_counts"] == {"0": 11, "1": 11, "2": 11} and settings["n"] == 33
    assert settings["models"]["kd 1"] == "student" and settings["models"]["teacher"] == "teacher"
    assert settings["layers"]["conv2"]["base 1"] == "conv2"
    assert settings["estimator"] == "unbiased" and settings["seed"] == 0 and "torch" in settings["versions"]


def test_the_first_line_names_features_that_are_not_flattened(report):
    pooled = quiet({"kd": related(1)}, {"base": related(3)}, ["conv3"], batches(9), feature_transform=global_average_pool)
    assert "features: global_average_pool" in str(pooled) and "features:" not in str(report)


def test_its_short_form_says_what_it_is(report):
    assert repr(report).startswith("TransferReport(2 Student(s), 2 Base(s), 2 layer(s), 33 inputs")


# ------------------------------------------------------------------------- cautions


def notes_of(*args, **kwargs):
    return quiet(*args, **kwargs).notes


def test_few_inputs_are_warned_of():
    with pytest.warns(UserWarning, match="Only 20 inputs"):
        compare(related(1), related(2), "conv2", batches(9, n=20))
    assert not any("Only" in note for note in notes_of(related(1), related(2), "conv2", batches(9)))


def test_repeated_inputs_are_counted_and_warned_of():
    x, y = data()
    again = [(x, y), (x[:3], y[:3])]
    with pytest.warns(UserWarning, match="6 of 36 inputs are copies"):
        compare(related(1), related(2), ["conv2", "conv3"], again)
    assert not any("copies" in note for note in notes_of(related(1), related(2), "conv2", batches(9)))


def test_inputs_that_one_model_tells_apart_are_no_copies():
    """Constant features put all inputs in one place; the other model still tells them apart."""
    dead = related(1)
    with torch.no_grad():
        dead.conv2.weight.zero_()
        dead.conv2.bias.zero_()
    notes = notes_of(dead, related(2), "conv2", batches(9))
    assert not any("copies" in note for note in notes)
    assert any("no geometry" in note and "rs_student at conv2" in note for note in notes)


def test_little_unique_geometry_is_told_with_its_place():
    base = related(1)
    with torch.no_grad():
        base.conv2.weight += 1e-3
    notes = notes_of(related(1), base, ["conv2"], batches(9))
    assert any("Less than 1%" in note and "conv2 (student, base)" in note for note in notes)
    assert not any("magnified" in note for note in notes)  # too little is left to speak of


def test_magnification_is_told_of_the_layer_where_it_is_largest_and_something_is_left():
    """A stem that Student and Base share has FSS 1: no difference to magnify."""
    student, base = related(1), related(2)
    base.conv1.load_state_dict(student.conv1.state_dict())
    report = quiet(student, base, ["conv1", "conv2"], batches(9), feature_transform=flatten)
    similarity = by_score(report, "conv2")["fss"]["value"]
    told = [note for note in report.notes if "magnified" in note]
    if similarity >= 0.9:
        assert f"FSS of a pair is up to {similarity:.3f} at conv2" in told[0]
    else:
        assert not told


def test_models_in_training_mode_are_warned_of():
    student = torch.nn.Sequential(OrderedDict(conv2=torch.nn.Conv2d(3, 4, 3), norm=torch.nn.BatchNorm2d(4)))
    with pytest.warns(UserWarning, match="In training mode: student"):
        report = compare(student.train(), related(2), "conv2", batches(9))
    assert report.settings["training_mode"] == ["student"]
    assert not any("training mode" in note for note in notes_of(related(1).train(), related(2), "conv2", batches(9)))


def test_repeated_inputs_are_seen_though_noise_tells_their_features_apart():
    x, y = data()
    notes = notes_of(related(1), related(2), "conv2", [(x, y), (x[:3], y[:3])], localize="gradcam")
    assert any("6 of 36 inputs are copies" in note for note in notes)


def test_an_outlier_does_not_make_the_others_copies():
    x, y = data()
    x[0] *= 1e8
    assert not any("copies" in note for note in notes_of(related(1), related(2), "conv2", [(x, y)]))


def test_shares_are_not_rounded_into_other_shares():
    report = quiet(related(1), related(2), "conv2", batches(9), confidence=0.999, localize="gradcam", keep=0.125)
    assert "99.9% intervals" in str(report) and "12.5% kept" in str(report)


def test_layers_whose_names_are_shortened_stay_apart():
    layers = {f"features.denseblock{i}.denselayer{'x' * 60}": name for i, name in ((1, "conv2"), (2, "conv3"))}
    lines = str(quiet(related(1), related(2), layers, batches(9))).splitlines()
    starts = [line.split()[0] for line in lines if line.startswith(("1:features", "2:features"))]
    assert len(starts) == 2 and len(set(starts)) == 2


def test_all_reports_say_how_distilled_and_residual_hang_together(report):
    assert any("follows from RS Student and RS Base" in note for note in report.notes)
    assert any("no evidence of transfer by itself" in note for note in report.notes)


def test_reports_pickle(report):
    import pickle

    again = pickle.loads(pickle.dumps(report))
    assert isinstance(again, TransferReport) and again.to_dict() == report.to_dict()


def test_published_ways_are_named():
    notes = notes_of(related(1), related(2), "conv2", batches(9), population="batch", estimator="biased")
    assert any("means over mini-batches" in note for note in notes)
    assert any("biased estimator" in note for note in notes)
