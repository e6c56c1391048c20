"""
The Teacher's share of the gain
===============================

Similarity and relevance do not use the Teacher, so they cannot distinguish transfer from chance. The Teacher's share does. It
is the correlation of two things: the part of the Student's representation that the Base's lacks, and the Teacher's
representation. A representation is the set of distances between the inputs. For the share *beyond the labels*, the labels are
removed from the Teacher's representation first.
"""

from small_networks import base, reference, student, teacher, test
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import UniCAM
from captum_kd.metrics import compare_transfer
from captum_kd.visualization import visualize_transfer

loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=100)
report = compare_transfer(
    student(1), {"base 4": base(4), "base 5": base(5)}, ["layer2", "layer3"], loader, teacher=teacher(), show_progress=False
)
for row in report.to_dict()["rows"]:
    if row["score"].startswith("teacher_"):
        print(f"{row['base']}, {row['layer']}: {row['score']} {row['value']:.3f}")

# %%
# These numbers do not show whether a Base of another seed would have as large a Teacher's share. :doc:`plot_5_seed_control`
# tests this.
#
# UniCAM can also make a map of the Teacher's share. The Teacher's geometry takes the place of the labels' geometry, so no
# labels are needed.

unicam = UniCAM(student(1), "layer3", base(4), teacher_func=teacher())
population = unicam.reference(reference.images)
from_teacher = unicam.attribute(test.images[:4], reference=population)
by_labels = UniCAM(student(1), "layer3", base(4))
distilled = by_labels.attribute(
    test.images[:4], test.labels[:4], reference=by_labels.reference(reference.images, reference.labels)
)
maps = {"distilled": distilled, "from the Teacher": from_teacher}
figure = visualize_transfer(test.images[:4], maps, masks=test.masks[:4], scale="map")
