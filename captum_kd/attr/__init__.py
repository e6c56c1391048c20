"""Attribution for a pair of models, with the interface of captum.attr."""

from captum_kd.attr.population import ReferencePopulation
from captum_kd.attr.unicam import TransferAttributions, UniCAM

__all__ = ["ReferencePopulation", "TransferAttributions", "UniCAM"]
