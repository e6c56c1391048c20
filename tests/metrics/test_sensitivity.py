"""sensitivity_max of layer attributions, against a loop over single images."""

from typing import Callable

import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from captum.metrics import sensitivity_max as captum_sensitivity_max
from models import ConvNet, SeveralOutputs, images, labels
from torch import Tensor

from captum_kd import UniCAM
from captum_kd.metrics import sensitivity_max

N, SAMPLES, RADIUS = 4, 5, 0.05
Explanation = Callable[..., Tensor]


def inputs(n: int = N) -> Tensor:
    return images(n, dtype=torch.float64)


def perturbed(x: Tensor, radius: float = RADIUS) -> Tensor:
    """The k-th copy of an image is always perturbed in the same way, whatever else is in the batch."""
    number = (torch.arange(len(x)) % SAMPLES + 1).to(x)[:, None, None, None]
    return x + radius * torch.sin(37 * x + number)


def by_hand(explain: Explanation, x: Tensor, y: Tensor) -> Tensor:
    """One image and one perturbation at a time."""
    found = []
    for image, label in zip(x, y):
        before = explain(image[None], int(label))
        copies = perturbed(image.expand(SAMPLES, -1, -1, -1))
        changes = [(explain(copy[None], int(label)) - before).norm() for copy in copies]
        found.append(max(changes) / before.norm())
    return torch.stack(found).detach()


@pytest.fixture
def explanations() -> dict[str, tuple[Explanation, dict]]:
    """Attribution functions of images and targets, with the arguments that they need."""
    student, base = ConvNet(seed=1).double(), ConvNet(seed=2).double()
    unicam = UniCAM(student, "conv2", base)
    references = images(20, seed=5, dtype=torch.float64)
    return {
        "unicam": (unicam.attribute, {"reference": unicam.reference(references, labels(20))}),
        "grad_cam": (LayerGradCam(student, student.conv2).attribute, {}),
    }


KINDS = ["unicam", "grad_cam"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, N])
def test_equals_a_loop_over_single_images(explanations, kind, n):
    explain, arguments = explanations[kind]
    x, y = inputs(n), labels(n)
    found = sensitivity_max(
        explain, x, perturb_func=perturbed, perturb_radius=RADIUS, n_perturb_samples=SAMPLES, target=y, **arguments
    )
    expected = by_hand(lambda image, label: explain(image, label, **arguments), x, y)
    assert found.shape == (n,) and float(expected.min()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [1, torch.tensor([1]), [1] * N])
def test_one_target_for_all_images(explanations, kind, target):
    """Captum repeats targets with the perturbed copies, but leaves single ones as they are."""
    explain, arguments = explanations[kind]
    found = sensitivity_max(
        explain, inputs(), perturb_func=perturbed, n_perturb_samples=SAMPLES, target=target, **arguments
    )
    expected = sensitivity_max(
        explain,
        inputs(),
        perturb_func=perturbed,
        n_perturb_samples=SAMPLES,
        target=torch.ones(N, dtype=torch.long),
        **arguments,
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_has_no_effect(explanations, kind):
    """Here every copy of an image is perturbed alike, so that parts of the copies do not matter."""
    explain, arguments = explanations[kind]

    def found(**kwargs) -> Tensor:
        return sensitivity_max(
            explain,
            inputs(),
            perturb_func=lambda x: x + RADIUS * torch.sin(37 * x),
            n_perturb_samples=SAMPLES,
            target=labels(N),
            **arguments,
            **kwargs,
        )

    torch.testing.assert_close(found(max_examples_per_batch=2 * N), found(), rtol=1e-8, atol=0)


def test_default_perturbation_stays_in_its_radius(explanations):
    explain, arguments = explanations["unicam"]
    seen: list[float] = []
    x = inputs(1)

    def watched(images_: Tensor, *args, **kwargs) -> Tensor:
        given = images_[0] if isinstance(images_, tuple) else images_
        seen.append(float((given - x).abs().max()))
        return explain(images_, *args, **kwargs)

    found = sensitivity_max(watched, x, perturb_radius=0.01, n_perturb_samples=3, target=0, **arguments)
    assert found.shape == (1,) and float(found) > 0
    assert seen[0] == 0 and 0.009 < max(seen) <= 0.01


def test_norm_order_is_passed_on(explanations):
    explain, arguments = explanations["unicam"]
    x, y = inputs(1), labels(1)
    found = sensitivity_max(
        explain, x, perturb_func=perturbed, n_perturb_samples=SAMPLES, norm_ord=1, target=y, **arguments
    )
    before = explain(x, y, **arguments)
    after = explain(perturbed(x.expand(SAMPLES, -1, -1, -1), 0.02), 0, **arguments)
    expected = (after - before).abs().sum((1, 2, 3)).max() / before.abs().sum()
    torch.testing.assert_close(found, expected[None], rtol=1e-8, atol=0)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_explanations_of_inputs_stay_captums():
    """Attributions with a tuple for a tuple are right in Captum, and the same here."""
    saliency = Saliency(ConvNet(seed=1).double())
    arguments = {"perturb_func": perturbed, "n_perturb_samples": SAMPLES, "target": labels(N)}
    expected = captum_sensitivity_max(saliency.attribute, inputs(), **arguments)
    torch.testing.assert_close(sensitivity_max(saliency.attribute, inputs(), **arguments), expected)


# ----------------------------------------------------------------------- Captum's own

CAPTUM_IS_MENDED = "Captum's sensitivity_max has changed: see whether captum_kd's is still needed"


@pytest.mark.parametrize("kind", KINDS)
def test_captums_own_is_too_large_for_one_image(explanations, kind):
    """By sqrt(k) for k samples: rows of the explanation are taken for inputs."""
    explain, arguments = explanations[kind]
    arguments = {"perturb_func": perturbed, "n_perturb_samples": SAMPLES, "target": labels(1), **arguments}
    ratio = captum_sensitivity_max(explain, inputs(1), **arguments) / sensitivity_max(explain, inputs(1), **arguments)
    assert float(ratio) == pytest.approx(SAMPLES**0.5, rel=1e-6), CAPTUM_IS_MENDED


@pytest.mark.parametrize("kind", KINDS)
def test_captums_own_fails_for_two_images(explanations, kind):
    explain, arguments = explanations[kind]
    try:
        captum_sensitivity_max(
            explain, inputs(2), perturb_func=perturbed, n_perturb_samples=SAMPLES, target=labels(2), **arguments
        )
    except RuntimeError:
        return
    pytest.fail(CAPTUM_IS_MENDED)


# -------------------------------------------------------------------------------- errors


def test_maps_of_several_layers_are_refused():
    student, base = ConvNet(seed=1), ConvNet(seed=2)
    unicam = UniCAM(student, ["conv1", "conv2"], base)
    population = unicam.reference(images(20, seed=5), labels(20))
    with pytest.raises(TypeError, match="returned list; .* Explain one layer"):
        sensitivity_max(unicam.attribute, images(2), target=0, reference=population)


@pytest.mark.parametrize("value", [None, 1.0, [torch.ones(1)], ("map",)])
def test_what_is_no_tensor_is_refused(value):
    with pytest.raises(TypeError, match=f"explanation_func returned {type(value).__name__}"):
        sensitivity_max(lambda *_, **__: value, images(1))


def test_layers_with_several_outputs_give_one_value_an_image():
    """A tuple of maps is one explanation: its parts are joined."""
    student, base = (SeveralOutputs("tuple", seed=seed).double() for seed in (1, 2))
    unicam = UniCAM(student, "split", base)
    population = unicam.reference(images(20, seed=5, dtype=torch.float64), labels(20))

    def joined(image: Tensor, label: int) -> Tensor:
        maps = unicam.attribute(image, label, reference=population)
        assert len(maps) == 2
        return torch.cat([single.flatten(1) for single in maps], dim=1)

    found = sensitivity_max(
        unicam.attribute,
        inputs(3),
        perturb_func=perturbed,
        perturb_radius=RADIUS,
        n_perturb_samples=SAMPLES,
        target=labels(3),
        reference=population,
    )
    torch.testing.assert_close(found, by_hand(joined, inputs(3), labels(3)), rtol=1e-8, atol=0)


def test_the_default_perturbation_is_for_floating_point_inputs():
    with pytest.raises(TypeError, match="inputs must be floating point for the default perturb_func, got torch.int64"):
        sensitivity_max(lambda x: x, torch.ones(N, 3, dtype=torch.long))
