"""Images of which only a part is left, the rest imputed rather than blackened."""

from captum_kd.perturb.imputation import noisy_linear_imputation
from captum_kd.perturb.relevance import keep_relevant, relevant_pixels

__all__ = ["keep_relevant", "noisy_linear_imputation", "relevant_pixels"]
