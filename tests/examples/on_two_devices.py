"""Run by test_training.py, and by Lightning once more: trains on two CPU processes, and resumes what is finished."""

import json
import sys
from pathlib import Path

import torch
from distillation import checkpoints, techniques, training
from small_training import STAGES, Small, examples, settings


def main(output: Path) -> None:
    torch.set_num_threads(1)
    options = settings(output, devices="2", strategy="ddp", batch_size=4)
    results = []
    for resume in (False, True):
        network = Small()
        technique = techniques.make(
            "feature", Small(8, seed=5), network, layers=STAGES, guide_layers=STAGES, settings=options, seed=1,
            sample=examples(1).inputs(),
        )  # fmt: skip
        setup = training.TrainingSetup(
            "Student", network, examples(45), examples(31, seed=1), epochs=2, settings=options, seed=1, technique=technique
        )
        results.append(training.fit(setup, resume=resume))
    validation = examples(31, seed=1)
    right = (training.predict(results[0].network, validation) == validation.labels).sum().item()
    main_process = training.is_main_process()
    content = {
        "main": main_process,
        "history": results[0].history,
        "resumed": results[1].history,
        "weights": checkpoints.digest(results[0].network),
        "accuracy": right / 31,
    }
    (output / f"rank{0 if main_process else 1}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
