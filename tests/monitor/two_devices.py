"""Run by test_lightning.py, and by Lightning once more: a training with a monitor on two CPU processes."""

import sys
from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger
from test_lightning import callback, train


def main(output: Path) -> None:
    torch.set_num_threads(1)
    train(output, 2, callback(), logger=CSVLogger(output, "two"), strategy="ddp", devices=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
