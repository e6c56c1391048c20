"""The quickstart: its scenes, its training and what it writes."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import quickstart
import torch
from distillation import digits

TINY = (
    "--teacher-images 100 --train-images 100 --test-images 40 --map-images 20 --references 40 --epochs 1 --teacher-epochs 1 "
    "--rows 2 --seeds 2 --no-progress"
).split()
STAGES = ("stage1", "stage2", "stage3")
SCORES = (
    "fss", "rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_teacher", "fss_student_teacher",
    "fss_base_teacher", "teacher_distilled", "teacher_residual", "teacher_only_distilled", "teacher_only_residual",
)  # fmt: skip
MAPS = [
    "net", "net of two Bases", "net by the Teacher", "distilled", "residual", "Grad-CAM Student", "Grad-CAM Base",
    "paper's gradient",
]  # fmt: skip


def of_geometry(rows):
    """Without scores of predictions and of the agreement of maps."""
    return [row for row in rows if row["layer"] != "predictions" and not row["score"].startswith("explanation")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    quickstart.main([*TINY, "--output", str(output)])
    return output


@pytest.fixture(scope="module")
def report(written):
    return json.loads((written / "report.json").read_text())


@pytest.fixture(scope="module")
def fold(report):
    return report["folds"][0]


@pytest.mark.parametrize("view", ["whole", "salient"])
def test_report_holds_every_score_of_every_pair_and_layer_in_range(fold, view):
    rows = of_geometry(fold["scores"][0][view]["rows"])
    found = [(row["student"], row["base"], row["layer"], row["score"]) for row in rows]
    pairs = [(f"Student {i}", f"Base {j}") for i in (1, 2) for j in (1, 2)]
    in_pairs = [(*pair, layer, score) for pair in pairs for layer in STAGES for score in SCORES]
    given_all = ("rs_distilled_all", "teacher_distilled_all", "teacher_only_distilled_all")
    students = ("Student 1", "Student 2")
    assert found == in_pairs + [(name, "all Bases", layer, score) for name in students for layer in STAGES for score in given_all]
    assert all(-1 <= row["value"] <= 1 and row["n"] == 40 for row in rows)


def test_report_holds_intervals_and_p_values(fold):
    rows = of_geometry(fold["scores"][0]["whole"]["rows"])
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    tested = {row["score"] for row in rows if row["p_value"] is not None}
    assert tested == {"rs_student", "rs_base", "rs_teacher", "rs_distilled", "rs_residual", "rs_distilled_all"}


def test_two_pairs_of_seeds_cannot_decide_and_the_report_says_so(fold):
    tests = fold["scores"][0]["whole"]["seed_control"]["tests"]
    assert len(of_geometry(tests)) == 4 * len(STAGES)
    assert len(tests) == 4 * len(STAGES) + 6 + 1  # questions on predictions, and one on maps
    assert all("undecided" in test["sentence"] for test in tests)


def test_report_holds_accuracies_and_settings(report, fold):
    assert set(fold["accuracy"]) == {"Teacher", "Student 1", "Student 2", "Base 1", "Base 2"}
    assert all(0 <= value <= 1 for value in fold["accuracy"].values())
    assert report["settings"]["seed"] == 0 and "torch" in report["versions"]


def test_report_scores_obey_the_identity_of_removal(fold):
    for layer in STAGES:
        value = {
            row["score"]: row["value"]
            for row in fold["scores"][0]["whole"]["rows"]
            if (row["student"], row["base"], row["layer"]) == ("Student 2", "Base 1", layer)
        }
        expected = (value["rs_student"] - value["fss"] * value["rs_base"]) / np.sqrt(1 - value["fss"] ** 2)
        assert value["rs_distilled"] == pytest.approx(expected, abs=1e-6)


def test_report_says_how_much_of_each_map_is_on_the_digit(fold, written):
    for each in fold["maps"]:
        where = each["localization"]
        assert 0.05 < where["mask_area"] < 0.25
        assert set(where["maps"]) == set(MAPS)
        for values in where["maps"].values():
            for mean, error in (values["energy_share"], values["pointing_game"]):
                assert 0 <= mean <= 1 and error >= 0
        assert set(where["differences"]) == {"distilled - residual", "net - net of two Bases"}
        for title, (difference, _) in where["differences"].items():
            one, other = (where["maps"][name] for name in title.split(" - "))
            if one["empty_maps"] == other["empty_maps"] == 0:  # else the difference is over fewer images
                assert difference == pytest.approx(one["energy_share"][0] - other["energy_share"][0], abs=1e-6)
    assert (written / "tables" / "localization.csv").is_file()


def test_maps_are_of_every_student_beside_the_base_of_its_number(fold):
    assert [(each["student"], each["base"]) for each in fold["maps"]] == [("Student 1", "Base 1"), ("Student 2", "Base 2")]


def test_same_seed_gives_the_same_numbers(fold, tmp_path):
    again = quickstart.main([*TINY, "--output", str(tmp_path)])["folds"][0]
    assert again["accuracy"] == fold["accuracy"]
    for view in ("whole", "salient"):
        first, second = ([row["value"] for row in each["scores"][0][view]["rows"]] for each in (fold, again))
        assert second == pytest.approx(first, abs=1e-6)


def test_background_follows_the_label_in_training_and_not_in_the_test():
    rng = np.random.default_rng(0)
    originals, _, held_out = digits.split_digits(rng)
    training_scenes = digits.paint_scenes(originals, 2000, rng, from_background=digits.FROM_BACKGROUND)
    test_scenes = digits.paint_scenes(held_out, 2000, rng)

    def agreement(scenes):
        return float((scenes.hues == scenes.examples.labels).float().mean())

    assert agreement(training_scenes) == pytest.approx(0.28, abs=0.04)
    assert agreement(test_scenes) == pytest.approx(0.10, abs=0.03)
    assert torch.equal(test_scenes.digits, test_scenes.examples.labels)


def test_no_original_digit_is_in_two_sets():
    parts = digits.split_digits(np.random.default_rng(0))
    rows = np.concatenate([part.rows for part in parts])
    assert len(rows) == len(set(rows.tolist())) == 1797


def test_masks_lie_on_the_brightest_part_of_the_scene():
    rng = np.random.default_rng(0)
    scenes = digits.paint_scenes(digits.split_digits(rng)[0], 50, rng).examples
    on = scenes.inputs().mean(1)[scenes.masks]
    off = scenes.inputs().mean(1)[~scenes.masks]
    assert scenes.masks.flatten(1).any(1).all()
    assert on.mean() > off.mean() + 0.2


def test_the_table_of_the_docs_has_a_column_for_each_run(written, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "scripts"))
    quickstart_table = importlib.import_module("quickstart_table")
    quickstart_table.main([str(written), str(written)])
    table, _, counts = capsys.readouterr().out.partition("\n\n")
    lines = table.splitlines()
    assert lines[0] == "| measurement | seed 0 | seed 0 |" and len(lines) == 2 + len(quickstart_table.rows())
    assert all(line.count("|") == 4 for line in lines) and "decided in 0 of 6 stages of 2 runs" in counts


def test_training_leaves_torch_as_it_was(written):
    assert torch.get_deterministic_debug_mode() == 0


def test_help_names_the_values_that_are_taken(capsys):
    with pytest.raises(SystemExit):
        quickstart.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "None" not in text and "Bases, each from a seed of its own; default: 5" in text


@pytest.mark.parametrize(
    "option",
    ["--epochs 0", "--alpha 2", "--test-images 3", "--temperature 0", "--seeds 0", "--techniques hints", "--teacher resnet99"],
)
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(option.split())
    assert option.split()[0] in capsys.readouterr().err
