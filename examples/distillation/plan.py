"""Who is trained, and who is taught by whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

from distillation.networks import IMAGE_NETWORKS, Networks, least_side
from distillation.settings import Settings

__all__ = [
    "BASE", "PLACEBO", "RANDOM_PLACEBO", "Group", "Guide", "Plan", "PlanError", "Training", "capacity_plan", "technique_plan",
]  # fmt: skip

TEACHER, UNTRAINED, OTHER, BASE = "Teacher", "Untrained Teacher", "Other Teacher", "Base"
PLACEBO = "Placebo Teacher"
RANDOM_PLACEBO = f"{PLACEBO} from random weights"

TITLES = {
    "response": "Response",
    "attention": "Attention",
    "feature": "Feature",
    "hidden": "Hidden states",
    "random-teacher": "Control: untrained Teacher",
    "shuffled-labels": "Control: shuffled soft labels",
    "other-teacher": "Control: another Teacher",
    "published-attention": "Control: published attention loss",
}


GUIDES = {"random-teacher": UNTRAINED, "other-teacher": OTHER}
"""Who teaches the Students of a control, if not the Teacher."""


class PlanError(ValueError):
    """Settings that do not go together; the message says which."""


@dataclass(frozen=True)
class Guide:
    """A network that is trained as a Teacher.

    Attributes:
        name: of the network.
        network: its architecture.
        taught_by: the guide that it learns from itself, by responses: an assistant. None: from labels alone.
        trained: false for a network that stays at its random weights.
        is_placebo: whether it has the Teacher's recipe and another seed, and teaches nobody.
        from_random: whether it starts from random weights, whatever the others start from.
    """

    name: str
    network: str
    taught_by: Optional[str] = None
    trained: bool = True
    is_placebo: bool = False
    from_random: bool = False


@dataclass(frozen=True)
class Group:
    """Students that differ in their seeds only.

    Attributes:
        name: of the group; a Student is called by it and a number.
        technique: how they learn: one of the settings' techniques, "shuffled-labels" or "published-attention".
        guide: who teaches them.
        teacher: the network whose share of what they have is asked for.
        is_control: whether nothing should come from that Teacher.
    """

    name: str
    technique: str
    guide: str
    teacher: str
    is_control: bool = False

    def students(self, seeds: int) -> list[str]:
        """Their names."""
        return _numbered(self.name, seeds)


@dataclass(frozen=True)
class Training:
    """The training of one network.

    Attributes:
        name: of the network.
        network: its architecture.
        technique: how it learns from its guide; None: from labels alone.
        guide: the name of the network that it learns from.
        is_guide: whether it is trained as a Teacher is: on the Teachers' images, for their number of epochs.
        is_trained: false for a network that stays at its random weights.
        from_random: whether it starts from random weights, whatever the others start from.
    """

    name: str
    network: str
    technique: Optional[str] = None
    guide: Optional[str] = None
    is_guide: bool = False
    is_trained: bool = True
    from_random: bool = False


@dataclass(frozen=True)
class Plan:
    """All networks of an experiment but for the Bases, which have the Students' architecture and no guide.

    Attributes:
        guides: in an order in which they can be trained.
        groups: of Students.
        student: architecture of Students and Bases.
        networks: the architectures by name.
    """

    guides: Sequence[Guide]
    groups: Sequence[Group]
    student: str
    networks: Networks = IMAGE_NETWORKS

    def __post_init__(self) -> None:
        if not self.groups:
            raise PlanError("There is nobody to teach: --techniques and --controls are both none.")
        stages = self.networks.stages
        odd = [guide.network for guide in self.guides if len(stages(guide.network)) != len(self.layers)]
        if odd:
            raise PlanError(
                f"{odd[0]} has the stages {', '.join(stages(odd[0]))}, {self.student} has {', '.join(stages(self.student))}: "
                "layers are compared stage by stage. Choose --teacher and --student out of one family."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """What is compared: layers of Students and Bases."""
        return self.networks.stages(self.student)

    @property
    def guide_layers(self) -> tuple[str, ...]:
        """The layers of Teachers that these are compared with."""
        return self.networks.stages(self.guides[0].network)

    @property
    def teachers(self) -> list[str]:
        """The networks whose share is asked for."""
        return list(dict.fromkeys(group.teacher for group in self.groups))

    @property
    def placebos(self) -> list[str]:
        """Names of the placebo Teachers that start where the Teacher does."""
        return [guide.name for guide in self.guides if guide.is_placebo and not guide.from_random]

    @property
    def random_placebos(self) -> list[str]:
        """Names of the placebo Teachers that start from random weights where the Teacher does not."""
        return [guide.name for guide in self.guides if guide.is_placebo and guide.from_random]

    def groups_of(self, teacher: str) -> list[Group]:
        return [group for group in self.groups if group.teacher == teacher]

    @property
    def second(self) -> Optional[Group]:
        """Students of a second Teacher, if there are any."""
        return next((group for group in self.groups if group.guide == OTHER), None)

    def bases(self, seeds: int) -> list[str]:
        """Names of the Bases."""
        return _numbered(BASE, seeds)

    def trainings(self, seeds: int) -> list[Training]:
        """All trainings, each after that of its guide: guides, Bases, Students."""
        found = [
            Training(
                guide.name, guide.network, guide.taught_by and "response", guide.taught_by, True, guide.trained,
                guide.from_random,
            )  # fmt: skip
            for guide in self.guides
        ]
        found += [Training(name, self.student) for name in self.bases(seeds)]
        found += [
            Training(name, self.student, group.technique, group.guide)
            for group in self.groups
            for name in group.students(seeds)
        ]
        return found


def _numbered(name: str, seeds: int) -> list[str]:
    return [name] if seeds == 1 else [f"{name} {number + 1}" for number in range(seeds)]


def technique_plan(settings: Settings, networks: Networks = IMAGE_NETWORKS) -> Plan:
    """One Teacher, its placebos, and a group of Students for each technique and control."""
    guides = [Guide(TEACHER, settings.teacher)]
    only = len(settings.techniques) == 1 and not settings.controls
    groups = [Group("Student" if only else TITLES[each], each, TEACHER, TEACHER) for each in settings.techniques]
    for control in settings.controls:
        technique, guide = control, TEACHER
        if control in GUIDES:
            # They learn by responses from somebody else; it is the Teacher whose share must not show.
            technique, guide = "response", GUIDES[control]
            guides.append(Guide(guide, settings.teacher, trained=control != "random-teacher"))
        groups.append(Group(TITLES[control], technique, guide, TEACHER, is_control=True))
    if settings.random_placebos and settings.start_of(is_guide=True) == "none":
        raise PlanError(
            "--random-placebos are for pretrained Teachers. Here Teachers start from random weights: take --placebos."
        )
    # Always with a number: a finished run with one placebo can be given more.
    for name, count in ((PLACEBO, settings.placebos), (RANDOM_PLACEBO, settings.random_placebos)):
        guides += [
            Guide(f"{name} {number + 1}", settings.teacher, is_placebo=True, from_random=name == RANDOM_PLACEBO)
            for number in range(count)
        ]
    plan = Plan(guides, groups, settings.student, networks)
    if networks is IMAGE_NETWORKS:
        _check_image_size(plan, settings)
    return plan


def _check_image_size(plan: Plan, settings: Settings) -> None:
    for name in (*(guide.network for guide in plan.guides), plan.student):
        if settings.image_size < least_side(name):
            raise PlanError(
                f"At {settings.image_size} pixels the last stage of {name} has a single position, where all maps agree. "
                f"Images must have {least_side(name)} pixels or more (--image-size), or choose another network."
            )


def capacity_plan(settings: Settings, teachers: Sequence[str], assistant: str) -> Plan:
    """Teachers of growing size for one Student, the largest also by way of an assistant (Mirzadeh et al. 2020).

    Args:
        settings: the technique and the Student's architecture.
        teachers: architectures, from the smallest to the largest.
        assistant: the architecture between the largest and the Student.
    """
    guides = [Guide(f"Teacher {name}", name) for name in teachers]
    guides.append(Guide(f"Assistant {assistant}", assistant, taught_by=guides[-1].name))
    (technique,) = settings.techniques
    groups = [Group(f"From {guide.network}", technique, guide.name, guide.name) for guide in guides[:-1]]
    # What reached the Student of the largest Teacher's by the detour.
    groups.append(Group(f"From {teachers[-1]} by {assistant}", technique, guides[-1].name, guides[-2].name))
    plan = Plan(guides, groups, settings.student)
    _check_image_size(plan, settings)
    return plan
