"""Names of the classes of a report."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd._utils.validation import short_repr


def check_class_names(names: object) -> Optional[tuple[str, ...]]:
    """The argument ``class_names`` as a tuple.

    Raises:
        TypeError: not a list of strings.
        ValueError: an empty list.
    """
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names must be a list of strings, the name of class 0 first, got {short_repr(names)}.")
    if not names:
        raise ValueError("class_names is empty; pass one name for each class, or leave it out.")
    return tuple(names)


def check_labels(largest: int, names: Optional[Sequence[str]]) -> None:
    """Raises a ValueError if a label has no name."""
    if names is not None and largest >= len(names):
        raise ValueError(
            f"The data hold the label {largest}, but class_names has names for the labels 0 to {len(names) - 1} only. Pass one "
            "name for each class."
        )


def names_of_data(data: object) -> Optional[list[str]]:
    """The names that the data set of a loader has as ``classes``, also behind ``Subset``; None if it has none.

    A data set with a ``target_transform`` has other labels than its names are for.
    """
    dataset = getattr(data, "dataset", None)
    while dataset is not None and not hasattr(dataset, "classes"):
        dataset = getattr(dataset, "dataset", None)
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        return None
    return None if getattr(dataset, "target_transform", None) is not None else list(names)


def numbered(label: object, names: Optional[Sequence[str]]) -> str:
    """A class in tables, such as "3 cat", or "3" without names. The number tells classes of one name apart."""
    name = class_name(label, names)
    return str(label) if name is None else f"{label} {name}"


def class_name(label: object, names: Optional[Sequence[str]]) -> Optional[str]:
    """The name of a label, None if there is none."""
    return names[label] if names is not None and isinstance(label, int) and 0 <= label < len(names) else None


def names_in(settings: Mapping[str, Any], classes: Optional[Mapping[str, Any]] = None) -> Optional[Sequence[str]]:
    """The class names in a report's settings; None for ``classes`` that are other groups of inputs."""
    return None if classes is not None and classes["of"] != "class" else settings.get("class_names")
