"""A report as a page: verdict, maps, curves, tables, settings."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from captum_kd.page.content import Section

if TYPE_CHECKING:
    from captum_kd.attr import InputMaps
    from captum_kd.metrics.report import TransferReport

__all__ = ["report_page"]


def report_page(
    report: "TransferReport",
    *,
    maps: Optional["InputMaps"] = None,
    curves: Optional[Mapping[str, Any]] = None,
    sections: Sequence[Section] = (),
    title: Optional[str] = None,
) -> str:
    """The page's HTML."""
    return f"<!doctype html><title>{escape(title or 'Transfer')}</title>" + "".join(
        f"<p>{escape(sentence)}</p>" for sentence in report.verdict
    )
