"""
Would other seeds have shown the same?
======================================

A Student differs from its Base; so does a second Base. Three Students and three Bases, each from a seed of its own, are the
least that can decide it at one layer: if distillation made no difference, all twenty ways to call three of the six "Students"
would be alike, so the smallest p is 1 / 20.
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
# The scores that were compared: of Students given a Base, and of Bases given another Base, the null. Every dot is a pair of
# networks; there are fewer independent ones than dots, which is why the test counts networks and not pairs.

pairs = report.seed_control["pairs"]
names = {"rs_distilled": "relevance", "teacher_distilled": "Teacher's share", "teacher_only_distilled": "beyond the labels"}
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
for place, score in enumerate(names):
    for shift, who, colour in ((-0.12, "student", "tab:blue"), (0.12, "base", "tab:gray")):
        values = [pair["value"] for pair in pairs if pair["score"] == score and pair["model"].startswith(who)]
        label = {"student": "Student given a Base", "base": "Base given another Base"}[who]
        axes.plot([place + shift] * len(values), values, "o", color=colour, alpha=0.6, label=label if place == 0 else None)
axes.set_xticks(range(len(names)), names.values())
axes.set_xlim(-0.5, len(names) - 0.5)
axes.set_ylabel("score, last layer")
axes.axhline(0, color="black", linewidth=0.5)
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2, frameon=False)
