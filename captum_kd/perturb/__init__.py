"""Perturbations that keep part of an image and impute the rest."""

from captum_kd.perturb.imputation import noisy_linear_imputation
from captum_kd.perturb.keep_relevant import keep_relevant, relevant_pixels

__all__ = ["keep_relevant", "noisy_linear_imputation", "relevant_pixels"]
