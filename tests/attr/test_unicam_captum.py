"""UniCAM as a Captum LayerAttribution: Captum's tools around it."""

import warnings

import matplotlib
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.attr import visualization
from conv_pairs import M, N, inputs, pair
from loops import assert_infidelity_is_that_of_single_images
from models import labels

from captum_kd import UniCAM

pytestmark = pytest.mark.filterwarnings("ignore:The population is")


def test_is_a_layer_attribution():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base, device_ids=[0])
    assert isinstance(unicam, LayerAttribution)
    assert (unicam.forward_func, unicam.layer, unicam.device_ids) == (student, student.conv2, [0])
    assert unicam.has_convergence_delta()
    assert unicam.multiplies_by_inputs


def test_body_of_attribute_is_whole_without_its_decorator():
    """NoiseTunnel calls it so."""
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    bare = UniCAM.attribute.__wrapped__(unicam, inputs(), labels(N))
    torch.testing.assert_close(bare, unicam.attribute(inputs(), labels(N)))


def test_interpolate():
    student, base = pair()
    small = UniCAM(student, "conv2", base).attribute(inputs(), labels(N))
    large = LayerAttribution.interpolate(small, (12, 12))
    assert large.shape == (N, 1, 12, 12)
    assert torch.equal(large[:, :, ::2, ::2], small)


def test_visualize_image_attr():
    matplotlib.use("Agg")
    student, base = pair()
    large = LayerAttribution.interpolate(UniCAM(student, "conv2", base).attribute(inputs(), labels(N)), (12, 12))
    figure, axis = visualization.visualize_image_attr(
        large[0].permute(1, 2, 0).numpy(),
        inputs()[0].permute(1, 2, 0).sigmoid().numpy(),
        method="blended_heat_map",
        sign="all",
        use_pyplot=False,
    )
    drawn = [image.get_array() for image in axis.images]
    assert drawn[-1].shape == (12, 12)
    strongest = large[0, 0].abs().argmax()
    assert abs(drawn[-1]).argmax() == strongest or abs(drawn[-1].flatten()[strongest]) == 1


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("target", [1, labels(3)])
def test_noise_tunnel_in_reference_mode_equals_a_loop_over_single_images(nt_type, target):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))
    x, samples, deviation = inputs(3), 4, 0.3
    torch.manual_seed(0)
    found = NoiseTunnel(unicam).attribute(
        x, nt_type=nt_type, nt_samples=samples, stdevs=deviation, target=target, reference=population
    )
    torch.manual_seed(0)
    noise = torch.normal(0, torch.tensor(deviation).repeat(3 * samples, 3, 12, 12)).reshape(3, samples, 3, 12, 12)
    expected = []
    for i in range(3):
        label = target if isinstance(target, int) else int(target[i])
        maps = torch.stack([unicam.attribute((x[i] + z)[None], label, reference=population)[0] for z in noise[i]])
        mean, square = maps.mean(0), maps.square().mean(0)
        expected.append({"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean**2}[nt_type])
    torch.testing.assert_close(found, torch.stack(expected))


def test_noise_tunnel_in_parts_equals_one_part():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))

    def tunnel(part):
        settings = dict(nt_samples=4, stdevs=0.0, target=labels(3), reference=population)
        return NoiseTunnel(unicam).attribute(inputs(3), nt_samples_batch_size=part, **settings)

    torch.testing.assert_close(tunnel(3), tunnel(None))


def test_noise_tunnel_in_batch_mode_warns_that_copies_mislead():
    student, base = pair()
    with pytest.warns(UserWarning, match="near-copies of others.*reference="):
        NoiseTunnel(UniCAM(student, "conv2", base)).attribute(
            inputs(), nt_samples=4, stdevs=0.01, target=labels(N)
        )


@pytest.mark.parametrize("labeled", [True, False])
def test_no_warning_in_reference_mode_or_for_different_inputs(labeled):
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    y = labels(40) if labeled else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unicam.attribute(inputs(40), y)
        population = unicam.reference(inputs(40, seed=5), y)
        unicam.attribute(inputs(2).repeat_interleave(4, dim=0), 1 if labeled else None, reference=population)


def test_a_small_population_is_warned_of_at_the_call():
    student, base = pair()
    with pytest.warns(UserWarning, match="The population is 8 inputs") as record:
        UniCAM(student, "conv2", base).attribute(inputs(), labels(N))
    assert record[0].filename == __file__


def test_infidelity_of_interpolated_maps_in_reference_mode_equals_a_loop_over_single_images():
    student, base = pair()
    unicam = UniCAM(student, "conv2", base)
    population = unicam.reference(inputs(M, seed=5), labels(M))

    def maps_of(x, y):
        return unicam.attribute(x, y, reference=population)

    assert_infidelity_is_that_of_single_images(student, maps_of, inputs(), labels(N))
