"""Training: what comes out, on what it depends, and what stays as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distillation import techniques, training
from distillation.task import DataError, as_inputs
from small_training import CLASSES, SIZE, STAGES, Small, examples, settings
from torch import nn

HERE = Path(__file__).parent


def fit(output: Path, network: nn.Module, *, name="Base", seed=1, epochs=3, technique=None, count=44, **changes):
    setup = training.TrainingSetup(
        name,
        network,
        examples(count),
        examples(31, seed=1),
        epochs=epochs,
        settings=settings(output, **changes),
        seed=seed,
        technique=technique,
    )
    return training.fit(setup)


def teaching(kind: str, student: nn.Module, output: Path) -> techniques.Technique:
    return techniques.make(
        kind, Small(8, seed=5), student, layers=STAGES, guide_layers=STAGES, settings=settings(output), seed=1,
        sample=examples(1).inputs(),
    )  # fmt: skip


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_learns_and_validates_after_each_epoch(tmp_path):
    trained = fit(tmp_path, Small(), epochs=12, count=90)
    assert [record["epoch"] for record in trained.history] == list(range(1, 13))
    assert trained.history[-1]["validation_accuracy"] > 0.9
    assert trained.history[-1]["validation_loss"] < trained.history[0]["validation_loss"]
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    # What the last record says is what the network does.
    validation = examples(31, seed=1)
    logits = trained.network(validation.inputs())
    assert trained.history[-1]["validation_accuracy"] == (logits.argmax(1) == validation.labels).sum().item() / 31
    expected = nn.functional.cross_entropy(logits, validation.labels)
    assert trained.history[-1]["validation_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_network_is_the_one_given_in_evaluation_mode_without_gradients_or_hooks(tmp_path):
    network = Small().eval()
    trained = fit(tmp_path, network, technique=teaching("attention", network, tmp_path))
    assert trained.network is network and not same(network, Small())
    assert not any(module.training or module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("kind", [None, "response", "shuffled-labels"])
def test_depends_on_the_seed_and_not_on_the_state_of_torchs_generator(tmp_path, kind):
    results = []
    for seed in (1, 1, 2):
        torch.rand(7)
        before = torch.get_rng_state()
        network = Small()
        technique = None if kind is None else teaching(kind, network, tmp_path)
        results.append(fit(tmp_path, network, seed=seed, technique=technique, augmentation="paper"))
        assert torch.equal(before, torch.get_rng_state())
    assert results[0].history == results[1].history and same(results[0].network, results[1].network)
    assert not same(results[0].network, results[2].network)


def test_switches_of_the_process_are_put_back(tmp_path):
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    fit(tmp_path, Small(), epochs=1)
    assert before == (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark)


def test_a_batch_shows_each_image_once_an_epoch_in_an_order_of_its_own(tmp_path):
    # One learning step changes nothing where the rate is tiny: the images that pass tell the order.
    seen: list[torch.Tensor] = []
    network = Small()
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if module.training else None)
    fit(tmp_path, network, epochs=2, augmentation="none", count=40)
    every = examples(40).inputs()
    orders = []
    for epoch in (seen[:5], seen[5:]):
        order = [int((every == image).flatten(1).all(1).nonzero()) for image in torch.cat(epoch)]
        assert sorted(order) == list(range(40))
        orders.append(order)
    assert orders[0] != orders[1]


def test_images_reach_the_network_in_the_size_of_the_settings(tmp_path):
    sizes = set()
    network = Small()
    network.register_forward_pre_hook(lambda _, given: sizes.add(tuple(given[0].shape[2:])))
    for augmentation in ("none", "shift", "paper"):
        fit(tmp_path, network, epochs=1, image_size=12, augmentation=augmentation)
    assert sizes == {(12, 12)}


def test_fewer_images_than_a_batch_are_one_batch(tmp_path):
    assert fit(tmp_path, Small(), epochs=1, count=5, batch_size=32).history[0]["loss"] > 0


def test_no_images_are_an_error_that_names_the_network(tmp_path):
    with pytest.raises(DataError, match="no images for Base to learn from"):
        fit(tmp_path, Small(), count=0)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_takes_the_papers_steps(tmp_path, momentum):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    twin.load_state_dict(network.state_dict())
    fit(tmp_path, network, epochs=4, count=8, optimizer="sgd", learning_rate=0.01, momentum=momentum, augmentation="none")
    batch, velocity = examples(8), [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for _ in range(4):
        loss = nn.functional.cross_entropy(twin(batch.inputs()), batch.labels)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        for i, parameter in enumerate(twin.parameters()):
            velocity[i] = momentum * velocity[i] + gradients[i]
            parameter.data -= 0.01 * velocity[i]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(network.parameters(), twin.parameters()))


def test_the_connector_learns_is_kept_in_the_checkpoint_and_not_in_the_network(tmp_path):
    network = Small()
    technique = teaching("feature", network, tmp_path)
    first = [parameter.detach().clone() for parameter in technique.parameters()]
    fit(tmp_path, network, technique=technique, name="Student 1, by features")
    assert all(not torch.equal(before, now) for before, now in zip(first, technique.parameters()))
    state = torch.load(tmp_path / "checkpoints" / "student_1_by_features.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in state if "technique" in name} == {
        "technique.connector"
    }
    assert set(network.state_dict()) == set(Small().state_dict())
    assert len(state) == len(network.state_dict()) + len(technique.state_dict())


def test_half_precision_trains_every_technique(tmp_path):
    for kind in ("response", "attention", "feature"):
        network = Small()
        trained = fit(tmp_path, network, epochs=1, precision="bf16-mixed", technique=teaching(kind, network, tmp_path))
        assert all(parameter.dtype is torch.float32 and parameter.isfinite().all() for parameter in network.parameters())
        assert trained.history[0]["loss"] > 0


def test_predict_is_in_evaluation_mode_at_a_size_and_in_any_batches():
    network, data = Small(), examples(31)
    labels = training.predict(network, data, 12, batch_size=7)
    assert network.training
    assert torch.equal(labels, network.eval()(as_inputs(data.pixels, 12)).argmax(1))


def test_each_step_tells_which_share_is_done(tmp_path):
    shares = []
    setup = training.TrainingSetup("Base 7", Small(), examples(), examples(9), epochs=2, settings=settings(tmp_path), seed=1)
    training.fit(setup, moved=shares.append)
    assert shares == pytest.approx([step / 10 for step in range(1, 11)])  # 44 images in batches of 8, twice


def test_nothing_is_printed_or_warned_of(tmp_path, capsys, recwarn):
    fit(tmp_path, Small())
    fit(tmp_path, Small(), name="Other")
    assert not "".join(capsys.readouterr())
    assert not [str(warning.message) for warning in recwarn]


def test_two_processes_train_one_network(tmp_path):
    """31 validation images do not divide by 2; each process must say the same, and what one process says of the result."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1] / "examples"), *sys.path])}
    for variable in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [sys.executable, str(HERE / "on_two_devices.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0]["main"] and not results[1]["main"]
    for key in ("history", "resumed", "weights"):
        assert results[0][key] == results[1][key]
    assert results[0]["history"] == results[0]["resumed"]
    assert results[0]["history"][-1]["validation_accuracy"] == results[0]["accuracy"]
