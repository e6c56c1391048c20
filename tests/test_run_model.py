"""Passes for a model's answers: as layers see them, on copies, without traces."""

import pytest
import torch
from models import images, labels
from state import unchanged_state
from test_layers import Text, sentences
from torch import Tensor, nn

from captum_kd._models.hooks import run_model
from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.logits import predicted_classes
from captum_kd._utils.inputs import ModelInputs
from captum_kd.attr.grad_cam import layer_gradcams
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import keep_curve

N = 8


class Worn(nn.Module):
    """Changes its inputs where they lie, and counts on them being as they were."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        x.mul_(-2)
        for each in more:
            each.add_(1)
        return self.fc(self.conv(x).tanh().mean((2, 3))) + sum(each.mean() for each in more)


def test_padded_sequences_get_the_answers_that_gradients_are_of():
    """PyTorch's fast path puts zeros where the padding is; a pass with gradients does not."""
    text, ids = Text(1).double().eval(), sentences(64)
    slow = text(ids)  # gradients are recorded: the fast path is off
    with torch.no_grad():
        fast = text(ids)
    assert not torch.allclose(slow, fast)
    torch.testing.assert_close(run_model(text, (ids,)), slow.detach())
    # Where the two would name different classes.
    text.head.bias.data -= (slow.amax(0) + slow.amin(0)).detach() / 2
    assert bool((text(ids).argmax(1) != run_fast(text, ids).argmax(1)).any())
    assert torch.equal(predicted_classes(text, (ids,)), text(ids).argmax(1))


def run_fast(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids)


def test_predictions_are_those_that_grad_cam_explains_without_labels():
    model, x = Worn().eval(), images(N)
    layer = resolve_layer(model, "conv", model="forward_func", argument="layer")
    with unchanged_state([model], [x]):
        classes = predicted_classes(model, (x,))
        own, given = (layer_gradcams(model, [layer], ModelInputs((x,)), y)[0] for y in (None, classes))
    torch.testing.assert_close(own, given)


@pytest.mark.filterwarnings("ignore:.*maps have one value")
def test_models_that_change_their_inputs_reach_copies_only():
    model, x, more = Worn().eval(), images(N), torch.ones(N, 2)
    maps = x.mean(1, keepdim=True)
    with unchanged_state([model], [x, more, maps]):
        predicted_classes(model, (x, more))
        keep_curve(model, (x, more), labels(N), maps, shares=(0.3, 0.6), additional_forward_args=more, max_examples_per_batch=3)
        class_prototypes(model, [((x, more), labels(N))])
    whole = keep_curve(model, (x, more), labels(N), maps, shares=(0.3, 0.6)).correct
    assert torch.equal(whole, keep_curve(model, (x, more), labels(N), maps, shares=(0.3, 0.6)).correct)
