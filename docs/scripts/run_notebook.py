"""Runs the notebook of these pages and stores its outputs in it: ``python docs/scripts/run_notebook.py``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "first_look.ipynb"


def run(notebook: Any, folder: Path) -> Any:
    """The notebook with its outputs. ``folder`` is where it runs and writes."""
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times of this run
        if "outputs" in cell:  # without tqdm's advice to install ipywidgets
            cell.outputs = [output for output in cell.outputs if "IProgress not found" not in output.get("text", "")]
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(nbformat.read(NOTEBOOK, as_version=4), Path(folder))
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
