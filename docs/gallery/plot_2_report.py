"""
A report, and the equation behind its scores
============================================

One pass over a loader gives the similarity and relevance of every layer, with 95 % intervals. Similarity (FSS) compares the
representations of Student and Base, which are the distances between the inputs. Relevance (RS) measures how well a
representation follows the labels.
"""

from small_networks import base, student, test
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.metrics import compare_transfer

loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=100)
layers = ["layer1", "layer2", "layer3"]
report = compare_transfer(student(1), base(4), layers, loader, confidence=0.95, show_progress=False)
figure = report.plot()

# %%
# Distilled (Student given Base) and residual (Base given Student) relevance are no evidence in addition to the relevance of
# Student and Base. Their difference follows from these. With F the FSS,
# distilled - residual = (Student - Base) x sqrt((1 + F) / (1 - F)).

score = {(row["layer"], row["score"]): row["value"] for row in report.to_dict()["rows"]}
for layer in layers:
    fss, of_student, of_base, distilled, residual = (
        score[layer, name] for name in ("fss", "rs_student", "rs_base", "rs_distilled", "rs_residual")
    )
    magnified = (of_student - of_base) * ((1 + fss) / (1 - fss)) ** 0.5
    print(f"{layer}: distilled - residual = {distilled - residual:.3f}; the equation says {magnified:.3f}")

# %%
# The printed report. Its notes explain the limits of the numbers.

print(report)
