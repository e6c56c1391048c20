"""Reliability of maps over networks, against numpy's correlations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kd.metrics import map_reliability

N = 5


def drawn(seed: int, n: int = N, size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(seed))


def literal(first: Tensor, second: Tensor) -> list[float]:
    """numpy's correlation of the maps of each input."""
    return [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(first.double().numpy(), second.double().numpy())]


def test_values_are_numpys_correlations():
    maps = {seed: drawn(seed) for seed in range(3)}
    found = map_reliability(maps)
    assert found.names == (0, 1, 2) and found.n == N and found.pairs == 3
    for a in maps:
        for b in maps:
            expected = literal(maps[a], maps[b])
            assert found.values[a, b].tolist() == pytest.approx(expected, abs=1e-12)
            assert float(found.matrix[a, b]) == pytest.approx(np.mean(expected), abs=1e-12)
    of_pairs = [float(found.matrix[0, 1]), float(found.matrix[0, 2]), float(found.matrix[1, 2])]
    assert found.mean == pytest.approx(np.mean(of_pairs), abs=1e-12)
    assert found.standard_deviation == pytest.approx(np.std(of_pairs, ddof=1), abs=1e-12)


def test_null_is_the_correlation_of_maps_of_different_inputs():
    center = torch.zeros(1, 1, 4, 6)
    center[..., 1:3, 2:4] = 3.0
    maps = {seed: drawn(seed) + center for seed in range(3)}
    different = [
        literal(maps[a][i : i + 1], maps[b][j : j + 1])[0]
        for a, b in ((0, 1), (0, 2), (1, 2)) for i in range(N) for j in range(N) if i != j
    ]  # fmt: skip
    found = map_reliability(maps)
    assert found.null == pytest.approx(np.mean(different), abs=1e-12)
    # Maps that share no more than the place of the object are as alike for different inputs as for the same.
    assert found.mean == pytest.approx(found.null, abs=0.15) and found.null > 0.4


def test_equal_maps_correlate_at_1_and_independent_noise_at_0():
    maps = drawn(0)
    assert map_reliability({"a": maps, "b": 3.0 * maps + 2.0}).mean == pytest.approx(1.0, abs=1e-6)
    assert map_reliability({"a": maps, "b": -maps}).mean == pytest.approx(-1.0, abs=1e-6)
    noise = map_reliability({seed: drawn(seed, n=200, size=(7, 7)) for seed in range(4)})
    # 49 positions: a standard deviation of 1/7 for one input and pair, .004 for the mean of 200 and 6.
    assert abs(noise.mean) < 0.02 and abs(noise.null) < 0.002


def test_pairs_that_share_a_network_are_left_out_of_the_mean():
    names = [("s1", "b1"), ("s1", "b2"), ("s2", "b1"), ("s2", "b2"), ("b1", "b2")]
    maps = {name: drawn(place) for place, name in enumerate(names)}
    found = map_reliability(maps)
    disjoint = {(names[i], names[j]) for i, j in found.is_disjoint.triu().nonzero().tolist()}
    assert disjoint == {(("s1", "b1"), ("s2", "b2")), (("s1", "b2"), ("s2", "b1"))}
    expected = np.mean([*literal(maps[names[0]], maps[names[3]]), *literal(maps[names[1]], maps[names[2]])])
    assert found.mean == pytest.approx(expected, abs=1e-12)


def test_smaller_grids_are_brought_to_the_largest():
    large, small = drawn(0, size=(8, 8)), drawn(1, size=(4, 4))
    enlarged = torch.nn.functional.interpolate(small.double(), (8, 8), mode="bilinear")
    found = map_reliability({"large": large, "small": small})
    assert found.values[0, 1].tolist() == pytest.approx(literal(large, enlarged), abs=1e-6)


def test_constant_maps_count_as_0_with_a_warning():
    maps = drawn(0)
    other = maps.clone()
    other[1] = 0.7
    with pytest.warns(UserWarning, match="1 of 10 maps are constant. .* counts as 0"):
        found = map_reliability({"a": maps, "b": other})
    assert found.values[0, 1].tolist() == pytest.approx([1.0, 0.0, 1.0, 1.0, 1.0], abs=1e-6)
    assert found.mean == pytest.approx(0.8, abs=1e-6)
    assert bool(found.matrix.isfinite().all()) and found.matrix.diagonal().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_of_the_maps_does_not_matter(scale):
    a, b = drawn(0), drawn(1)
    assert map_reliability({"a": a, "b": b * scale}).mean == pytest.approx(map_reliability({"a": a, "b": b}).mean, abs=1e-5)


def test_single_input_and_single_pair_have_no_null_and_no_spread():
    found = map_reliability({"a": drawn(0, n=1), "b": drawn(1, n=1)[:, 0]})
    assert found.null is None and found.standard_deviation is None
    assert repr(found) == f"MapReliability(mean correlation {found.mean:.3f} over 1 disjoint pair(s) of 2 sets, 1 inputs)"


def test_repr_has_spread_and_null():
    found = map_reliability({seed: drawn(seed) for seed in range(3)})
    assert repr(found) == (
        f"MapReliability(mean correlation {found.mean:.3f} (SD {found.standard_deviation:.3f}) over 3 disjoint pair(s) of 3 "
        f"sets, {N} inputs; maps of different inputs {found.null:.3f})"
    )


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        ([drawn(0), drawn(1)], TypeError, "maps must be a mapping from names to the maps of the same inputs"),
        ({"a": drawn(0)}, ValueError, r"maps has 1 set\(s\) of maps; pass those of at least two"),
        ({("s", 1): drawn(0), ("s", 2): drawn(1)}, ValueError, "Every two of the names .* share an entry"),
        ({"a": drawn(0), "b": drawn(1, n=4)}, ValueError, r"maps\['b'\] has 4 maps for 5 inputs"),
        ({"a": drawn(0), "b": [drawn(1)]}, TypeError, r"maps\['b'\] is a list of 1"),
        ({"a": drawn(0), "b": drawn(1) / 0}, ValueError, r"maps\['b'\] has non-finite values"),
        ({"a": drawn(0, size=(1, 1)), "b": drawn(1, size=(1, 1))}, ValueError, "have a single position"),
    ],
)
def test_errors(maps, error, message):
    with pytest.raises(error, match=message):
        map_reliability(maps)
