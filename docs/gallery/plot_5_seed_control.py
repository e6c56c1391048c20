"""
Seed control: comparison with other seeds
=========================================

A Student differs from its Base, but a second Base differs from it too. Seed control tests whether Students differ from Bases by
more than Bases differ from each other. At one layer, this needs at least three Students and three Bases, each from a seed of
its own. If distillation made no difference, all twenty ways to call three of the six networks "Students" would be equally
likely. So the smallest p is 1 / 20.
"""

from small_networks import base, student, teacher, test
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.metrics import compare_transfer

students = {f"student {seed}": student(seed) for seed in (1, 2, 3)}
bases = {f"base {seed}": base(seed) for seed in (4, 5, 6)}
loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=100)
report = compare_transfer(students, bases, ["layer3"], loader, teacher=teacher(), show_progress=False)

for outcome in report.seed_control["tests"]:
    answer = {True: "yes", False: "no", None: "cannot be decided"}[outcome["decision"]]
    print(f"{outcome['score']}: difference {outcome['statistic']:+.3f}, p = {outcome['p_value']:.2f}: {answer}")

# %%
# The figure shows the scores that are compared: those of Students given a Base, and those of Bases given another Base (the
# null). Every dot is a pair of networks. The pairs are not independent, because they share networks. So the test permutes
# networks, not pairs.

pairs = report.seed_control["pairs"]
names = {"rs_distilled": "relevance", "teacher_distilled": "Teacher's share", "teacher_only_distilled": "beyond the labels"}
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
for place, score in enumerate(names):
    for shift, who, color in ((-0.12, "student", "tab:blue"), (0.12, "base", "tab:gray")):
        values = [pair["value"] for pair in pairs if pair["score"] == score and pair["model"].startswith(who)]
        label = {"student": "Student given a Base", "base": "Base given another Base"}[who]
        axes.plot([place + shift] * len(values), values, "o", color=color, alpha=0.6, label=label if place == 0 else None)
axes.set_xticks(range(len(names)), names.values())
axes.set_xlim(-0.5, len(names) - 0.5)
axes.set_ylabel("score, last layer")
axes.axhline(0, color="black", linewidth=0.5)
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2, frameon=False)
