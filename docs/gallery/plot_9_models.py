"""
Models and inputs as points
===========================

Which networks resemble each other? Do a Student's features separate the classes as its Teacher's do? These figures give a first
look. Scores and tests decide.
"""

from small_networks import base, student, teacher, test
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import global_average_pool
from captum_kd.metrics import compare_transfer, input_embeddings
from captum_kd.visualization import plot_embeddings, plot_models

loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=100)
report = compare_transfer(
    {f"student {seed}": student(seed) for seed in (1, 2, 3)},
    {f"base {seed}": base(seed) for seed in (4, 5, 6)},
    ["layer1", "layer2", "layer3"],
    loader,
    teacher=teacher(),
    feature_transform=global_average_pool,
    show_progress=False,
)

# %%
# Each network is a point. The squared distance of two networks is 2 (1 - FSS), as far as two dimensions show it. The share that
# they show stands below each panel. Where it is low, networks that look close may differ.

models = plot_models(report)

# %%
# The same numbers as a table: FSS with the Teacher at the last layer.

similarities = report.similarities
place = similarities["models"].index("teacher")
for name, row in zip(similarities["models"], similarities["layers"]["layer3"]):
    print(f"{name}: {row[place]:.2f}")

# %%
# The same test scenes in three networks, by classical scaling. Directions mean nothing, so each picture is rotated or reflected
# to be closest to the first.

networks = {"Teacher": teacher(), "Student": student(1), "Base": base(4)}
scaled = input_embeddings(networks, "layer3", loader, feature_transform=global_average_pool, show_progress=False)
embeddings = plot_embeddings(scaled)

# %%
# t-SNE shows which scenes are neighbors. It can draw clusters where there are none. The distances between clusters mean nothing.

neighbors = input_embeddings(
    networks, "layer3", loader, method="tsne", feature_transform=global_average_pool, show_progress=False
)
embeddings_by_tsne = plot_embeddings(neighbors)
