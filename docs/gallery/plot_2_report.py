"""
A report, and the one equation to read it with
==============================================

Similarity and relevance of every layer in one pass over a loader, with 95 % intervals.
"""

from small_networks import base, student, test
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.metrics import compare_transfer

loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=100)
layers = ["layer1", "layer2", "layer3"]
report = compare_transfer(student(1), base(4), layers, loader, confidence=0.95, show_progress=False)
figure = report.plot()

# %%
# Distilled and residual scores are no evidence beside the Student's and the Base's. They follow from them: with F the FSS,
# distilled - residual = (Student - Base) x sqrt((1 + F) / (1 - F)).

score = {(row["layer"], row["score"]): row["value"] for row in report.to_dict()["rows"]}
for layer in layers:
    fss, of_student, of_base, distilled, residual = (
        score[layer, name] for name in ("fss", "rs_student", "rs_base", "rs_distilled", "rs_residual")
    )
    magnified = (of_student - of_base) * ((1 + fss) / (1 - fss)) ** 0.5
    print(f"{layer}: distilled - residual = {distilled - residual:.3f}; the equation says {magnified:.3f}")

# %%
# The whole report, as it prints. Its notes say what the numbers do not.

print(report)
