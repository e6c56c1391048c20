from captum_kd.perturb.imputation import noisy_linear_imputation

__all__ = ["noisy_linear_imputation"]
