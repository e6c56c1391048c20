"""Similarities of token maps do not count padding, where all maps are 0."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_kd import UniCAM
from captum_kd.metrics import map_reliability, randomization_test
from text.encoders import Encoder, labels, sentences

N, LAYER, MODULES = 12, "encoder.layers.1", ["encoder.layers.1", "words"]
Y = labels(N)


def unicam(seed: int = 1, **settings) -> UniCAM:
    return UniCAM(Encoder(seed).double(), LAYER, Encoder(seed + 10).double(), **settings)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0


def literal(one: Tensor, other: Tensor, mask: Tensor, ranked: bool) -> tuple[list[float], float]:
    """Correlations of the maps of the same inputs, and the mean over different inputs, over tokens that both have."""

    def values(maps: Tensor, i: int) -> np.ndarray:
        found = np.full(maps.shape[2], np.nan)
        kept = mask[i].bool().numpy()
        own = maps[i, 0].numpy()[kept]
        found[kept] = rankdata(own) if ranked else own
        return found

    def pair(i: int, j: int) -> float:
        both = (mask[i] * mask[j]).bool().numpy()
        return correlation(values(one, i)[both], values(other, j)[both]) if both.sum() > 1 else np.nan

    same = [0.0 if np.isnan(each) else each for each in (pair(i, i) for i in range(N))]
    return same, float(np.nanmean([pair(i, j) for i in range(N) for j in range(N) if i != j]))


@pytest.mark.parametrize("net", [False, True])
@pytest.mark.parametrize("start", [0, 1])
def test_randomized_weights(net, start):
    found = []
    for padded_to in (10, 17):
        inputs, explain = sentences(N, padded_to=padded_to), unicam(prefix_tokens=start or None)
        found.append(randomization_test(explain, inputs, Y, modules=MODULES, n_steps=4, net=net))
    one, other = found
    for name in ("spearman", "absolute_spearman", "null", "absolute_null"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


def test_randomized_weights_by_the_definition():
    """The maps after the last module are those of a network with random words, which the test leaves no trace of."""
    inputs, explain, seen = sentences(N), unicam(), []
    attribute = explain.attribute
    before = attribute(inputs, Y, n_steps=4)

    class Recorded(UniCAM):
        def attribute(self, *args, **kwargs):
            seen.append(super().attribute(*args, **kwargs))
            return seen[-1]

    recorded = Recorded(explain.forward_func, LAYER, explain.base_func)
    test = randomization_test(recorded, inputs, Y, modules=MODULES, n_steps=4)
    assert len(seen) == 3 and torch.equal(seen[0], before)
    for place, maps in enumerate(seen[1:]):
        same, null = literal(before, maps, inputs["attention_mask"], ranked=True)
        assert test.spearman[place].tolist() == pytest.approx(same, abs=1e-9)
        assert float(test.null[place]) == pytest.approx(null, abs=1e-9)


def test_reliability():
    mask = sentences(N)["attention_mask"]
    maps = {f"seed {seed}": unicam(seed).attribute(sentences(N), Y, n_steps=4) for seed in (1, 2, 3)}
    found = map_reliability(maps, token_mask=mask)
    first, second = maps["seed 1"], maps["seed 2"]
    same, null = literal(first, second, mask, ranked=False)
    assert found.values[0, 1].tolist() == pytest.approx(same, abs=1e-9)
    padded = {name: torch.nn.functional.pad(each, (0, 9)) for name, each in maps.items()}
    other = map_reliability(padded, token_mask=torch.nn.functional.pad(mask, (0, 9)))
    assert (other.mean, other.null) == (pytest.approx(found.mean, abs=1e-12), pytest.approx(found.null, abs=1e-12))
    two = map_reliability({name: maps[name] for name in ("seed 1", "seed 2")}, token_mask=mask)
    assert two.null == pytest.approx(null, abs=1e-9)
    assert map_reliability(maps, token_mask=torch.ones_like(mask)).mean == pytest.approx(map_reliability(maps).mean, abs=1e-12)


@pytest.mark.parametrize("mask", [torch.ones(N, 9), torch.ones(3, 10), torch.ones(N)])
def test_masks_of_another_shape_are_named(mask):
    maps = {seed: torch.rand(N, 1, 10) for seed in range(2)}
    with pytest.raises(ValueError, match="token_mask has"):
        map_reliability(maps, token_mask=mask)
