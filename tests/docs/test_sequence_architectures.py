"""UniCAM on models of text, audio and time series: one call with a layer's name, and the map lies on the sequence."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm")
pytest.importorskip("transformers")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "scripts"))

import sequence_architectures as architectures  # noqa: E402
from families.sequence_models import FAMILIES, WORDS, SequenceFamily, build  # noqa: E402

from captum_kd._models.layer_names import resolve_layer  # noqa: E402
from captum_kd._models.layer_outputs import capture_outputs, find_layouts  # noqa: E402
from captum_kd._models.token_layout import LayoutHints  # noqa: E402
from captum_kd._utils.inputs import as_inputs  # noqa: E402
from captum_kd._utils.pytree import own_tensors  # noqa: E402

PUBLISHED = (DOCS / "architectures.md").read_text().splitlines()
OF_TEXT = [family for family in FAMILIES if "input_ids" in family.inputs()]


def by_name(family: SequenceFamily) -> str:
    return f"{family.library} {family.name}"


@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_a_layers_name_is_enough_for_a_map_on_the_sequence(family):
    look = architectures.look_at(family)
    positions = look.canonical.shape[2:]
    assert look.distilled.shape == (5, 1, *positions)
    assert look.single.shape == (1, 1, *positions)
    for maps in (look.distilled, look.residual, look.single):
        assert torch.isfinite(maps).all() and maps.any()
    steps = architectures.centers(look.canonical).diff()
    assert (steps > 0.2).all()
    assert architectures.row(family, look) in PUBLISHED


@pytest.mark.parametrize("family", [family for family in OF_TEXT if family.skips_padding], ids=by_name)
def test_padding_changes_no_map(family):
    look = architectures.look_at(family)
    assert look.distilled.shape == (5, 1, 12)
    maps, padding = look.padded.split([12, architectures.PADDING], dim=2)
    assert not padding.any()
    torch.testing.assert_close(maps, look.distilled, rtol=0, atol=5e-6 * float(look.distilled.abs().max()))


def test_the_published_table_has_no_other_rows():
    start = PUBLISHED.index("<!-- sequences: written by scripts/architectures.py -->")
    rows = [line.split("|")[1:3] for line in PUBLISHED[start:] if line.startswith(("| torch |", "| transformers |"))]
    assert [(library.strip(), name.strip()) for library, name in rows] == [(each.library, each.name) for each in FAMILIES]


def shapes_of(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, list[torch.Size]]:
    """The shapes of what every module returns."""
    found: dict[str, list[torch.Size]] = {}

    def noted(name: str) -> object:
        return lambda module, args, output: found.update({name: [each.shape for each in own_tensors(module, output)]})

    handles = [module.register_forward_hook(noted(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("n", "length"), [(6, 12), (12, 12), (6, 24), (6, 1), (1, 12)])
@pytest.mark.parametrize("family", OF_TEXT, ids=by_name)
def test_every_layer_over_tokens_is_read_as_one(family, n, length):
    """As many tokens as inputs, as channels (24), a single token, and a single input."""
    model = build(family)
    ids = torch.randint(3, WORDS, (n + 1, length), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in (ids[:n], ids)]
    fewer, more = (shapes_of(model, batch) for batch in batches)
    axes = {}
    for name, shapes in fewer.items():
        if len(shapes) == 1 and len(shapes[0]) == 3:
            changed = [axis for axis in (0, 1) if more[name][0][axis] == shapes[0][axis] + 1]
            axes.update({name: axis for axis in changed})
    assert len(axes) >= 2
    layers = [resolve_layer(model, name, model="forward_func", argument="layer") for name in axes]
    inputs = as_inputs(batches[0])
    (captured,) = capture_outputs(model, layers, inputs, (), at_input=False, device_ids=None)
    (layouts,) = find_layouts(model, layers, inputs, (), [captured], hints=LayoutHints(), at_input=False)
    for layer, (name, axis) in zip(layers, axes.items()):
        (layout,), (tensor,) = layouts[layer.module], captured[layer.module].tensors
        is_first = family.name == "Conv1d" and name.startswith("body")
        expected = tensor.movedim(axis, 0)
        assert torch.equal(layout.to_channels_first(tensor), expected if is_first else expected.transpose(1, 2)), name
