"""The peak of memory that a call takes, in a process of its own.

What the system reports is the process' highest mark so far, so the call runs where nothing else ran before it, and the
mark that its inputs had left is subtracted. Pages of files that are mapped count while they are mapped.
"""

import resource
import subprocess
import sys

MIB = 2**20


def high_mark() -> float:
    """The highest amount of memory that this process has held so far, in MiB."""
    mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return mark / MIB if sys.platform == "darwin" else mark / 1024


def peak_over_inputs(inputs: str, call: str, *, before: str = "") -> float:
    """MiB that a call takes over what its inputs had taken.

    Args:
        inputs (str): statements that make the inputs.
        call (str): the statements to be measured.
        before (str): statements that bring in libraries and pay for first calls, on small inputs.
    """
    script = "\n".join(
        ["from peaks import high_mark", before, inputs, "_mark = high_mark()", call, "print(high_mark() - _mark)"]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1])
