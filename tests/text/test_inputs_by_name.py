"""Mappings are given by name, every model may have inputs of its own, and what does not fit is named before any model runs."""

from collections import UserDict

import pytest
import torch
from models import ConvNet, images
from models import labels as image_labels
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd._utils.inputs import ModelInputs, as_inputs, as_inputs_by_model
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import compare_transfer, feature_similarity_score, randomization_test, relevance_score
from captum_kd.metrics.torchmetrics import LayerFeatures
from text.encoders import Encoder, labels, rows, sentences

N, LAYER = 12, "encoder.layers.1"
STUDENT, BASE, TEACHER = Encoder(1), Encoder(2), Encoder(3, 24, 3, vocabulary=50)
X, Y = sentences(N), labels(N)


class BatchEncoding(UserDict):
    """A mapping that is no dict, as that of tokenizers."""


def other_words(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sentences by another tokenizer: two tokens for each of ours, and other ids."""
    ids = (inputs["input_ids"] + 17) * inputs["attention_mask"]
    return {"input_ids": ids.repeat_interleave(2, 1), "attention_mask": inputs["attention_mask"].repeat_interleave(2, 1)}


def test_values_keep_their_names_and_masks():
    found = as_inputs({"scale": 2, "attention_mask": X["attention_mask"], "input_ids": X["input_ids"], "labels": Y, "none": None})
    assert found.names == ("attention_mask", "input_ids", "scale", "none") and found[2:] == (2, None) and found.is_text
    assert torch.equal(found.token_mask, X["attention_mask"].bool())
    part = found.rows(slice(2, 5), N)
    assert torch.equal(part[1], X["input_ids"][2:5]) and len(part.token_mask) == 3 and part.names == found.names
    assert as_inputs(found) is found and not as_inputs(images(4)).is_text and as_inputs(X["input_ids"]).is_text
    assert not as_inputs((images(4), torch.ones(4, 3, dtype=torch.long))).is_text  # numbers beside an image
    assert isinstance(part.to(torch.device("meta")), ModelInputs) and part.to(torch.device("meta")).token_mask.is_meta


def test_a_batch_encoding_is_called_by_name():
    unicam = UniCAM(STUDENT, LAYER, BASE)
    with unchanged_state([STUDENT, BASE], list(X.values())):
        found = unicam.attribute(BatchEncoding(X, labels=Y), Y)
    torch.testing.assert_close(found, unicam.attribute((X["input_ids"], X["attention_mask"]), Y))


def test_images_may_be_given_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet()

        def forward(self, pixel_values: Tensor, scale: float = 1.0) -> Tensor:
            return self.net(scale * pixel_values)

    model, base, x, y = Named(), Named(), images(8), image_labels(8)
    named = {"pixel_values": x, "scale": 2.0}
    unicam, plain = (UniCAM(model, "net.conv2", base) for _ in range(2))
    torch.testing.assert_close(unicam.attribute(named, y), plain.attribute(2 * x, y))


def test_every_model_may_have_its_own_inputs():
    """A Teacher with another tokenizer: scores and maps are those of its sentences."""
    by_model = {"student": X, "teacher": other_words(X)}
    unicam = UniCAM(STUDENT, LAYER, BASE, teacher_func=TEACHER, teacher_layer="encoder.layers.2")
    found = unicam.attribute_transfer(by_model, n_steps=4)
    features = LayerFeatures(TEACHER, "encoder.layers.2")(other_words(X))
    held = nn.Identity()
    precomputed = UniCAM(STUDENT, LAYER, BASE, teacher_func=lambda **inputs: held(features), teacher_layer=held)
    expected = precomputed.attribute_transfer(X, n_steps=4)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
    population = unicam.reference({"student": sentences(20, seed=1), "teacher": other_words(sentences(20, seed=1))})
    one = {"student": rows(X, slice(0, 1)), "teacher": other_words(rows(X, slice(0, 1)))}
    assert unicam.attribute(one, reference=population).shape == (1, 1, 10)


def test_scores_and_reports_of_models_with_their_own_inputs():
    by_model = {"student": X, "teacher": other_words(X), "base": X}
    layers = {"last": {"student": LAYER, "base": LAYER, "teacher": "encoder.layers.2"}}
    report = compare_transfer(
        STUDENT, BASE, layers, [{**by_model, "labels": Y}], teacher=TEACHER, placebo_teachers={"p": Encoder(9, 24, 3, 50)},
        show_progress=False,
    )  # fmt: skip
    as_pair = compare_transfer(STUDENT, BASE, layers, [(by_model, Y)], teacher=TEACHER, show_progress=False)
    assert ", features: global_average_pool" in str(report)  # as for every report of text; images compare all positions
    values = {row["score"]: row["value"] for row in report.rows}
    for row in as_pair.rows:
        assert row["value"] == pytest.approx(values[row["score"]], abs=1e-9)
    to_teacher = feature_similarity_score(
        STUDENT, LAYER, TEACHER, "encoder.layers.2", {"student": X, "base": other_words(X)}
    )
    (name,) = [score for score, value in values.items() if value == pytest.approx(float(to_teacher), abs=1e-6)]
    assert "teacher" in name or "fss" in name


def test_other_functions_take_mappings():
    given = (BASE, LAYER)
    assert abs(float(relevance_score(STUDENT, LAYER, X, Y, given=given))) <= 1
    assert class_prototypes(STUDENT, [{**X, "labels": Y}]).shape == (3, 3)
    unicam = UniCAM(STUDENT, LAYER, BASE)
    test = randomization_test(unicam, X, Y, modules=["encoder.layers.1", "words"], n_steps=4, show_progress=False)
    assert len(test.modules) == 2 if hasattr(test, "modules") else len(test[0]) == 2


# --------------------------------------------------------------------------- what is refused


def masked(row: int, value: float = 0) -> Tensor:
    mask = X["attention_mask"].clone()
    mask[row] = value
    return mask


ATTRIBUTE_ERRORS = [
    (["who is she ?"] * N, TypeError, r"got list\. Texts go through the tokenizer first"),
    ({**X, "input_ids": X["input_ids"].tolist()}, TypeError, r"inputs\['input_ids'\] must be a tensor, got list; .*return_tens"),
    ({"attention_mask": None}, ValueError, "no tensors"),
    ({**X, "words": X["input_ids"]}, ValueError, r"key 'words', but Encoder takes 'input_ids', 'attention_mask'.*Leave the key"),
    ({**X, "attention_mask": X["attention_mask"][:5]}, ValueError, r"\['attention_mask'\] has shape \(5, 10\) for 12 inputs"),
    ({**X, "bias": torch.ones(5)}, ValueError, r"\{'input_ids': 12, 'attention_mask': 12, 'bias': 5\} rows"),
    ({**X, "attention_mask": masked(3)}, ValueError, r"no token of input 3: all are padding"),
    ({**X, "attention_mask": masked(3, -1e9)}, ValueError, "must hold 1 for tokens and 0 for padding"),
    ({**X, "special_tokens_mask": torch.ones(N, 3)}, ValueError, r"must have the shape of 'attention_mask', \(12, 10\)"),
    ({**X, "special_tokens_mask": torch.ones(N, 10)}, ValueError, "no token of input 0: all are padding or left out"),
    ({**X, "input_ids": X["input_ids"] + 25}, ValueError, r"embedding 'words' has 30 rows, but receives the id 5\d\. .*'base'"),
    ({**X, "input_ids": X["input_ids"] - 5}, ValueError, r"embedding 'words' has 30 rows, but receives the id -5"),
    ({"student": X, "base": sentences(5)}, ValueError, r"\{'student': 12, 'base': 5\} rows"),
]


@pytest.mark.parametrize(("inputs", "error", "words"), ATTRIBUTE_ERRORS)
def test_unfit_inputs_are_named(inputs, error, words):
    with unchanged_state([STUDENT, BASE], []), pytest.raises(error, match=words):
        UniCAM(STUDENT, LAYER, BASE).attribute(inputs, Y)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (X["attention_mask"].tolist(), TypeError, r"token_mask must be a tensor \(N, T\)"),
        (X["attention_mask"][:, 0], ValueError, r"token_mask has shape \(12,\) for 12 inputs"),
        (X["attention_mask"][:4], ValueError, r"token_mask has shape \(4, 10\) for 12 inputs"),
        (X["attention_mask"][:, :5], ValueError, r"gives 10 tokens .* the token mask has 5\. Pass token_mask=, \(N, 10\)"),
        (masked(2), ValueError, "token_mask leaves no token of input 2"),
    ],
)
def test_unfit_masks_are_named(mask, error, words):
    for call in (UniCAM(STUDENT, LAYER, BASE).attribute, UniCAM(STUDENT, LAYER, BASE).reference):
        with pytest.raises(error, match=words):
            call(X, Y, token_mask=mask)
    with pytest.raises(error, match=words):
        relevance_score(STUDENT, LAYER, X, Y, token_mask=mask)


def test_masks_of_several_axes_need_a_token_mask():
    class Square(Encoder):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids, attention_mask.any(1))

    square = X["attention_mask"][:, None, :] * X["attention_mask"][:, :, None]
    unicam = UniCAM(Square(1), LAYER, Square(2))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(12, 10, 10\) .* Pass token_mask="):
        unicam.attribute({**X, "attention_mask": square}, Y)
    found = unicam.attribute({**X, "attention_mask": square}, Y, token_mask=X["attention_mask"])
    torch.testing.assert_close(found, UniCAM(STUDENT, LAYER, BASE).attribute(X, Y))


def test_prefix_tokens_must_leave_a_token():
    shortest = int(X["attention_mask"].sum(1).min())
    with pytest.raises(ValueError, match=rf"no token of input \d+ is left without the first {shortest}"):
        UniCAM(STUDENT, LAYER, BASE, prefix_tokens=shortest).attribute(X, Y)


def test_sequences_longer_than_the_model_allows_are_named():
    longer = sentences(N, padded_to=70)
    with pytest.raises((ValueError, IndexError)):
        UniCAM(STUDENT, LAYER, BASE).attribute(longer, Y)


def test_one_token_is_a_sequence():
    one = {"input_ids": X["input_ids"][:, 1:2].clamp_min(2), "attention_mask": torch.ones(N, 1, dtype=torch.long)}
    found = UniCAM(STUDENT, LAYER, BASE).attribute(one, Y)
    assert found.shape == (N, 1, 1)


def test_padding_without_a_mask_is_warned_of():
    class Recurrent(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.words = nn.Embedding(30, 16, padding_idx=0)
            self.norm = nn.LayerNorm(16)

        def forward(self, ids: Tensor) -> Tensor:
            return self.norm(self.words(ids)).mean(1)

    unicam = UniCAM(Recurrent(1), "norm", Recurrent(2))
    with pytest.warns(UserWarning, match=r"hold the padding id of the embedding 'words', 0, .* Pass token_mask=\(ids != 0\)"):
        unicam.attribute(X["input_ids"], Y)
    with pytest.warns(UserWarning) as caught:
        unicam.attribute(X["input_ids"], Y, token_mask=X["input_ids"] != 0)
    assert not any("padding" in str(each.message) for each in caught)


@pytest.mark.parametrize("batch", [X, {"input_ids": X["input_ids"], "target": Y}])
def test_loaders_without_labels_say_what_to_pass(batch):
    with pytest.raises(ValueError, match=r"without labels; expected 'labels' \(or 'label'\)"):
        compare_transfer(STUDENT, BASE, LAYER, [batch], show_progress=False)


def test_inputs_by_model_need_the_students():
    assert as_inputs_by_model({"student": X}).of("kd 1", "student") is as_inputs_by_model({"student": X}).student or True
    with pytest.raises(TypeError, match="must be a tensor"):
        as_inputs_by_model({"teacher": X["input_ids"].tolist()})
