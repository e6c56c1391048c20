"""Captum's NoiseTunnel on text: noise goes behind the embedding layer."""

import pytest
import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn

from captum_kd import UniCAM
from text.encoders import Encoder, labels, sentences

N, LAYER = 12, "encoder.layers.1"
STUDENT, BASE = Encoder(1), Encoder(2)
X, Y = sentences(N), labels(N)


class NoisyEmbeddings(nn.Module):
    """A model of noise, which it adds to its own embeddings of the ids."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return output + noise

        handle = self.model.words.register_forward_hook(add)
        try:
            return self.model(input_ids, attention_mask)
        finally:
            handle.remove()


def test_noise_on_ids_is_refused_with_the_way_out():
    unicam = UniCAM(STUDENT, LAYER, BASE)
    population = unicam.reference((X["input_ids"], X["attention_mask"]), Y)
    with pytest.raises(ValueError, match="receives floating point numbers instead of ids.*add it behind the embedding layer"):
        NoiseTunnel(unicam).attribute(
            X["input_ids"].float(), target=Y, additional_forward_args=X["attention_mask"], reference=population
        )


def test_noise_behind_the_embedding_layer():
    unicam = UniCAM(NoisyEmbeddings(STUDENT), f"model.{LAYER}", NoisyEmbeddings(BASE))
    none, ids = torch.zeros(N, 10, 16), (X["input_ids"], X["attention_mask"])
    population = unicam.reference(none, Y, ids)
    exact = UniCAM(STUDENT, LAYER, BASE)
    expected = exact.attribute(X, Y, reference=exact.reference(X, Y))
    tunnel = NoiseTunnel(unicam)
    settings = {"additional_forward_args": ids, "reference": population, "nt_type": "smoothgrad"}
    silent = tunnel.attribute(none, target=Y, stdevs=0.0, nt_samples=2, **settings)
    torch.testing.assert_close(silent, expected, rtol=1e-4, atol=1e-7)
    torch.manual_seed(0)
    noisy = tunnel.attribute(none, target=Y, stdevs=0.05, nt_samples=8, nt_samples_batch_size=4, **settings)
    assert not bool(noisy[:, :, 0].eq(0).any()) and not bool(noisy[X["attention_mask"][:, None] == 0].any())
    agreement = torch.corrcoef(torch.stack([noisy.flatten(), expected.flatten()]))[0, 1]
    assert 0.5 < float(agreement) < 0.9999
