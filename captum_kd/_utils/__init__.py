"""Argument checks, batches, nested outputs, process-wide settings and warnings."""
