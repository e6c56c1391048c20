"""
Maps beside Grad-CAM
====================

Grad-CAM shows the evidence that each network uses. UniCAM shows the features that only one of the two has. The figure has six
scenes, the first of each of six classes. The outlined digit is the only evidence for the class.
"""

import warnings

from captum.attr import LayerGradCam
from small_networks import accuracy, base, reference, student, test

from captum_kd import UniCAM
from captum_kd.metrics import localization_score
from captum_kd.visualization import visualize_transfer

kd, alone = student(1), base(4)
print(f"accuracy: Student {accuracy(kd):.3f}, Base {accuracy(alone):.3f}")

# %%
# A UniCAM map compares an image with a population. With a fixed population, measured once, an image has the same map
# whatever else is in the batch.

unicam = UniCAM(kd, "layer3", alone)
population = unicam.reference(reference.images, reference.labels)
distilled, residual = unicam.attribute_transfer(test.images, test.labels, reference=population)

maps = {
    "Student, Grad-CAM": LayerGradCam(kd, kd.layer3).attribute(test.images, test.labels),
    "Base, Grad-CAM": LayerGradCam(alone, alone.layer3).attribute(test.images, test.labels),
    "distilled": distilled,
    "residual": residual,
}
first = [int((test.labels == label).nonzero()[0]) for label in range(6)]
figure = visualize_transfer(
    test.images[first],
    {name: each[first].detach() for name, each in maps.items()},
    masks=test.masks[first],
    scale="map",
)

# %%
# Six pictures prove nothing. The next numbers are means over all test scenes: the share of each map's positive energy that
# lies on the digit, with its standard error. A map without positive values counts as 0, which lowers its mean. Chance is the
# digit's share of the image.

warnings.filterwarnings("ignore", "[0-9]+ of 400 maps have no positive energy")
print(f"chance: {test.masks.float().mean():.3f}")
for name, each in maps.items():
    share = localization_score(each.detach(), test.masks).energy_share
    print(f"{name}: {share.mean():.3f} +- {share.std() / len(share) ** 0.5:.3f}")
