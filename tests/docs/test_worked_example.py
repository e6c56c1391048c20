"""Every number of the example in docs/what_it_measures.md, computed again."""

import math
import re

import pytest
import torch
from pages import DOCS, tables
from reference import exact, literal
from torch import Tensor, nn

from captum_kd import UniCAM

PAGE = DOCS / "what_it_measures.md"
F64 = torch.float64
LABELS = torch.tensor([0, 0, 1, 1, 1])


@pytest.fixture(scope="module")
def shown() -> dict[str, Tensor]:
    """The page's tables of numbers, by the text in their corner."""
    found = {}
    for head, *rows in tables(PAGE):
        if head[0] != "input":
            found[head[0]] = torch.tensor([[float(cell) for cell in row[1:]] for row in rows], dtype=F64)
    return found


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    """Student's and Base's features, from the page's first table."""
    rows = next(table for table in tables(PAGE) if table[0][0] == "input")[1:]
    assert [re.findall(r"\w+", row[1])[0] for row in rows] == ["cat", "cat", "dog", "dog", "dog"]
    student, base = (torch.tensor([[float(x) for x in row[i].split(",")] for row in rows], dtype=F64) for i in (2, 3))
    return student, base


@pytest.fixture(scope="module")
def geometries(features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """P_S, P_B and G by the literal formulas; classes are 1 apart, as on the page."""
    student, base = (literal.u_centered(literal.distances(x)) for x in features)
    return student, base, literal.u_centered((LABELS[:, None] != LABELS).double())


def test_distances(shown: dict[str, Tensor], features: tuple[Tensor, Tensor]) -> None:
    for name, points in zip(("$D_S$", "$D_B$"), features):
        torch.testing.assert_close(shown[name], literal.distances(points))
    assert shown["$D_S$"].sum(1).tolist() == [29, 29, 29, 29, 20]


def test_geometries(shown: dict[str, Tensor], geometries: tuple[Tensor, Tensor, Tensor]) -> None:
    student, base, labels = geometries
    torch.testing.assert_close(shown["$P_S$"], student)
    torch.testing.assert_close(shown["$P_B$"], base)
    torch.testing.assert_close(shown["$3 G$"], 3 * labels)


def test_removal(shown: dict[str, Tensor], geometries: tuple[Tensor, Tensor, Tensor]) -> None:
    student, base, _ = geometries
    left = literal.without(student, base)
    torch.testing.assert_close(shown["$P_{S\\vert B}$"], left)
    assert float((left * base).sum()) == pytest.approx(0)


def test_scores(features: tuple[Tensor, Tensor]) -> None:
    (student, base), one_hot = features, nn.functional.one_hot(LABELS).double()
    page = PAGE.read_text()
    scores = {
        "fss": exact.unbiased(student, base),
        "rs_student": exact.unbiased(student, one_hot),
        "rs_distilled": exact.semipartial(student, one_hot, base),
        "rs_residual": exact.semipartial(base, one_hot, student),
    }
    for name, value in scores.items():
        written = re.search(rf"^{name} = .*# (-?[\d.]+)$", page, re.MULTILINE)
        assert written is not None and float(written[1]) == pytest.approx(value, abs=5e-4)
    assert exact.unbiased(base, one_hot) == pytest.approx(0, abs=1e-12)
    assert [round(value, 3) for value in scores.values()] == [0.5, 0.707, 0.816, -0.408]
    root = "\\sqrt{12 \\cdot 2}"
    for text in ("4/\\sqrt{16 \\cdot 2} = .707", f"{{{root}}} = .816", f"{{{root}}} = -.408", "$1 - F^2 = .75$"):
        assert text in page
    assert scores["rs_distilled"] - scores["rs_residual"] == pytest.approx(scores["rs_student"] * math.sqrt(3))


def test_gradient_with_respect_to_distances(shown: dict[str, Tensor], features: tuple[Tensor, Tensor]) -> None:
    base = literal.u_centered(literal.distances(features[1]))
    goal = literal.u_centered((LABELS[:, None] != LABELS).double())
    distances = literal.distances(features[0]).requires_grad_()
    literal.r(literal.without(literal.u_centered(distances), base), goal).backward()
    assert distances.grad is not None
    # The page moves a pair's two entries together.
    pull = distances.grad + distances.grad.T
    torch.testing.assert_close(shown["times $3\\sqrt{24}$"], 3 * math.sqrt(24) * pull)


class Eye(nn.Module):
    def __init__(self, dog: float, grass: float) -> None:
        super().__init__()
        self.stage = nn.Conv2d(2, 2, 1, bias=False).double()
        self.stage.weight.data = torch.diag(torch.tensor([dog, grass], dtype=F64))[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.stage(images).mean((2, 3))


@pytest.mark.filterwarnings("ignore:The population is")
def test_maps(shown: dict[str, Tensor], features: tuple[Tensor, Tensor]) -> None:
    student, base = Eye(8, 6), Eye(6, 8)
    images = torch.zeros(5, 2, 1, 2, dtype=F64)
    images[:, 0, 0, 0], images[:, 1, 0, 1] = 2 * features[0][:, 0] / 8, 2 * features[0][:, 1] / 6
    torch.testing.assert_close(student(images), features[0])
    torch.testing.assert_close(base(images), features[1])
    maps = UniCAM(student, "stage", base).attribute(images, LABELS)
    torch.testing.assert_close(shown["map, times $3\\sqrt{24}$"], 3 * math.sqrt(24) * maps[:, 0, 0])
    assert float(maps[4, 0, 0, 0]) == pytest.approx(0.871, abs=5e-4)


def test_integrated_maps(shown: dict[str, Tensor], features: tuple[Tensor, Tensor]) -> None:
    """By the literal path, whose positions are the two channels: each is active in one position, at twice its feature."""
    student, base = features

    def objective(i: int, z: Tensor) -> Tensor:
        return literal.objective(literal.replaced(student, i, z), base, LABELS)

    gradients, gains = literal.integrated_gradients(student, torch.zeros(5, 2, dtype=F64), objective, 64)
    torch.testing.assert_close(shown["integrated map"], gradients * student, rtol=0, atol=5e-4)
    assert float(gains[2]) == pytest.approx(1.021, abs=5e-4)
    without = literal.replaced(student, 2, torch.zeros(2, dtype=F64))
    assert float(literal.objective(without, base, LABELS)) == pytest.approx(-0.204, abs=5e-4)
    assert float(literal.objective(student, base, LABELS)) == pytest.approx(0.816, abs=5e-4)


def test_four_inputs_leave_the_student_the_sign_only() -> None:
    """Why the example has five."""
    base, labels = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.eye(2).double()[[0, 0, 1, 1]]
    sizes = {round(abs(exact.semipartial(torch.randn(4, 3, dtype=F64), labels, base)), 9) for _ in range(5)}
    assert len(sizes) == 1
