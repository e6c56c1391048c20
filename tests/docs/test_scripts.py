"""The scripts behind the docs' tables and figure run, and what they simulate is what they say."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest
import torch
from reference.geometries import correlation

from captum_kd.distance.centering import center

DOCS = Path(__file__).parents[2] / "docs"
SCENARIO_ROWS = ("| independent |", "| weak |", "| strong |")


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    return pytest.importorskip("simulate_intervals")


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DOCS / "scripts" / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_estimators_script_writes_its_figure_and_tables(tmp_path: Path) -> None:
    run("estimators_on_independent_features.py", "--largest=64", "--repeats=20", f"--output={tmp_path}")
    assert matplotlib.image.imread(tmp_path / "images" / "estimators.png").shape[1] > 1000
    few = {row["way"]: row for row in rows(tmp_path / "tables" / "estimators.csv") if row["n"] == row["batch"] == "5"}
    assert float(few["biased, unit length"]["mean"]) > 0.95
    assert abs(float(few["unbiased"]["mean"])) < 0.4
    assert "| 64 | 64 | all |" in (tmp_path / "tables" / "estimators.md").read_text()


def test_intervals_script_writes_a_row_for_every_scenario_and_score(tmp_path: Path) -> None:
    run("simulate_intervals.py", "--share=0.002", "--sizes=50", "--inputs=400", "--workers=1", f"--output={tmp_path}")
    found = rows(tmp_path / "intervals.csv")
    published = [row for row in rows(DOCS / "tables" / "intervals.csv") if row["n"] == "50"]
    names = ("scenario", "labels", "n", "score")
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in published]
    assert all(row["replications"] == "2" for row in found)
    assert (tmp_path / "intervals.md").read_text().startswith("Coverage of nominal .95 intervals")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a quickstart run with few images and networks."""
    pytest.importorskip("lightning")
    few = "teacher-images=60 train-images=60 test-images=24 map-images=4 references=24 epochs=1 teacher-epochs=1 seeds=2"
    folder = tmp_path_factory.mktemp("trained") / "run"
    quickstart = importlib.import_module("quickstart")
    quickstart.main([*(f"--{option}" for option in few.split()), "--no-progress", f"--output={folder}"])
    return folder


def test_map_scripts_write_their_tables_and_figure(trained: Path, tmp_path: Path) -> None:
    folder = trained
    run("compare_maps.py", f"--quickstart={folder}", "--images=6", f"--output={tmp_path}")
    found = rows(tmp_path / "maps.csv")
    assert {row["pairs"] for row in found} == {"2"} and {row["images"] for row in found} == {"6"}
    assert {row["measure"] for row in found} == {"energy", "pointing", "auc", "keep", "deletion", "agreement", "block", "network"}
    null = [row["mean"] for row in found if (row["of"], row["measure"]) == ("null", "agreement")]
    assert null == [""] * 6, "two null pairs share both Bases, so they are not independent"
    printed = run("map_variants.py", f"--quickstart={folder}", "--images=6")
    variants = [line.split(" | ")[3:] for line in printed.splitlines() if " | distilled | " in line or " | net | " in line]
    assert len(variants) == 18 and all(re.match(r"\.\d{3} \(\.\d{3}\)", each[1]) for each in variants)
    printed = run("repeated_matches.py", f"--quickstart={folder}", "--inputs=24")
    counts = [line.split(" | ")[1::2] for line in printed.splitlines() if line[2:3].isdigit()]
    # 2 groups of 2 networks, each with 25 convolutions, normalizations and ReLUs, as has the Teacher; by FSS and by CKA.
    assert [sum(map(int, column)) for column in zip(*counts)] == [2 * 2 * (25 + 25)] * 2
    run("hue_control.py", str(folder), f"--networks={tmp_path / 'hue'}", "--images=6", f"--docs={tmp_path}")
    assert matplotlib.image.imread(tmp_path / "images" / "hue_control.png").shape[1] > 1000
    values = [float(row["auc"]) for row in rows(tmp_path / "tables" / "hue_control.csv")]
    assert len(values) == 15 * 2 and all(0 <= value <= 1 for value in values)


def test_metrics_of_quantus_are_written_for_every_map(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("quantus")
    run("quantus_metrics.py", str(trained), "--images=6", f"--output={tmp_path}")
    text = (tmp_path / "quantus.md").read_text()
    published = (DOCS / "tables" / "quantus.md").read_text()
    names = re.compile(r"^\| ([^|]*) \|", re.MULTILINE)
    assert "2 pairs of Student and Base; 6 images" in text and names.findall(text) == names.findall(published)
    assert "(`Completeness`): 0 of 12." in text and "smallest r 1.000, 12 images" in text


def test_metrics_of_quantus_on_the_page_are_those_of_the_script() -> None:
    shown = [line for line in (DOCS / "quantus.md").read_text().splitlines() if line.startswith("|") and "(." in line]
    assert len(shown) == 8
    assert not set(shown) - set((DOCS / "tables" / "quantus.md").read_text().splitlines())


def test_numbers_of_the_gallery_s_networks_are_printed() -> None:
    pytest.importorskip("torchmetrics")
    printed = run("gallery_numbers.py")
    given = re.findall(r"The Teacher given (\w+): rs_distilled, value: ([\d.]+)", printed)
    assert [name for name, _ in given] == ["Students", "Bases"] and float(given[0][1]) < float(given[1][1])
    assert len(re.findall("in the Teacher's place: shared_errors", printed)) == 4


def test_published_tables_come_from_full_runs() -> None:
    for views, replications in (False, (1000, 1000, 500)), (True, (250, 250, 125)):
        found = {
            int(row["n"]): int(row["replications"])
            for row in rows(DOCS / "tables" / "intervals.csv")
            if views == row["scenario"].endswith("four views")
        }
        assert found == dict(zip((50, 200, 1000), replications))
    labels = {(row["scenario"], row["labels"]) for row in rows(DOCS / "tables" / "intervals.csv")}
    asked = {"independent", "weak", "strong"}, {"2 balanced", "2 unbalanced", "10 balanced"}
    assert labels >= {(scenario, classes) for scenario in asked[0] for classes in asked[1]}


@pytest.mark.parametrize(("page", "table"), [("inference.md", "intervals.md"), ("estimators.md", "estimators.md")])
def test_tables_of_a_page_are_those_of_its_script(page: str, table: str) -> None:
    """Rows of numbers that a script wrote are on the page as it wrote them."""
    written = re.compile(r"^\| (((?:independent|weak|strong|no distilled).*?) \| \d+ (un)?balanced|\d+ \| \d+ \| \w+) \|")
    shown = [line for line in (DOCS / page).read_text().splitlines() if written.match(line)]
    assert len(shown) > 10
    assert not set(shown) - set((DOCS / "tables" / table).read_text().splitlines())


def test_maps_on_the_page_are_those_of_the_script() -> None:
    kinds = ("| paper's gradient |", "| integrated |", "| net |", "| Grad-CAM |", "| random |")
    shown = [line for line in (DOCS / "maps.md").read_text().splitlines() if line.startswith(kinds) and line.count("|") > 8]
    assert len(shown) == 19
    assert not set(shown) - set((DOCS / "tables" / "maps.md").read_text().splitlines())


def test_the_page_on_inference_shows_every_scenario_at_one_size() -> None:
    page = (DOCS / "inference.md").read_text()
    published = (DOCS / "tables" / "intervals.md").read_text().splitlines()
    of_one_size = [line for line in published if line.startswith(SCENARIO_ROWS) and " | 200 | " in line]
    assert len(of_one_size) == 9 + 3 and all(line in page for line in of_one_size)


def test_resamples_by_counts_are_the_resampled_matrices(simulation: ModuleType) -> None:
    """The bootstrap that the table speaks of, without its shortcut: copies at distance 0 in every matrix."""
    population = simulation.Population("weak", "2 balanced", 1.5, 1.2, 0.6)
    distances, _ = population.draw(30, torch.Generator().manual_seed(0))
    truth = dict.fromkeys(simulation.transfer_scores(), 0.0)
    picks = torch.randint(30, (30, simulation.RESAMPLES), generator=torch.Generator().manual_seed(1))
    values = torch.tensor(
        [
            [float(correlation(*(center(distances[name][pick][:, pick]) for name in pair))) for pick in picks.T]
            for pair in (("student", "base"), ("student", "labels"), ("base", "labels"))
        ],
        dtype=torch.float64,
    )
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    for end in (low - 1e-9, low + 1e-9, high - 1e-9, high + 1e-9):
        named = {**truth, **dict(zip(("fss", "rs_student", "rs_base"), end.tolist()))}
        held = simulation.bootstrap_coverage(distances, torch.Generator().manual_seed(1), named)
        for place, name in enumerate(("fss", "rs_student", "rs_base")):
            assert held[name] == bool(low[place] <= named[name] <= high[place])


def test_true_values_are_those_of_one_large_sample(simulation: ModuleType) -> None:
    population = simulation.Population("strong", "10 balanced", 6.0, 5.0, 1.5)
    truth = simulation.true_values(population, 20_000, seed=0)
    products = simulation.geometry_products(population.draw(1500, torch.Generator().manual_seed(5))[0])
    for name, score in simulation.transfer_scores().items():
        estimate = simulation.jackknife(products, score)
        assert abs(estimate.value - truth[name]) < 4 * estimate.standard_error


def made_report(task: str) -> dict[str, object]:
    """Of two Students and three Bases at one layer, with scores that can be followed by hand."""
    names = ["Response 1", "Response 2", "Base 1", "Base 2", "Base 3"]
    values = {"Response 1": 0.5, "Response 2": 0.7}
    pairs = [
        {"score": score, "layer": "stage1", "model": model, "given": given, "value": values.get(model, 0.2)}
        for score in ("fss", "rs_distilled", "teacher_distilled", "teacher_only_distilled")
        for model in names
        for given in names
        if model != given and (model.startswith("Base") or given.startswith("Base"))
    ]
    tests = [
        {
            "group": None, "score": score, "layer": "stage1", "statistic": 0.4, "p_value": 0.1, "adjusted_p_value": 0.1,
            "decision": decision,
        }
        for score, decision in (
            ("fss", False), ("rs_distilled", None), ("teacher_distilled", True), ("teacher_only_distilled", True),
        )
    ]  # fmt: skip
    of_teacher = {
        "group": None, "score": "teacher_distilled", "layer": "stage1", "share": 0.6, "mean": 0.3, "standard_deviation": 0.05,
        "adjusted_p_value": 0.02, "decision": True,
    }  # fmt: skip
    view = {
        "seed_control": {"tests": tests, "pairs": pairs, "groups": [{"bases": names[2:]}]},
        "placebos": {"tests": [of_teacher]},
    }
    return {
        "task": task,
        "plan": {
            "bases": names[2:],
            "groups": [{"name": "Response", "students": names[:2], "teacher": "Teacher", "is_control": False}],
        },
        "folds": [{"scores": [{"teacher": "Teacher", "whole": view, "salient": view, "second_teacher": None}]}],
    }


def test_collecting_experiments_writes_one_figure_and_one_table(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(made_report(name)))
    run("collect_experiments.py", str(tmp_path / "first"), str(tmp_path / "second"), f"--docs={tmp_path}")
    found = rows(tmp_path / "tables" / "experiments.csv")
    assert len(found) == 2 * 2 * 4
    for row in found:
        assert float(row["students"]) == pytest.approx(0.6) and float(row["null"]) == pytest.approx(0.2)
        assert row["answer"] == {"fss": "no", "rs_distilled": "undecidable"}.get(row["score"], "yes")
    text = (tmp_path / "tables" / "experiments.md").read_text()
    assert "### first" in text and "| Response | stage1 | 0.600 / 0.200, p 0.100 |" in text
    assert "**0.600 / 0.200, p 0.100**" in text  # where the answer is yes
    assert "**0.600 / 0.300 (0.050), p 0.020**" in text  # against the placebo Teachers
    assert matplotlib.image.imread(tmp_path / "images" / "experiments.png").shape[1] > 1000
