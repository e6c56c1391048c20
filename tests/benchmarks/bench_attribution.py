"""UniCAM against Captum's Grad-CAM on both models: batch and reference mode, a Teacher, several layers, types and formats.

Run with ``python tests/benchmarks/bench_attribution.py [--device cuda]``; needs torchvision and less than 4 GB of memory. Set
the number of threads with ``OMP_NUM_THREADS``. What UniCAM adds to the passes of the models hardly grows with the
images, so small images and batches are the hard case. A GPU is given images of 224 pixels.
"""

import argparse
import itertools
import warnings
from typing import Any, Callable

import torch
from captum.attr import LayerGradCam
from ratios import at_most, ratio
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

from captum_kd import UniCAM

# Model, batch, side of the images, repeats.
SIZES = (
    (resnet18, 8, 160, 15),
    (resnet18, 16, 128, 11),
    (resnet18, 32, 128, 9),
    (resnet18, 64, 96, 7),
    (resnet50, 8, 160, 9),
    (resnet50, 16, 128, 7),
    (resnet50, 32, 96, 7),
    (resnet50, 64, 96, 5),
)
ON_GPU = tuple((build, n, 224, 15) for build, n, _, _ in SIZES)
REFERENCES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    device = torch.device(parser.parse_args().device)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} thread(s)"
    print(f"torch {torch.__version__}, {name}")
    for build, n, side, repeats in ON_GPU if device.type == "cuda" else SIZES:
        against_grad_cam(build, n, side, repeats, device)
    trainable_and_taught(device)
    integrated_maps(device)
    several_layers(device)
    against_bare_passes(device)
    types_and_formats(device)


def against_grad_cam(build: Callable[[], nn.Module], n: int, side: int, repeats: int, device: torch.device) -> None:
    student, base = frozen_pair(build, device)
    unicam = UniCAM(student, student.layer4, base)
    population = unicam.reference(
        torch.randn(REFERENCES, 3, 64, 64, device=device), torch.arange(REFERENCES) % 10, internal_batch_size=32
    )
    x, y = batch(n, side, device)
    where = f"{build.__name__}, {n} x {side} px"
    both = grad_cams(student, base, "layer4", x, y)
    value = ratio(lambda: unicam.attribute_transfer(x, y), both, repeats)
    print(at_most(f"attribute_transfer / 2 x LayerGradCam, {where}", value, 1.05), flush=True)
    value = ratio(lambda: unicam.attribute_transfer(x, y, reference=population), both, repeats)
    print(at_most(f"the same beside {REFERENCES} references, {where}", value, 1.10), flush=True)


def trainable_and_taught(device: torch.device) -> None:
    """Parameters that require gradients let Grad-CAM record the whole network; a Teacher costs its own pass."""
    student, base = frozen_pair(resnet18, device)
    teacher = resnet34().eval().requires_grad_(False).to(device)
    x, y = batch(8, 160, device)
    taught = UniCAM(student, student.layer4, base, teacher_func=teacher)
    for frozen in (True, False):
        student.requires_grad_(not frozen), base.requires_grad_(not frozen)
        both = grad_cams(student, base, "layer4", x, y)

        def with_teacher() -> None:
            with torch.no_grad():
                teacher(x)
            both()

        state = f"resnet18, 8 x 160 px, {'frozen' if frozen else 'trainable'}"
        value = ratio(lambda: taught.attribute_transfer(x), with_teacher, 11)
        print(at_most(f"with a Teacher / LayerGradCams and a Teacher's pass, {state}", value, 1.05), flush=True)
        if not frozen:
            unicam = UniCAM(student, student.layer4, base)
            value = ratio(lambda: unicam.attribute_transfer(x, y), both, 11)
            print(at_most(f"attribute_transfer / 2 x LayerGradCam, {state}", value, 1.05), flush=True)


def integrated_maps(device: torch.device) -> None:
    """16 steps of integrated maps beside the gradient at the input: no network runs again."""
    student, base = frozen_pair(resnet18, device)
    unicam = UniCAM(student, "layer4", base)
    x, y = batch(64, 96, device)
    population = unicam.reference(torch.randn(REFERENCES, 3, 96, 96, device=device), torch.arange(REFERENCES) % 10)
    for n, reference, most in ((32, population, 1.05), (64, None, 1.10)):
        inputs, labels = x[:n], y[:n]
        value = ratio(
            lambda: unicam.attribute_transfer(inputs, labels, reference=reference, n_steps=16),
            lambda: unicam.attribute_transfer(inputs, labels, reference=reference),
            15,
        )
        where = f"beside {REFERENCES} references" if reference is not None else "in batch mode"
        print(at_most(f"n_steps=16 / n_steps=None, {where}, resnet18, {n} x 96 px", value, most), flush=True)


def several_layers(device: torch.device) -> None:
    """Four layers at once, beside one layer and beside a LayerGradCam for each of the four."""
    stages = ["layer1", "layer2", "layer3", "layer4"]
    for build, n, side in ((resnet18, 16, 128), (resnet50, 16, 96)):
        student, base = frozen_pair(build, device)
        x, y = batch(n, side, device)
        where = f"{build.__name__}, {n} x {side} px"
        at_once, single = UniCAM(student, stages, base), UniCAM(student, "layer4", base)
        value = ratio(lambda: at_once.attribute_transfer(x, y), lambda: single.attribute_transfer(x, y), 7)
        print(at_most(f"four layers / one layer, own features, {where}", value, 1.15), flush=True)
        deep = UniCAM(student, stages, base, feature_layer="layer4")
        first = UniCAM(student, "layer1", base, feature_layer="layer4")
        value = ratio(lambda: deep.attribute_transfer(x, y), lambda: first.attribute_transfer(x, y), 7)
        print(at_most(f"four layers / the first, all with features of layer4, {where}", value, 1.10), flush=True)
        cams = [grad_cams(student, base, stage, x, y) for stage in stages]
        value = ratio(lambda: at_once.attribute_transfer(x, y), lambda: [cam() for cam in cams], 5)
        print(at_most(f"four layers / four times 2 x LayerGradCam, {where}", value, 0.35), flush=True)


def against_bare_passes(device: torch.device) -> None:
    """Maps beside the passes of both models that end at their layer.

    The passes are those that the maps need: evaluation mode, frozen parameters, and so no graph. The second figure is for the
    first call for inputs of a shape, whose passes are complete.
    """
    student, base = frozen_pair(resnet50, device)
    for n, side in ((8, 128), (16, 96)):
        x, y = batch(n, side, device)
        for stage in ("layer1", "layer2", "layer3"):
            names = list(student._modules)
            ahead = [nn.Sequential(*(m._modules[name] for name in names[: names.index(stage) + 1])) for m in (student, base)]

            def bare() -> None:
                for model in ahead:
                    model(x)

            unicam, where = UniCAM(student, stage, base), f"resnet50, {n} x {side} px, {stage}"
            value = ratio(lambda: unicam.attribute_transfer(x, y), bare, 11)
            print(at_most(f"attribute_transfer / passes up to the layer, {where}", value, 1.15), flush=True)
            value = ratio(lambda: UniCAM(student, stage, base).attribute_transfer(x, y), bare, 5)
            print(f"{'the first call / passes up to the layer, ' + where:<84} {value:8.3f}", flush=True)


def types_and_formats(device: torch.device) -> None:
    """Grad-CAM and UniCAM on the same models in another type or memory format."""
    for dtype, memory_format in itertools.product(
        (torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last)
    ):
        if (dtype, memory_format) == (torch.float32, torch.contiguous_format):
            continue
        student, base = (model.to(dtype, memory_format=memory_format) for model in frozen_pair(resnet18, device))
        x, y = batch(16, 128, device)
        x = x.to(dtype, memory_format=memory_format)
        unicam = UniCAM(student, "layer4", base)
        value = ratio(lambda: unicam.attribute_transfer(x, y), grad_cams(student, base, "layer4", x, y), 7)
        name = f"{str(dtype)[6:]}, {'channels-last' if memory_format == torch.channels_last else 'contiguous'} memory"
        print(at_most(f"attribute_transfer / 2 x LayerGradCam, resnet18, 16 x 128 px, {name}", value, 1.05), flush=True)


def frozen_pair(build: Callable[[], nn.Module], device: torch.device) -> tuple[Any, Any]:
    # Frozen, as a trained pair is explained. With parameters that require gradients Grad-CAM also
    # records the graph of the whole network, and UniCAM, which does not, would look better.
    student, base = (build().eval().requires_grad_(False).to(device) for _ in range(2))
    return student, base


def batch(n: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, side, side, device=device), torch.arange(n, device=device) % 2


def grad_cams(student: Any, base: Any, layer: str, x: Tensor, y: Tensor) -> Callable[[], object]:
    cams = [LayerGradCam(model, model.get_submodule(layer)) for model in (student, base)]
    return lambda: [cam.attribute(x, y) for cam in cams]


if __name__ == "__main__":
    main()
