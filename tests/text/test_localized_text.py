"""Scores of the salient tokens: every model reads its own text, reduced by its own maps."""

import functools

import pytest
import torch
from models import Untouched, images
from reference.tokens import reduced
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import UniCAM, first_token
from captum_kd._models.layer_names import resolve_layer
from captum_kd._utils.inputs import as_inputs
from captum_kd.attr.grad_cam import layer_gradcams
from captum_kd.metrics import (
    Comparisons,
    Localization,
    ModelOptions,
    compare_transfer,
    feature_similarity_score,
    relevance_score,
)
from captum_kd.perturb import keep_relevant_tokens
from text.encoders import Encoder, labels, rows, sentences

N, T, MASK, LAYER = 40, 10, 29, "encoder.layers.0"
STUDENT, BASE, OTHER_BASE, TEACHER = Encoder(1), Encoder(2), Encoder(4), Encoder(3, 24, 3, vocabulary=50)
X, Y = sentences(N), labels(N)
SPECIAL = {**X, "special_tokens_mask": (X["input_ids"] == 1).long()}
REFERENCE = sentences(32, seed=1), labels(32)


def maps(seed: int, padded_to: int = T) -> Tensor:
    return nn.functional.pad(torch.randn(N, 1, T, generator=torch.Generator().manual_seed(seed)), (0, padded_to - T), value=9.0)


def scores(own: dict[str, Tensor], other: dict[str, Tensor], model=STUDENT, base=BASE, layer=LAYER, **options) -> list[float]:
    """FSS, RS of the first model, distilled RS."""
    by_model, given = {"student": own, "base": other}, (base, layer)
    base_only = {name: options[name] for name in options if name != "base_attributions"}
    return [
        float(feature_similarity_score(model, layer, base, layer, by_model, **options)),
        float(relevance_score(model, layer, own, Y, **base_only)),
        float(relevance_score(model, layer, by_model, Y, given=given, **options)),
    ]


# -------------------------------------------------------------------- the metrics' functions


@pytest.mark.parametrize("mask_token", [None, MASK])
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_scores_are_those_of_reduced_text(mask_token, keep):
    perturb = functools.partial(keep_relevant_tokens, keep=keep, mask_token_id=mask_token)
    for batch, tokens in ((X, X["attention_mask"] == 1), (SPECIAL, (X["attention_mask"] == 1) & (X["input_ids"] != 1))):
        with unchanged_state([STUDENT, BASE], list(batch.values())):
            found = scores(batch, batch, attributions=maps(1), base_attributions=maps(2), perturb_func=perturb)
        by_hand = [reduced(batch, each, tokens, keep, mask_token) for each in (maps(1), maps(2))]
        assert found == pytest.approx(scores(*by_hand), abs=1e-6)
        assert found != pytest.approx(scores(batch, batch), abs=1e-3)
    if mask_token is None and keep == 0.5:
        assert scores(SPECIAL, SPECIAL, attributions=maps(1), base_attributions=maps(2)) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("mask_token", [None, MASK])
def test_scores_depend_neither_on_padding_nor_on_batches(mask_token):
    options = {"perturb_func": functools.partial(keep_relevant_tokens, mask_token_id=mask_token)}
    expected = scores(X, X, attributions=maps(1), base_attributions=maps(2), **options)
    for padded_to, batch_size in ((12, 7), (20, None)):
        longer, own, other = sentences(N, padded_to=padded_to), maps(1, padded_to), maps(2, padded_to)
        options["max_examples_per_batch"] = batch_size
        assert scores(longer, longer, attributions=own, base_attributions=other, **options) == pytest.approx(expected, abs=1e-6)


def test_masks_among_further_arguments_are_found():
    perturb = functools.partial(keep_relevant_tokens, mask_token_id=MASK)
    expected = relevance_score(STUDENT, LAYER, X, Y, attributions=maps(1), perturb_func=perturb)
    ids, mask = X["input_ids"], X["attention_mask"]
    for inputs, args in ((ids, mask), ((ids, mask), None)):
        found = relevance_score(STUDENT, LAYER, inputs, Y, None, args, attributions=maps(1), perturb_func=perturb)
        assert float(found) == pytest.approx(float(expected), abs=1e-9)


def test_own_functions_receive_text_as_it_is_passed():
    seen = []

    def asking(inputs, attributions, token_mask):
        seen.append((inputs, token_mask))
        assert torch.equal(attributions, maps(1))
        return {**inputs, "input_ids": inputs["input_ids"].clamp_(max=15), "more": 3}  # in place

    found = relevance_score(STUDENT, LAYER, SPECIAL, Y, attributions=maps(1), perturb_func=asking)
    ((inputs, mask),) = seen
    assert set(inputs) == set(X) and torch.equal(mask, (X["attention_mask"] == 1) & (X["input_ids"] != 1))
    expected = relevance_score(STUDENT, LAYER, {**SPECIAL, "input_ids": X["input_ids"].clamp(max=15)}, Y)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)
    assert int(X["input_ids"].max()) > 15


@pytest.mark.parametrize(
    "perturb", [lambda inputs, a: inputs["input_ids"], lambda inputs, a: {"input_ids": inputs["input_ids"]},
                lambda inputs, a: {name: value[:, :5] for name, value in inputs.items()}],
)  # fmt: skip
def test_text_that_comes_back_in_another_form_is_refused(perturb):
    with pytest.raises(ValueError, match="perturb_func must return text in the form that it received"):
        relevance_score(STUDENT, LAYER, X, Y, attributions=maps(1), perturb_func=perturb)


def test_sentences_that_lose_all_tokens_are_refused():
    def nothing(inputs, attributions):
        return {**inputs, "attention_mask": 0 * inputs["attention_mask"]}

    with pytest.raises(ValueError, match="attention mask after perturb_func leaves no token of input 0"):
        relevance_score(STUDENT, LAYER, X, Y, attributions=maps(1), perturb_func=nothing)


@pytest.mark.parametrize(
    "inputs, attributions, words",
    [
        (X, maps(1)[:, :, 1:], "attributions has maps of 9 tokens for 10 ids"),
        (X, torch.rand(N, 1, 4, 4), "maps of images, but the inputs are tokens"),
        (images(N), maps(1), "maps of tokens, but the inputs are images"),
        (X["input_ids"], maps(1), "nothing to replace tokens by: pass mask_token_id"),
        ({"inputs_embeds": torch.rand(N, T, 4), "attention_mask": X["attention_mask"]}, maps(1), "inputs_embeds"),
    ],
)
def test_unfit_text_and_maps_are_refused_before_any_model_runs(inputs, attributions, words):
    with pytest.raises(ValueError, match=words):
        relevance_score(Untouched(), "conv1", inputs, Y, attributions=attributions)


# -------------------------------------------------------------------------------- reports


def gradcam(model: nn.Module, batch: dict[str, Tensor], layer: str, y: Tensor, high_resolution: bool = False) -> Tensor:
    """Grad-CAM sentence by sentence, without its padding."""
    found = torch.zeros(len(y), 1, batch["input_ids"].shape[1])
    special = batch.get("special_tokens_mask", torch.zeros_like(batch["attention_mask"]))
    for row in range(len(y)):
        own = batch["attention_mask"][row] == 1
        kept: list[Tensor] = []
        handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out: kept.append(out) or out.retain_grad())
        logits = model(batch["input_ids"][row, own][None])[0]
        handle.remove()
        (logits.log_softmax(0).exp().logit()[y[row]] if high_resolution else logits[y[row]]).backward()
        counted = special[row, own] == 0
        gradient, values = kept[0].grad[0], kept[0].detach()[0]
        weights = gradient if high_resolution else gradient[counted].mean(0)
        found[row, 0, own] = (weights * values).sum(1) * counted
        model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = None
    return found


@pytest.mark.parametrize("high_resolution", [False, True])
@pytest.mark.parametrize("batch", [X, SPECIAL])
def test_gradcam_of_tokens_is_that_of_unpadded_sentences(batch, high_resolution):
    layers = [resolve_layer(STUDENT, name, model="m", argument="a") for name in (LAYER, "words")]
    found = layer_gradcams(STUDENT, layers, as_inputs(batch), Y, high_resolution=high_resolution)
    for each, name in zip(found, (LAYER, "words")):
        torch.testing.assert_close(each, gradcam(STUDENT, batch, name, Y, high_resolution), rtol=1e-4, atol=1e-6)


def report(data, localize, *, base=None, teacher=None, keep=0.5, **options):
    layers = {"first": {"student": LAYER, "base": LAYER, "teacher": "encoder.layers.1"}}
    found = compare_transfer(
        STUDENT, BASE if base is None else base, layers, data, teacher=teacher, localize=localize, keep=keep, show_progress=False,
        **options,
    )  # fmt: skip
    return {(row["score"], row["base"]): row["value"] for row in found.rows}, found


def batches(size: int, padded_to: int = T, batch=SPECIAL) -> list[dict[str, Tensor]]:
    inputs = {name: nn.functional.pad(value, (0, padded_to - T)) for name, value in batch.items()} | {"labels": Y}
    return [rows(inputs, slice(start, start + size)) for start in range(0, N, size)]


TOKENS = (X["attention_mask"] == 1) & (X["input_ids"] != 1)


@pytest.mark.parametrize("mask_token", [None, MASK])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "unicam", "integrated", "function"])
def test_each_model_reads_text_reduced_by_its_own_maps(method, mask_token):
    classes = [model(**X).argmax(1) for model in (STUDENT, BASE)]
    explain, options = method, {"mask_token_id": mask_token}
    if method in ("unicam", "integrated"):
        n_steps = 4 if method == "integrated" else None
        options |= {"reference": REFERENCE, "n_steps": n_steps}
        explain = "unicam"
        unicam = UniCAM(STUDENT, LAYER, BASE)
        population = unicam.reference(*REFERENCE)
        own = unicam.attribute(SPECIAL, classes[0], reference=population, n_steps=n_steps)
        other = unicam.residual().attribute(SPECIAL, classes[1], reference=population, n_steps=n_steps)
    else:
        own, other = (gradcam(m, SPECIAL, LAYER, y, method == "hirescam") for m, y in zip((STUDENT, BASE), classes))
    if method == "function":
        given = {id(STUDENT): own, id(BASE): other}

        def own_function(model, layer, inputs, target):
            assert layer is model.get_submodule(LAYER) and set(inputs) == set(X)
            assert torch.equal(target, model(**inputs).argmax(1))
            return given[id(model)]

        explain = own_function
    found, _ = report(batches(N), Localization(explain, **options))
    by_hand = [reduced(SPECIAL, each, TOKENS, 0.5, mask_token) for each in (own, other)]
    expected = scores(*by_hand)
    assert [found[score, "base"] for score in ("fss", "rs_student", "rs_distilled")] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mask_token", [None, MASK])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "unicam"])
def test_reports_depend_neither_on_padding_nor_on_batches(method, mask_token):
    localize = Localization(method, mask_token_id=mask_token, reference=REFERENCE if method == "unicam" else None)
    bases = {"a": BASE, "b": OTHER_BASE}
    whole, made = report(batches(N), localize, base=bases)
    assert made.settings["mask_token_id"] == mask_token and made.settings["feature_transform"] == "global_average_pool"
    for size, padded_to in ((7, 12), (13, 20)):
        other, _ = report(batches(size, padded_to), localize, base=bases)
        assert other == pytest.approx(whole, abs=1e-6)


def other_words(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sentences by another tokenizer: two tokens for each of ours, and other ids."""
    ids = (inputs["input_ids"] + 17) * inputs["attention_mask"]
    return {"input_ids": ids.repeat_interleave(2, 1), "attention_mask": inputs["attention_mask"].repeat_interleave(2, 1)}


@pytest.mark.parametrize("method", ["gradcam", "unicam"])
def test_models_with_their_own_inputs_are_reduced_by_maps_of_these(method):
    """A Base and a Teacher with another tokenizer and another mask token."""
    base, wide = Encoder(5, vocabulary=50), other_words(X)
    ids = {"student": MASK, "base 5": 49, "teacher": 48}
    reference = None
    if method == "unicam":
        reference = {"student": REFERENCE[0], "base 5": other_words(REFERENCE[0])}, REFERENCE[1]
    data = [{"student": X, "base 5": wide, "teacher": wide, "labels": Y}]
    localize = Localization(method, mask_token_id=ids, reference=reference)
    found, _ = report(data, localize, base={"base 5": base}, teacher=TEACHER)
    classes = [model(**batch).argmax(1) for model, batch in ((STUDENT, X), (base, wide), (TEACHER, wide))]
    own, other = gradcam(STUDENT, X, LAYER, classes[0]), gradcam(base, wide, LAYER, classes[1])
    if method == "unicam":
        unicam = UniCAM(STUDENT, LAYER, base)
        population = unicam.reference({"student": REFERENCE[0], "base": other_words(REFERENCE[0])}, REFERENCE[1])
        by_role = {"student": X, "base": wide}
        own = unicam.attribute(by_role, classes[0], reference=population)
        other = unicam.residual().attribute(by_role, classes[1], reference=population)
    of_teacher = gradcam(TEACHER, wide, "encoder.layers.1", classes[2])
    kept = [
        reduced(batch, values, batch["attention_mask"] == 1, 0.5, mask_token)
        for batch, values, mask_token in ((X, own, MASK), (wide, other, 49), (wide, of_teacher, 48))
    ]
    expected = scores(*kept[:2], base=base)
    assert [found[score, "base 5"] for score in ("fss", "rs_student", "rs_distilled")] == pytest.approx(expected, abs=1e-5)
    to_teacher = {"student": kept[0], "base": kept[2]}
    fss = feature_similarity_score(STUDENT, LAYER, TEACHER, "encoder.layers.1", to_teacher)
    assert found["fss_student_teacher", "base 5"] == pytest.approx(float(fss), abs=1e-5)


def test_mask_tokens_by_name_must_cover_all_models():
    with pytest.raises(ValueError, match=r"has the keys \['student'\], but none for the model 'base'; add its name"):
        report(batches(N), Localization("gradcam", mask_token_id={"student": MASK}))


def test_prefix_tokens_are_kept():
    """A number of prefix tokens says what special_tokens_mask says, if no sentence has other special tokens."""
    for mask_token in (None, MASK):
        localize = Localization("gradcam", mask_token_id=mask_token)
        by_number, _ = report(batches(N, batch=X), localize, model_options=ModelOptions(prefix_tokens=1))
        by_mask, _ = report(batches(N), localize)
        assert by_number == pytest.approx(by_mask, abs=1e-6)


def test_token_masks_of_options_hold_for_the_reference_population_too():
    class Padded(nn.Module):
        """Finds its padding itself."""

        def __init__(self, encoder: Encoder) -> None:
            super().__init__()
            self.model = encoder

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(ids, (ids != 0).long())

    options = {"localize": Localization("unicam", reference=(REFERENCE[0]["input_ids"], REFERENCE[1]), mask_token_id=MASK)}
    found = compare_transfer(
        Padded(STUDENT), Padded(BASE), f"model.{LAYER}", [(X["input_ids"], Y)], show_progress=False,
        model_options=ModelOptions(token_mask=lambda ids: ids != 0), **options,
    )  # fmt: skip
    expected, _ = report(batches(N, batch=X), Localization("unicam", reference=REFERENCE, mask_token_id=MASK))
    assert {(row["score"], row["base"]): row["value"] for row in found.rows} == pytest.approx(expected, abs=1e-6)


def test_reports_without_labels_and_features_of_one_token():
    localize = Localization("gradcam", mask_token_id=MASK)
    unlabeled = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches(20)]
    found, _ = report(unlabeled, localize, teacher=Encoder(3, 24, 3), comparisons=Comparisons(labels=False))
    expected, _ = report(batches(20), localize, teacher=Encoder(3, 24, 3))
    assert found and all(value == pytest.approx(expected[key], abs=1e-6) for key, value in found.items())
    values, _ = report(batches(20), localize, feature_transform=first_token)
    assert all(-1 <= value <= 1 for value in values.values())


def test_constant_maps_are_counted_and_sentences_of_one_token_are_not():
    lengths = TOKENS.sum(1)
    constant = int((lengths > 1).sum())
    assert 0 < constant < N
    with pytest.warns(UserWarning, match=f"{2 * constant} maps are constant and rank no pixels or tokens"):
        report(batches(N), lambda model, layer, inputs, y: torch.ones(N, 1, T))


@pytest.mark.parametrize(
    ("data", "localize", "words"),
    [
        ([(X["input_ids"], Y)], "gradcam", "nothing to replace tokens by: pass mask_token_id"),
        (batches(N), lambda model, layer, inputs, y: torch.rand(N, 1, 9), "map of localize at .* 9 tokens for 10 ids"),
        (batches(N), lambda model, layer, inputs, y: torch.rand(N, 1, 3, 3), "maps of images, but the inputs are tokens"),
        ([({"inputs_embeds": torch.rand(N, T, 4), "attention_mask": X["attention_mask"]}, Y)], "gradcam", "inputs_embeds"),
    ],
)
def test_text_that_cannot_be_reduced_is_refused(data, localize, words):
    with unchanged_state([STUDENT, BASE], []), pytest.raises(ValueError, match=words):
        report(data, localize)


@pytest.mark.parametrize("mask_token", [-1, 1.5, {"student": -2}, "[MASK]"])
def test_ids_that_cannot_be_are_refused(mask_token):
    with pytest.raises(ValueError, match="mask_token_id of Localization must be a non-negative integer or None"):
        Localization("gradcam", mask_token_id=mask_token)
