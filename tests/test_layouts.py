"""Where layers keep their positions: tokens, channels-last and channels-first outputs."""

from typing import Optional

import pytest
import torch
from models import ChannelsLast, ConvNet, TinyTransformer, images, labels
from reference import literal
from torch import Tensor, nn

from captum_kd import UniCAM, global_average_pool
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import resolve_layer
from captum_kd._models.token_layout import Layout, LayoutHints, Trace, as_layout_hints, find_layout

torchvision = pytest.importorskip("torchvision")

N = 6
SQUARE = (16, 16)

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def layout_of(
    output_shape: tuple,
    image_size: tuple = SQUARE,
    seen: tuple = (),
    module: nn.Module = nn.Identity(),
    **hints,
) -> Layout:
    """The layout of an output, given the (shape, module) of 4-D outputs ahead of it."""
    return find_layout(
        torch.empty(output_shape),
        module=module,
        where="layer 'blocks.1' of forward_func",
        image_size=image_size,
        seen=[Trace(shape, before) for shape, before in seen],
        hints=LayoutHints(**hints),
    )


def layout_in(model: nn.Module, name: str, size: tuple, at_input: bool = False) -> Layout:
    """The layout that a layer has in a forward pass of its model."""
    layer = resolve_layer(model.eval(), name, model="forward_func", argument="layer")
    (caught,) = capture_layers(model, [layer], (torch.randn(2, 3, *size),), at_input=at_input, trace=True)
    (output,) = caught[layer.module].tensors
    return find_layout(
        output, module=layer.module, where=str(layer), image_size=size, seen=caught[layer.module].seen
    )


def caught_output(model: nn.Module, name: str, x: Tensor) -> Tensor:
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return kept[0]


def conv(channels: int = 8) -> nn.Module:
    return nn.Conv2d(3, channels, 1)


# ------------------------------------------------------------------------------ tokens


def test_grid_is_that_of_the_patch_embedding():
    assert layout_of((2, 16, 8), seen=[((2, 8, 4, 4), conv())]) == Layout((4, 4), 0)


def test_class_token_in_front_is_left_out():
    assert layout_of((2, 17, 8), seen=[((2, 8, 4, 4), conv())]) == Layout((4, 4), 1)


def test_sixteen_prefix_tokens_are_accepted_and_seventeen_are_not():
    seen = [((2, 8, 2, 4), conv())]
    assert layout_of((2, 24, 8), (16, 32), seen) == Layout((2, 4), 16)
    with pytest.raises(ValueError, match="prefix_tokens"):
        layout_of((2, 27, 8), (16, 32), seen)


def test_grid_of_a_non_square_image():
    assert layout_of((2, 25, 8), (16, 24), [((2, 8, 4, 6), conv())]) == Layout((4, 6), 1)


def test_grid_may_be_rounded():
    assert layout_of((2, 12, 8), (17, 24), [((2, 8, 3, 4), conv())]) == Layout((3, 4), 0)


def test_latest_fitting_output_gives_the_grid():
    seen = [((2, 4, 8, 8), conv(4)), ((2, 8, 4, 4), conv()), ((2, 8, 2, 2), conv())]
    assert layout_of((2, 66, 8), seen=seen) == Layout((8, 8), 2)
    assert layout_of((2, 17, 8), seen=seen[:2]) == Layout((4, 4), 1)


@pytest.mark.parametrize("side_branch", [(2, 8, 2, 2), (2, 2, 2, 8), (2, 8, 3, 3)])
def test_an_exact_fit_goes_before_a_later_one_with_prefix_tokens(side_branch):
    """Attention over a reduced grid, as PVT and SegFormer have it, is no grid with a dozen class tokens."""
    seen = [((2, 8, 4, 4), conv()), (side_branch, nn.Identity())]
    assert layout_of((2, 16, 8), seen=seen) == Layout((4, 4), 0)


def test_an_exact_fit_does_not_go_before_the_users_prefix_tokens():
    seen = [((2, 8, 4, 4), conv()), ((2, 8, 2, 2), conv())]
    assert layout_of((2, 16, 8), seen=seen, prefix_tokens=12) == Layout((2, 2), 12)


@pytest.mark.parametrize(("tokens", "grid"), [(6, (2, 3)), (2, (1, 2))])
def test_tokens_merged_two_by_two_lie_on_the_grid_ahead_halved(tokens, grid):
    ahead = [((2, 8, 4, 6), conv()), ((2, 24, 8), nn.LayerNorm(8)), ((2, 6, 12), nn.LayerNorm(12))]
    assert layout_of((2, tokens, 16), (16, 24), ahead) == Layout(grid, 0)


@pytest.mark.parametrize(("tokens", "ahead"), [(6, ()), (6, (23,)), (2, (24,))])
def test_tokens_are_merged_only_where_there_were_four_times_as_many_before(tokens, ahead):
    seen = [((2, 8, 4, 6), conv()), *(((2, count, 12), nn.LayerNorm(12)) for count in ahead)]
    with pytest.raises(ValueError, match=rf"{tokens} tokens .*Pass grid=\(h, w\)"):
        layout_of((2, tokens, 16), (16, 24), seen)


def test_odd_sides_of_merged_grids_are_padded():
    assert layout_of((2, 6, 16), (20, 12), [((2, 8, 5, 3), conv()), ((2, 15, 8), nn.Linear(8, 8))]) == Layout((3, 2), 0)


def test_a_table_of_relative_positions_is_no_grid_with_prefix_tokens():
    """Swin v2 computes it as (1, 2 w - 1, 2 w - 1, C), which a batch of one image does not tell from its own."""
    tokens = [((1, count, 8), nn.LayerNorm(8)) for count in (576, 144)]
    seen = [((1, 8, 24, 24), conv()), *tokens, ((1, 5, 5, 64), nn.Linear(64, 64))]
    assert layout_of((1, 36, 16), (96, 96), seen) == Layout((6, 6), 0)


def test_merged_tokens_have_none_in_front():
    with pytest.raises(ValueError, match="7 tokens"):
        layout_of((2, 7, 16), (16, 24), [((2, 8, 4, 6), conv())])


def test_grid_from_a_channels_last_output():
    assert layout_of((2, 25, 8), (16, 24), [((2, 4, 6, 8), nn.Identity())]) == Layout((4, 6), 1)


def test_outputs_of_another_batch_do_not_give_the_grid():
    with pytest.raises(ValueError, match="18 tokens"):
        layout_of((2, 18, 8), (16, 32), [((10, 8, 2, 4), conv())])


@pytest.mark.parametrize("internal", [(2, 4, 25, 25), (2, 4, 25, 2), (2, 2, 25, 4), (2, 25, 4, 2)])
def test_attention_internals_are_no_grids(internal):
    seen = [((2, 8, 4, 6), conv()), (internal, nn.Identity())]
    assert layout_of((2, 25, 8), (16, 24), seen) == Layout((4, 6), 1)


def test_pooled_outputs_are_no_grids():
    seen = [((2, 8, 3, 3), conv()), ((2, 8, 1, 1), nn.AdaptiveAvgPool2d(1))]
    assert layout_of((2, 10, 8), seen=seen) == Layout((3, 3), 1)


def test_one_token_is_a_grid_of_one():
    assert layout_of((2, 1, 8), seen=[((2, 8, 1, 1), conv())]) == Layout((1, 1), 0)


@pytest.mark.parametrize("size", [(16, 16), (32, 128), (16, 256), (32, 72), (48, 64), (48, 16)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_without_a_trace_the_image_is_cut_into_square_patches(size, prefix):
    h, w = size[0] // 4, size[1] // 4
    assert layout_of((2, prefix + h * w, 8), size) == Layout((h, w), prefix)


@pytest.mark.parametrize(("tokens", "size"), [(36, (32, 64)), (37, (64, 64)), (101, (224, 224)), (16, (16, 24))])
def test_tokens_in_a_square_number_are_not_enough_for_a_square(tokens, size):
    with pytest.raises(ValueError, match=rf"{tokens} tokens .*Pass grid=\(h, w\)"):
        layout_of((2, tokens, 8), size)


def test_without_a_trace_prefix_tokens_make_other_squares():
    assert layout_of((2, 21, 8), prefix_tokens=5) == Layout((4, 4), 5)


def test_prefix_tokens_choose_among_the_outputs_ahead():
    seen = [((2, 8, 4, 4), conv()), ((2, 8, 3, 3), conv())]
    assert layout_of((2, 17, 8), seen=seen) == Layout((3, 3), 8)
    assert layout_of((2, 17, 8), seen=seen, prefix_tokens=1) == Layout((4, 4), 1)


def test_grid_goes_before_everything_found():
    assert layout_of((2, 17, 8), seen=[((2, 8, 4, 4), conv())], grid=(2, 8)) == Layout((2, 8), 1)


def test_no_grid_is_an_error_that_names_the_ways_out():
    with pytest.raises(ValueError) as error:
        layout_of((2, 18, 8), (16, 24))
    for part in ("blocks.1", "18 tokens", "16 x 24", "grid=(h, w)", "prefix_tokens=k", "channels_last=False"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "hints", [{"grid": (3, 4), "prefix_tokens": 1}, {"grid": (4, 4), "prefix_tokens": 2}, {"grid": (5, 4)}]
)
def test_hints_that_do_not_fit_are_an_error(hints):
    with pytest.raises(ValueError, match=r"grid=.* does not fit .*17 tokens"):
        layout_of((2, 17, 8), **hints)


# ------------------------------------------------------------------------- text and tokens


def layout_of_text(shape: tuple, token_count: Optional[int], image_size: Optional[tuple] = None, **more) -> Layout:
    seen = [Trace((2, 8, 4, 4), conv())] if image_size else []
    settings = {"module": nn.Identity(), "where": "layer 'h.1' of student", "seen": seen, **more}
    return find_layout(torch.empty(shape), image_size=image_size, token_count=token_count, **settings)


def test_the_number_of_the_inputs_tokens_tells_the_axis_of_the_tokens():
    assert layout_of_text((2, 7, 24), 7) == Layout(channels_last=True)
    assert layout_of_text((2, 24, 7), 7) == Layout()
    for shape, count in (((2, 7, 7), 7), ((2, 6, 24), 7), ((2, 7, 24), None)):
        with pytest.raises(ValueError, match=r"layer 'h.1' of student .*Pass tokens=True for tokens, or tokens=False"):
            layout_of_text(shape, count)


def test_modules_go_before_the_number_of_tokens():
    assert layout_of_text((2, 24, 7), 24, module=nn.Conv1d(24, 24, 1)) == Layout()


@pytest.mark.parametrize(
    ("shape", "hints", "expected"),
    [
        ((2, 7, 7), {"tokens": True}, Layout(channels_last=True)),
        ((2, 7, 7), {"tokens": False}, Layout()),
        ((2, 7, 7), {"tokens": True, "channels_last": True}, Layout(channels_last=True)),
        ((2, 7, 24), {"tokens": True, "prefix_tokens": 1}, Layout(prefix_tokens=1, channels_last=True)),
        ((2, 1, 24), {"tokens": True}, Layout(channels_last=True)),
        ((2, 7, 5, 4), {"tokens": False}, Layout()),
    ],
)
def test_tokens_says_where_the_channels_of_three_axes_are(shape, hints, expected):
    assert layout_of_text(shape, None, hints=LayoutHints(**hints)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, False, True), "tokens=True contradicts channels_last=False"),
        ((None, None, True, False), "tokens=False contradicts channels_last=True"),
        (((4, 4), None, None, False), r"tokens=False contradicts grid=\(4, 4\)"),
        ((None, 1, None, False), "tokens=False contradicts prefix_tokens=1"),
        ((None, None, None, 1), "tokens must be True, False or None, got 1"),
    ],
)
def test_contradicting_hints_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        as_layout_hints(*arguments)


def test_prefix_tokens_leave_a_token():
    with pytest.raises(ValueError, match=r"prefix_tokens=1 leaves no token of layer 'h.1' of student, which gives 1"):
        layout_of_text((2, 1, 24), 1, hints=LayoutHints(prefix_tokens=1))


def test_tokens_of_a_text_beside_an_image_are_not_laid_on_the_images_grid():
    """17 to 32 tokens could be a grid of 4 x 4 with prefix tokens."""
    assert layout_of_text((2, 20, 8), 20, SQUARE, module=nn.LayerNorm(8)) == Layout(channels_last=True)
    assert layout_of_text((2, 17, 8), 20, SQUARE, module=nn.LayerNorm(8)) == Layout((4, 4), 1)
    with pytest.raises(ValueError, match="or tokens=True for a map over the tokens in a row"):
        layout_of_text((2, 40, 8), None, SQUARE, module=nn.LayerNorm(8))
    assert layout_of_text((2, 40, 8), None, SQUARE, hints=LayoutHints(tokens=True)) == Layout(channels_last=True)
    assert layout_of_text((2, 17, 8), None, SQUARE, hints=LayoutHints(tokens=True)) == Layout((4, 4), 1)


def test_time_first_outputs_are_laid_out_as_batch_first_ones():
    found = layout_of_text((17, 2, 8), None, SQUARE, time_first=True)
    assert found == Layout((4, 4), 1, time_first=True)
    assert found.to_channels_first(torch.empty(17, 2, 8)).shape == (2, 8, 4, 4)
    x = torch.randn(7, 2, 8)
    assert torch.equal(layout_of_text(x.shape, None, time_first=True).to_channels_first(x), x.permute(1, 2, 0))


# -------------------------------------------------------------- other ranks and inputs


def test_outputs_of_convolutions_over_sequences_are_no_tokens():
    assert layout_of((2, 8, 16), module=nn.Conv1d(8, 8, 1)) == Layout()


def test_channels_last_false_says_that_there_are_no_tokens():
    assert layout_of((2, 9, 16), channels_last=False) == Layout()


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 4, 4, 4)])
def test_outputs_of_other_ranks_stay_as_they_are(shape):
    assert layout_of(shape) == Layout()


def test_without_images_four_axes_of_which_nothing_tells_have_channels_first():
    assert layout_of((2, 4, 4, 8), image_size=None) == Layout()


def test_without_images_three_axes_of_which_nothing_tells_are_an_error_that_names_the_way_out():
    with pytest.raises(ValueError, match=r"blocks.1.* gives shape \(2, 16, 8\) .*channels_last=True .*channels_last=False"):
        layout_of((2, 16, 8), image_size=None)


@pytest.mark.parametrize(
    ("shape", "hints", "expected"),
    [
        ((2, 17, 8), {"grid": (4, 4), "prefix_tokens": 1}, Layout((4, 4), 1)),
        ((2, 17, 8), {"grid": (3, 5)}, Layout((3, 5), 2)),
        ((2, 17, 8), {"prefix_tokens": 1}, Layout(None, 1, channels_last=True)),
        ((2, 3, 5, 8), {"channels_last": True}, Layout(channels_last=True)),
        ((2, 3, 5, 8), {"channels_last": False}, Layout()),
        ((2, 17, 8), {"channels_last": True}, Layout(channels_last=True)),
        ((2, 17, 8), {"channels_last": False}, Layout()),
        ((2, 3, 4, 5, 8), {"channels_last": True}, Layout(channels_last=True)),
        ((2, 17, 8), {"channels_last": False, "grid": (4, 4)}, Layout()),
    ],
)
def test_hints_are_heard_without_images(shape, hints, expected):
    assert layout_of(shape, image_size=None, **hints) == expected


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"grid": (5, 5)}, r"grid=\(5, 5\) .* does not fit layer 'blocks.1' .*17 tokens"),
        ({"grid": (4, 4), "prefix_tokens": 0}, "does not fit"),
    ],
)
def test_hints_that_do_not_fit_are_an_error_without_images_too(hints, message):
    with pytest.raises(ValueError, match=message):
        layout_of((2, 17, 8), image_size=None, **hints)


# --------------------------------------------------------------- channels first or last


@pytest.mark.parametrize("image_size", [(16, 16), (16, 24), (24, 16), (17, 23)])
def test_channels_last_by_the_aspect_of_the_input(image_size):
    h, w = image_size[0] // 4, image_size[1] // 4
    assert layout_of((2, h, w, 32), image_size).channels_last
    assert not layout_of((2, 32, h, w), image_size).channels_last


def test_ambiguous_output_of_a_known_channels_first_module():
    assert not layout_of((2, 4, 4, 4), seen=[((2, 4, 4, 4), nn.LayerNorm(4))], module=nn.BatchNorm2d(4)).channels_last


@pytest.mark.parametrize("module", [nn.LayerNorm(4), nn.Linear(4, 4)])
def test_ambiguous_output_of_a_known_channels_last_module(module):
    assert layout_of((2, 4, 4, 4), seen=[((2, 4, 4, 4), conv(4))], module=module).channels_last


def test_a_linear_layer_over_the_last_of_the_positions_stays_channels_first():
    assert not layout_of((2, 8, 4, 4), module=nn.Linear(4, 4)).channels_last


@pytest.mark.parametrize(("neighbor", "expected"), [(nn.LayerNorm(4), True), (conv(4), False)])
def test_ambiguous_output_follows_its_neighbor(neighbor, expected):
    assert layout_of((2, 4, 4, 4), seen=[((2, 4, 4, 4), neighbor)]).channels_last is expected


def test_ambiguous_output_follows_a_neighbor_whose_shape_tells():
    assert layout_of((2, 4, 4, 4), seen=[((2, 4, 4, 16), nn.Identity())]).channels_last


@pytest.mark.parametrize("other", [(10, 4, 4, 16), (2, 2, 2, 16)])
def test_neighbors_of_another_batch_or_grid_have_no_say(other):
    assert not layout_of((2, 4, 4, 4), seen=[(other, nn.Identity())]).channels_last


def test_ambiguous_output_without_neighbors_is_channels_first():
    assert not layout_of((2, 4, 4, 4)).channels_last


@pytest.mark.parametrize("hint", [True, False])
def test_channels_last_goes_before_everything_found(hint):
    assert layout_of((2, 8, 4, 4), module=conv(), channels_last=hint).channels_last is hint


def test_one_by_one_outputs_are_channels_first():
    assert not layout_of((2, 8, 1, 1)).channels_last


@pytest.mark.parametrize(
    ("layout", "shape"),
    [(Layout(), (2, 5, 3, 4)), (Layout(channels_last=True), (2, 3, 4, 5)), (Layout((3, 4), 2), (2, 14, 5))],
)
def test_to_channels_first_puts_every_entry_in_its_place(layout, shape):
    canonical = torch.arange(2 * 5 * 3 * 4.0).reshape(2, 5, 3, 4)
    given = canonical
    if layout.channels_last:
        given = canonical.permute(0, 2, 3, 1)
    if layout.grid:
        given = torch.cat([torch.full((2, 2, 5), -1.0), canonical.flatten(2).transpose(1, 2)], dim=1)
    assert given.shape == shape
    assert torch.equal(layout.to_channels_first(given), canonical)


# ----------------------------------------------------------------------- whole networks


def vision_transformer() -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    ).eval()


def swin() -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4], num_classes=3
    ).eval()


def convnext() -> nn.Module:
    torch.manual_seed(3)
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=3).eval()


@pytest.mark.parametrize(
    "name", ["encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_0.mlp.0", "encoder.ln"]
)
@pytest.mark.parametrize("at_input", [False, True])
def test_torchvision_vision_transformer(name, at_input):
    assert layout_in(vision_transformer(), name, (16, 16), at_input) == Layout((4, 4), 1)


# At 32 pixels the first stage has as many channels as rows and columns: shapes alone do not tell.
@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 64)])
@pytest.mark.parametrize(
    "name", ["features.0", "features.1", "features.1.0.attn", "features.1.0.mlp", "features.3", "norm"]
)
def test_torchvision_swin_is_channels_last(name, size):
    assert layout_in(swin(), name, size) == Layout(channels_last=True)


@pytest.mark.parametrize("name", ["features.0.0", "permute", "avgpool"])
def test_channels_first_layers_in_torchvision_swin(name):
    assert layout_in(swin(), name, (32, 32)) == Layout()


def test_permuting_modules_in_torchvision_swin():
    assert layout_in(swin(), "features.0.1", (32, 32)) == Layout(channels_last=True)


@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@pytest.mark.parametrize("name", ["features.1", "features.1.0", "features.1.0.block", "features.3"])
def test_torchvision_convnext_is_channels_first(name, size, at_input):
    """Its blocks permute to channels last and back; at 32 pixels shapes do not tell."""
    assert layout_in(convnext(), name, size, at_input) == Layout()


def test_channels_last_layers_in_torchvision_convnext():
    assert layout_in(convnext(), "features.1.0.block.2", (32, 32)) == Layout(channels_last=True)


class PermutingBlock(nn.Module):
    """Permutes to channels last and back with no module to show for it, as timm's ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(self.spatial(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "expected"), [("1", False), ("2", False), ("2.mix", True), ("2.spatial", False)])
def test_blocks_keep_the_layout_that_they_are_given(name, expected):
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), PermutingBlock(), PermutingBlock())
    assert layout_in(model, name, (16, 16)).channels_last is expected


# --------------------------------------------------------------------------------- maps


@pytest.mark.parametrize(("prefix", "size"), [(0, (16, 16)), (1, (16, 16)), (5, (12, 20))])
def test_map_of_tokens_equals_one_of_tokens_permuted_by_hand(prefix, size):
    student, base = (TinyTransformer(prefix=prefix, seed=seed).double().eval() for seed in (1, 2))
    x = images(N, *size, dtype=torch.float64)
    h, w = size[0] // 4, size[1] // 4

    def by_hand(model):
        tokens = caught_output(model, "block", x)
        return tokens[:, prefix:].permute(0, 2, 1).reshape(N, 8, h, w)

    expected = literal.batch_map(
        by_hand(student), global_average_pool, global_average_pool(by_hand(base)), labels(N, 2)
    )
    torch.testing.assert_close(UniCAM(student, "block", base).attribute(x, labels(N, 2)), expected)


def test_map_of_a_channels_last_layer_equals_one_permuted_by_hand():
    student, base = ChannelsLast(seed=1).double(), ChannelsLast(seed=2).double()
    x = images(N, 12, 20, dtype=torch.float64)
    a, b = (caught_output(model, "stage", x).permute(0, 3, 1, 2) for model in (student, base))
    expected = literal.batch_map(a, global_average_pool, global_average_pool(b), labels(N, 2))
    assert expected.shape == (N, 1, 3, 5)
    torch.testing.assert_close(UniCAM(student, "stage", base).attribute(x, labels(N, 2)), expected)


def test_channels_stay_in_dimension_one_without_summation():
    student, base = TinyTransformer(seed=1).eval(), TinyTransformer(seed=2).eval()
    x = images(N, 16, 12)
    whole = UniCAM(student, "block", base).attribute(x)
    split = UniCAM(student, "block", base).attribute(x, attr_dim_summation=False)
    assert split.shape == (N, 8, 4, 3)
    torch.testing.assert_close(split.sum(1, keepdim=True), whole)


def test_prefix_tokens_are_left_out_of_the_features():
    """With all tokens as positions the class token would count."""
    student, base = TinyTransformer(seed=1).eval(), TinyTransformer(seed=2).eval()
    seen = []

    def transform(activations):
        seen.append(activations.shape)
        return global_average_pool(activations)

    UniCAM(student, "block", base, feature_transform=transform).attribute(images(N, 16, 16))
    assert set(seen) == {(N, 8, 4, 4)}


def test_hints_reach_the_layer():
    student, base = TinyTransformer(seed=1).eval(), TinyTransformer(seed=2).eval()
    assert UniCAM(student, "block", base, grid=(2, 8)).attribute(images(N, 16, 16)).shape == (N, 1, 2, 8)
    with pytest.raises(ValueError, match="does not fit layer 'block' of forward_func"):
        UniCAM(student, "block", base, grid=(3, 3), prefix_tokens=1).attribute(images(N, 16, 16))


class ReducedAttention(nn.Module):
    """Tokens that attend to a coarser grid of themselves, as in PVT and SegFormer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.reduce = nn.Conv2d(8, 8, 2, 2)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.embed(x)
        tokens, few = grid.flatten(2).mT, self.reduce(grid).flatten(2).mT
        attended = nn.functional.scaled_dot_product_attention(tokens, few, few)
        return self.fc(torch.tanh(self.mix(attended)).mean(1))


def test_map_behind_attention_over_a_reduced_grid_has_all_tokens():
    student, base = ReducedAttention(1).double(), ReducedAttention(2).double()
    x = images(N, 16, 16, dtype=torch.float64)
    a, b = (caught_output(model, "mix", x).mT.reshape(N, 8, 4, 4) for model in (student, base))
    expected = literal.batch_map(a, global_average_pool, global_average_pool(b), labels(N, 2))
    torch.testing.assert_close(UniCAM(student, "mix", base).attribute(x, labels(N, 2)), expected)


class Patches(nn.Module):
    """Patches that were cut before the model, or frames of a video with channels last: no images (N, C, H, W)."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(width, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            x = x.mean(2).permute(0, 2, 3, 1)
        return self.fc(torch.tanh(self.layer(x)).flatten(1, -2).mean(1))


@pytest.mark.parametrize(
    ("size", "hints", "shape"),
    [
        ((17, 6), {"grid": (4, 4), "prefix_tokens": 1}, (1, 4, 4)),
        ((17, 6), {"prefix_tokens": 1}, (1, 16)),
        ((17, 6), {}, (1, 17)),
        ((17, 6), {"channels_last": False}, (1, 8)),
        ((3, 2, 4, 6), {}, (1, 4, 6)),
        ((3, 2, 4, 6), {"channels_last": False}, (1, 6, 8)),
    ],
)
def test_hints_make_maps_of_inputs_that_are_no_images(size, hints, shape):
    student, base = Patches(size[0] if len(size) > 2 else 6, 1), Patches(size[0] if len(size) > 2 else 6, 2)
    assert UniCAM(student, "layer", base, **hints).attribute(torch.randn(N, *size)).shape == (N, *shape)


def test_hints_that_do_not_fit_inputs_that_are_no_images_are_an_error():
    with pytest.raises(ValueError, match=r"grid=\(5, 5\) .* does not fit layer 'layer' of forward_func"):
        UniCAM(Patches(6, 1), "layer", Patches(6, 2), grid=(5, 5)).attribute(torch.randn(N, 17, 6))


@pytest.mark.parametrize("deeper", [False, True])
def test_vision_transformer_with_a_convolutional_base(deeper):
    student, base = vision_transformer(), ConvNet(seed=2)
    unicam = UniCAM(
        student,
        "encoder.layers.encoder_layer_0",
        base,
        "conv2",
        feature_layer="encoder.ln" if deeper else None,
        base_feature_layer="conv3" if deeper else None,
    )
    maps = unicam.attribute_transfer(images(N, 16, 16), labels(N, 2))
    assert maps.distilled.shape == (N, 1, 4, 4)
    assert maps.residual.shape == (N, 1, 8, 8)
    assert maps.distilled.abs().amin() > 0


@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [(swin, "features.1", (32, 32)), (swin, "features.3", (32, 48)), (convnext, "features.3", (32, 48))],
)
def test_maps_of_torchvision_models_have_the_images_aspect(model, layer, size):
    unicam = UniCAM(model(), layer, ConvNet(seed=2), "conv2")
    stride = 4 if layer == "features.1" else 8
    maps = unicam.attribute(images(N, *size), labels(N, 2))
    assert maps.shape == (N, 1, size[0] // stride, size[1] // stride)
