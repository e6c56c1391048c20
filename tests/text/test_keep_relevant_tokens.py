"""Which tokens an attribution keeps, and the text that is left."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import images
from reference.tokens import reduced
from torch import Tensor, nn

from captum_kd.perturb import keep_relevant_tokens
from text.encoders import Encoder, sentences

N, T, MASK = 12, 10, 29
X = sentences(N)
SPECIAL = {**X, "special_tokens_mask": (X["input_ids"] == 1).long()}


def maps(seed: int = 0, n: int = N, tokens: int = T) -> Tensor:
    """Values in the order of tokens, so that longer maps begin with the shorter ones."""
    return torch.rand(tokens, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sub(0.5).T[:, None]


# -------------------------------------------------------------------------------- tokens


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_highest_of_a_sentences_own_tokens_stay_and_ties_go_to_the_earlier(data):
    n, tokens, share = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9)), data.draw(st.floats(0.01, 0.99))
    mask_token = data.draw(st.sampled_from([None, MASK]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    values = torch.randint(-2, 3, (n, 1, tokens), generator=generator).double()
    attention = torch.randint(0, 2, (n, tokens), generator=generator)  # padding at either end and in the middle
    attention[:, data.draw(st.integers(0, tokens - 1))] = 1
    batch = {"input_ids": torch.randint(1, 20, (n, tokens), generator=generator), "attention_mask": attention}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = keep_relevant_tokens(batch, values, keep=share, mask_token_id=mask_token)
    expected = reduced(batch, values, attention.bool(), share, mask_token)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_shares_are_of_each_sentences_own_length():
    for share in (0.1, 0.5, 0.9):
        found = keep_relevant_tokens(X, maps(), keep=share, mask_token_id=MASK)["input_ids"]
        stay = (found == X["input_ids"]) & (X["attention_mask"] == 1)
        lengths = X["attention_mask"].sum(1).tolist()
        # Ids may be the mask token's by chance.
        assert all(row >= max(1, round(share * length)) for row, length in zip(stay.sum(1).tolist(), lengths))
        found = keep_relevant_tokens(X, maps(), keep=share)["attention_mask"]
        assert found.sum(1).tolist() == [max(1, round(share * length)) for length in lengths]


@pytest.mark.parametrize("mask_token", [None, MASK])
def test_tokens_outside_the_mask_are_never_replaced(mask_token):
    for share in (0.1, 0.5, 0.9):
        found = keep_relevant_tokens(SPECIAL, -maps().abs() - 1, keep=share, mask_token_id=mask_token)
        tokens = (X["attention_mask"] == 1) & (SPECIAL["special_tokens_mask"] == 0)
        expected = reduced(X, -maps().abs() - 1, tokens, share, mask_token)
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["attention_mask"], expected["attention_mask"])
        assert torch.equal(found["special_tokens_mask"], SPECIAL["special_tokens_mask"])
        by_argument = keep_relevant_tokens(X, -maps().abs() - 1, keep=share, mask_token_id=mask_token, token_mask=tokens)
        assert all(torch.equal(value, found[name]) for name, value in by_argument.items())


@pytest.mark.parametrize("mask_token", [None, MASK])
@pytest.mark.parametrize("padded_to", [12, 20])
def test_padding_does_not_change_what_stays(mask_token, padded_to):
    longer = sentences(N, padded_to=padded_to)
    found = keep_relevant_tokens(longer, maps(tokens=padded_to), mask_token_id=mask_token)
    expected = keep_relevant_tokens(X, maps(), mask_token_id=mask_token)
    for name, value in expected.items():
        assert torch.equal(found[name], nn.functional.pad(value, (0, padded_to - T)))


def test_a_sentence_of_one_token_stays():
    one = {"input_ids": torch.tensor([[5], [6]]), "attention_mask": torch.ones(2, 1, dtype=torch.long)}
    found = keep_relevant_tokens(one, torch.zeros(2, 1, 1), keep=0.1, mask_token_id=MASK)
    assert torch.equal(found["input_ids"], one["input_ids"])


def test_inputs_come_back_in_their_form():
    ids, values = X["input_ids"], maps()
    found = keep_relevant_tokens(ids, values, mask_token_id=MASK, token_mask=X["attention_mask"])
    assert torch.equal(found, keep_relevant_tokens(X, values[:, 0], mask_token_id=MASK)["input_ids"])
    pair = keep_relevant_tokens((ids, X["attention_mask"]), values, mask_token_id=MASK, token_mask=X["attention_mask"])
    assert isinstance(pair, tuple) and torch.equal(pair[0], found) and torch.equal(pair[1], X["attention_mask"])
    other = {"attention_mask": X["attention_mask"].bool(), "token_type_ids": 0 * ids, "input_ids": ids.int(), "labels": ids[:, 0]}
    named = keep_relevant_tokens(other, values.half(), keep=0.3)
    assert list(named) == list(other) and named["attention_mask"].dtype == torch.bool and named["labels"] is other["labels"]
    assert torch.equal(named["attention_mask"], keep_relevant_tokens(X, values.half(), keep=0.3)["attention_mask"].bool())


def test_inputs_stay_as_they_were():
    before, values = {name: value.clone() for name, value in X.items()}, maps().requires_grad_()
    for mask_token in (None, MASK):
        found = keep_relevant_tokens(X, values, mask_token_id=mask_token)
        assert all(torch.equal(X[name], before[name]) and not found[name].requires_grad for name in X)


def test_kept_tokens_keep_their_positions():
    """With padding in the middle, the encoder's output at kept tokens is that of a sentence with these positions."""
    model, found = Encoder(1), keep_relevant_tokens(X, maps(), keep=0.5)
    for row in range(N):
        places = found["attention_mask"][row].nonzero()[:, 0]
        embedded = model.words(X["input_ids"][row, places]) + model.places(places)
        alone = model.encoder(embedded[None])[0]
        whole = model.words(X["input_ids"][row : row + 1]) + model.places(torch.arange(T))
        beside = model.encoder(whole, src_key_padding_mask=found["attention_mask"][row : row + 1] == 0)[0, places]
        torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------- errors

EMBEDDED = {"inputs_embeds": torch.randn(N, T, 8), "attention_mask": X["attention_mask"]}


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"inputs": X["input_ids"]}, ValueError, "pass mask_token_id=tokenizer.mask_token_id, or the inputs as a mapping"),
        ({"inputs": (X["input_ids"], X["attention_mask"])}, ValueError, "nothing to replace tokens by"),
        ({"inputs": {"input_ids": X["input_ids"]}}, ValueError, "nothing to replace tokens by"),
        ({"inputs": EMBEDDED}, ValueError, r"needs ids \(N, T\) .*\(12, 10, 8\).* \(inputs_embeds\) cannot be replaced"),
        ({"inputs": images(N)}, ValueError, r"needs ids \(N, T\) of tokens, integers"),
        ({"inputs": X["input_ids"].tolist()}, TypeError, "must be a tensor"),
        ({"attributions": maps(tokens=9)}, ValueError, "maps of 9 tokens for 10 ids; .* instead of prefix_tokens"),
        ({"attributions": maps(n=5)}, ValueError, "5 maps for 12 inputs"),
        ({"attributions": torch.rand(N, 1, 4, 4)}, ValueError, r"\(N, 1, T\) or \(N, T\), .* are maps of images, but the inputs"),
        ({"attributions": torch.rand(N, 3, T)}, ValueError, r"got \(12, 3, 10\). Sum over channels first"),
        ({"attributions": maps() / 0}, ValueError, "non-finite values .* in map 0"),
        ({"attributions": maps().long()}, TypeError, r"floating point tensor of shape \(N, 1, T\)"),
        ({"keep": 1.0}, ValueError, "keep must be a share between 0 and 1, both excluded, got 1.0"),
        ({"keep": math.nan}, ValueError, "got nan"),
        ({"mask_token_id": -1}, ValueError, "mask_token_id must be a non-negative integer or None, got -1"),
        ({"mask_token_id": "[MASK]"}, ValueError, "mask_token_id must be"),
        ({"token_mask": X["attention_mask"][:, :5]}, ValueError, r"token mask has shape \(12, 5\) for ids \(12, 10\)"),
        ({"token_mask": 0 * X["attention_mask"]}, ValueError, "leaves no token of input 0"),
    ],
)
def test_bad_input_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        keep_relevant_tokens(**{"inputs": X, "attributions": maps(), **change})


def test_maps_without_an_order_at_the_cut_are_warned_of():
    values = torch.zeros(N, 1, T)
    with pytest.warns(UserWarning, match="maps have the same value at many tokens on both sides of the cut"):
        keep_relevant_tokens(X, values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_relevant_tokens(X, maps())
