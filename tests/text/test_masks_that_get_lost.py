"""Masks and inputs reach the model they belong to, whatever wraps it; what cannot be recognized is warned of or refused."""

import functools

import pytest
import torch
from models import ConvNet, images
from models import labels as image_labels
from torch import Tensor, nn

from captum_kd import UniCAM, flatten
from captum_kd._utils.inputs import as_inputs
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import compare_transfer, feature_similarity_score, relevance_score, sensitivity_max
from text.encoders import LONGEST, Encoder, labels, rows, sentences

N, LAYER = 12, "encoder.layers.1"
STUDENT, BASE = Encoder(1), Encoder(2)
X, Y = sentences(N), labels(N)
IDS, MASK = X["input_ids"], X["attention_mask"]
POSITIONAL = (IDS, MASK)
EXPECTED = UniCAM(STUDENT, LAYER, BASE).attribute(X, Y)


def wrapped(wrap) -> UniCAM:
    own, other = (model.encoder.layers[1] for model in (STUDENT, BASE))
    return UniCAM(wrap(STUDENT), own, wrap(BASE), other)


WRAPPERS = {
    "data-parallel": (nn.DataParallel, POSITIONAL),
    "data-parallel, by name": (nn.DataParallel, X),
    "partial": (functools.partial, POSITIONAL),
    "partial of a parallel model": (lambda model: functools.partial(nn.DataParallel(model)), POSITIONAL),
    "partial with its mask": (lambda model: functools.partial(model, attention_mask=MASK), IDS),
    "compiled": (functools.partial(torch.compile, backend="eager"), POSITIONAL),
    "method": (lambda model: model.forward, POSITIONAL),
    "function": (lambda model: lambda ids, attention_mask: model(ids, attention_mask), POSITIONAL),
    "function of names": (lambda model: lambda **inputs: model(**inputs), X),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_keep_the_mask(name):
    wrap, inputs = WRAPPERS[name]
    torch.testing.assert_close(wrapped(wrap).attribute(inputs, Y), EXPECTED, rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [lambda model: lambda *args: model(*args), lambda model: lambda ids, m: model(ids, m)])
def test_a_mask_of_another_name_is_warned_of(wrap):
    with pytest.warns(UserWarning, match=r"shape \(12, 10\) holds ones followed by zeros.*pass it as token_mask= too"):
        wrapped(wrap).attribute(POSITIONAL, Y)
    with pytest.warns(UserWarning) as caught:  # of the small population
        found = wrapped(wrap).attribute(POSITIONAL, Y, token_mask=MASK)
    assert not any("ones followed by zeros" in str(each.message) for each in caught)
    torch.testing.assert_close(found, EXPECTED, rtol=0, atol=0)


@pytest.mark.parametrize("second", [torch.zeros_like(IDS), torch.ones_like(IDS), 1 - MASK, IDS[:, :3]])
def test_token_types_and_whole_sentences_are_not_warned_of(second):
    with pytest.warns(UserWarning) as caught:
        wrapped(lambda model: lambda ids, types: model(ids)).attribute((IDS, second), Y)
    assert not any("ones followed by zeros" in str(each.message) for each in caught)


# --------------------------------------------------------------------------- by model


@pytest.mark.parametrize("by_model", [{"student": X, "techer": X}, {"student": X, "bases": X}])
def test_names_of_no_model_are_refused(by_model):
    unknown = [*by_model][1]
    words = rf"{unknown}', but the models are 'student', 'base', 'teacher'\. Rename"
    unicam = UniCAM(STUDENT, LAYER, BASE)
    calls = [
        lambda: unicam.attribute(by_model, Y),
        lambda: unicam.reference(by_model, Y),
        lambda: unicam.attribute(X, Y, token_mask={name: MASK for name in by_model}),
        lambda: feature_similarity_score(STUDENT, LAYER, BASE, LAYER, by_model),
        lambda: relevance_score(STUDENT, LAYER, by_model, Y),
        lambda: compare_transfer(STUDENT, BASE, LAYER, [(by_model, Y)], show_progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_reports_know_their_models_names():
    whole = {name: value for name, value in sentences(N, seed=1).items()}
    data = [({"student": X, "b": whole}, Y)]
    found = compare_transfer(STUDENT, {"a": BASE, "b": BASE}, LAYER, data, show_progress=False)
    of_b = [row["value"] for row in found.rows if row["score"] == "rs_base" and row["base"] == "b"]
    assert of_b == [pytest.approx(float(relevance_score(BASE, LAYER, whole, Y)), abs=1e-6)]


def test_masks_by_model_for_common_inputs():
    unicam, masks = UniCAM(STUDENT, LAYER, BASE), {"student": MASK, "base": torch.ones_like(MASK)}
    by_model = unicam.attribute({"student": X, "base": X}, Y, token_mask=masks)
    torch.testing.assert_close(unicam.attribute(X, Y, token_mask=masks), by_model, rtol=0, atol=0)
    assert float((by_model - EXPECTED).abs().max()) > 0.01


def test_inputs_by_model_without_the_students_are_named():
    with pytest.raises(ValueError, match=r"keys \['base', 'teacher'\] and no tensors .* need those of 'student'"):
        UniCAM(STUDENT, LAYER, BASE).attribute({"base": X, "teacher": X}, Y)


# --------------------------------------------------------------------------- what else a mapping may hold


class Scaled(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = ConvNet().eval()

    def forward(self, pixel_values: Tensor, scale: Tensor) -> Tensor:
        return self.net(scale * pixel_values)


def test_a_mapping_may_hold_tensors_without_rows():
    x, y, student, base = images(N), image_labels(N), Scaled(1), Scaled(2)
    named = {"scale": torch.tensor(2.0), "pixel_values": x}
    expected = UniCAM(student.net, "conv2", base.net).attribute(2 * x, y)
    torch.testing.assert_close(UniCAM(student, "net.conv2", base).attribute(named, y), expected)
    report = compare_transfer(
        student, base, "net.conv2", [{**named, "labels": y}], unpack=lambda batch: (named, y), show_progress=False
    )
    plain = compare_transfer(student.net, base.net, "conv2", [(2 * x, y)], show_progress=False)
    assert report.rows[0]["value"] == pytest.approx(plain.rows[0]["value"], abs=1e-9)
    assert class_prototypes(student, [(named, y)]).shape == (3, 3)


def test_tensors_that_all_examples_share_are_to_be_expanded():
    with pytest.raises(ValueError, match=r"'position_ids': 1\} rows; .* Expand a tensor .* value\.expand\(N, -1\)"):
        UniCAM(STUDENT, LAYER, BASE).attribute({**X, "position_ids": torch.arange(LONGEST)[None]}, Y)


def test_arguments_beside_a_mapping_belong_into_it():
    with pytest.raises(ValueError, match=r"multiple values for argument 'input_ids'. Put all arguments .* into the mapping"):
        UniCAM(STUDENT, LAYER, BASE).attribute({"input_ids": IDS}, Y, MASK)

    def by_position(input_ids: Tensor, attention_mask: Tensor, /) -> Tensor:
        return STUDENT(input_ids, attention_mask)

    with pytest.raises(ValueError, match="by_position cannot be called: .*positional"):
        UniCAM(by_position, STUDENT.encoder.layers[1], BASE, LAYER).attribute(X, Y)


def test_images_with_integers_beside_them_are_no_text():
    class Boxed(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.net = ConvNet().eval()

        def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
            return self.net(x) + boxes.sum(1, keepdim=True)

    x, boxes = images(N), torch.randint(9, (N, 4))
    assert not as_inputs((x, boxes)).is_text and as_inputs((boxes, boxes)).is_text
    score = functools.partial(feature_similarity_score, Boxed(1), "net.conv2", Boxed(2), "net.conv2", (x, boxes))
    assert float(score()) == float(score(feature_transform=flatten))


# --------------------------------------------------------------------------- padding in front, and perturbed copies


def test_prefix_tokens_are_refused_for_padding_in_front():
    left = {name: value.flip(1) for name, value in X.items()}
    unicam = UniCAM(STUDENT, LAYER, BASE, prefix_tokens=1)
    with pytest.raises(ValueError, match=r"prefix_tokens=1 counts from the first position, .* pass special_tokens_mask"):
        unicam.attribute(left, Y)
    both = unicam.attribute({**X, "special_tokens_mask": (IDS == 1).long()}, Y)
    torch.testing.assert_close(both, unicam.attribute(X, Y), rtol=0, atol=0)


def test_sensitivity_of_token_maps():
    unicam = UniCAM(STUDENT, LAYER, BASE)
    population = unicam.reference(sentences(30, seed=3), labels(30))

    def other_word(ids: Tensor, radius: float = 0.0) -> Tensor:
        changed = ids.clone()
        changed[:, 1] = (changed[:, 1] + 1) % 30
        return changed

    common = {"target": Y, "reference": population, "n_perturb_samples": 3}
    by_argument = sensitivity_max(unicam.attribute, IDS, other_word, additional_forward_args=MASK, **common)
    both = {"additional_forward_args": MASK, "token_mask": MASK, **common}
    torch.testing.assert_close(sensitivity_max(unicam.attribute, IDS, other_word, **both), by_argument)
    in_parts = sensitivity_max(unicam.attribute, IDS, other_word, max_examples_per_batch=N, **both)
    torch.testing.assert_close(in_parts, by_argument)
    before = unicam.attribute(rows(X, slice(0, N)), Y, reference=population)
    changed = {"input_ids": other_word(IDS), "attention_mask": MASK}
    after = unicam.attribute(changed, Y, reference=population)
    expected = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    torch.testing.assert_close(by_argument, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match="got a mapping. Pass the ids as inputs"):
        sensitivity_max(unicam.attribute, X, other_word, **common)


# --------------------------------------------------------------------------- positions that do not correspond


def test_maps_of_other_tokens_have_no_net():
    unicam = UniCAM(STUDENT, LAYER, BASE)
    same = {name: value.clone() for name, value in X.items()}
    both = unicam.attribute_transfer({"student": X, "base": same}, Y, n_steps=4)
    torch.testing.assert_close(both.net, unicam.attribute_transfer(X, Y, n_steps=4).net, rtol=0, atol=0)
    for other in (sentences(N, longest=13, seed=5), sentences(N, seed=5), sentences(N, padded_to=14)):
        maps = unicam.attribute_transfer({"student": X, "base": other}, Y, n_steps=4)
        assert not maps.has_net and maps.residual.shape[2] == other["input_ids"].shape[1]
        with pytest.raises(ValueError, match="Student and Base get other tokens"):
            maps.net
    ids = {"student": IDS[:, :5], "base": IDS}
    assert not unicam.attribute_transfer(ids, Y, n_steps=4).has_net


class Headed(Encoder):
    """Its last layer splits the width into heads, (N, T, heads, d)."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.heads = nn.Unflatten(2, (4, 4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded = self.words(input_ids).cumsum(1)
        return self.heads(embedded).mean((1, 2))


def test_padding_in_outputs_of_four_axes_is_refused():
    unicam = UniCAM(Headed(1), "heads", Headed(2))
    words = r"gives shape \(12, 10, 4, 4\), in which no axis is known to hold the 10 tokens .*torch\.ones_like\(mask\)"
    for call in (unicam.attribute, unicam.reference):
        with pytest.raises(ValueError, match=words):
            call(X, Y)
    whole = {**X, "attention_mask": torch.ones_like(MASK)}
    expected = unicam.attribute(whole, Y)
    torch.testing.assert_close(unicam.attribute(X, Y, token_mask=torch.ones_like(MASK)), expected)
