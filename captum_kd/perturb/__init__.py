"""Perturbations that keep the salient part of an image or of a text and replace the rest."""

from captum_kd.perturb.imputation import noisy_linear_imputation
from captum_kd.perturb.keep_relevant import keep_relevant, relevant_pixels
from captum_kd.perturb.keep_tokens import keep_relevant_tokens

__all__ = ["keep_relevant", "keep_relevant_tokens", "noisy_linear_imputation", "relevant_pixels"]
