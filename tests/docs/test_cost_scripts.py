"""The cost model counts what is done and finds constants again; peers compute one quantity; the figure comes of the table."""

import csv
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest

ROOT = Path(__file__).parents[2]
SIZES = [(64, 256), (1000, 256), (16_000, 256), (1000, 16), (1000, 4096)]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("docs/scripts", "tests/benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.fixture
def model() -> ModuleType:
    pytest.importorskip("scipy")
    pytest.importorskip("torchvision")
    import cost_model

    return cost_model


# ------------------------------------------------------------------------------ cost model


def test_counts_follow_the_blocks() -> None:
    from cost_terms import Case, count

    one = count(Case(200, 10, wide=2, light=1, block=512))
    assert one.blocks == 3 and one.reread == 2 * 2 * 10 * 200
    assert one.products == 2 * 10 * 2 * 200 * 200 / 2
    assert one.distances == 3 * 200**2 and one.sums == 2 * 9 * 200**2
    many = count(Case(1024, 10, wide=1, block=512))
    assert many.blocks == 3  # two on the diagonal and one beside it
    assert many.reread == 3 * 2 * 512 * 10
    few = count(Case(1024, 10, wide=1, block=256))
    assert few.reread > many.reread and few.products == many.products


def test_the_fit_finds_constants_again(model: ModuleType) -> None:
    constants = [2e-11, 3e-9, 1e-10, 4e-10, 2e-5]
    rows = []
    for case in model.FITTED:
        counts = model.count(case)
        rows.append({"counts": counts, "seconds": sum(a * b for a, b in zip(constants, counts))})
    assert model.fit(rows) == pytest.approx(constants, rel=1e-4)
    assert model.predicted(model.FITTED[0], constants) == pytest.approx(rows[0]["seconds"])


def test_forecasts_share_the_work() -> None:
    from cost_terms import EIGHT_H100, H100, Case, Setting, forecast

    case, setting = Case(1_000_000, 2048, 2, 1), Setting(8.2e9, 100_352)
    one, eight = forecast(case, setting, H100), forecast(case, setting, EIGHT_H100)
    assert one["sending"] == 0 < eight["sending"]
    for term in ("networks", "products", "distances", "sums", "starting kernels"):
        assert one[term] == pytest.approx(8 * eight[term])
    # By hand: 10^12 pairs both ways, half of them taken, 2 x 2048 operations each, of two models.
    assert one["products"] == pytest.approx(2 * 2048 * 2 * 0.5e12 / (67e12 * 0.77), rel=1e-2)
    assert one["networks"] == pytest.approx(2e6 * 8.2e9 / (67e12 * 0.7))
    wide = forecast(case._replace(d=802_816), setting, H100)
    assert max(wide, key=lambda term: wide[term]) == "reading features"


def test_what_a_gpu_took_is_near_the_sum_of_its_terms() -> None:
    from cost_terms import H100, MEASURED_ON_H100, Case, Setting, forecast

    for n, seconds in MEASURED_ON_H100:
        terms = forecast(Case(n, 2048, 2, block=4096), Setting(0.0, 2048), H100)
        assert max(terms.values()) < seconds
        assert seconds == pytest.approx(sum(terms.values()), rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "below 0.1 s"), (0.52, "0.5 s"), (104, "104 s"), (125, "2.1 min"), (36_000, "10 h"), (2e6, "23 days")],
)
def test_times_in_words(model: ModuleType, seconds: float, words: str) -> None:
    assert model.said(seconds) == words


@pytest.mark.parametrize(("rate", "words"), [(0.4567, "0.457"), (14.53, "14.5"), (116.2, "116"), (1437.0, "1,440")])
def test_rates_have_three_digits_and_no_power_of_ten(model: ModuleType, rate: float, words: str) -> None:
    assert model.rounded(rate) == words


def test_the_longest_term_is_said_as_in_its_own_column(model: ModuleType) -> None:
    """Of features made fewer the networks' column has two terms."""
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in model.forecast_table(8.2e9) if "|" in line]
    assert len(rows) == len(model.LAYERS) * len(model.BLOCKS) * 2
    for row in rows:
        name, time = row[-1].split(", ")
        assert row[header.index(name)] == time


# ----------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("job", ["FSS", "RS"])
@pytest.mark.parametrize(("peer", "package"), [("broadcasting", "torch"), ("dcor", "dcor"), ("gathering", "torchmetrics")])
def test_peers_compute_what_this_package_does(peer: str, package: str, job: str) -> None:
    pytest.importorskip(package)
    from peers import PEERS, make_inputs

    inputs = make_inputs(job, 96, 12)
    found = PEERS[peer].score(*inputs)
    assert found == pytest.approx(PEERS["captum_kd"].score(*inputs), abs=1e-5)
    assert 0.05 < found < 1


def test_peers_that_need_too_much_are_not_run() -> None:
    from peers import PEERS, reason_not_to

    gib = 2**30
    assert reason_not_to(PEERS["broadcasting"], "FSS", 4000, 256, 8 * gib) == "would need 30.5 GiB"
    assert reason_not_to(PEERS["broadcasting"], "FSS", 1000, 256, 8 * gib) is None
    assert all(reason_not_to(PEERS["captum_kd"], job, 16_000, 256, gib) is None for job in ("FSS", "RS"))


def test_slopes_are_exponents_and_the_figure_is_drawn(tmp_path: Path) -> None:
    import plot_cost

    assert plot_cost.slope([1, 10, 100, 1000], [5, 5, 5e2, 5e4]) == pytest.approx(2)
    assert plot_cost.slope([10], [3]) is None
    assert plot_cost.slope([1, 10, 100, 1000], [1, 10, 100, 40]) is None
    rows = [["FSS", peer, n, d, n * n * d / 1e8, n / 10, ""] for peer in ("one", "two") for n, d in SIZES]
    with open(tmp_path / "peers.csv", "w", newline="") as file:
        csv.writer(file).writerows([["job", "peer", "n", "d", "seconds", "peak_mib", "not_run"], *rows])
    plot_cost.main([f"--table={tmp_path / 'peers.csv'}", f"--output={tmp_path / 'cost.png'}"])
    assert matplotlib.image.imread(tmp_path / "cost.png").shape[1] > 1000


def test_the_published_table_is_of_one_quantity_and_this_package_is_the_fastest_at_fss() -> None:
    with open(ROOT / "docs" / "tables" / "peers.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if "batches" not in row["peer"] and not row["not_run"]]
    assert len({row["peer"] for row in rows}) == 4
    for ours in (row for row in rows if row["peer"] == "captum_kd"):
        others = [row for row in rows if row["peer"] != "captum_kd" and all(row[key] == ours[key] for key in ("job", "n", "d"))]
        assert others
        for row in others:
            assert float(row["score"]) == pytest.approx(float(ours["score"]), abs=1e-4)
            assert ours["job"] == "RS" or float(ours["seconds"]) < float(row["seconds"])
