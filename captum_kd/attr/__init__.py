"""Attribution methods for a pair of models, with the interface of captum.attr."""

from captum_kd.attr.explain_transfer import explain_transfer
from captum_kd.attr.input_maps import InputMaps
from captum_kd.attr.reference_population import ReferencePopulation
from captum_kd.attr.transfer_attributions import TransferAttributions
from captum_kd.attr.unicam import UniCAM

__all__ = ["InputMaps", "ReferencePopulation", "TransferAttributions", "UniCAM", "explain_transfer"]
