"""Layouts as the modules inside a layer and ahead of it tell them: the map is that of the right axis, or an error."""

from typing import Any, Callable, Optional

import pytest
import torch
from models import activations, images, labels
from reference import literal
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from captum_kd import UniCAM, flatten, global_average_pool
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.token_layout import Layout, find_layout
from captum_kd.metrics import compare_transfer, feature_similarity_score

torchvision = pytest.importorskip("torchvision")

N = 6
FIRST, LAST = Layout(), Layout(channels_last=True)

pytestmark = pytest.mark.filterwarnings("ignore:The population is", "ignore:Only 6 inputs")


class Steps(nn.Sequential):
    """Functions and modules one behind the other."""

    def __init__(self, *steps: Any) -> None:
        super().__init__(*(step if isinstance(step, nn.Module) else Step(step) for step in steps))


class Step(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """Moves axes, runs a module and moves them back, with no module to show for it; with a residual where asked."""

    def __init__(self, module: nn.Module, there: tuple[int, ...], back: tuple[int, ...], residual: bool = False) -> None:
        super().__init__()
        self.module, self.there, self.back, self.residual = module, there, back, residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.module(x.permute(self.there)).permute(self.back)
        return x + out if self.residual else out


def cut(patch: int) -> Callable[[Tensor], Tensor]:
    """Images to patches without any output that shows the grid."""
    return lambda x: x.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def layout_in(model: nn.Module, name: str, x: Tensor, at_input: bool = False) -> Layout:
    layer = resolve_layer(model.eval(), name, model="forward_func", argument="layer")
    (caught,) = capture_layers(model, [layer], (x,), at_input=at_input, trace=True)
    found = caught[layer.module]
    size = (x.shape[2], x.shape[3]) if x.dim() == 4 else None
    settings: dict[str, Any] = dict(module=layer.module, where=str(layer), image_size=size, seen=found.seen, at_input=at_input)
    return find_layout(found.tensors[0], **settings)


# -------------------------------------------------------------------------- three axes


def temporal() -> nn.Module:
    """Convolutions over time; 64 channels on 64 frames at first."""
    return Steps(
        Steps(nn.Conv1d(64, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU()),
        nn.Dropout(0.1),
        Steps(nn.Conv1d(64, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(9)),
        nn.Identity(),
        lambda x: x.mean(2),
    )


@pytest.mark.parametrize("name", ["0", "0.0", "0.2", "1", "2", "2.1", "3"])
@pytest.mark.parametrize("length", [40, 64])
def test_blocks_of_convolutions_over_sequences_have_channels_first(name, length):
    assert layout_in(temporal(), name, torch.randn(N, 64, length)) == FIRST
    spectrogram = Steps(lambda x: x.squeeze(1), *temporal())
    assert layout_in(spectrogram, f"{int(name[0]) + 1}{name[1:]}", torch.randn(N, 1, 64, length)) == FIRST


@pytest.mark.parametrize("length", [12, 20])
def test_convolutions_between_linear_layers_leave_tokens_tokens(length):
    """As in a Conformer; 12 tokens are as many as channels."""
    block = Around(Steps(nn.Conv1d(12, 12, 3, padding=1), nn.BatchNorm1d(12), nn.SiLU()), (0, 2, 1), (0, 2, 1), residual=True)
    model = Steps(nn.Linear(5, 12), block, nn.LayerNorm(12), lambda x: x.mean(1))
    x = torch.randn(N, length, 5)
    assert [layout_in(model, name, x) for name in ("0", "1", "2", "1.module", "1.module.1")] == [LAST] * 3 + [FIRST] * 2


def test_a_norm_over_time_right_behind_a_convolution_has_channels_first():
    model = Steps(nn.Conv1d(4, 8, 1), nn.ReLU(), nn.LayerNorm(8), nn.Dropout(0.1), lambda x: x.mean(2))
    assert [layout_in(model, name, torch.randn(N, 4, 8)) for name in ("1", "2", "3")] == [FIRST] * 3


def test_where_modules_differ_on_three_axes_of_no_image_an_error_names_the_argument():
    model = Steps(nn.Conv1d(4, 6, 1), lambda x: x * 2, nn.LayerNorm(9), nn.Identity(), lambda x: x.mean(2))
    with pytest.raises(ValueError, match=r"layer '3' .* gives shape \(6, 6, 9\) .*channels_last=True .*channels_last=False"):
        layout_in(model, "3", torch.randn(N, 4, 9))


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_convolutions_that_mix_tokens_leave_them_on_their_grid(name, width):
    """As in MLP-Mixers that use convolutions of width 1 for it; 64 patches."""
    mixing = Steps(nn.LayerNorm(width), nn.Conv1d(64, 80, 1), nn.GELU(), nn.Conv1d(80, 64, 1))
    block = Around(mixing, (0, 1, 2), (0, 1, 2), residual=True)
    model = Steps(cut(4), nn.Linear(48, width), block, nn.LayerNorm(width), nn.Linear(width, width), lambda x: x.mean(1))
    assert layout_in(model, name, images(N, 32, 32)) == Layout((8, 8), 0)


@pytest.mark.parametrize("channels", [5, 16, 17])
def test_flattened_grids_have_channels_first(channels):
    model = Steps(Steps(nn.Conv2d(3, channels, 4, 4), nn.ReLU(), nn.Flatten(2)), nn.Identity(), lambda x: x.mean(2))
    assert [layout_in(model, name, images(N, 16, 16)) for name in ("0", "1")] == [FIRST] * 2
    flat = Steps(nn.Conv2d(3, channels, 4, 4), lambda x: x.flatten(2), nn.Identity(), lambda x: x.mean(2))
    if channels != 16:
        assert layout_in(flat, "2", images(N, 16, 16)) == FIRST
    else:  # 16 x 16: channels and positions, or positions and channels
        with pytest.raises(ValueError, match="16 tokens"):
            layout_in(flat, "2", images(N, 16, 16))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.drop = nn.LSTM(5, 8, batch_first=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.rnn(x)[0])[:, -1]


def text(width: int = 8) -> nn.Module:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    return Steps(nn.Embedding(20, width), encoder, nn.Identity(), lambda x: x[:, 0], nn.Linear(width, 3))


@pytest.mark.parametrize("name", ["0", "1", "1.layers.0", "1.layers.1.linear1", "2"])
@pytest.mark.parametrize("length", [8, 11])
def test_tokens_of_text_lie_in_a_row(name, length):
    assert layout_in(text(), name, torch.randint(0, 20, (N, length))) == LAST


@pytest.mark.parametrize("length", [8, 11])
def test_outputs_of_recurrent_layers_lie_in_a_row(length):
    assert layout_in(Recurrent(), "drop", torch.randn(N, length, 5)) == LAST


def test_map_of_tokens_of_text_equals_one_of_tokens_transposed_by_hand():
    student, base = (text().double().eval() for _ in range(2))
    ids = torch.randint(0, 20, (N, 11))
    own, other = (activations(model, "1.layers.0.linear1", ids).mT for model in (student, base))
    pool = global_average_pool
    expected = literal.batch_map(own, pool, pool(other), labels(N))
    found = UniCAM(student, "1.layers.0.linear1", base).attribute(ids, labels(N))
    assert found.shape == (N, 1, 11)
    torch.testing.assert_close(found, expected)


def test_scores_of_flattened_features_need_no_layout():
    model, other = (Steps(function, nn.Identity(), lambda x: x.mean(1)) for function in (torch.sin, torch.exp))
    x = torch.randn(N, 7, 5)
    apart = feature_similarity_score(model, "1", other, "1", x)
    torch.testing.assert_close(apart, feature_similarity_score(model, "1", other, "1", x, channels_last=True))
    report = compare_transfer(model, other, ["1"], [(x, labels(N))], show_progress=False)
    assert report.rows[0]["value"] == pytest.approx(float(apart))
    with pytest.raises(ValueError, match="channels_last=True"):
        feature_similarity_score(model, "1", other, "1", x, feature_transform=global_average_pool)
    with pytest.raises(ValueError, match="channels_last=True"):
        UniCAM(model, "1", other, feature_transform=flatten).attribute(x)


# ------------------------------------------------------------------------ tokens of images


class Tokens(nn.Module):
    """A transformer of 16 x 16 patches that goes on with ``kept`` of its tokens, behind its first block or before."""

    def __init__(self, kept: int, prefix: int, before: bool = False, by_convolution: bool = True) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2) if by_convolution else Steps(cut(2), nn.Linear(12, 8))
        self.by_convolution, self.before, self.kept = by_convolution, before, kept
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.drop = nn.Dropout(0.1)
        self.one, self.two = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT if self.by_convolution else self.embed(x)
        tokens = self.drop(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1))
        tokens = self.one(tokens[:, : self.kept] if self.before else tokens)
        return self.norm(self.two(tokens[:, : self.kept])).mean(1)


@pytest.mark.parametrize("by_convolution", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("kept", "prefix"), [(101, 1), (100, 0), (64, 1), (65, 1), (256, 1)], ids=lambda value: str(value)
)
def test_fewer_tokens_lie_on_no_grid(kept, prefix, before, by_convolution):
    """Dropped or merged: what is left may be a square number, a quarter of the patches, or as many as these."""
    model = Tokens(kept, prefix, before, by_convolution)
    for name in ("two", "norm"):
        with pytest.raises(ValueError, match=rf"{kept} tokens .*Pass grid=\(h, w\)"):
            layout_in(model, name, images(2, 32, 32))
    if not before:
        assert layout_in(model, "one", images(2, 32, 32)) == Layout((16, 16), prefix)


@pytest.mark.parametrize("patch", [(4, 1), (2, 8), (16, 1)])
@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_oblong_patches_of_square_images_lie_on_their_own_grid(patch, prefix):
    model = Tokens(10_000, prefix)
    model.embed = nn.Conv2d(3, 8, patch, patch)
    assert layout_in(model, "two", images(2, 16, 16)) == Layout((16 // patch[0], 16 // patch[1]), prefix)


def test_an_unfolding_shows_the_grid_of_its_patches():
    model = Steps(nn.Unfold((4, 2), dilation=2, padding=1, stride=(3, 2)), lambda x: x.mT, nn.Linear(24, 8), lambda x: x.mean(1))
    assert layout_in(model, "2", images(2, 17, 40)) == Layout((5, 20), 0)


# ---------------------------------------------------------------------- four axes and five


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("name", ["0", "0.3", "1"])
def test_pooling_of_one_axis_leaves_channels_first(name, width):
    """(N, 16, 16, 32) of a square spectrogram: the first two have the image's aspect."""
    block = Steps(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d((2, 1)))
    model = Steps(block, nn.Dropout(0.1), lambda x: x.mean((2, 3)))
    assert layout_in(model, name, torch.randn(N, 1, 32, 32)) == FIRST


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Dropout(0.1)])
def test_norms_and_linear_layers_over_the_bins_of_a_spectrogram_leave_channels_first(channels, activation):
    head = Steps(nn.LayerNorm(8), nn.Linear(8, 8), nn.Identity(), lambda x: x.mean((2, 3)))
    model = Steps(nn.Conv2d(1, channels, 1), activation, *head)
    for size in ((8, 8), (12, 8)):
        assert [layout_in(model, name, torch.randn(N, 1, *size)) for name in ("1", "2", "3", "4")] == [FIRST] * 4


def wrapper(before: int, after: int, last: Callable[[Tensor], Tensor] = relu) -> nn.Module:
    return Around(Steps(nn.Conv2d(before, after, 3, padding=1), last), (0, 3, 1, 2), (0, 2, 3, 1))


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (8, 8), (8, 12)])
@pytest.mark.parametrize("name", ["1", "2", "3"])
def test_wrappers_around_convolutions_have_channels_last(name, size):
    """Also where there are as many channels as rows."""
    model = Steps(lambda x: x.permute(0, 2, 3, 1), wrapper(3, 8), nn.Dropout(0.1), wrapper(8, 12), lambda x: x.mean((1, 2)))
    assert layout_in(model, name, images(N, *size)) == LAST


def test_wrappers_around_convolutions_and_pooling_have_channels_last():
    pooling = wrapper(3, 8, lambda x: avg_pool2d(x, (2, 1)))
    model = Steps(lambda x: x.permute(0, 2, 3, 1), pooling, nn.Identity(), lambda x: x.mean((1, 2)))
    assert [layout_in(model, name, images(N, 10, 14)) for name in ("1", "2")] == [LAST] * 2


@pytest.mark.parametrize("name", ["patch_embed", "features.0", "features.0.0.mlp", "features.0.0.norm1", "features.1", "norm"])
@pytest.mark.parametrize("frames", [4, 8])
def test_torchvision_video_swin_is_channels_last(name, frames):
    """With 8 frames as many frames, rows, columns and channels."""
    model = torchvision.models.video.SwinTransformer3d([1, 4, 4], 8, [1, 1], [2, 2], [2, 4, 4], num_classes=3)
    assert layout_in(model, name, torch.randn(2, 3, frames, 32, 32)) == LAST
    assert layout_in(model, "patch_embed.proj", torch.randn(2, 3, frames, 32, 32)) == FIRST


@pytest.mark.parametrize("hint", [True, False, None])
def test_channels_last_reaches_outputs_of_five_axes(hint: Optional[bool]):
    student, base = (Steps(nn.Identity(), lambda x: x.flatten(1)) for _ in range(2))
    found = UniCAM(student, "0", base, channels_last=hint).attribute(torch.randn(N, 2, 3, 4, 5))
    assert found.shape == ((N, 1, 2, 3, 4) if hint else (N, 1, 3, 4, 5))


@pytest.mark.parametrize("name", ["1", "2", "3"])
@pytest.mark.parametrize("side", [(36, 56), (37, 57)])
def test_branches_that_are_joined_have_channels_first_whatever_the_images_aspect(name, side):
    """24 channels on 36 rows of an image of 160 x 240, as in Inception v4."""

    class Joined(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.left, self.right = (nn.Conv2d(before, after, 3, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.left(x), self.right(x)], 1)

    model = Steps(nn.AdaptiveAvgPool2d(side), Joined(3, 12), lambda x: x * 2, Joined(24, 12), lambda x: x.mean((2, 3)))
    assert layout_in(model, name, images(N, 160, 240)) == FIRST


class Turned(nn.Module):
    """A permuting module that does not say what it does."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


@pytest.mark.parametrize("make", [Turned, lambda *axes: torchvision.ops.Permute(list(axes))], ids=["unnamed", "torchvision"])
@pytest.mark.parametrize("size", [(8,), (12,), (8, 8), (8, 12), (4, 8, 8)])
def test_permutations_are_followed(make, size):
    """8 channels; where there are as many positions the shape stays."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1](3, 8, 1)
    last = len(size) + 1
    there, back = (0, *range(2, last + 1), 1), (0, last, *range(1, last))
    model = Steps(conv, make(*there), nn.GELU(), make(*back), nn.Dropout(0.1), lambda x: x.flatten(2).mean(2))
    x = torch.randn(N, 3, *size)
    assert [layout_in(model, name, x) for name in "01234"] == [FIRST, LAST, LAST, FIRST, FIRST]
    assert [layout_in(model, name, x, at_input=True) for name in "1234"] == [FIRST, LAST, LAST, FIRST]
    functions = Steps(conv, lambda x: x.permute(there).sin().permute(back), nn.Dropout(0.1), lambda x: x.flatten(2).mean(2))
    assert layout_in(functions, "2", x) == FIRST


def test_modules_behind_a_permuting_function_have_its_layout():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))

    assert [layout_in(Model(), name, images(N, 8, 8)) for name in ("conv", "norm", "drop")] == [FIRST, LAST, FIRST]


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_blocks_behind_a_permuting_function_have_its_layout(size):
    """As in Swin v2 with residuals behind norms, at 96 channels on 96 x 96 positions."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1, 2) + self.mlp(x.flatten(1, 2))).view_as(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = Steps(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
            self.blocks, self.after = nn.Sequential(Block(), Block()), Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.blocks(self.embed(x).permute(0, 2, 3, 1))).mean((1, 2))

    for at_input in (False, True):
        layouts = [layout_in(Model(), name, images(N, *size), at_input) for name in ("blocks.0", "blocks.1", "blocks", "after")]
        assert layouts == [LAST] * 4
    assert layout_in(Model(), "embed", images(N, *size)) == FIRST


def test_norms_over_bins_have_channels_first_at_their_input_too():
    model = Steps(nn.Conv2d(1, 8, 1), nn.LayerNorm(8), nn.ReLU(), lambda x: x.mean((2, 3)))
    assert [layout_in(model, name, torch.randn(N, 1, 8, 8), at_input=True) for name in ("1", "2")] == [FIRST] * 2


@pytest.mark.parametrize("at_input", [False, True])
def test_as_many_channels_as_positions_behind_a_function_and_modules_of_both_kinds_are_an_error(at_input):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + 1).mean((2, 3))

    with pytest.raises(ValueError, match=r"layer 'drop' .*\(6, 8, 8, 8\).* channels_last=False .*channels_last=True"):
        layout_in(Model(), "drop", images(N, 8, 8), at_input)
    assert layout_in(Model(), "drop", images(N, 8, 12), at_input) == FIRST


class TimeDistributed(nn.Module):
    """Frames of videos, (N, T, 3, H, W), through a convolution of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 8, 1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(x.flatten(0, 1)).relu().unflatten(0, x.shape[:2])).mean((1, 3, 4))


def test_steps_that_were_folded_into_the_batch_are_no_channels():
    with pytest.raises(ValueError, match=r"layer 'drop' .* shape \(6, 4, 8, 12, 12\).* folds 4 steps .*channels_last=False"):
        layout_in(TimeDistributed(), "drop", torch.randn(N, 4, 3, 12, 12))
    found = UniCAM(TimeDistributed(), "drop", TimeDistributed(), channels_last=False)
    assert found.attribute(torch.randn(N, 4, 3, 12, 12), labels(N)).shape == (N, 1, 8, 12, 12)


@pytest.mark.parametrize("length", [8, 20])
def test_linear_layers_over_the_positions_of_tokens_are_an_error(length):
    """As in MLP-Mixers of series; behind the exchange of axes tokens lie in a row again."""
    mixing = Around(Steps(nn.Linear(length, length), nn.ReLU()), (0, 2, 1), (0, 2, 1), residual=True)
    model = Steps(nn.Linear(5, 16), mixing, nn.LayerNorm(16), nn.Linear(16, 16), lambda x: x.mean(1))
    x = torch.randn(N, length, 5)
    assert [layout_in(model, name, x) for name in "0123"] == [LAST] * 4
    for name in ("1.module", "1.module.0", "1.module.1"):
        with pytest.raises(ValueError, match="channels_last=True"):
            layout_in(model, name, x)


@pytest.mark.parametrize("width", [8, 16])
def test_sequences_of_columns_are_no_merged_patches(width):
    """16 columns of a grid of 16 x 16: as many as 4 x 4 merged patches."""
    step = Steps(nn.GRU(8, width, batch_first=True), lambda out: out[0])
    model = Steps(nn.Conv2d(3, 8, 4, 4), lambda x: x.mean(2).mT, step, nn.Linear(width, 5), lambda x: x.mean(1))
    for name in ("2", "3"):
        with pytest.raises(ValueError, match=r"16 tokens .*Pass grid=\(h, w\)"):
            layout_in(model, name, images(N, 64, 64))


def test_a_single_token_is_a_grid_of_one():
    """As in CaiT's and CrossViT's layers of the class token."""
    head = Steps(nn.LayerNorm(8), nn.Linear(8, 8), lambda x: x[:, 0])
    model = Steps(nn.Conv2d(3, 8, 4, 4), lambda x: x.flatten(2).mT, nn.LayerNorm(8), lambda x: x.mean(1, keepdim=True), *head)
    assert [layout_in(model, name, images(N, 16, 16)) for name in ("4", "5")] == [Layout((1, 1), 0)] * 2


# ------------------------------------------------------------------------- layers' inputs


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_what_a_layer_of_a_convnext_is_given_has_the_map_of_what_the_one_before_gives(number, size):
    def network() -> nn.Module:
        block = torchvision.models.convnext.CNBlockConfig
        return torchvision.models.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=3).eval()

    student, base = network(), network()
    before, after = (f"features.1.0.block.{place}" for place in (number, number + 1))
    given = UniCAM(student, after, base).attribute(images(N, *size), labels(N), attribute_to_layer_input=True)
    assert given.shape == (N, 1, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(given, UniCAM(student, before, base).attribute(images(N, *size), labels(N)))
