"""Reports of text in several processes, with batches padded to their own longest sentences, equal those of one process."""

from __future__ import annotations

from typing import Any, Sequence

import pytest
from workers import Workers, of

from captum_kd._distributed import as_process_group
from captum_kd.metrics import compare_transfer
from captum_kd.metrics.report.settings import Compute
from text.encoders import Encoder, labels, rows, sentences

N, SIZE = 40, 5
LAYERS = {"last": {"student": "encoder.layers.1", "base": "encoder.layers.1", "teacher": "encoder.layers.2"}}


def batches(part: slice) -> list[dict[str, Any]]:
    inputs, found = {**sentences(N, padded_to=14), "labels": labels(N)}, []
    for start in range(part.start, part.stop, SIZE):
        batch = rows(inputs, slice(start, start + SIZE))
        longest = int(batch["attention_mask"].sum(1).max())
        found.append({name: value if name == "labels" else value[:, :longest] for name, value in batch.items()})
    return found


def report(group: Any, sizes: Sequence[int]) -> list[dict[str, Any]]:
    rank = 0 if group is None else as_process_group(group).rank
    part = slice(0, N) if group is None else slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return compare_transfer(
        Encoder(1), {"a": Encoder(2), "b": Encoder(4)}, LAYERS, batches(part), teacher=Encoder(3, 24, 3), confidence=0.9,
        n_permutations=50, compute=Compute(process_group=group), show_progress=False,
    ).to_dict()["rows"]  # fmt: skip


def test_reports_of_text_equal_those_of_one_process(workers: Workers) -> None:
    expected = report(None, (N,))
    for sizes in ((15, 25), (5, 20, 15)):
        for own in of(workers.run(len(sizes), report, sizes)):
            assert len(own) == len(expected)
            for row, other in zip(own, expected):
                for key, value in other.items():
                    assert row[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), key
