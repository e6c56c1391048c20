"""The first words of an example on the screen, printed before the imports that take seconds."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Optional

__all__ = ["announce"]


def announce(documentation: Optional[str]) -> None:
    """Prints what an example does and how long it takes: its documentation up to the commands, and the last line.

    Prints nothing where the command line asks for help, which holds the same words.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        return
    text = (documentation or "").strip()
    with suppress(OSError):  # an output that cannot be printed to is refused later, in a line
        print(f"{text.partition('::')[0]}.\n\n{text.splitlines()[-1]}\n\nLoading PyTorch and Lightning ...", flush=True)
