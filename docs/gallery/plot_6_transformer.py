"""
A transformer, without a reshape function
=========================================

The Teacher is a convolutional network. Student and Base are small transformers: two convolutions, 16 patches of their output
and a class token, and two blocks of attention. Name a block, and the map has the shape of the grid of patches.
"""

import torch
from small_networks import CLASSES, Convolutions, accuracy, base, reference, student, test
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.visualization import visualize_transfer


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        convolutions = Convolutions(12)
        self.stem = nn.Sequential(convolutions.layer1, convolutions.layer2, nn.MaxPool2d(2))
        self.class_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.block1, self.block2 = (
            nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.stem(images - 0.5).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1)
        return self.head(self.block2(self.block1(tokens))[:, 0])


of_tokens, alone = student(1, Tokens, rate=0.01), base(4, Tokens, rate=0.01)
print(f"accuracy: Student {accuracy(of_tokens):.3f}, Base {accuracy(alone):.3f}")

# %%
# We name the block before the last one, because of the last block the classifier reads only the class token.

unicam = UniCAM(of_tokens, "block1", alone)
population = unicam.reference(reference.images, reference.labels)
distilled, residual = unicam.attribute_transfer(test.images[:4], test.labels[:4], reference=population)
print(tuple(distilled.shape))
figure = visualize_transfer(test.images[:4], {"distilled": distilled, "residual": residual}, masks=test.masks[:4], scale="map")

# %%
# Student and Base may have different architectures. Here a transformer is compared with a convolutional Base. The distilled
# features then also include everything that the Student's architecture provides and the Base's does not.

mixed = UniCAM(of_tokens, "block1", base(4), "layer3")
beside = mixed.reference(reference.images, reference.labels)
maps = mixed.attribute_transfer(test.images[:4], test.labels[:4], reference=beside)
print(tuple(maps.distilled.shape), tuple(maps.residual.shape))
