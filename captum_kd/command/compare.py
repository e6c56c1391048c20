"""The commands ``compare``, ``maps`` and ``report``: from options to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional

from captum_kd._utils.files import write_whole
from captum_kd.attr import InputMaps
from captum_kd.command.errors import CommandError, needed
from captum_kd.command.maps import MAPS_FILE, chosen_places, draw_maps, explained, load_maps, save_maps
from captum_kd.command.prepare import Prepared, output_folder, prepare
from captum_kd.metrics import compare_transfer
from captum_kd.metrics.report import TransferReport
from captum_kd.page.report_figures import kinds_of_figures

__all__ = ["compare", "maps_only", "report_again"]

REPORT_FILE, PAGE_FILE = "report.json", "index.html"
FIGURES = {"layers": "layers.png", "predictions": "predictions.png", "seeds": "seeds.png", "models": "models.png"}
TABLES = {"rows": "scores.csv", "inputs": "inputs.csv", "similarities": "similarities.csv"}


def compare(options: argparse.Namespace) -> None:
    """Scores, maps, page, tables and figures."""
    folder = _folder(options)
    prepared = prepare(options)
    if options.maps:
        chosen_places(prepared, options.maps)
    steps = 3 if options.maps else 2
    print(f"Step 1 of {steps}: compare {len(prepared.data)} inputs", flush=True)
    report = _report(prepared, options)
    maps = None
    if options.maps:
        print(f"Step 2 of {steps}: make maps of {options.maps} inputs", flush=True)
        maps = explained(prepared, options)
    print(f"Step {steps} of {steps}: write {folder}", flush=True)
    write_files(report, maps, folder)


def _report(prepared: Prepared, options: argparse.Namespace) -> TransferReport:
    placebos = prepared.of("placebo")
    report: TransferReport = compare_transfer(
        prepared.of("student"),
        prepared.of("base"),
        prepared.layers,
        prepared.data.batches(options.batch_size),
        teacher=prepared.of("teacher").get("teacher"),
        placebo_teachers=placebos or None,
        class_names=prepared.data.class_names,
        predictions=options.predictions,
        by_input=True,
        confidence=options.confidence,
        seed=options.seed,
        show_progress=not options.no_progress,
    )
    report.settings["command"] = {
        "models": {each.name: f"{each.spec} ({each.preprocessing})" if each.preprocessing else str(each.spec)
                   for each in prepared.models},
        "data": str(options.data),
        "limit": options.limit,
        "left_out": len(prepared.data.left_out),
    }  # fmt: skip
    return report


def write_files(report: TransferReport, maps: Optional[InputMaps], folder: Path) -> None:
    """The page, the report, tables and figures; says where they are, and the verdict."""
    report.to_json(folder / REPORT_FILE)
    for table, name in TABLES.items():
        if table == "rows" or getattr(report, table) is not None:
            report.to_csv(folder / name, table=table)
    write_whole(folder / "report.md", report.to_markdown())
    for what in set(FIGURES).intersection(kinds_of_figures(report.to_dict())):
        report.plot(what).savefig(folder / FIGURES[what], dpi=150, bbox_inches="tight")
    if maps is not None:
        save_maps(maps, folder / MAPS_FILE)
        draw_maps(maps, folder / "maps.png")
    report.to_html(folder / PAGE_FILE, maps=maps)
    print()
    for sentence in report.verdict:
        print(sentence)
    others = sorted(each.name for each in folder.iterdir() if each.is_file() and each.name != PAGE_FILE)
    print(f"\nPage: {folder / PAGE_FILE}\nBeside it: {', '.join(others)}")


def maps_only(options: argparse.Namespace) -> None:
    """Maps as a page, a picture and a file of tensors."""
    if options.maps == 0:
        raise CommandError("--maps 0 asks for no maps; give the number of inputs to explain.")
    folder = _folder(options)
    prepared = prepare(options)
    chosen_places(prepared, options.maps)
    print(f"Step 1 of 2: make maps of {options.maps} inputs", flush=True)
    maps = explained(prepared, options)
    assert maps is not None
    print(f"Step 2 of 2: write {folder}", flush=True)
    save_maps(maps, folder / MAPS_FILE)
    draw_maps(maps, folder / "maps.png")
    write_whole(folder / PAGE_FILE, _page_of_maps(maps, prepared))
    print(f"\nPage: {folder / PAGE_FILE}\nPicture: {folder / 'maps.png'}\nTensors: {folder / MAPS_FILE}")


def _page_of_maps(maps: InputMaps, prepared: Prepared) -> str:
    """A page with the explorer of maps; scores and their tests are those of ``compare``."""
    from captum_kd.page import PageTable, Section
    from captum_kd.page.render import render

    rows = [(each.name, each.role, str(each.spec), str(each.preprocessing or "")) for each in prepared.models]
    table = PageTable(("model", "role", "specification", "preprocessing"), rows)
    return render(
        title="Maps",
        subtitle=f"{len(maps)} inputs, explained beside a reference population of others.",
        verdict=["Single maps vary with the training seed, and this page has no test. captum-kd compare tests what they show."],
        cautions=[],
        explorer_of=(maps, None),
        sections=[Section("Models", [table], "settings")],
        downloads=[],
    )


def report_again(options: argparse.Namespace) -> None:
    """Page, tables and figures of a saved report, with the maps that lie beside it."""
    file = options.report
    if file.is_dir():
        file = file / REPORT_FILE
    if not file.is_file():
        raise CommandError(f"There is no file {file}; give the report.json that compare wrote, or its folder.")
    needed("jinja2", "page", "The page")
    try:
        report = TransferReport.from_json(file)
    except (ValueError, TypeError) as error:
        raise CommandError(f"{file} is no saved report ({error})") from error
    saved = file.with_name(MAPS_FILE)
    maps = load_maps(saved) if saved.is_file() else None
    folder = file.parent if options.output is None else output_folder(options.output, options.overwrite)
    write_files(report, maps, folder)


def _folder(options: Any) -> Path:
    needed("jinja2", "page", "The page")
    return output_folder(options.output, options.overwrite)
