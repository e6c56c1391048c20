"""UniCAM against Captum's Grad-CAM on both models, with a Teacher also against one forward pass of it.

Run with ``python tests/benchmarks/bench_attribution.py``; needs torchvision.
"""

import warnings

import torch
from captum.attr import LayerGradCam
from ratios import at_most, ratio
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from captum_kd import UniCAM


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    student, base = resnet18().eval(), resnet18().eval()
    # Frozen, as a trained pair is explained. With parameters that require gradients Grad-CAM also
    # records the graph of the whole network, and UniCAM, which does not, would look better.
    student.requires_grad_(False), base.requires_grad_(False)
    teacher = resnet34().eval().requires_grad_(False)
    for frozen in (True, False):
        student.requires_grad_(not frozen), base.requires_grad_(not frozen)
        state = "frozen" if frozen else "trainable"
        cams = LayerGradCam(student, student.layer4), LayerGradCam(base, base.layer4)
        unicam = UniCAM(student, student.layer4, base)

        x, y = torch.randn(8, 3, 160, 160), torch.arange(8) % 2
        value = ratio(
            lambda: unicam.attribute_transfer(x, y), lambda: [cam.attribute(x, y) for cam in cams], 15
        )
        print(at_most(f"attribute_transfer / 2 x LayerGradCam, ResNet-18, 8 x 160 px, {state}", value, 1.10))

        taught = UniCAM(student, student.layer4, base, teacher_func=teacher)
        value = ratio(lambda: taught.attribute_transfer(x), lambda: with_teacher(teacher, cams, x, y), 15)
        name = "the same with a Teacher / the same + a Teacher pass"
        print(at_most(f"{name}, {state}", value, 1.10))

        population = unicam.reference(torch.randn(256, 3, 96, 96), torch.arange(256) % 10, internal_batch_size=64)
        x, y = torch.randn(32, 3, 96, 96), torch.arange(32) % 10
        for name, call in (
            ("attribute", lambda: unicam.attribute(x, y, reference=population)),
            ("attribute_transfer", lambda: unicam.attribute_transfer(x, y, reference=population)),
        ):
            value = ratio(call, lambda: [cam.attribute(x, y) for cam in cams], 15)
            print(at_most(f"{name}, 256 references / 2 x LayerGradCam, 32 x 96 px, {state}", value, 1.15))


def with_teacher(teacher: nn.Module, cams: tuple[LayerGradCam, ...], x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        teacher(x)
    for cam in cams:
        cam.attribute(x, y)


if __name__ == "__main__":
    main()
