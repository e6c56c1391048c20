"""What scores over a population cost, counted: operations, bytes moved, bytes sent; and how long a GPU takes by its rates.

Distances are taken in blocks of B x B inputs, each pair of inputs once (``captum_kd.distance.block_sums``), of k geometries of
which ``wide`` have d features each. ProcessGroup split the pairs evenly and send inputs around a ring.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

__all__ = ["EIGHT_H100", "H100", "MEASURED_ON_H100", "Case", "Counts", "Machine", "Setting", "count", "forecast"]

# Bytes of a distance's way through memory: it is written, shifted, looked at, rooted (float32), widened, shifted twice and
# summed in both directions and by products (float64).
BYTES_OF_A_DISTANCE = 90
# Kernels that are launched for a block: of each geometry, and once.
KERNELS_OF_A_GEOMETRY, KERNELS_OF_A_BLOCK = 14, 8
# Anchors of the first guess of what centering will subtract.
ANCHORS = 256


class Case(NamedTuple):
    """A population.

    Attributes:
        n (int): inputs.
        d (int): features of an input.
        wide (int): geometries of features.
        light (int): geometries that need no products, such as the labels'.
        block (int): inputs a side of a block.
    """

    n: int
    d: int
    wide: int = 2
    light: int = 0
    block: int = 512


class Counts(NamedTuple):
    """What has to be done for a case.

    Attributes:
        products (float): floating-point operations of products of features.
        distances (float): distances that are finished and shifted.
        sums (float): floating-point operations of sums of their products.
        reread (float): numbers of features that are read and shifted, again for each block.
        blocks (float): blocks.
    """

    products: float
    distances: float
    sums: float
    reread: float
    blocks: float


def count(case: Case) -> Counts:
    n, d, k = case.n, case.d, case.wide + case.light
    side = ceil(n / case.block)
    blocks = side * (side + 1) / 2
    # Of a block on the diagonal nearly half is left out of the products, not of the distances.
    pairs = blocks * min(n, case.block) ** 2
    guesses = n * min(n, ANCHORS) if n > ANCHORS else 0
    return Counts(
        products=2 * d * case.wide * (n * n / 2 + guesses),
        distances=k * pairs + case.wide * guesses,
        sums=2 * k * k * pairs,
        reread=2 * case.wide * d * min(n, case.block) * blocks,
        blocks=k * blocks,
    )


class Machine(NamedTuple):
    """Published peaks, and the shares of them that one H100 was seen to reach (``tests/benchmarks/bench_gpu.py``).

    Attributes:
        float32, float64 (float): operations a second, without tensor cores for float32.
        memory (float): bytes a second between a GPU and its own memory.
        held (float): bytes of that memory that may hold features.
        host (float): bytes a second from the host's memory, pinned, to a GPU.
        host_held (float): bytes of the host's memory that may hold features; assumed.
        disk (float): bytes a second from a local disk; assumed, there is no data sheet of it.
        link (float): bytes a second that a GPU can send to another one.
        launch (float): seconds a kernel takes at least.
        gpus (int): GPUs that share the work.
        share_of_products, share_of_networks, share_of_bytes (float): of the peaks; networks' convolutions use TF32, which
            PyTorch allows them unless told otherwise.
    """

    float32: float = 67e12
    float64: float = 34e12
    memory: float = 3.35e12
    held: float = 64e9
    host: float = 63e9
    host_held: float = 1e12
    disk: float = 6e9
    link: float = 450e9
    launch: float = 7e-6
    gpus: int = 1
    share_of_products: float = 0.77
    share_of_networks: float = 0.7
    share_of_bytes: float = 0.87


H100 = Machine()
# Two sets of 2,048 features, seconds: what bench_gpu.py printed on it. The rates above are other measurements.
MEASURED_ON_H100 = ((65_536, 0.61), (262_144, 9.14), (1_048_576, 143.67))
EIGHT_H100 = Machine(gpus=8)


class Setting(NamedTuple):
    """How features come about.

    Attributes:
        network (float): floating-point operations of one image in one network.
        raw (int): numbers an image has at the layer, before anything makes them fewer.
    """

    network: float
    raw: int


def forecast(case: Case, setting: Setting, machine: Machine) -> dict[str, float]:
    """Seconds by term, each as if it had the machine for itself: the whole is at least the largest and at most their sum."""
    counts, gpus = count(case), machine.gpus
    features = 4.0 * case.n * case.d * case.wide
    if features <= machine.held * gpus:
        source = machine.memory * machine.share_of_bytes * gpus
    elif features <= machine.host_held:
        source = machine.host * machine.share_of_bytes * gpus
    else:
        source = machine.disk  # one disk, whoever reads
    elementwise = BYTES_OF_A_DISTANCE * counts.distances / (machine.memory * machine.share_of_bytes)
    kernels = KERNELS_OF_A_GEOMETRY * counts.blocks + KERNELS_OF_A_BLOCK * counts.blocks / (case.wide + case.light)
    # In a ring each process sends its n/W inputs to (W - 1)/2 others.
    sent = features * (gpus - 1) / (2 * gpus)
    return {
        "networks": case.n * case.wide * setting.network / (machine.float32 * machine.share_of_networks * gpus),
        "making features fewer": (0.0 if setting.raw == case.d else 8.0 * case.n * case.wide * setting.raw)
        / (machine.memory * machine.share_of_bytes * gpus),
        "products": counts.products / (machine.float32 * machine.share_of_products * gpus),
        "distances": elementwise / gpus,
        "sums": counts.sums / (machine.float64 * machine.share_of_products * gpus),
        "reading features": 4.0 * counts.reread / source,
        "starting kernels": machine.launch * kernels / gpus,
        "sending": sent / (machine.link * machine.share_of_bytes),
    }
