"""
Keep curves: accuracy on the most salient pixels
================================================

Keep the most salient pixels, impute the rest, and run the Student again. If a map ranks the pixels that the prediction depends
on highest, the accuracy stays high with few pixels. Random maps of the same smoothness are the baseline.
"""

import torch
from captum.attr import LayerGradCam
from small_networks import accuracy, base, reference, student, test

from captum_kd import UniCAM
from captum_kd.metrics import keep_curve, random_attributions
from captum_kd.perturb import keep_relevant, relevant_pixels
from captum_kd.visualization import plot_keep_curve, visualize_transfer

kd = student(1)
# Maps explain the Student's predictions. Maps of the true label would carry the label into the kept pixels.
with torch.no_grad():
    predicted = kd(test.images).argmax(1)

unicam = UniCAM(kd, "layer3", base(4))
population = unicam.reference(reference.images, reference.labels)
distilled, residual = unicam.attribute_transfer(test.images, predicted, reference=population)
maps = {
    "Grad-CAM": LayerGradCam(kd, kd.layer3).attribute(test.images, predicted).detach(),
    "distilled": distilled,
    "residual": residual,
    "random": random_attributions(distilled, generator=torch.Generator().manual_seed(0)),
}
shares = (0.1, 0.2, 0.3, 0.5, 0.7)
curves = keep_curve(kd, test.images, test.labels, maps, shares=shares, generator=torch.Generator().manual_seed(0))
figure = plot_keep_curve(curves, whole_accuracy=accuracy(kd))

# %%
# The images that the Student gets if 30 % of the pixels are kept by Grad-CAM. Removed pixels are pale and hatched.

few, by_gradcam = test.images[:4], maps["Grad-CAM"][:4]
kept = {
    "30 % kept": relevant_pixels(by_gradcam, few.shape[-2:], keep=0.3),
    "the rest imputed": keep_relevant(few, by_gradcam, keep=0.3, generator=torch.Generator().manual_seed(0)),
}
shown = visualize_transfer(few, {"Grad-CAM": by_gradcam}, kept=kept, masks=test.masks[:4], scale="map")
