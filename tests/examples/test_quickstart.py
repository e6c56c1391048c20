"""The quickstart: its scenes, its training and what it writes."""

import json

import numpy as np
import pytest
import quickstart
import torch
from distillation import digits, training
from distillation.explaining import energy_share
from matplotlib.image import imread

TINY = "--teacher-images 100 --train-images 100 --test-images 40 --references 40 --epochs 1 --teacher-epochs 1 --rows 2"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    quickstart.main([*TINY.split(), "--no-progress", "--output", str(output)])
    return output


def test_report_holds_every_score_of_every_layer_in_range(written):
    report = json.loads((written / "report.json").read_text())
    found = {(row["layer"], row["score"]) for row in report["rows"]}
    scores = ("fss", "rs_student", "rs_base", "rs_distilled", "rs_residual")
    assert found == {(layer, score) for layer in ("stage1", "stage2", "stage3") for score in scores}
    assert all(-1 <= row["value"] <= 1 and row["n"] == 40 for row in report["rows"])
    assert set(report["accuracy"]) == {"Teacher", "Student", "Base"}
    assert all(0 <= value <= 1 for value in report["accuracy"].values())
    assert report["settings"]["seed"] == 0 and "torch" in report["versions"]


def test_report_scores_obey_the_identity_of_removal(written):
    rows = json.loads((written / "report.json").read_text())["rows"]
    for layer in ("stage1", "stage2", "stage3"):
        value = {row["score"]: row["value"] for row in rows if row["layer"] == layer}
        expected = (value["rs_student"] - value["fss"] * value["rs_base"]) / np.sqrt(1 - value["fss"] ** 2)
        assert value["rs_distilled"] == pytest.approx(expected, abs=1e-4)


def test_report_says_how_much_of_each_map_is_on_the_digit(written):
    energy = json.loads((written / "report.json").read_text())["energy"]
    assert 0.05 < energy["mask_area"] < 0.25
    assert list(energy["maps"]) == ["Grad-CAM Student", "Grad-CAM Base", "UniCAM distilled", "UniCAM residual"]


@pytest.mark.parametrize("name", ["transfer.png", "layers.png"])
def test_figures_are_not_blank(written, name):
    picture = imread(written / name)
    assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 0.05


def test_checkpoints_are_kept(written):
    for name in ("teacher", "student", "base"):
        assert (written / "checkpoints" / f"{name}.ckpt").is_file()


def test_same_seed_gives_the_same_numbers(written, tmp_path):
    again = quickstart.main([*TINY.split(), "--no-progress", "--output", str(tmp_path)])
    first = json.loads((written / "report.json").read_text())
    assert again["accuracy"] == first["accuracy"]
    assert [row["value"] for row in again["rows"]] == pytest.approx([row["value"] for row in first["rows"]], abs=1e-6)


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


def test_energy_share_is_the_positive_part_inside_the_mask():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 0], maps[0, 0, 3, 3], maps[0, 0, 1, 1] = 3.0, 1.0, -5.0
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 0, 0] = True
    share = energy_share(maps, masks)
    assert share.mean == pytest.approx(0.75) and share.empty_maps == 1


def test_training_leaves_torch_as_it_was(written):
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.parametrize("option", ["--epochs 0", "--alpha 2", "--test-images 3", "--temperature 0"])
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(option.split())
    assert option.split()[0] in capsys.readouterr().err
