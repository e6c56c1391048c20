"""A report as a page: verdict, maps, curves, tables, settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from captum_kd._utils.validation import check_mapping, check_str, short_repr
from captum_kd.metrics.report.transfer_report import TABLES
from captum_kd.metrics.report.verdict import verdict
from captum_kd.page.content import Download, Folded, PageTable, Paragraphs, Section
from captum_kd.page.report_figures import report_figures
from captum_kd.page.report_tables import answer_tables, caveats_of, main_tests, part_tables, score_tables

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
    """The page's HTML. :meth:`captum_kd.metrics.TransferReport.to_html` describes the arguments."""
    from captum_kd.attr import InputMaps
    from captum_kd.page.render import render

    if maps is not None and not isinstance(maps, InputMaps):
        raise TypeError(f"maps must be InputMaps, as explain_transfer returns them, got {short_repr(maps)}.")
    if curves is not None:
        check_mapping(curves, "curves", "a mapping of keep curves by name")
    if not isinstance(sections, (list, tuple)) or not all(isinstance(section, Section) for section in sections):
        raise TypeError(f"sections must be a list of Section, got {short_repr(sections)}.")
    title = check_str(title, "title")
    content = report.to_dict()
    first = content["settings"].get("cautions", 0)
    caveats = caveats_of(main_tests(content))
    answers = [*answer_tables(content), *([Paragraphs(caveats)] if caveats else [])]
    scores, parts = score_tables(content), part_tables(content)
    notes = content["notes"][first:]
    own = [
        *(section for section in sections if section.place == "verdict"),
        *_section("Answers", answers, "verdict"),
        *_section("Figures of the report", report_figures(content, curves), "curves"),
        *_section("Scores", [Folded(table.title or "", [table]) for table in scores], "tables"),
        *_section("Tests and parts", [Folded(table.title or "", [table]) for table in parts], "tables"),
        *_section("Notes", [Paragraphs(notes)] if notes else [], "settings"),
        *_section("Settings", [Folded("All settings and versions", [_settings(content["settings"])])], "settings"),
    ]
    return render(
        title=title or "Transfer report",
        subtitle=_subtitle(content["settings"]),
        verdict=verdict(content),
        cautions=content["notes"][:first],
        explorer_of=None if maps is None else (maps, content["inputs"]),
        sections=[*own, *(section for section in sections if section.place != "verdict")],
        downloads=_downloads(report),
    )


def _section(title: str, blocks: Sequence[Any], place: str) -> list[Section]:
    return [Section(title, blocks, place)] if blocks else []


def _subtitle(settings: Mapping[str, Any]) -> str:
    """The number of inputs, and the models by role."""
    roles: dict[str, list[str]] = {}
    for name, role in settings.get("models", {}).items():
        roles.setdefault(role, []).append(name)
    known = {"student": "Student", "base": "Base", "teacher": "Teacher", "placebo": "Placebo Teacher"}
    parts = [f"{settings['n']} inputs."]
    for role, word in known.items():
        if role in roles:
            parts.append(f"{word}{'s' * (len(roles[role]) > 1)}: {', '.join(roles[role])}.")
    return " ".join(parts)


def _settings(settings: Mapping[str, Any]) -> PageTable:
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for name, value in settings.items()
    ]
    return PageTable(("setting", "value"), rows, "Settings")


def _downloads(report: "TransferReport") -> list[Download]:
    """Tables and the whole report, the most useful one first."""
    found = [Download("rows.csv", report.to_csv()), Download("report.json", report.to_json())]
    for table in TABLES:
        if table != "rows" and getattr(report, table) is not None:
            found.append(Download(f"{table}.csv", report.to_csv(table=table)))
    return found
