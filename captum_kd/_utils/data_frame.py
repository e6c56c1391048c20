"""Tables of pandas, which is an optional package."""

from __future__ import annotations

from typing import Any, Mapping, Sequence


def data_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """Records as a ``pandas.DataFrame``; None in a column of numbers becomes NaN.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe needs pandas, which is not installed; run pip install pandas.") from error
    return pandas.DataFrame(list(records), columns=list(columns))
