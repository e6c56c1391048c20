"""The quickstart: its scenes, its training and what it writes."""

import json

import numpy as np
import pytest
import quickstart
import torch
from distillation import digits, training
from matplotlib.image import imread

TINY = "--teacher-images 100 --train-images 100 --test-images 40 --references 40 --epochs 1 --teacher-epochs 1 --rows 2"
STAGES = ("stage1", "stage2", "stage3")
SCORES = (
    "fss", "rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_teacher", "fss_student_teacher",
    "fss_base_teacher", "teacher_distilled", "teacher_residual", "teacher_only_distilled", "teacher_only_residual",
)  # fmt: skip
MAPS = ["Grad-CAM Student", "Grad-CAM Base", "UniCAM distilled", "UniCAM residual", "UniCAM from the Teacher"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    quickstart.main([*TINY.split(), "--no-progress", "--output", str(output)])
    return output


@pytest.fixture(scope="module")
def report(written):
    return json.loads((written / "report.json").read_text())


@pytest.mark.parametrize("which", ["scores", "localised_scores"])
def test_report_holds_every_score_of_every_pair_and_layer_in_range(report, which):
    rows = report[which]["rows"]
    found = [(row["student"], row["base"], row["layer"], row["score"]) for row in rows]
    pairs = [(f"Student {i}", f"Base {j}") for i in (1, 2) for j in (1, 2)]
    assert found == [(*pair, layer, score) for pair in pairs for layer in STAGES for score in SCORES]
    assert all(-1 <= row["value"] <= 1 and row["n"] == 40 for row in rows)


def test_report_holds_intervals_and_p_values(report):
    rows = report["scores"]["rows"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    tested = {row["score"] for row in rows if row["p_value"] is not None}
    assert tested == {"rs_student", "rs_base", "rs_teacher", "rs_distilled", "rs_residual"}


def test_two_pairs_of_seeds_cannot_decide_and_the_report_says_so(report):
    tests = report["scores"]["seed_control"]["tests"]
    assert len(tests) == 4 * len(STAGES)
    assert all("cannot be decided" in test["sentence"] for test in tests)


def test_report_holds_accuracies_and_settings(report):
    assert set(report["accuracy"]) == {"Teacher", "Student 1", "Student 2", "Base 1", "Base 2"}
    assert all(0 <= value <= 1 for value in report["accuracy"].values())
    assert report["settings"]["seed"] == 0 and "torch" in report["versions"]


def test_report_scores_obey_the_identity_of_removal(report):
    for layer in STAGES:
        value = {
            row["score"]: row["value"]
            for row in report["scores"]["rows"]
            if (row["student"], row["base"], row["layer"]) == ("Student 2", "Base 1", layer)
        }
        expected = (value["rs_student"] - value["fss"] * value["rs_base"]) / np.sqrt(1 - value["fss"] ** 2)
        assert value["rs_distilled"] == pytest.approx(expected, abs=1e-6)


def test_report_says_how_much_of_each_map_is_on_the_digit(report):
    where = report["localization"]
    assert 0.05 < where["mask_area"] < 0.25
    assert list(where["maps"]) == MAPS
    for values in where["maps"].values():
        for mean, error in (values["energy_share"], values["pointing_game"]):
            assert 0 <= mean <= 1 and error > 0
    means = [where["maps"][name]["energy_share"][0] for name in ("UniCAM distilled", "UniCAM residual")]
    assert where["distilled_minus_residual"][0] == pytest.approx(means[0] - means[1], abs=1e-6)


def test_report_holds_a_keep_curve_for_every_map_and_for_chance(report):
    curves = report["keep_curves"]
    assert set(curves) == {"random", *MAPS} - {"Grad-CAM Base"}
    for curve in curves.values():
        assert len(curve["shares"]) == len(curve["accuracy"]) == 9
        assert min(curve["accuracy"]) <= curve["area"] <= max(curve["accuracy"])


@pytest.mark.parametrize("name", ["transfer.png", "layers.png", "layers_localised.png", "keep_curve.png"])
def test_figures_are_not_blank(written, name):
    picture = imread(written / name)
    assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 0.05


def test_scores_are_also_a_table(written):
    lines = (written / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("student,base,layer,score,value") and len(lines) == 1 + 4 * 3 * 12


def test_checkpoints_are_kept(written):
    for name in ("teacher", "student_1", "student_2", "base_1", "base_2"):
        assert (written / "checkpoints" / f"{name}.ckpt").is_file()


def test_same_seed_gives_the_same_numbers(report, tmp_path):
    again = quickstart.main([*TINY.split(), "--no-progress", "--output", str(tmp_path)])
    assert again["accuracy"] == report["accuracy"]
    for which in ("scores", "localised_scores"):
        first, second = ([row["value"] for row in each[which]["rows"]] for each in (report, again))
        assert second == pytest.approx(first, abs=1e-6)


def test_no_two_networks_start_alike(written):
    weights = [
        torch.load(path, weights_only=False)["state_dict"]["network.stage1.0.main.0.weight"]
        for path in sorted((written / "checkpoints").glob("*_*.ckpt"))
    ]
    assert len(weights) == 4
    assert all(not torch.allclose(a, b, atol=0.05) for i, a in enumerate(weights) for b in weights[:i])


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


def test_student_loss_is_that_of_hinton():
    student_logits, teacher_logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    module = training.WithTeacher(
        torch.nn.Identity(), lambda images: teacher_logits, temperature=2.0, alpha=0.25, learning_rate=0.1
    )
    loss = module.loss(torch.zeros(1, 3, 4, 4), student_logits, torch.tensor([0]))
    p, q = torch.softmax(teacher_logits / 2, 1), torch.softmax(student_logits / 2, 1)
    expected = 0.25 * -torch.log(torch.softmax(student_logits, 1)[0, 0]) + 0.75 * 4 * (p * (p / q).log()).sum()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_training_leaves_torch_as_it_was(written):
    assert torch.get_deterministic_debug_mode() == 0


def test_help_names_the_values_that_are_taken(capsys):
    with pytest.raises(SystemExit):
        quickstart.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "None" not in text and "Base models, each with a seed of its own; default: 2" in text


@pytest.mark.parametrize("option", ["--epochs 0", "--alpha 2", "--test-images 3", "--temperature 0", "--pairs 0"])
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(option.split())
    assert option.split()[0] in capsys.readouterr().err
