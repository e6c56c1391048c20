"""Who is trained and who is taught by whom."""

from dataclasses import replace

import pytest
from distillation.networks import NETWORKS, WeightsError, build, stages
from distillation.plan import PlanError, capacity_plan, technique_plan
from distillation.profiles import PROFILES, profile, profiles_of
from torch import nn

QUICK = PROFILES["quick"]


def test_every_technique_is_a_group_taught_by_the_teacher():
    plan = technique_plan(QUICK)
    assert [(group.technique, group.guide, group.teacher) for group in plan.groups] == [
        (technique, "Teacher", "Teacher") for technique in ("response", "attention", "feature")
    ]
    assert plan.groups[0].students(3) == ["Response 1", "Response 2", "Response 3"]
    assert plan.bases(3) == ["Base 1", "Base 2", "Base 3"]


def test_one_technique_alone_needs_no_name():
    plan = technique_plan(replace(QUICK, techniques=("feature",)))
    assert plan.groups[0].students(1) == ["Student"] and plan.bases(1) == ["Base"]


def test_controls_are_measured_against_the_trained_teacher():
    plan = technique_plan(replace(QUICK, controls=("random-teacher", "shuffled-labels")))
    untrained, shuffled = plan.groups[3:]
    assert untrained.is_control and untrained.technique == "response" and untrained.teacher == "Teacher"
    (guide,) = [guide for guide in plan.guides if guide.name == untrained.guide]
    assert not guide.trained and guide.network == QUICK.teacher
    assert shuffled.is_control and shuffled.technique == "shuffled-labels" and shuffled.guide == "Teacher"
    assert plan.teachers == ["Teacher"]


def test_another_teacher_is_trained_like_the_first():
    plan = technique_plan(replace(QUICK, techniques=(), controls=("other-teacher",)))
    (group,) = plan.groups
    assert group.guide == "Other Teacher" and group.teacher == "Teacher" and group.technique == "response"
    assert [(guide.trained, guide.network) for guide in plan.guides] == [(True, QUICK.teacher)] * 2


def test_placebo_teachers_have_the_teachers_recipe_and_teach_nobody():
    plan = technique_plan(replace(QUICK, controls=("other-teacher",), placebos=2))
    assert plan.placebos == ["Placebo Teacher 1", "Placebo Teacher 2"]
    assert not {group.guide for group in plan.groups} & set(plan.placebos)
    trainings = {each.name: each for each in plan.trainings(1)}
    for name in plan.placebos:
        assert trainings[name] == replace(trainings["Teacher"], name=name)


def test_one_placebo_keeps_its_name_when_there_are_more():
    names = [technique_plan(replace(QUICK, placebos=count)).placebos for count in (0, 1, 3)]
    assert names[0] == [] and names[1] == names[2][:1]


def test_placebos_from_random_weights_are_for_pretrained_teachers():
    plan = technique_plan(replace(QUICK, weights="imagenet", placebos=1, random_placebos=2))
    assert plan.placebos == ["Placebo Teacher 1"]
    assert plan.random_placebos == [f"Placebo Teacher from random weights {i}" for i in (1, 2)]
    starts = {each.name: each.from_random for each in plan.trainings(1)}
    assert [name for name, from_random in starts.items() if from_random] == plan.random_placebos
    with pytest.raises(PlanError, match="take --placebos"):
        technique_plan(replace(QUICK, random_placebos=1))


def test_an_assistant_learns_from_the_largest_teacher():
    plan = capacity_plan(replace(QUICK, techniques=("response",)), ("resnet-m", "resnet-xl"), "resnet-l")
    assert [(guide.network, guide.taught_by) for guide in plan.guides] == [
        ("resnet-m", None),
        ("resnet-xl", None),
        ("resnet-l", "Teacher resnet-xl"),
    ]
    by_detour = plan.groups[-1]
    assert by_detour.guide == "Assistant resnet-l" and by_detour.teacher == "Teacher resnet-xl"
    assert [group.name for group in plan.groups_of("Teacher resnet-xl")] == ["From resnet-xl", "From resnet-xl by resnet-l"]


def test_networks_of_different_stages_are_refused():
    with pytest.raises(PlanError, match="stage by stage"):
        technique_plan(replace(QUICK, teacher="resnet50"))


def test_nobody_to_teach_is_refused():
    with pytest.raises(PlanError, match="nobody"):
        technique_plan(replace(QUICK, techniques=()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_stages(name):
    network = build(name, 3)
    for stage in stages(name):
        assert isinstance(network.get_submodule(stage), nn.Module)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == 3


def test_imagenet_weights_of_a_small_network_are_refused():
    with pytest.raises(WeightsError, match="resnet18"):
        build("resnet-s", 3, "imagenet")


def test_imagenet_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(WeightsError, match="no route to host.*resnet18-.*pth.*--weights none"):
        build("resnet18", 3, "imagenet")


def test_imagenet_weights_get_a_last_layer_of_their_own(monkeypatch):
    state = build("resnet18", 1000).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: dict(state))
    network = build("resnet18", 3, "imagenet")
    assert network.fc.out_features == 3
    assert (network.layer4[0].conv1.weight == state["layer4.0.conv1.weight"]).all()


def test_the_papers_profile_is_the_papers():
    paper = profile("asirra", "paper")
    assert (paper.teacher, paper.student, paper.image_size, paper.folds) == ("resnet50", "resnet18", 224, 5)
    assert (paper.optimizer, paper.learning_rate, paper.batch_size) == ("sgd", 1e-3, 32)
    assert (paper.teacher_epochs, paper.epochs, paper.augmentation) == (20, 25, "paper")


def test_the_authors_profile_is_their_codes():
    asirra, cifar10, plants = (profile(name, "authors") for name in ("asirra", "cifar10", "plant_disease"))
    for each in (asirra, cifar10, plants):
        assert (each.temperature, each.alpha, each.response_loss, each.optimizer) == (20.0, 0.7, "mse", "sgd")
        assert (each.techniques, each.controls) == (("response",), ("published-attention",))
        assert (each.image_size, each.weights, each.teacher_epochs) == (224, "imagenet", 20)
    assert (asirra.teacher, asirra.student, asirra.epochs, asirra.batch_size, asirra.folds) == ("resnet50", "resnet50", 25, 32, 5)
    assert (cifar10.teacher, cifar10.student, cifar10.teacher_weights, cifar10.batch_size) == ("resnet50", "resnet18", "none", 16)
    assert (plants.student, plants.epochs, plants.batch_size) == ("resnet50", 20, 16)
    assert [(each.learning_rate, each.momentum) for each in (asirra, cifar10, plants)] == [(1e-3, 0.9), (1e-3, 0.9), (1e-2, 0.0)]
    assert profiles_of("capacity_gap") == ("quick", "paper") and profiles_of("quickstart") == ("quick",)


def test_the_published_attention_is_a_control_of_the_teacher():
    plan = technique_plan(replace(QUICK, controls=("published-attention",)))
    control = plan.groups[3]
    assert control.is_control and control.technique == "published-attention"
    assert (control.guide, control.teacher) == ("Teacher", "Teacher")


def test_teachers_may_start_elsewhere():
    settings = replace(QUICK, weights="imagenet", teacher_weights="none")
    assert [settings.start_of(is_guide) for is_guide in (False, True)] == ["imagenet", "none"]
    assert [replace(settings, teacher_weights="same").start_of(is_guide) for is_guide in (False, True)] == ["imagenet"] * 2
    with pytest.raises(PlanError, match="Teachers start from random weights"):
        technique_plan(replace(settings, random_placebos=1))


def test_examples_write_to_folders_of_their_own():
    assert profile("cifar10", "quick").output != profile("asirra", "quick").output
