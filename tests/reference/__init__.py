"""Slow, literal renderings of the method that the package is held against."""
