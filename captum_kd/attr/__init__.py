"""Attribution for a pair of models, after captum.attr."""

from captum_kd.attr.reference import ReferencePopulation
from captum_kd.attr.unicam import TransferAttributions, UniCAM

__all__ = ["ReferencePopulation", "TransferAttributions", "UniCAM"]
