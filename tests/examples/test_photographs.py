"""The scripts on photographs: quick profiles on small slices of the data, and what they write."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import asirra
import capacity_gap
import cifar10
import own_images
import plant_disease
import pytest
import slices
import torch
from matplotlib.image import imread

TINY = (
    "--no-progress --threads 1 --seeds 2 --epochs 1 --teacher-epochs 1 --rows 2 --image-size 16 --batch-size 8 "
    "--teacher resnet-m --map-images 4 --test-images 24 --references 8 --test-share 0.5"
).split()

SCORES = {
    "fss", "rs_student", "rs_base", "rs_distilled", "rs_residual", "rs_teacher", "fss_student_teacher", "fss_base_teacher",
    "teacher_distilled", "teacher_residual", "teacher_only_distilled", "teacher_only_residual",
}  # fmt: skip
GIVEN_ALL_BASES = {"rs_distilled_all", "teacher_distilled_all", "teacher_only_distilled_all"}
PUBLISHED = {"fss", "rs_student", "rs_base", "rs_distilled", "rs_residual"}
GROUPS = ["Response", "Attention", "Feature"]
TABLES = {
    "accuracy", "predictions", "prediction_tests", "scores_whole", "scores_salient", "teacher_share_whole",
    "teacher_share_salient", "seed_control", "keep_curves", "layer_matches", "classes", "inputs", "input_reliability",
    "explanations",
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Sources(HTMLParser):
    """What a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                self.found.append(value)
        self.pictures += tag == "img"


@pytest.fixture(scope="module")
def cifar_data(tmp_path_factory) -> Path:
    return slices.cifar10(tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="module")
def written(cifar_data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("written")
    controls = "random-teacher,shuffled-labels"
    cifar10.main([*TINY, "--data", str(cifar_data), "--output", str(output), "--controls", controls])
    return output


@pytest.fixture(scope="module")
def report(written):
    return json.loads((written / "report.json").read_text())


def test_every_pair_has_every_score_in_range(written):
    rows = rows_of(written / "scores.csv")
    ours = [row for row in rows if row["formula"] == "unbiased" and row["layer"] != "predictions"]
    ours = [row for row in ours if not row["score"].startswith("explanation")]
    assert {row["view"] for row in ours} == {"whole", "salient"}
    groups = {row["group"] for row in ours}
    assert groups == {*GROUPS, "Control: untrained Teacher", "Control: shuffled soft labels"}
    keys = [tuple(row[key] for key in ("view", "student", "base", "layer", "score")) for row in ours]
    # 2 views of 10 Students at 3 layers, each beside 2 Bases and given both.
    assert len(set(keys)) == len(keys) == 2 * 10 * 3 * (2 * len(SCORES) + len(GIVEN_ALL_BASES))
    assert {row["score"] for row in ours} == SCORES | GIVEN_ALL_BASES
    assert {row["base"] for row in ours if row["score"] in GIVEN_ALL_BASES} == {"all Bases"}
    for row in ours:
        assert -1 <= float(row["value"]) <= 1 and int(row["n"]) == 24
        if row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


def test_predictions_stand_beside_those_of_bases_and_teacher(written, report):
    rows = {row["network"]: row for row in rows_of(written / "tables" / "predictions.csv")}
    assert list(rows) == ["Teacher", "Base", *GROUPS, "Control: untrained Teacher", "Control: shuffled soft labels"]
    # All held-out images are scored but for the references, so both tables have one accuracy.
    accuracy = {row["network"]: row for row in rows_of(written / "tables" / "accuracy.csv")}
    for name, row in rows.items():
        assert 0 <= float(row["accuracy"]) <= 1
        if report["folds"][0]["images"]["scored"] == report["folds"][0]["images"]["held_out"]:
            assert float(row["accuracy"]) == pytest.approx(float(accuracy[name]["mean"]))
    scored = report["folds"][0]["scores"][0]["whole"]
    shared = [row["value"] for row in scored["rows"] if row["score"] == "shared_errors" and row["student"].startswith("Feature")]
    assert len(shared) == 4 and float(rows["Feature"]["shared errors"]) == pytest.approx(sum(shared) / 4)
    null = [
        row["value"]
        for row in scored["seed_control"]["pairs"]
        if row["score"] == "shared_errors" and row["model"].startswith("Base") and row["given"].startswith("Base")
    ]
    assert len(null) == 2 and float(rows["Base"]["shared errors"]) == pytest.approx(sum(null) / 2)
    assert rows["Teacher"]["agreement"] == "" and "over placebos" not in rows["Base"]
    tests = rows_of(written / "tables" / "prediction_tests.csv")
    assert len(tests) == 5 * 6 and {row["answer"] for row in tests} == {"undecided"}  # two seeds each


def test_the_published_formula_stands_beside_ours(written):
    rows = [row for row in rows_of(written / "scores.csv") if row["formula"] == "published"]
    assert {row["score"] for row in rows} == PUBLISHED and {row["view"] for row in rows} == {"whole", "salient"}
    # The first Student of a group beside the first Base, the second beside the second.
    assert {(row["student"][-1], row["base"][-1]) for row in rows} == {("1", "1"), ("2", "2")}
    for row in rows_of(written / "tables" / "scores_whole.csv"):
        # Biased and over five images: next to 1 whatever the features.
        assert float(row["FSS published"]) > 0.7 and -1 <= float(row["RS distilled published"]) <= 1


def test_tables_come_as_csv_and_markdown(written):
    assert {path.stem for path in (written / "tables").glob("*.csv")} == TABLES
    assert {path.stem for path in (written / "tables").glob("*.md")} == TABLES
    accuracy = {row["network"]: row for row in rows_of(written / "tables" / "accuracy.csv")}
    assert list(accuracy)[:3] == ["Teacher", "Untrained Teacher", "Base"]
    for row in accuracy.values():
        assert 0 <= float(row["lowest"]) <= float(row["mean"]) <= float(row["highest"]) <= 1
    assert accuracy["Response"]["number"] == "2"
    gain = float(accuracy["Response"]["mean"]) - float(accuracy["Base"]["mean"])
    assert float(accuracy["Response"]["over Base"]) == pytest.approx(gain)
    markdown = (written / "tables" / "accuracy.md").read_text()
    assert markdown.startswith("## Accuracy") and "| Teacher | 1 |" in markdown


def test_seed_control_compares_each_group_with_the_bases(written, report):
    rows = rows_of(written / "tables" / "seed_control.csv")
    assert len(rows) == 5 * 2 * 4 * 3
    assert {row["answer"] for row in rows} == {"undecided"}  # two seeds each
    for row in rows:
        sign = -1 if row["score"] == "FSS" else 1
        assert sign * (float(row["Students"]) - float(row["Bases"])) == pytest.approx(float(row["difference"]), abs=1e-6)


def test_layers_of_the_first_networks_are_matched_with_the_teachers(written):
    rows = rows_of(written / "tables" / "layer_matches.csv")
    names = ["Base 1", *(f"{group} 1" for group in GROUPS), "Control: untrained Teacher 1", "Control: shuffled soft labels 1"]
    stages = ["stage1", "stage2", "stage3"]
    assert [(row["network"], row["layer"]) for row in rows] == [(name, stage) for name in names for stage in stages]
    assert all(row["best match by FSS"] in stages and float(row["FSS"]) >= float(row["FSS of second"]) for row in rows)


def test_classes_are_named_and_small_ones_left_out(written, report):
    rows = rows_of(written / "tables" / "classes.csv")
    names = [*GROUPS, "Control: untrained Teacher", "Control: shuffled soft labels"]
    assert [(row["group"], row["class"]) for row in rows] == [(name, each) for name in names for each in report["classes"]]
    for row in rows:
        assert 7 <= int(row["images"]) <= 9 and row["yes"] == "–"  # two seeds decide nothing
        gain = float(row["accuracy"]) - float(row["Base's"])
        assert float(row["accuracy over Base"]) == pytest.approx(gain)


def test_inputs_are_ranked_by_their_parts_of_the_share(written, report):
    rows = [row for row in rows_of(written / "tables" / "inputs.csv") if row["group"] == "Feature"]
    assert [int(row["rank"]) for row in rows] == [*range(1, 11), *range(15, 25)]
    parts = [float(row["part"]) for row in rows]
    assert parts == sorted(parts, reverse=True)
    of_group = [
        row
        for row in report["folds"][0]["scores"][0]["whole"]["inputs"]["rows"]
        if (row["group_of_students"], row["layer"]) == ("Feature", "stage3")
    ]
    assert parts[0] == pytest.approx(24 * max(row["teacher_distilled"] for row in of_group))
    (share,) = [
        row["distilled"]
        for row in rows_of(written / "tables" / "teacher_share_whole.csv")
        if (row["group"], row["layer"]) == ("Feature", "stage3")
    ]
    assert sum(row["teacher_distilled"] for row in of_group) == pytest.approx(float(share))
    labels = [report["classes"].index(row["label"]) for row in rows]
    assert labels == [of_group[int(row["input"])]["label"] for row in rows]


def test_maps_are_compared_with_the_teachers(written):
    rows = rows_of(written / "tables" / "explanations.csv")
    assert [row["layer"] for row in rows] == ["stage3"] * 5
    for row in rows:
        assert float(row["over Base"]) == pytest.approx(float(row["Student and Teacher"]) - float(row["Base and Teacher"]))


def test_dcor_recomputes_the_scores(report):
    assert any("dcor" in note for note in report["folds"][0]["scores"][0]["whole"]["notes"])


def test_keep_curves_are_of_every_map_and_chance(report):
    for each in report["folds"][0]["maps"]:
        assert list(each["keep_curves"]) == [
            "net", "distilled", "residual", "net by the Teacher", "Grad-CAM Student", "paper's gradient", "net of two Bases",
            "random",
        ]  # fmt: skip
        for curve in each["keep_curves"].values():
            assert min(curve["accuracy"]) <= curve["area"] <= max(curve["accuracy"])


def test_figures_are_not_blank(written):
    pictures = {path.stem: imread(path) for path in (written / "figures").glob("*.png")}
    for group in ("response", "attention", "feature", "control_untrained_teacher", "control_shuffled_soft_labels"):
        for kind in ("maps", "kept", "layers_whole", "layers_salient", "keep_curve"):
            assert f"{kind}_{group}" in pictures
    assert {"accuracy", "gradcam", "seed_control_teacher"} <= set(pictures)
    assert {f"{kind}_teacher" for kind in ("predictions", "models", "layer_similarity", "embeddings")} <= set(pictures)
    for name, picture in pictures.items():
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.05, name


def test_the_page_holds_everything_and_loads_nothing(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    sources = Sources(text)
    thumbnails = len(rows_of(written / "tables" / "inputs.csv"))
    names = [path.name for path in (written / "figures").iterdir()]
    photographs = [name for name in names if name.startswith(("gradcam", "maps_", "kept_"))]
    # One more is the explorer's for readers without JavaScript. The others are drawings.
    assert thumbnails == 3 * 2 * 10 and sources.pictures == len(photographs) + 1 + thumbnails
    assert text.count('class="drawing"') > 3
    assert all(source.startswith(("data:", "#")) for source in sources.found)
    assert not re.search(r"@import|url\((?!#)|<script src|<link (?!rel=\"icon\" href=\"data:)", text)
    assert len(text.encode()) < 5_000_000
    for table in (written / "tables").glob("*.md"):
        assert table.read_text().splitlines()[0].removeprefix("## ").replace("'", "&#39;") in text


def test_settings_versions_and_seeds_are_written_down(report):
    assert report["settings"]["seed"] == 0 and report["settings"]["controls"] == ["random-teacher", "shuffled-labels"]
    assert {"torch", "captum", "captum_kd", "torchdistill", "lightning", "python"} <= set(report["versions"])
    assert any("random weights" in note for note in report["notes"])


def test_every_network_starts_from_weights_of_its_own(written, report):
    first = []
    for path in sorted((written / "checkpoints").glob("*_[12].ckpt")):
        state = torch.load(path, weights_only=True)["state_dict"]
        first.append(state["network.stage1.0.main.0.weight"])
    assert len(first) == 12
    assert all(not torch.allclose(a, b, atol=0.05) for i, a in enumerate(first) for b in first[:i])


def test_a_resumed_run_ends_like_one_without_a_break(cifar_data, tmp_path):
    """Two networks are missing, as if the run had been killed before them."""
    options = [*TINY, "--techniques", "feature", "--data", str(cifar_data), "--output"]
    whole = cifar10.main([*options, str(tmp_path / "whole")])
    resumed = tmp_path / "resumed"
    (resumed / "checkpoints").mkdir(parents=True)
    (resumed / "run.json").write_text((tmp_path / "whole" / "run.json").read_text())
    for path in (tmp_path / "whole" / "checkpoints").iterdir():
        if path.stem not in ("base_2", "student_1"):
            (resumed / "checkpoints" / path.name).write_bytes(path.read_bytes())
    again = cifar10.main([*options, str(resumed), "--resume"])
    for part in ("accuracy", "history", "scores", "maps"):
        assert again["folds"][0][part] == whole["folds"][0][part]
    tables = [(folder / "scores.csv").read_bytes() for folder in (tmp_path / "whole", resumed)]
    assert tables[0] == tables[1]


def test_a_run_with_other_options_is_not_resumed(written, cifar_data, capsys):
    with pytest.raises(SystemExit) as stopped:
        cifar10.main([*TINY, "--data", str(cifar_data), "--output", str(written), "--resume", "--learning-rate", "0.5"])
    assert stopped.value.code == 2
    assert "learning_rate was 0.01, is 0.5" in capsys.readouterr().err


def test_nothing_to_resume_is_said(cifar_data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cifar10.main([*TINY, "--data", str(cifar_data), "--output", str(tmp_path / "new"), "--resume"])
    assert "no run to resume" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(cifar_data, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("distillation.experiment.fit", interrupt)
    with pytest.raises(SystemExit) as stopped:
        cifar10.main([*TINY, "--data", str(cifar_data), "--output", str(tmp_path)])
    assert stopped.value.code == 130 and "--resume" in capsys.readouterr().err


def test_asirra_leaves_broken_files_out_and_cross_validates(tmp_path):
    data = slices.petimages(tmp_path / "data")
    options = [*TINY, "--folds", "2", "--seeds", "1", "--techniques", "response", "--test-images", "12"]
    with pytest.warns(UserWarning, match="666.jpg"):
        report = asirra.main([*options, "--data", str(data), "--output", str(tmp_path / "out")])
    assert report["classes"] == ["Cat", "Dog"] and any("empty" in note for note in report["notes"])
    assert [fold["images"]["train"] + fold["images"]["held_out"] + 8 for fold in report["folds"]] == [52, 52]
    for row in rows_of(tmp_path / "out" / "tables" / "scores_whole.csv"):
        assert row["FSS SD"] != ""  # over the folds
    assert {row["fold"] for row in rows_of(tmp_path / "out" / "scores.csv")} == {"1", "2"}


def test_plant_disease_keeps_copies_on_one_side(tmp_path):
    data = slices.plantvillage(tmp_path / "data")
    options = [*TINY, "--seeds", "1", "--techniques", "feature", "--test-images", "12"]
    report = plant_disease.main([*options, "--data", str(data), "--output", str(tmp_path / "out")])
    assert report["classes"] == ["Pepper,_bell___Bacterial_spot", "Potato___Late_blight", "Potato___healthy"]
    assert any("copies" in note for note in report["notes"])
    assert (tmp_path / "out" / "index.html").is_file()


def test_capacity_gap_compares_teachers_and_the_assistant(cifar_data, tmp_path):
    options = [option for option in TINY if option not in ("--teacher", "resnet-m")]
    teachers = ["--teachers", "resnet-s,resnet-l", "--assistant", "resnet-m"]
    report = capacity_gap.main([*options, *teachers, "--data", str(cifar_data), "--output", str(tmp_path)])
    assert [scores["teacher"] for scores in report["folds"][0]["scores"]] == ["Teacher resnet-s", "Teacher resnet-l"]
    accuracy = {row["network"]: row for row in rows_of(tmp_path / "tables" / "accuracy.csv")}
    groups = ["From resnet-s", "From resnet-l", "From resnet-l by resnet-m"]
    assert list(accuracy) == ["Teacher resnet-s", "Teacher resnet-l", "Assistant resnet-m", "Base", *groups]
    assert all(accuracy[group]["SD"] != "" for group in groups)
    assert {row["group"] for row in rows_of(tmp_path / "tables" / "scores_whole.csv")} == set(groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teachers", "resnet-s,resnet-9"], "resnet-9"),
        (["--techniques", "response,feature"], "one technique"),
        (["--teachers", "resnet-s,resnet18"], "stage by stage"),
    ],
)
def test_capacity_gap_refuses_what_makes_no_sense(options, message, cifar_data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        capacity_gap.main([*options, "--data", str(cifar_data), "--output", str(tmp_path)])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_own_images_need_no_more_than_a_folder(cifar_data, tmp_path):
    options = [*TINY, "--seeds", "1", "--techniques", "attention", "--test-images", "12"]
    report = own_images.main([*options, "--data", str(cifar_data / "test"), "--output", str(tmp_path)])
    assert report["classes"] == ["cat", "dog", "ship"]


@pytest.mark.parametrize("below", ["", "results", "cat/results"])
def test_an_output_among_the_images_is_refused(below, cifar_data, capsys):
    data = cifar_data / "test"
    before = sorted(data.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        own_images.main([*TINY, "--data", str(data), "--output", str(data / below)])
    assert stopped.value.code == 2 and "lies in the folder of the images" in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before


def test_classes_too_small_for_the_scores_are_refused_before_any_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("distillation.experiment.fit", None)
    slices.folders(tmp_path / "data", {"many": 100, "few": 2})
    with pytest.raises(SystemExit) as stopped:
        own_images.main([*TINY, "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "are too few of some classes to be scored (few 0, many 24)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_of_any_bytes_are_shown_escaped(tmp_path, capsys):
    names = [os.fsdecode(name) for name in (b"k\xe4tze", b"<b>h&nd\n|$x$\\", b"\xc3\xa4")]
    data = slices.folders(tmp_path / os.fsdecode(b"d\xe4ta"), dict.fromkeys(names, 24))
    report = own_images.main(
        [*TINY, "--seeds", "1", "--techniques", "response", "--data", str(data), "--output", str(tmp_path / "out")]
    )
    assert report["task"] == "d\\udce4ta"
    assert sorted(report["classes"]) == ["<b>h&nd\\n|$x$\\", "k\\udce4tze", "ä"]
    assert "d\\udce4ta" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "k\\udce4tze 24" in page and "&lt;b&gt;h&amp;nd" in page and "<b>h&nd" not in page


@pytest.mark.parametrize("script", [asirra, plant_disease, own_images])
def test_missing_data_are_named(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)])
    assert stopped.value.code == 2 and "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("script", [cifar10, asirra, plant_disease, capacity_gap, own_images])
def test_the_first_screen_says_what_it_needs_and_how_long_it_takes(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = capsys.readouterr().out
    described = text[text.index(script.__doc__.split("\n")[0]) :]
    assert "Needs " in described and re.search(r"Takes .*minutes", described)
    assert "None" not in text


def test_weights_of_small_networks_are_refused(cifar_data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cifar10.main([*TINY, "--weights", "imagenet", "--data", str(cifar_data), "--output", str(tmp_path)])
    assert stopped.value.code == 2 and "no ImageNet weights for resnet-m" in capsys.readouterr().err
