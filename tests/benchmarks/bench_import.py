"""What ``import captum_kd`` costs on top of ``import captum.attr``.

Run with ``python tests/benchmarks/bench_import.py``.
"""

import subprocess
import sys
from statistics import median

from ratios import at_most

CODE = """
import time
import captum.attr
start = time.perf_counter()
import captum_kd
print(time.perf_counter() - start)
"""


def main() -> None:
    times = [
        float(subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    print(at_most("import captum_kd after captum.attr, seconds", median(times), 0.3))


if __name__ == "__main__":
    main()
