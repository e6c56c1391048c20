"""Tokens of images that were cut by reshaping: a grid of square patches, row by row, or an error that asks for it."""

from typing import Any, Callable, Optional

import pytest
import torch
from models import images, labels
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import compare_transfer

N = 6

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only 6 inputs")


def patches(x: Tensor, height: int, width: int) -> Tensor:
    cut = x.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5)
    return cut.flatten(3).flatten(1, 2)


class Reshaped(nn.Module):
    """Cuts images without a module for it, and embeds what ``choose`` makes of the patches."""

    def __init__(self, height: int, width: int, choose: Callable[[Tensor], Tensor] = lambda x: x, prefix: int = 0) -> None:
        super().__init__()
        self.height, self.width, self.choose, self.passes = height, width, choose, 0
        self.embed, self.block = nn.Linear(3 * height * width, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        tokens = self.embed(self.choose(patches(x, self.height, self.width)))
        return self.block(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)).mean(1)


class Convolved(nn.Module):
    """The same with a function of convolution, position embeddings and a class token ahead of its first module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.positions = nn.Parameter(torch.randn(8, 3, 4, 4)), nn.Parameter(torch.randn(1, 25, 8))
        self.drop, self.block = nn.Dropout(0.1), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.conv2d(x, self.weight, stride=4).flatten(2).mT
        tokens = torch.cat([self.positions[:, :1].expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.block(self.drop(tokens)).mean(1)


def attributed(make: Callable[[], nn.Module], size: tuple[int, int], **settings: Any) -> Tensor:
    torch.manual_seed(0)
    student, base = make().double().eval(), make().double().eval()
    unicam = UniCAM(student, "block", base, **settings)
    return unicam.attribute(images(N, *size).double(), labels(N))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("size", [(16, 16), (16, 32), (24, 16)])
def test_square_patches_have_the_map_of_the_grid_that_is_given(size, prefix):
    grid = (size[0] // 4, size[1] // 4)
    found = attributed(lambda: Reshaped(4, 4, prefix=prefix), size)
    assert found.shape == (N, 1, *grid)
    torch.testing.assert_close(found, attributed(lambda: Reshaped(4, 4, prefix=prefix), size, grid=grid))


def test_square_patches_are_found_behind_a_function_of_convolution():
    torch.testing.assert_close(attributed(Convolved, (16, 24)), attributed(Convolved, (16, 24), grid=(4, 6)))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(8, 2, (16, 16)), (2, 8, (32, 32)), (4, 16, (32, 32)), (16, 4, (64, 32)), (2, 18, (36, 36))]
)
def test_oblong_patches_as_many_as_square_ones_are_refused(height, width, size):
    with pytest.raises(ValueError, match=r"tokens .*Pass grid=\(h, w\)"):
        attributed(lambda: Reshaped(height, width), size)
    grid = (size[0] // height, size[1] // width)
    assert attributed(lambda: Reshaped(height, width), size, grid=grid).shape == (N, 1, *grid)


DROPPED = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:16]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x[:, DROPPED],
        lambda x: x[:, DROPPED.sort().values],
        lambda x: x[:, :16],
        lambda x: x.unflatten(1, (8, 8)).transpose(1, 2).flatten(1, 2),
    ],
    ids=["drawn", "drawn in order", "the first", "columns first"],
)
def test_patches_that_were_dropped_or_moved_before_any_module_are_refused(choose, prefix):
    with pytest.raises(ValueError, match=r"tokens .*Pass grid=\(h, w\)"):
        attributed(lambda: Reshaped(4, 4, choose, prefix), (32, 32))


@pytest.mark.parametrize("frames", [8, 16, 20])
def test_frames_of_a_spectrogram_are_no_patches(frames):
    """16 mels by 8 frames: 8 tokens, and 4 x 2 squares."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block = nn.Linear(16, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.embed(x.squeeze(1).mT)).mean(1)

    student, base = Frames().eval(), Frames().eval()
    x = torch.randn(N, 1, 16, frames)
    with pytest.raises(ValueError, match=f"{frames} tokens .*channels_last=False"):
        UniCAM(student, "block", base).attribute(x, labels(N))
    assert UniCAM(student, "block", base, grid=(1, frames)).attribute(x, labels(N)).shape == (N, 1, 1, frames)


def test_the_passes_that_tell_are_made_once_for_images_of_a_size():
    student, base = Reshaped(4, 4).eval(), Reshaped(4, 4).eval()
    unicam = UniCAM(student, "block", base)
    population = unicam.reference(images(N, 16, 16), labels(N))
    noted = []
    for count in (N, N, 1, 1, 1):
        student.passes = 0
        unicam.attribute(images(count, 16, 16), labels(count), reference=population)
        noted.append(student.passes)
    assert noted[1] == noted[3] == noted[4] == 1


def test_inputs_of_the_first_module_lie_on_the_grid_too():
    student, base = Reshaped(4, 4).eval(), Reshaped(4, 4).eval()
    found = UniCAM(student, "embed", base).attribute(images(N, 16, 24), labels(N), attribute_to_layer_input=True)
    assert found.shape == (N, 1, 4, 6)


@pytest.mark.parametrize("training", [True, False])
def test_no_pass_is_made_that_would_change_statistics(training):
    student, base = Reshaped(4, 4).eval(), Reshaped(4, 4).eval()
    student.statistics = nn.BatchNorm2d(3).train(training)
    unicam = UniCAM(student, "block", base)
    if not training:
        assert unicam.attribute(images(N, 16, 16), labels(N)).shape == (N, 1, 4, 4)
    else:
        with pytest.raises(ValueError, match=r"Pass grid=\(h, w\)"):
            unicam.attribute(images(N, 16, 16), labels(N))


@pytest.mark.parametrize("localize", [None, "gradcam"])
def test_reports_refuse_oblong_patches_too(localize: Optional[str]):
    class Classifier(Reshaped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :3]

    student, base = Classifier(8, 2).eval(), Classifier(8, 2).eval()
    with pytest.raises(ValueError, match=r"Pass grid=\(h, w\)"):
        compare_transfer(student, base, ["block"], [(images(N, 16, 16), labels(N))], show_progress=False, localize=localize)
