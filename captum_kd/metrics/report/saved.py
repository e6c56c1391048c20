"""Reading of saved reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Union

from captum_kd._utils.validation import short_repr

COLUMNS = ("student", "base", "layer", "score", "value", "low", "high", "p_value", "n", "unique_share")
"""The keys of a report's rows."""
PARTS = ("rows", "seed_control", "placebos", "classes", "inputs", "similarities", "notes", "settings")
"""The parts of a report."""
REQUIRED = ("rows", "notes", "settings")
SETTINGS = ("n", "class_counts", "localize", "population", "estimator", "confidence")
"""Settings that texts and figures read."""
INNER = {
    "seed_control": ("tests", "groups", "pairs"),
    "placebos": ("tests", "shares"),
    "classes": ("of", "groups", "rows", "nulls", "tests"),
    "inputs": ("rows", "reliability"),
    "similarities": ("models", "roles", "layers"),
}
"""The keys of the parts that a report may lack."""
HOW = "Pass a file, or the text of one, that TransferReport.to_json() wrote."


def read_report(source: Union[str, "os.PathLike[str]"]) -> dict[str, Any]:
    """The parts of a saved report, see :meth:`TransferReport.from_json`."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a path or the text of a saved report, got {short_repr(source)}.")
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    name = "the text" if is_text else str(source)
    if not is_text and Path(source).is_dir():
        raise ValueError(f"source must be a file or the text of one, got the folder {short_repr(str(source))}. {HOW}")
    try:
        found = json.loads(str(source) if is_text else Path(source).read_bytes().decode("utf-8"))
    except ValueError as error:  # also of bytes that are no UTF-8
        raise ValueError(f"{name} is not JSON ({error}). {HOW}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no saved report: it holds a {type(found).__name__}, not an object with parts. {HOW}")
    absent = [part for part in REQUIRED if part not in found]
    if absent:
        raise ValueError(f"{name} is no saved report: it lacks {', '.join(absent)}. {HOW}")
    unknown = [part for part in found if part not in PARTS]
    if unknown:
        raise ValueError(f"{name} has the unknown part {short_repr(unknown[0])}; another version of captum_kd may have made it.")
    _check(found["rows"], list, f"rows of {name}")
    for place, row in enumerate(found["rows"]):
        _check_keys(row, COLUMNS, f"rows[{place}] of {name}")
    _check_keys(found["settings"], SETTINGS, f"settings of {name}")
    for part, keys in INNER.items():
        if found.get(part) is not None:
            _check_keys(found[part], keys, f"{part} of {name}")
    return found


def _check(value: object, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{where} must be a {kind.__name__}, got {short_repr(value)}. {HOW}")


def _check_keys(value: Any, keys: tuple[str, ...], where: str) -> None:
    _check(value, dict, where)
    absent = [key for key in keys if key not in value]
    if absent:
        raise ValueError(f"{where} lacks {', '.join(absent)}. {HOW}")
