"""What hints about the layouts of Student and Base mean for a Teacher."""

import pytest
import torch
from conv_pairs import N, inputs, relative_difference
from conv_teachers import conv, teacher_of_width, tokens_of
from models import TinyTransformer, activations, images
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def test_hints_about_the_student_do_not_concern_a_teacher_whose_layout_tells():
    """The Student's 3 x 3 tokens behind one, the Teacher's 6 x 6 behind two; a Teacher with channels in front."""
    student, base = (TinyTransformer(seed=seed).double().eval() for seed in (1, 2))
    tokens = TinyTransformer(patch=2, prefix=2, seed=3).double().eval()
    for teacher, layer in ((tokens, "block"), (teacher_of_width(), "conv2")):
        plain = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer=layer)
        hints = dict(grid=(3, 3), prefix_tokens=1, channels_last=True)
        hinted = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer=layer, **hints)
        assert torch.equal(hinted.attribute(inputs()), plain.attribute(inputs()))


class Unfolding(nn.Module):
    """Patches of pixels, 4 x 4 by default, to tokens without any 4-D output that would show the grid."""

    def __init__(self, seed: int, patch: tuple[int, int] = (4, 4)) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3 * patch[0] * patch[1], 5)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2))


def test_hints_serve_a_teacher_whose_layout_does_not_tell():
    """Patches of 4 x 6 pixels of images of 8 x 18."""
    x = images(N, 8, 18, dtype=torch.float64)
    student, base, teacher = (Unfolding(seed, (4, 6)).double() for seed in (1, 2, 3))
    with pytest.raises(ValueError, match="layer 'layer' of teacher_func gives 6 tokens"):
        UniCAM(conv(1), "conv2", conv(2), teacher_func=teacher, teacher_layer="layer").attribute(x)
    found = UniCAM(student, "layer", base, grid=(2, 3), teacher_func=teacher).attribute(x)
    pool = global_average_pool
    own, other, third = (m(x).detach().transpose(1, 2).unflatten(2, (2, 3)) for m in (student, base, teacher))
    assert relative_difference(found, literal.teacher_batch_map(own, pool, pool(other), pool(third))) < 1e-6


class Cube(nn.Module):
    """(N, 6, 6, 6) with channels last behind a layer that does not say so, and no other 4-D output."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(12, 6))
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(2, (6, 2)).unflatten(4, (6, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3) @ self.weight)


@pytest.mark.parametrize("channels_last", [None, False, True])
def test_the_hint_of_channels_last_serves_a_teacher_whose_layout_does_not_tell(channels_last):
    student, base, teacher, pool = conv(1), conv(2), Cube(3).double(), global_average_pool
    # The convolutions are told by the hint itself, which for them goes first: the Student takes it as it is.
    layers = ((student, "conv2"), (base, "conv2"), (teacher, "layer"))
    own, other, third = (activations(model, name, inputs()) for model, name in layers)
    if channels_last:
        own, other, third = (a.permute(0, 3, 1, 2) for a in (own, other, third))
    arguments = dict(teacher_func=teacher, teacher_layer="layer", channels_last=channels_last)
    found = UniCAM(student, "conv2", base, **arguments).attribute(inputs())
    assert relative_difference(found, literal.teacher_batch_map(own, pool, pool(other), pool(third))) < 1e-6


def test_hints_that_do_not_fit_a_teacher_whose_layout_does_not_tell_leave_the_images_aspect():
    student, base = (TinyTransformer(seed=seed).double().eval() for seed in (1, 2))
    x = images(N, 12, 12, dtype=torch.float64)
    student_hints = dict(grid=(3, 3), prefix_tokens=1)
    teacher = Unfolding(3).double()
    found = UniCAM(student, "block", base, teacher_func=teacher, teacher_layer="layer", **student_hints).attribute(x)
    own, other = (tokens_of(model, 3, 1)(x) for model in (student, base))
    third = teacher(x).detach().mean(1)
    pool = global_average_pool
    assert relative_difference(found, literal.teacher_batch_map(own, pool, pool(other), third)) < 1e-6
