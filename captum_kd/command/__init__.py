"""The command ``captum-kd``: reports, pages and maps of checkpoints, without a script."""
