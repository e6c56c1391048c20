"""
Controls for maps
=================

A map always shows something. This example makes the map to show first, the net map, and asks two questions. Do independently
trained networks give the same map? Does the map depend on what the networks have learned?
"""

from captum.attr import LayerGradCam
from small_networks import accuracy, base, reference, student, test

from captum_kd import UniCAM
from captum_kd.metrics import map_reliability, randomization_test
from captum_kd.visualization import visualize_transfer

images, labels, masks = test.images[:100], test.labels[:100], test.masks[:100]
students, bases = [student(seed) for seed in (1, 2, 3)], [base(seed) for seed in (4, 5, 6, 7)]


def transfer(network, removed):
    unicam = UniCAM(network, "layer3", removed)
    population = unicam.reference(reference.images, reference.labels)
    return unicam.attribute_transfer(images, labels, reference=population, n_steps=16)


pairs = {(f"student {i}", f"base {i}"): transfer(*each) for i, each in enumerate(zip(students, bases))}
two_bases = {("base 1", "base 0"): transfer(bases[1], bases[0]), ("base 3", "base 2"): transfer(bases[3], bases[2])}

# %%
# The positions of integrated maps add up to a gain of the objective J. Maps of one unit can share a color scale. The net map of
# two Bases is the null: no Teacher taught either of them. In a single scene it may be as strong as the Student's net map.

shown, null = pairs["student 0", "base 0"], two_bases["base 1", "base 0"]
maps = {"net": shown.net, "net of two Bases": null.net, "distilled": shown.distilled, "residual": shown.residual}
units = dict.fromkeys(maps, "gain of J per position")
maps["Grad-CAM"] = LayerGradCam(students[0], students[0].layer3).attribute(images, labels).detach()
first = [int((labels == label).nonzero()[0]) for label in range(5)]
figure = visualize_transfer(
    images[first],
    {title: each[first] for title, each in maps.items()},
    masks=masks[first],
    scale=[list(units)],
    sign="all",
    units=units,
    method="heat_map",
)

# %%
# The scenes are the first of each of five classes. The next numbers are means over 100 scenes, with their standard errors: the
# sum of a net map is what the Student gains more than the Base. If Bases change places, this sum changes its sign, so its mean
# over all pairs of Bases is 0. Single pairs stray: here, where Bases differ much in accuracy, nearly as far as Student and
# Base. More scenes make the standard errors smaller and do not help against that. More networks do: :doc:`plot_5_seed_control`.

print("accuracy of the Students:", *(f"{accuracy(each):.3f}" for each in students))
print("accuracy of the Bases:", *(f"{accuracy(each):.3f}" for each in bases))
for names, each in {**pairs, **two_bases}.items():
    sums = each.net.sum((1, 2, 3))
    print(f"{' and '.join(names)}: mean sum of the net map {sums.mean():.4f} +- {sums.std() / len(sums) ** 0.5:.4f}")

# %%
# The reliability of a map is its correlation between networks that were trained independently. Grad-CAM is the most reliable
# map here: it shows the digit, which every network uses, whether a Teacher taught it or not.

for name in ("net", "distilled", "residual"):
    print(f"{name}: {map_reliability({names: getattr(each, name) for names, each in pairs.items()})}")
print(f"net of two Bases: {map_reliability({names: each.net for names, each in two_bases.items()})}")
by_gradcam = {
    f"student {i}": LayerGradCam(each, each.layer3).attribute(images, labels).detach() for i, each in enumerate(students)
}
print(f"Grad-CAM: {map_reliability(by_gradcam)}")

# %%
# The randomization test replaces the weights of Student and Base by random ones, from the last module of the layer on. The
# similarity to the original maps should fall to that of maps of other scenes, the dotted lines.

unicam = UniCAM(students[0], "layer3", bases[0])
population = reference.images, reference.labels
similarity = randomization_test(unicam, images, labels, reference=population, net=True, n_steps=16)
for seed in (0, 1, 2):
    print(randomization_test(unicam, images, labels, reference=population, net=True, n_steps=16, seed=seed))
figure_of_weights = similarity.plot()

# %%
# A distilled map follows the Student. To randomize the Base alone changes much less: the Base only says what is removed.

print(randomization_test(unicam, images, labels, reference=population, n_steps=16))
print(randomization_test(unicam, images, labels, reference=population, n_steps=16, randomize="base"))
