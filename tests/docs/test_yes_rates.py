"""The simulation of rates of "yes": networks trained at once are those trained alone, and an interrupted run goes on."""

import csv
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    pytest.importorskip("sklearn")
    return pytest.importorskip("small_networks")


@pytest.fixture
def simulation(networks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The simulation with five batches for each network."""
    module = pytest.importorskip("simulate_yes_rates")
    short = {name: replace(recipe, steps=5) for name, recipe in module.recipes().items()}
    monkeypatch.setattr(module, "recipes", lambda: short)
    return module


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_networks_trained_at_once_are_those_trained_alone(networks: ModuleType, optimizer: str) -> None:
    data, _ = networks.digits(torch.Generator().manual_seed(0), 50, 50)
    own = networks.Recipe(8, 4, "own", optimizer)
    recipes = {
        "T": replace(own, width=16),
        "label smoothing": replace(own, technique="label smoothing"),
        "plain": replace(own, data="both"),
        "taught": replace(own, teacher="T", alpha=0.3),
        "follower": replace(own, first_weights="plain"),
    }
    found = networks.train(recipes, data, torch.Generator().manual_seed(1))

    draw = torch.Generator().manual_seed(1)
    alone: dict[str, nn.Sequential] = {}
    starts: dict[str, dict[str, torch.Tensor]] = {}
    for group in (["T"], ["label smoothing", "plain"], ["taught", "follower"]):
        width, count = recipes[group[0]].width, len(group)
        layers = ((64, width), (width, width), (width, 10))
        weights = [torch.randn(count, *layer, generator=draw) * (2 / layer[0]) ** 0.5 for layer in layers]
        picks = [torch.rand(count, networks.BATCH, generator=draw) for _ in range(4)]
        for place, name in enumerate(group):
            linear = [nn.Linear(*layer) for layer in layers]
            for layer, weight in zip(linear, weights):
                layer.weight.data, layer.bias.data = weight[place].T.contiguous(), torch.zeros_like(layer.bias)
            model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
            if name == "follower":
                model.load_state_dict(starts["plain"])
            starts[name] = {key: value.clone() for key, value in model.state_dict().items()}
            alone[name] = train_alone(model, networks, recipes[name], data, [each[place] for each in picks], alone)

    images = data["twice"][0]
    for name, model in alone.items():
        hidden, logits = networks.outputs(found[name], images)
        assert torch.allclose(logits, model(images), atol=1e-4), name
        assert torch.allclose(hidden, model[:4](images), atol=1e-4), name
    start = [each.numel() for each in found["follower"].first]
    assert sum(start) == sum(each.numel() for each in alone["follower"].parameters())


def train_alone(
    model: nn.Sequential, networks: ModuleType, recipe: object, data: dict, picks: list[torch.Tensor], others: dict
) -> nn.Sequential:
    images, labels = data[recipe.data]
    kind, rate = getattr(torch.optim, recipe.optimizer), networks.LEARNING_RATES[recipe.optimizer]
    optimizer = kind(model.parameters(), rate, **({"momentum": 0.9} if recipe.optimizer == "SGD" else {}))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    smoothing = networks.SMOOTHING if recipe.technique else 0.0
    for pick in picks:
        batch = (pick * len(labels)).long()
        logits = model(images[batch])
        loss = (1 - recipe.alpha) * functional.cross_entropy(logits, labels[batch], label_smoothing=smoothing)
        if recipe.teacher:
            t = networks.TEMPERATURE
            aim = (others[recipe.teacher](images[batch]) / t).softmax(-1).detach()
            divergence = functional.kl_div((logits / t).log_softmax(-1), aim, reduction="batchmean")
            loss = loss + recipe.alpha * t**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def test_data_sets_share_the_images_that_they_are_said_to_share(networks: ModuleType) -> None:
    data, held_out = networks.digits(torch.Generator().manual_seed(0), 60, 70)

    def found(images: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    own, teachers, both, twice = (found(data[name][0]) for name in ("own", "teacher's", "both", "twice"))
    assert both == own | teachers and own < twice and not twice & teachers and not own & teachers
    assert len(held_out[1]) == 70 and not found(held_out[0]) & (both | twice | found(data["rotated"][0]))


def test_pretrained_networks_take_all_but_the_last_layer(networks: ModuleType) -> None:
    data, _ = networks.digits(torch.Generator().manual_seed(0), 50, 50)
    own = networks.Recipe(8, 2, "own")
    recipes = {"source": replace(own, data="rotated"), "heir": replace(own, pretrained="source")}
    found = networks.train(recipes, data, torch.Generator().manual_seed(1))
    same = [torch.equal(a, b) for a, b in zip(found["source"].trained, found["heir"].first)]
    assert same[:4] == [True] * 4 and not same[4]


def test_an_interrupted_run_goes_on_with_the_same_numbers(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(simulation, "HELD_OUT", 60)
    some = list(simulation.cases())[::10]
    monkeypatch.setattr(simulation, "cases", lambda: iter(some))
    for count in (1, 2):
        simulation.main([f"--repetitions={count}", f"--results={tmp_path}/parts", f"--output={tmp_path}/first"])
    simulation.main(["--repetitions=2", f"--results={tmp_path}/whole", f"--output={tmp_path}/second"])
    for name in ("yes_rates.csv", "yes_rates.md"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text()
    assert len(rows(tmp_path / "parts" / "yes_rates_0.csv")) == 2 * len(some)


def test_the_page_shows_the_published_rates(simulation: ModuleType) -> None:
    published = rows(DOCS / "tables" / "yes_rates.csv")
    asked = [(case.setting, case.students, test) for case in simulation.cases() for test in simulation.TESTS]
    assert [(row["setting"], row["students"], row["test"]) for row in published] == asked
    assert all(float(row["rate"]) == int(row["yes"]) / int(row["repetitions"]) for row in published)
    table = (DOCS / "tables" / "yes_rates.md").read_text()
    page = (DOCS / "inference.md").read_text()
    shown = [line for line in table.splitlines() if line.startswith("|")]
    assert len(shown) == len(asked) / len(simulation.TESTS) + 4
    assert all(line in page for line in shown[-17:])  # the second setting, with its head


def test_agreement_is_counted_in_reports(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = pytest.importorskip("simulate_agreement")
    own = {name: replace(recipe, steps=5) for name, recipe in module.STUDENTS.items()}
    monkeypatch.setattr(module, "STUDENTS", {name: own[name] for name in ("another Base", "KD of T")})
    monkeypatch.setattr(module, "TEACHER", replace(module.TEACHER, steps=5))
    for repetitions in ("1", "2"):
        module.main(["--repetitions", repetitions, f"--results={tmp_path}", f"--output={tmp_path}"])
    found = rows(tmp_path / "agreement_0.csv")
    assert [(float(row["repetition"]), row["students"]) for row in found] == [
        (number, name) for number in (0, 1) for name in ("another Base", "KD of T")
    ]
    assert {float(row[name]) for row in found for name in module.QUESTIONS} <= {0, 1}
    text = (tmp_path / "agreement.md").read_text()
    assert text.count("| another Base |") == 1 and "in 2 repetitions" in text


def test_modules_are_the_networks_that_were_trained(networks: ModuleType, simulation: ModuleType) -> None:
    module = pytest.importorskip("simulate_agreement")
    data, _ = networks.digits(torch.Generator().manual_seed(0), 50, 50)
    (network,) = networks.train({"a": networks.Recipe(8, 4, "own")}, data, torch.Generator().manual_seed(1)).values()
    images = data["own"][0]
    model = module.as_module(network)
    hidden, logits = networks.outputs(network, images)
    assert torch.allclose(model(images.unflatten(1, (1, 8, 8))), logits, atol=1e-5)
    assert torch.allclose(model[:3](images.unflatten(1, (1, 8, 8))), hidden, atol=1e-5)
