"""Maps of tokens are those of the definition over each sentence's own tokens, one by one."""

import warnings

import pytest
import torch
from reference import literal
from torch import Tensor

from captum_kd import UniCAM, first_token, flatten, last_token
from text.encoders import Encoder, labels, rows, sentences

N, M, STEPS = 8, 20, 7
LAYER = "encoder.layers.1"
STUDENT, BASE, TEACHER = Encoder(1).double(), Encoder(2).double(), Encoder(3, 24, 3).double()
X, POPULATION = sentences(N), sentences(M, seed=1)
Y, Y_POPULATION = labels(N), labels(M)


def activations(model: Encoder, inputs: dict[str, Tensor], layer: str = LAYER) -> Tensor:
    """(N, T, C)"""
    found = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output.detach()))
    with torch.enable_grad():  # the fast path of attention is off
        model(**inputs)
    handle.remove()
    return found[0]


def sentence_means(model: Encoder, inputs: dict[str, Tensor], layer: str = LAYER, start: int = 0) -> Tensor:
    """Means over the tokens of each sentence, sentence by sentence."""
    of_layer, lengths = activations(model, inputs, layer), inputs["attention_mask"].sum(1).tolist()
    return torch.stack([each[start:length].mean(0) for each, length in zip(of_layer, lengths)])


def literal_maps(gradients: Tensor, baselines: Tensor, start: int = 0) -> Tensor:
    """(N, 1, T): at each token the gradient of the mean, divided among the tokens, times the way from the baseline."""
    of_layer, lengths = activations(STUDENT, X), X["attention_mask"].sum(1).tolist()
    maps = torch.zeros(N, 1, of_layer.shape[1] - start, dtype=torch.float64)
    for i, length in enumerate(lengths):
        for t in range(start, length):
            maps[i, 0, t - start] = (gradients[i] / (length - start)) @ (of_layer[i, t] - baselines[i])
    return maps


def objective_of(inputs: dict[str, Tensor], target: str, start: int = 0):
    own, other = sentence_means(STUDENT, inputs, start=start), sentence_means(BASE, inputs, start=start)
    teacher = sentence_means(TEACHER, inputs, "encoder.layers.2", start=start)

    def objective(features: Tensor) -> Tensor:
        if target == "teacher":
            return literal.teacher_objective(features, other, teacher)
        return literal.objective(features, other, labels(len(own)) if target == "labels" else None)

    return own, objective


def unicam(target: str, **settings) -> UniCAM:
    if target == "teacher":
        settings |= {"teacher_func": TEACHER, "teacher_layer": "encoder.layers.2"}
    return UniCAM(STUDENT, LAYER, BASE, **settings)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("target", ["labels", "none", "teacher"])
def test_gradient_maps_in_batch_mode(target, start):
    own, objective = objective_of(X, target, start)
    own = own.requires_grad_()
    (gradients,) = torch.autograd.grad(objective(own), own)
    found = unicam(target, prefix_tokens=start).attribute(X, Y if target == "labels" else None)
    torch.testing.assert_close(found, literal_maps(gradients, torch.zeros_like(own), start), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", ["labels", "teacher"])
def test_integrated_maps_beside_references_and_their_sums(target):
    own, other = sentence_means(STUDENT, X), sentence_means(BASE, X)
    teacher = sentence_means(TEACHER, X, "encoder.layers.2")
    of_population = [sentence_means(model, POPULATION) for model in (STUDENT, BASE)]
    of_population.append(sentence_means(TEACHER, POPULATION, "encoder.layers.2"))
    baselines = of_population[0].mean(0).expand_as(own)

    def objective(i: int, features: Tensor) -> Tensor:
        student = torch.cat([features[None], of_population[0]])
        base = torch.cat([other[i : i + 1], of_population[1]])
        if target == "teacher":
            return literal.teacher_objective(student, base, torch.cat([teacher[i : i + 1], of_population[2]]))
        return literal.objective(student, base, torch.cat([Y[i : i + 1], Y_POPULATION]))

    gradients, gains = literal.integrated_gradients(own, baselines, objective, STEPS)
    explain = unicam(target)
    population = explain.reference(POPULATION, Y_POPULATION)
    found, delta = explain.attribute(X, Y, reference=population, n_steps=STEPS, return_convergence_delta=True)
    expected = literal_maps(gradients, baselines)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(delta, expected.sum((1, 2)) - gains, rtol=1e-8, atol=1e-11)
    one = rows(X, slice(3, 4))
    length = int(one["attention_mask"].sum())
    short = {name: value[:, :length] for name, value in one.items()}
    alone = explain.attribute(short, Y[3:4], reference=population, n_steps=STEPS)
    torch.testing.assert_close(alone, found[3:4, :, :length], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transform", [first_token, last_token])
def test_features_of_one_token(transform):
    """Only that token has a gradient, whose mean over the sentence's tokens weighs all of them."""
    lengths = X["attention_mask"].sum(1)
    place = torch.zeros_like(lengths) if transform is first_token else lengths - 1
    student, base = (activations(model, X)[torch.arange(N), place] for model in (STUDENT, BASE))
    student = student.requires_grad_()
    (gradients,) = torch.autograd.grad(literal.objective(student, base, Y), student)
    found = UniCAM(STUDENT, LAYER, BASE, feature_transform=transform).attribute(X, Y)
    torch.testing.assert_close(found, literal_maps(gradients, torch.zeros_like(student)), rtol=1e-9, atol=1e-12)


def test_a_class_token_that_is_left_out_is_warned_of():
    """Its neighbor would be taken for it. Padding on the left has sentences that begin at the first token."""
    features, mask = torch.rand(3, 5, 4), torch.ones(3, 4, dtype=torch.bool)
    mask[:, 0] = False
    with pytest.warns(UserWarning, match="leave special_tokens_mask out of the inputs"):
        torch.testing.assert_close(first_token(features, mask), features[:, :, 1])
    mask[1, 0] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first_token(features, mask)
        last_token(features, ~mask)


def test_own_transforms_get_the_mask_if_they_ask_for_it_and_zeros_if_not():
    seen = []

    def asking(a: Tensor, token_mask: Tensor) -> Tensor:
        seen.append(token_mask)
        return (a.square() * token_mask[:, None]).sum(2) / token_mask.sum(1, keepdim=True)

    def silent(a: Tensor) -> Tensor:
        return a.square().sum(2) / X["attention_mask"].sum(1, keepdim=True)

    found, other = (
        UniCAM(STUDENT, LAYER, BASE, feature_transform=each).attribute(X, Y, n_steps=4) for each in (asking, silent)
    )
    torch.testing.assert_close(found, other, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(mask, X["attention_mask"].bool()) for mask in seen)


def test_flattened_tokens_are_zero_at_padding():
    found = UniCAM(STUDENT, LAYER, BASE, feature_transform=flatten).attribute(X, Y)
    mask = X["attention_mask"].bool()
    student, base = (activations(model, X).masked_fill(~mask[..., None], 0).flatten(1) for model in (STUDENT, BASE))
    student = student.requires_grad_()
    (gradients,) = torch.autograd.grad(literal.objective(student, base, Y), student)
    by_token = gradients.reshape(N, -1, 16) * mask[..., None]
    weights = by_token.sum(1) / mask.sum(1, keepdim=True)
    expected = torch.einsum("nc,ntc->nt", weights, activations(STUDENT, X)) * mask
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-9, atol=1e-12)
