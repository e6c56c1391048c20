"""The verdict of a report: a few sentences in plain words."""

from __future__ import annotations

from typing import Any, Mapping

__all__ = ["verdict"]


def verdict(report: Mapping[str, Any]) -> list[str]:
    """At most five sentences on the content of a report."""
    control = report["seed_control"]
    return [] if control is None else [str(test["sentence"]) for test in control["tests"][:5]]
