"""Losses of the techniques against their formulas, and what becomes of guides and hooks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distillation import techniques
from distillation.authors_losses import PublishedAttention
from distillation.randomness import own_randomness
from small_training import CLASSES, SIZE, STAGES, Small, settings
from torch import Tensor, nn

CPU = torch.device("cpu")
SETTINGS = settings(Path("unused"), alpha=0.3, temperature=2.0, attention_weight=700.0, hint_weight=0.6)
LABELS = torch.tensor([0, 1, 2, 0, 1])


def images() -> Tensor:
    """Noise, each image in a color of its own: on mere noise networks answer the same throughout."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, SIZE, SIZE, generator=generator) * torch.rand(5, 3, 1, 1, generator=generator)


def make(kind: str, guide: nn.Module, student: nn.Module, **options) -> techniques.Technique:
    options = {"layers": STAGES, "guide_layers": STAGES, "settings": SETTINGS, "seed": 1, "sample": images()[:1], **options}
    return techniques.make(kind, guide, student, **options)


def loss_of(technique: techniques.Technique, student: nn.Module) -> Tensor:
    with technique.watching(student, CPU):
        return technique(images(), student(images()), LABELS)


def stages_of(network: nn.Module) -> list[Tensor]:
    outputs = [images()]
    for name in STAGES:
        outputs.append(network.get_submodule(name)(outputs[-1]))
    return outputs[1:]


def cross_entropy(logits: Tensor) -> Tensor:
    return -torch.stack([row.log_softmax(0)[label] for row, label in zip(logits, LABELS)]).mean()


def soft(student: Tensor, guide: Tensor, temperature: float) -> Tensor:
    p, q = (guide / temperature).softmax(1), (student / temperature).softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def hinton(student: Tensor, guide: Tensor) -> Tensor:
    return 0.3 * cross_entropy(student) + 0.7 * 2.0**2 * soft(student, guide, 2.0)


@pytest.mark.parametrize("kind", ["response", "random-teacher"])
def test_response_is_hintons_formula(kind):
    student, guide = Small(4).eval(), Small(8, seed=1).eval()
    expected = hinton(student(images()), guide(images()))
    assert loss_of(make(kind, guide, student), student).item() == pytest.approx(expected.item(), rel=1e-5)


def test_response_of_the_authors_code_compares_probabilities_by_their_mean_squared_difference():
    student, guide = Small(4).eval(), Small(8, seed=1).eval()
    own = replace(SETTINGS, response_loss="mse", temperature=20.0, alpha=0.7)
    p, q = (network(images()).div(20.0).softmax(1).double() for network in (student, guide))
    expected = 0.7 * cross_entropy(student(images())) + 0.3 * 20.0**2 * (p - q).square().mean()
    assert loss_of(make("response", guide, student, settings=own), student).item() == pytest.approx(expected.item(), rel=1e-5)


def test_published_attention_takes_nothing_from_the_guide():
    student = Small(4).eval()
    losses, gradients = [], []
    for seed in (1, 2):
        student.zero_grad()
        losses.append(loss_of(make("published-attention", Small(8, seed=seed).eval(), student), student))
        losses[-1].backward()
        gradients.append(torch.cat([each.grad.flatten() for each in student.parameters()]))
    expected = 0.9 * 8.0 * cross_entropy(student(images()) / 8.0)
    assert losses[0].item() == losses[1].item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(*gradients) and gradients[0].any()


def test_published_attention_is_the_loss_of_the_code_taken_row_by_row():
    generator = torch.Generator().manual_seed(3)
    student, guide = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    literal = 0.0
    for row, other in zip(guide, student):
        maps = [each.pow(2).view(each.size(0), -1) for each in (row, other)]
        first, second = (each / each.norm(dim=1, keepdim=True).clamp_min(1e-12) for each in maps)
        literal += (second - first).pow(2).mean()
    assert PublishedAttention()(student, guide) == literal == 0
    # On maps, what the loss was written for, it is not 0.
    assert nn.functional.normalize(student.square()).sub(nn.functional.normalize(guide.square())).square().mean() > 0.01


def test_attention_is_the_mean_squared_difference_of_unit_maps_over_all_stages():
    student, guide = Small(4).eval(), Small(8, seed=1).eval()
    expected = cross_entropy(student(images()))
    for mine, theirs in zip(stages_of(student), stages_of(guide)):
        maps = [features.square().mean(1).flatten(1) for features in (mine, theirs)]
        first, second = (m / m.norm(dim=1, keepdim=True) for m in maps)
        expected = expected + 700 * (first - second).square().mean()
    assert loss_of(make("attention", guide, student), student).item() == pytest.approx(expected.item(), rel=1e-5)


def test_feature_compares_the_middle_stage_through_a_connector():
    student, guide = Small(4).eval(), Small(8, seed=1).eval()
    technique = make("feature", guide, student)
    assert technique.connector is not None
    hints = technique.connector.eval()(stages_of(student)[1])
    assert hints.shape[1] == 16
    expected = cross_entropy(student(images())) + 0.6 * (hints - stages_of(guide)[1]).square().mean()
    assert loss_of(technique, student).item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_widths_need_no_connector_and_a_copy_of_the_guide_has_no_loss_but_the_labels():
    guide = Small(4).eval()
    for kind in ("attention", "feature"):
        technique = make(kind, guide, Small(4).eval())
        assert not list(technique.parameters())
        assert loss_of(technique, Small(4).eval()).item() == pytest.approx(cross_entropy(guide(images())).item())


def test_shuffled_labels_is_hintons_formula_with_exchanged_outputs():
    student, guide = Small(4).eval(), Small(8, seed=1).eval()
    for network in (student, guide):
        network.head.weight.data *= 30  # new networks have few opinions
    with own_randomness(5):
        loss = loss_of(make("shuffled-labels", guide, student), student)
    with own_randomness(5):
        others = techniques.exchanged(guide(images()))
    right = hinton(student(images()), guide(images()))
    assert loss.item() == pytest.approx(hinton(student(images()), others).item(), rel=1e-5)
    assert abs(loss.item() - right.item()) > 1e-4


@pytest.mark.parametrize("count", [2, 3, 10, 33])
def test_exchanging_leaves_no_row_in_place_and_loses_none(count):
    rows = torch.arange(count)
    orders = set()
    for seed in range(20):
        with own_randomness(seed):
            order = techniques.exchanged(rows)
        assert not (order == rows).any()
        assert torch.equal(order.sort().values, rows)
        orders.add(tuple(order.tolist()))
    assert count == 2 or len(orders) > 1


def test_a_single_output_cannot_be_exchanged():
    with pytest.raises(ValueError, match="two images or more"):
        techniques.exchanged(torch.zeros(1, 3))


@pytest.mark.parametrize("kind", ["attention", "feature"])
def test_the_larger_maps_are_reduced_where_sizes_differ(kind):
    student, guide = Small(4, strides=(2, 2, 1)).eval(), Small(4, seed=1).eval()
    assert stages_of(student)[1].shape[-1] < stages_of(guide)[1].shape[-1]
    for one, other in ((student, guide), (guide, student)):
        loss = loss_of(make(kind, other, one), one)
        assert loss.isfinite() and loss > cross_entropy(one(images()))


def test_stages_are_paired_from_the_last_one():
    student, guide = Small(4).eval(), Small(4, seed=1).eval()
    whole = loss_of(make("attention", guide, student), student)
    without_first = loss_of(make("attention", guide, student, layers=STAGES[1:]), student)
    alone = loss_of(make("attention", guide, student, layers=STAGES[1:], guide_layers=STAGES[1:]), student)
    assert without_first == alone < whole


@pytest.mark.parametrize("kind", ["response", "attention", "feature", "shuffled-labels", "published-attention"])
def test_gradients_reach_student_and_connector_but_not_the_guide(kind):
    student, guide = Small(4), Small(8, seed=1)
    technique = make(kind, guide, student)
    loss_of(technique, student).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is not None for parameter in technique.parameters())
    assert all(parameter.grad is None for parameter in guide.parameters())


@pytest.mark.parametrize("kind", ["response", "attention", "feature", "shuffled-labels", "published-attention"])
def test_the_guide_is_in_evaluation_mode_while_it_teaches_and_as_before_afterwards(kind):
    student, guide = Small(4), Small(8, seed=1)
    guide.stage1.eval()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    technique = make(kind, guide, student)
    with technique.watching(student, CPU):
        assert not any(module.training for module in guide.modules())
        technique(images(), student(images()), LABELS)
    assert guide.training and guide.stage2.training and not guide.stage1.training
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())
    assert not any(module._forward_hooks for model in (student, guide) for module in model.modules())
    with pytest.raises(RuntimeError, match="watching"):
        technique(images(), student(images()), LABELS)


def test_making_a_technique_changes_neither_network_nor_generator():
    student, guide = Small(4), Small(8, seed=1)
    before, generator = {name: value.clone() for name, value in student.state_dict().items()}, torch.get_rng_state()
    first, second = (make("feature", guide, student) for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items()) and student.training
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters()))


def test_the_guide_is_not_part_of_the_techniques_state():
    student, guide = Small(4), Small(8, seed=1)
    technique = make("feature", guide, student)
    assert {name.split(".")[0] for name in technique.state_dict()} == {"connector"}
    assert guide not in list(technique.modules())


def test_errors_say_what_is_wrong():
    student, guide = Small(4), Small(8, seed=1)
    with pytest.raises(ValueError, match="no technique 'hints'; choose among response, attention, feature"):
        make("hints", guide, student)
    guide.head = nn.Linear(16, CLASSES + 1)
    with pytest.raises(ValueError, match=f"the Student has {CLASSES} outputs and the guide {CLASSES + 1}"):
        make("response", guide, student)
    with pytest.raises(ValueError, match="head gives"):
        make("attention", Small(8, seed=1), student, layers=("head",))
