"""The quickstart with so few scenes that a run takes seconds, for the tests of runs."""

import quickstart

OPTIONS = (
    "--teacher-images 40 --train-images 40 --test-images 12 --map-images 4 --references 24 --epochs 1 --teacher-epochs 1 "
    "--rows 1 --seeds 1 --threads 1 --no-progress"
).split()


def run(output, *more):
    return quickstart.main([*OPTIONS, "--output", str(output), *more])
