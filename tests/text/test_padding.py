"""Padding changes no map and no score; what leaves tokens out leaves them out of features and maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_kd import UniCAM, first_token, last_token
from captum_kd.metrics import compare_transfer, feature_similarity_score, relevance_score
from captum_kd.metrics.report.settings import Comparisons, ModelOptions
from text.encoders import Encoder, labels, rows, sentences

N, LAYERS = 40, ["words", "encoder.layers.0", "encoder.layers.1"]
STUDENT, BASE, OTHER_BASE, TEACHER = Encoder(1), Encoder(2), Encoder(4), Encoder(3, 24, 3)
Y = labels(N)


def aligned(maps: Tensor, tokens: int = 20) -> Tensor:
    assert not bool(maps[:, :, 10:].any())
    return nn.functional.pad(maps, (0, tokens - maps.shape[2]))


@pytest.mark.parametrize("n_steps", [None, 8])
@pytest.mark.parametrize("teacher", [None, TEACHER])
@pytest.mark.parametrize("transform", [None, first_token, last_token])
def test_maps_do_not_depend_on_padding(teacher, n_steps, transform):
    further = {} if transform is None else {"feature_transform": transform}
    unicam = UniCAM(STUDENT, LAYERS, [BASE, OTHER_BASE], teacher_func=teacher, **further)
    found = []
    for padded_to in (10, 12, 20):
        inputs = sentences(N, padded_to=padded_to)
        population = unicam.reference(sentences(32, padded_to=padded_to + 3, seed=1), labels(32))
        maps = [unicam.attribute_transfer(inputs, Y, reference=each, n_steps=n_steps) for each in (None, population)]
        in_parts = unicam.attribute(inputs, Y, reference=population, n_steps=n_steps, internal_batch_size=7)
        flat = [layer for each in maps for layer in (*each.distilled, *each.residual[0], *each.residual[1])] + in_parts
        found.append([aligned(each) for each in flat])
    for others in found[1:]:
        for first, other in zip(found[0], others):
            assert float((first - other).abs().max()) <= 1e-6 * max(1.0, float(first.abs().max()))


def test_scores_do_not_depend_on_padding():
    def scores(padded_to: int) -> Tensor:
        inputs = sentences(N, padded_to=padded_to)
        given = (BASE, LAYERS[1])
        return torch.stack([
            feature_similarity_score(STUDENT, LAYERS[1], BASE, LAYERS[2], inputs),
            feature_similarity_score(STUDENT, LAYERS[2], TEACHER, "encoder.layers.2", inputs, feature_transform=first_token),
            relevance_score(STUDENT, LAYERS[1], inputs, Y),
            relevance_score(STUDENT, LAYERS[1], inputs, Y, given=given, max_examples_per_batch=7),
            relevance_score(STUDENT, LAYERS[1], inputs, Y, given=given, feature_transform=last_token),
        ])  # fmt: skip

    whole = scores(10)
    for padded_to in (12, 20):
        torch.testing.assert_close(scores(padded_to), whole, rtol=0, atol=1e-6)


def loader(batch_size: int, padded_to: int | None) -> list[dict[str, Tensor]]:
    """Batches padded to a common length, or each to its own longest sentence."""
    inputs = {**sentences(N, padded_to=padded_to), "labels": Y}
    batches = [rows(inputs, slice(start, start + batch_size)) for start in range(0, N, batch_size)]
    if padded_to is None:
        for batch in batches:
            longest = int(batch["attention_mask"].sum(1).max())
            batch |= {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask")}
    return batches


def test_reports_do_not_depend_on_padding_and_batches():
    layers = {"last": {"student": "encoder.layers.1", "base": "encoder.layers.1", "teacher": "encoder.layers.2"}}
    models = {"student": STUDENT, "base": {"a": BASE, "b": OTHER_BASE}, "layers": layers, "teacher": TEACHER}

    def report(batch_size: int, padded_to: int | None):
        data = loader(batch_size, padded_to)
        return compare_transfer(**models, data=data, confidence=0.95, n_permutations=99, show_progress=False)

    first = report(40, 20)
    assert first.settings["feature_transform"] == "global_average_pool"
    for batch_size, padded_to in ((40, None), (7, None), (8, 12)):
        other = report(batch_size, padded_to)
        for row, same in zip(first.rows, other.rows):
            for key in ("value", "low", "high", "p_value"):
                assert row[key] == pytest.approx(same[key], abs=1e-6), (row["score"], key)


def test_reports_hold_what_the_functions_give():
    (row,) = [row for row in compare_transfer(
        STUDENT, BASE, LAYERS[2], loader(7, None), comparisons=Comparisons(progression=True), show_progress=False
    ).rows if row["score"] == "rs_distilled"]  # fmt: skip
    expected = relevance_score(STUDENT, LAYERS[2], sentences(N), Y, given=(BASE, LAYERS[2]))
    assert row["value"] == pytest.approx(float(expected), abs=1e-6)


class LeftPadded(nn.Module):
    """Counts positions from the first token of each sentence, as decoders do."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = (attention_mask.cumsum(1) - 1).clamp_min(0)
        embedded = self.encoder.words(input_ids) + self.encoder.places(places)
        return self.encoder.encoder(embedded, src_key_padding_mask=attention_mask == 0)


@pytest.mark.parametrize("transform", [None, first_token, last_token])
def test_padding_may_stand_in_front(transform):
    inputs = sentences(N)
    lengths = inputs["attention_mask"].sum(1).tolist()
    turned = {
        name: torch.stack([row.roll(10 - length) for row, length in zip(value, lengths)]) for name, value in inputs.items()
    }
    further = {} if transform is None else {"feature_transform": transform}
    unicam = UniCAM(LeftPadded(STUDENT), "encoder.encoder.layers.1", LeftPadded(BASE), **further)
    right, left = (unicam.attribute(each, Y, n_steps=8) for each in (inputs, turned))
    moved = torch.stack([row.roll(10 - length, 1) for row, length in zip(right, lengths)])
    torch.testing.assert_close(left, moved, rtol=1e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=6, max_size=9), st.integers(0, 6), st.integers(0, 1000))
def test_any_lengths(lengths, extra, seed):
    n, generator = len(lengths), torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 30, (n, 10), generator=generator)
    mask = (torch.arange(10) < torch.tensor(lengths)[:, None]).long()
    junk = torch.randint(1, 30, (n, extra), generator=generator)  # whatever stands at padding is masked
    longer = {"input_ids": torch.cat([ids, junk], 1), "attention_mask": nn.functional.pad(mask, (0, extra))}
    longest = max(lengths)
    shorter = {"input_ids": (ids * mask)[:, :longest], "attention_mask": mask[:, :longest]}
    unicam = UniCAM(Encoder(1).double(), "encoder.layers.0", Encoder(2).double())
    first, second = (unicam.attribute(each, labels(n)) for each in (longer, shorter))
    torch.testing.assert_close(first[:, :, :longest], second, rtol=1e-8, atol=1e-12)
    assert not bool(first[:, :, longest:].any())


# -------------------------------------------------------------------- tokens that are left out


def test_special_tokens_are_left_out_by_their_mask_by_an_argument_and_by_their_number():
    inputs = sentences(N)
    special = (inputs["input_ids"] == 1).long()
    unicam = UniCAM(STUDENT, LAYERS[2], BASE)
    by_mask = unicam.attribute({**inputs, "special_tokens_mask": special}, Y, n_steps=8)
    by_argument = unicam.attribute(inputs, Y, n_steps=8, token_mask=inputs["attention_mask"] * (1 - special))
    by_number = UniCAM(STUDENT, LAYERS[2], BASE, prefix_tokens=1).attribute(inputs, Y, n_steps=8)
    whole = unicam.attribute(inputs, Y, n_steps=8)
    torch.testing.assert_close(by_mask, by_argument, rtol=0, atol=0)
    torch.testing.assert_close(by_number, by_mask[:, :, 1:], rtol=1e-5, atol=1e-8)
    assert not bool(by_mask[:, :, 0].any()) and bool(whole[:, :, 0].all())


def test_a_mask_by_position_says_what_a_mapping_says():
    inputs = sentences(N)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    unicam = UniCAM(STUDENT, LAYERS[2], BASE)
    expected = unicam.attribute(inputs, Y)
    for found in (
        unicam.attribute(ids, Y, additional_forward_args=(mask,)),
        unicam.attribute((ids, mask), Y),
        unicam.attribute(ids, Y, additional_forward_args=mask, token_mask=mask.bool(), internal_batch_size=9),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)

    class Padded(nn.Module):
        """Finds its padding itself."""

        def __init__(self, encoder: Encoder) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, ids: Tensor) -> Tensor:
            return self.encoder(ids, (ids != 0).long())

    own = UniCAM(Padded(STUDENT), "encoder.encoder.layers.1", Padded(BASE))
    torch.testing.assert_close(own.attribute(ids, Y, token_mask=mask.bool()), expected, rtol=1e-5, atol=1e-8)
    scores = [
        compare_transfer(Padded(STUDENT), Padded(BASE), "encoder.encoder.layers.1", [(ids, Y)], show_progress=False, **options)
        for options in ({}, {"model_options": ModelOptions(token_mask=lambda x: x != 0)})
    ]
    named = compare_transfer(STUDENT, BASE, LAYERS[2], [{**inputs, "labels": Y}], show_progress=False)
    without, masked, by_name = ([row["value"] for row in each.rows] for each in (*scores, named))
    assert masked == pytest.approx(by_name, abs=1e-6) and without != pytest.approx(by_name, abs=1e-3)
