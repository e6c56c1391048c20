"""The peak of memory that a call takes, in a process of its own.

The system keeps the highest mark of a process. Linux can be told to forget it, so that what came before the call does not
count (nor what the parent process held, which getrusage passes on to its children there). Elsewhere the mark that the
inputs left is subtracted. Pages of files that are mapped count while they are mapped.
"""

import pathlib
import resource
import subprocess
import sys

MIB = 2**20
STATUS, FORGET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def start() -> float:
    """MiB that the process holds now; from here on the highest mark counts."""
    if STATUS.exists():
        FORGET.write_text("5")
        return _status("VmRSS")
    return high_mark()


def high_mark() -> float:
    """The highest amount of memory that this process has held since :func:`start`, in MiB."""
    if STATUS.exists():
        return _status("VmHWM")
    mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return mark / MIB if sys.platform == "darwin" else mark / 1024


def _status(key: str) -> float:
    return next(float(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(key)) / 1024


def peak_over_inputs(inputs: str, call: str, *, before: str = "") -> float:
    """MiB that a call takes over what its inputs had taken.

    Args:
        inputs (str): statements that make the inputs.
        call (str): the statements to be measured.
        before (str): statements that bring in libraries and pay for first calls, on small inputs.
    """
    return peak_and_words(inputs, call, before=before)[0]


def peak_and_words(inputs: str, call: str, *, before: str = "") -> tuple[float, str]:
    """The same, with what the statements wrote to the standard error stream.

    Raises:
        RuntimeError: they failed.
    """
    script = "\n".join(
        ["from peaks import high_mark, start", before, inputs, "_held = start()", call, "print(high_mark() - _held)"]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1]), done.stderr
