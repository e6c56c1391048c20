"""Interrupts calls at every operation of the code that changes state and at many random moments; counts what changed.

Run with ``PYTHONPATH=tests:. python tests/benchmarks/interrupt_everywhere.py [--random 200] [--every 1]``.
"""

import argparse
import itertools
import warnings

import torch
from interrupts import CALLS, MODELS, Interrupted, at_operation, at_random_moments, everything, operations


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=200, help="interrupts at random moments of each call")
    parser.add_argument("--every", type=int, default=1, help="take one of so many operations")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    total = changes = 0
    for model, name in itertools.product(MODELS, CALLS):
        call = Interrupted(model, name)
        expected = everything(call.models)
        moments = itertools.chain(
            (at_operation(call, place) for place in operations(call)[:: options.every]),
            at_random_moments(call, options.random),
        )
        found = {}
        for _ in moments:
            total += 1
            after = everything(call.models)
            for key in expected:
                if after[key] != expected[key]:
                    found[key] = found.get(key, 0) + 1
                    changes += 1
            expected = after  # what changed once does not count again
        print(f"{model:9} {name:36} {found or 'unchanged'}", flush=True)
    print(f"{total} interrupts, {changes} changes")


if __name__ == "__main__":
    main()
