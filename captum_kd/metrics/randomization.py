"""Similarity of a network's maps to those after its weights were randomized."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Sequence

import torch
from captum._utils.progress import progress
from captum.log import log_usage
from torch import Tensor

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.layer_names import LayerLike
from captum_kd._utils.arguments import Target, as_forward_args, take_rows
from captum_kd._utils.inputs import as_inputs_by_model
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.maps import correlations, unit_maps
from captum_kd._utils.validation import check_bool, check_choice, check_int, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.attr import ReferencePopulation, UniCAM
from captum_kd.attr.reference_population import STUDENT, role_of
from captum_kd.metrics._random_weights import joint_steps, modules_of_model, randomization_order, randomize_weights, with_copies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RandomizationTest", "randomization_test"]

_MODELS = ("student", "base", "both")


@dataclass(frozen=True, eq=False)
class RandomizationTest:
    """Similarity of maps to the original ones, while weights are randomized from the last module on.

    Row j of every tensor belongs to maps for which modules 0 to j are random. Tensors are float64 on the CPU.

    Attributes:
        modules (tuple of str): (k,) the modules in the order in which they were randomized.
        spearman (Tensor): (k, N) Spearman's rank correlation of each input's map with its original map, over positions.
        absolute_spearman (Tensor): (k, N) the same of absolute values. It is high where a map keeps its places and
            loses its signs, which the first measure misses.
        null (Tensor or None): (k,) mean Spearman correlation of original maps with the new maps of *other* inputs. None for a
            single input.
        absolute_null (Tensor or None): (k,) the same of absolute values.
        randomized (str): "student", "base" or "both".
    """

    modules: tuple[str, ...]
    spearman: Tensor = field(repr=False)
    absolute_spearman: Tensor = field(repr=False)
    null: Optional[Tensor] = field(repr=False)
    absolute_null: Optional[Tensor] = field(repr=False)
    randomized: str

    @property
    def means(self) -> Tensor:
        """(k,) means of ``spearman`` over inputs."""
        return self.spearman.mean(1)

    @property
    def absolute_means(self) -> Tensor:
        """(k,) means of ``absolute_spearman`` over inputs."""
        return self.absolute_spearman.mean(1)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return self.spearman.shape[1]

    def plot(self, *, title: Optional[str] = None) -> "Figure":
        """Both similarities against the modules, means and quartiles over inputs, beside their nulls."""
        from captum_kd.visualization.randomization import plot_randomization

        return plot_randomization(self, title=title)

    def __repr__(self) -> str:
        null, absolute_null = (
            "" if values is None else f" (other inputs {values[-1]:.3f})" for values in (self.null, self.absolute_null)
        )
        return (
            f"RandomizationTest({self.randomized}, {len(self.modules)} module(s), {self.n} inputs; with all of them random: "
            f"spearman {self.means[-1]:.3f}{null}, of absolute values {self.absolute_means[-1]:.3f}{absolute_null})"
        )


@log_usage()
def randomization_test(
    unicam: UniCAM,
    inputs: Any,
    target: Target = None,
    additional_forward_args: Any = None,
    attribute_to_layer_input: bool = False,
    *,
    randomize: Optional[str] = None,
    net: bool = False,
    reference: Optional[Sequence[Any]] = None,
    modules: Optional[Sequence[LayerLike]] = None,
    seed: int = 0,
    show_progress: bool = False,
    **kwargs: Any,
) -> RandomizationTest:
    r"""
    Similarity of maps to the original ones while a model's weights are randomized, module by module from
    the last one on, each together with those before it. A map that does not change shows nothing that the
    weights have learned: an edge detector would give it too.

    Two similarities are computed for each input, over the positions of its map, padding left out: Spearman's rank correlation
    of the values with their signs, and that of absolute values. The second one also notices maps that keep
    their places and reverse their signs. Each has a null: the similarity of original maps to the new maps
    of other inputs, which objects at one place in all images give. A similarity above the null says that the
    new maps still follow their images. This need not be a fault, because random convolutions respond to the
    contrast of an object too.

    All inputs share one draw of random weights, so the spread over inputs is not the spread over draws.
    Repeat the test with other seeds.

    By default, every module is randomized that has parameters of its own and has started to run when the
    feature layer is done. The module that started last comes first. Modules behind the feature layer do not
    affect maps and are left out. A module that does not run itself, such as ``out_proj`` of
    ``nn.MultiheadAttention``, is randomized with the module around it. Weights are drawn by
    ``reset_parameters()`` of the module. Parameters that it does not change are permuted, and so are those of
    modules without this method.

    The models themselves are not written to. They get copies of their parameters and buffers during the call,
    and the originals again at its end, also after an error or an interrupt. Do not use the models in other
    threads meanwhile.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (cascading randomization).

    Args:

        unicam (UniCAM): Of one layer. Pass ``unicam.residual()`` to test residual maps.
        inputs, target, additional_forward_args, attribute_to_layer_input:
                    As for :meth:`captum_kd.UniCAM.attribute`.
        randomize (str, optional): "student", "base" (with several Bases all that the map depends on) or
                    "both", which needs modules of the same names. The Teacher is never randomized. A map
                    follows the model that it explains; the other model only says what is removed, and
                    to randomize it alone may change little.
                    Default: None, what the maps explain: "student" for distilled maps, "base" for
                    residual maps, "both" for net maps
        net (bool, optional): Test net maps, ``attribute_transfer(...).net``; needs ``n_steps``.
                    Default: False
        reference (tuple, optional): Arguments of :meth:`captum_kd.UniCAM.reference`, (inputs, target) or
                    (inputs, target, additional_forward_args). A new population is made for all random
                    weights, because a population belongs to the weights that it was made with.
                    Default: None, batch mode
        modules (sequence of str or nn.Module, optional): Modules to randomize, in this order, each with all
                    modules in it: ``["layer4", "layer3"]``. Takes less time than all single modules.
                    Default: all, from the last one on
        seed (int, optional): Determines the random weights; the global random state is not touched.
                    Default: 0
        show_progress (bool, optional): Captum's progress display over modules.
                    Default: False
        **kwargs: Further arguments of ``attribute``, such as ``n_steps`` or ``internal_batch_size``, which also
                    holds for the population.

    Returns:
        RandomizationTest: ``modules``, ``spearman`` and ``absolute_spearman``, both (k, N), their means and nulls.

    Raises:
        TypeError: no UniCAM, a reference that is no tuple (or a ReferencePopulation).
        ValueError: a UniCAM of several layers, a layer of several tensors or of a single position, no module
                    with parameters, names of modules that do not exist or differ between Student and Base;
                    as for ``attribute``.

    Warns:
        UserWarning: constant maps, whose similarity counts as 0; modules whose random weights change no map; as for
                    ``attribute``.

    Examples::

        >>> unicam = UniCAM(student, "layer4", base)
        >>> test = randomization_test(unicam, images, labels, reference=(reference_images, reference_labels),
        ...                           net=True, n_steps=16, modules=["layer4", "layer3", "layer2", "layer1", "conv1"])
        >>> test.means, test.null  # (5,) each
        >>> test.plot().savefig("randomization.png")
    """
    if not isinstance(unicam, UniCAM):
        raise TypeError(f"unicam must be a UniCAM, got {short_repr(unicam)}.")
    removal = unicam._removal
    used = [removal.explained, *removal.removed]
    if unicam._several:
        raise ValueError("unicam has a list of layers, which depend on different modules; make a UniCAM of one layer.")
    net = check_bool(net, "net")
    if randomize is None:
        randomize = "both" if net else "student" if removal.explained == STUDENT else "base"
    check_choice(randomize, "randomize", _MODELS)
    if net and kwargs.get("n_steps") is None:
        raise ValueError("net=True subtracts two maps, which have a common unit only if they are integrated; pass n_steps=16.")
    seed = check_int(seed, "seed")
    show_progress = check_bool(show_progress, "show_progress")
    if kwargs.pop("return_convergence_delta", False):
        raise ValueError("return_convergence_delta has no place in this test, which compares maps; leave it out.")
    given = _checked_reference(reference)
    values, args = as_inputs_by_model(inputs, token_mask=kwargs.get("token_mask")), as_forward_args(additional_forward_args)
    names = [name for name in used if randomize == "both" or (name == STUDENT) == (randomize == "student")]
    models = [removal.models[name] for name in names]

    explained = removal.models[removal.explained]
    mask = with_named_mask(explained.forward_func, values.of(role_of(removal.explained)), args).token_mask

    def maps(of: UniCAM) -> Tensor:
        """(N, ...)"""
        population = None
        if given is not None:
            size = kwargs.get("internal_batch_size")
            population = of.reference(*given, attribute_to_layer_input, internal_batch_size=size)
        explain = of.attribute_transfer if net else of.attribute
        found = explain(inputs, target, additional_forward_args, attribute_to_layer_input, reference=population, **kwargs)
        found = found.net if net else found
        if not isinstance(found, Tensor):
            raise ValueError("The layer has several tensors, and each of them has a map; choose a layer with one tensor.")
        if found[0].numel() == 1:
            raise ValueError("The maps have a single position, over which nothing correlates; choose a layer with positions.")
        return found.cpu().double()  # numpy has no bfloat16

    quiet = copy.copy(unicam)
    quiet._warns_of_modes = False  # the first maps warn
    originals = with_copies([module for model in models for module in modules_of_model(model)])
    with changed_state(torch.inference_mode(False), originals), interruptible():
        n = len(values.student[0])
        few = [[take_rows(each, slice(0, 2), n) for each in (values.of(role_of(name)), args)] for name in names]
        orders = [randomization_order(*each, attribute_to_layer_input, modules) for each in zip(models, few)]
        steps = joint_steps(orders)
        seeds = torch.Generator().manual_seed(seed)
        found = [maps(unicam)]
        for together in progress(steps.values(), desc="Randomized modules") if show_progress else steps.values():
            for module in together:
                randomize_weights(module, int(torch.randint(2**62, (), generator=seeds, device="cpu")))
            found.append(maps(quiet))
    # Padding, which is 0 in all maps, and tokens that are left out do not count. Prefix tokens have no place in a map.
    is_text = mask is not None and found[0].dim() == 3 and not bool(mask.all())
    kept = mask[:, -found[0].shape[2] :].cpu() if mask is not None and is_text else None
    ranked = [_ranks(each.flatten(1), kept) for each in found]
    constant = sum(int((each == 0).all(1).sum()) for each in ranked)
    if constant:
        warn_user(f"{constant} of {len(found) * len(found[0])} maps are constant. Their similarity to other maps counts as 0.")
    same = [name for name, before, after in zip(steps, found, found[1:]) if torch.equal(before, after)]
    if same:
        warn_user(
            f"Random weights of {', '.join(same)} changed no map: these modules run behind the feature layer, or a reset gave "
            "them the weights that they had. Leave them out; a similarity that they leave as it is says nothing about the maps."
        )
    signed, null = _similarities(ranked, kept)
    absolute, absolute_null = _similarities([_ranks(each.abs().flatten(1), kept) for each in found], kept)
    return RandomizationTest(tuple(steps), signed, absolute, null, absolute_null, randomize)


def _checked_reference(reference: Any) -> Optional[tuple[Any, Any, Any]]:
    if reference is None:
        return None
    if isinstance(reference, ReferencePopulation):
        raise TypeError(
            "reference is a ReferencePopulation, which belongs to the weights that it was made with; random weights need new "
            "ones. Pass the inputs and labels that it was made of, as a tuple (inputs, target)."
        )
    if not isinstance(reference, (tuple, list)) or len(reference) not in (2, 3):
        raise TypeError(
            "reference must be a tuple (inputs, target) or (inputs, target, additional_forward_args), got "
            f"{short_repr(reference)}."
        )
    values, target, args = (*reference, None)[:3]
    return values, target, args


def _ranks(maps: Tensor, mask: Optional[Tensor]) -> Tensor:
    """The ranks of the values of maps (N, p), at positions where the mask is True, as :func:`unit_maps`."""
    from scipy.stats import rankdata  # imported here so that import captum_kd stays fast

    if mask is None:
        return unit_maps(torch.from_numpy(rankdata(maps.numpy(), axis=1)))
    return unit_maps(torch.from_numpy(rankdata(maps.masked_fill(~mask, torch.inf).numpy(), axis=1)), mask)


def _similarities(ranked: Sequence[Tensor], mask: Optional[Tensor]) -> tuple[Tensor, Optional[Tensor]]:
    """Spearman correlations of later maps with the first ones, (k, N), and their nulls, (k,)."""
    first, *others = ranked
    found = [correlations(first, each, mask) for each in others]
    nulls = [null for _, null in found if null is not None]
    return torch.stack([same for same, _ in found]), torch.tensor(nulls, dtype=torch.float64, device="cpu") if nulls else None
