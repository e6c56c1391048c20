"""Keep curves of text against a loop over sentences, and what they do not depend on."""

import warnings

import pytest
import torch
from models import ConvNet, forbidden, images
from reference.tokens import reduced
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.metrics import keep_curve, random_attributions
from text.encoders import Encoder, labels, rows, sentences

N, T, MASK, SHARES = 12, 10, 29, (0.1, 0.3, 0.5, 0.9)
MODEL = Encoder(1)
X, Y = sentences(N), labels(N)
TOKENS = X["attention_mask"].bool()


def maps(seed: int = 0, padded_to: int = T) -> Tensor:
    return nn.functional.pad(torch.randn(N, 1, T, generator=torch.Generator().manual_seed(seed)), (0, padded_to - T), value=9.0)


def predicted(batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return MODEL(**batch).argmax(1)


def predictions() -> Tensor:
    return predicted(X)


@pytest.mark.parametrize("mask_token", [None, MASK])
def test_accuracy_is_that_of_a_loop_over_sentences(mask_token):
    y, with_special = predictions(), {**X, "special_tokens_mask": (X["input_ids"] == 1).long()}
    for batch, tokens in ((X, TOKENS), (with_special, TOKENS & (X["input_ids"] != 1))):
        with unchanged_state([MODEL], list(X.values())):
            found = keep_curve(MODEL, batch, y, maps(), shares=SHARES, mask_token_id=mask_token)
        for row, share in enumerate(SHARES):
            kept = reduced(X, maps(), tokens, share, mask_token)
            right = [int(predicted(rows(kept, slice(i, i + 1)))) == int(y[i]) for i in range(N)]
            assert found.correct[row].tolist() == right
        assert found.areas.shape == (N,) and float(found.areas.mean()) == pytest.approx(float(found.area))
        assert 0.2 < float(found.area) < 1


@pytest.mark.parametrize("mask_token", [None, MASK])
def test_neither_padding_nor_the_batch_size_matters(mask_token):
    y, options = predictions(), {"shares": SHARES, "mask_token_id": mask_token}
    expected = keep_curve(MODEL, X, y, {"own": maps(), "random": random_attributions(maps())}, **options)
    for padded_to, batch_size in ((12, None), (20, 5), (T, 1)):
        own = maps(padded_to=padded_to)
        found = keep_curve(
            MODEL, sentences(N, padded_to=padded_to), y, {"own": own, "random": random_attributions(own)},
            max_examples_per_batch=batch_size, **options,
        )  # fmt: skip
        assert all(torch.equal(found[name].correct, expected[name].correct) for name in expected)


def test_masks_by_position_are_found():
    y, ids, mask = predictions(), X["input_ids"], X["attention_mask"]
    expected = keep_curve(MODEL, X, y, maps(), shares=SHARES, mask_token_id=MASK)
    for inputs, options in (
        (ids, {"additional_forward_args": mask}),
        ((ids, mask), {}),
        (ids, {"additional_forward_args": (mask,), "token_mask": mask, "max_examples_per_batch": 5}),
    ):
        found = keep_curve(MODEL, inputs, y, maps(), shares=SHARES, mask_token_id=MASK, **options)
        assert torch.equal(found.correct, expected.correct)


class Counting(nn.Module):
    """The class is 1 if a sentence holds the word 5."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        has_word = ((input_ids == 5) & (attention_mask == 1)).any(1).float()
        return torch.stack([0.5 * torch.ones_like(has_word), has_word], 1)


@pytest.mark.parametrize("mask_token", [None, MASK])
def test_maps_of_the_word_that_decides_keep_the_accuracy_and_their_opposite_loses_it(mask_token):
    n = 60
    generator = torch.Generator().manual_seed(0)
    batch = sentences(n, seed=3)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == 5, 6)
    places = (torch.rand(n, generator=generator) * batch["attention_mask"].sum(1)).long()
    batch["input_ids"][torch.arange(n), places] = 5
    word = (batch["input_ids"] == 5).float()[:, None] + 0.01 * torch.rand(n, 1, T, generator=generator)
    every = {"word": word, "others": -word, "random": random_attributions(word)}
    found = keep_curve(Counting(), batch, 1, every, mask_token_id=mask_token)
    shares = [sum(max(1, round(share * length)) / length for length in batch["attention_mask"].sum(1).tolist()) / n
              for share in found["word"].shares.tolist()]  # fmt: skip
    assert float(found["word"].area) == 1
    assert found["others"].accuracy[:5].tolist() == [0.0] * 5
    # Random maps keep the word as often as they keep a token.
    error = (0.25 / n) ** 0.5
    assert all(abs(float(a) - share) < 4 * error for a, share in zip(found["random"].accuracy, shares))


def test_maps_of_unicam_are_taken_as_they_are():
    unicam = UniCAM(MODEL, "encoder.layers.1", Encoder(2))
    transfer = unicam.attribute_transfer(X, Y, n_steps=4)
    found = keep_curve(MODEL, X, predictions(), transfer._asdict() | {"net": transfer.net}, shares=SHARES, mask_token_id=MASK)
    assert set(found) == {"distilled", "residual", "net"}


# ---------------------------------------------------------------------------- random maps


def test_random_maps_rank_tokens_at_random():
    like = maps().expand(N, 1, T).repeat(200, 1, 1)
    found = random_attributions(like)
    assert found.shape == like.shape and found.dtype == like.dtype and torch.equal(found, random_attributions(like))
    highest = torch.bincount(found[:, 0, :6].argmax(1), minlength=6) / len(like)
    assert float((highest - 1 / 6).abs().max()) < 4 * (1 / 6 * 5 / 6 / len(like)) ** 0.5
    other = random_attributions(like, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(found, other)


@pytest.mark.parametrize("tokens", [1, 3, 17, 100])
def test_random_values_of_tokens_do_not_depend_on_padding(tokens):
    longest = random_attributions(torch.zeros(7, 1, 128))
    assert torch.equal(random_attributions(torch.zeros(7, 1, tokens)), longest[:, :, :tokens])
    assert torch.equal(random_attributions(torch.zeros(7, 1, tokens).half()), longest[:, :, :tokens])


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "change, words",
    [
        ({"attributions": torch.rand(N, 1, 9)}, "attributions has maps of 9 tokens for 10 ids"),
        ({"attributions": {"own": torch.rand(N, 1, 4, 4)}}, r"\['own'\] .* maps of images, but the inputs are tokens"),
        ({"inputs": images(N), "attributions": torch.rand(N, 1, 9)}, "maps of tokens, but the inputs are images"),
        ({"inputs": images(N), "attributions": torch.rand(N, 1, 4, 4), "mask_token_id": 3}, "belong to text, but the inputs are"),
        ({"inputs": X["input_ids"]}, "pass mask_token_id"),
        ({"inputs": {"inputs_embeds": torch.rand(N, T, 4), "attention_mask": X["attention_mask"]}}, "inputs_embeds"),
        ({"inputs": torch.rand(N, T, 4)}, r"exactly one input of images .* Text needs ids \(N, T\)"),
        ({"mask_token_id": 2.5}, "mask_token_id must be a non-negative integer or None"),
        ({"token_mask": X["attention_mask"][:, :4]}, r"token mask has shape \(12, 4\) for ids \(12, 10\)"),
    ],
)
def test_unfit_arguments_are_refused_before_the_model_runs(change, words):
    arguments = {"forward_func": forbidden, "inputs": X, "target": Y, "attributions": maps()}
    with pytest.raises(ValueError, match=words):
        keep_curve(**{**arguments, **change})


def test_a_mask_token_out_of_range_is_named():
    with pytest.raises(ValueError, match="embedding 'words' has 30 rows, but receives the id 103"):
        keep_curve(MODEL, X, Y, maps(), mask_token_id=103)


def test_images_beside_text_are_reduced_as_images():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet()

        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
            return self.net(pixel_values) + 0 * input_ids[:, :1]

    both, x, values = Both(), images(N), torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = keep_curve(both, {"input_ids": X["input_ids"], "pixel_values": x}, Y, values, shares=SHARES)
        expected = keep_curve(both.net, x, Y, values, shares=SHARES)
    assert torch.equal(found.correct, expected.correct)
