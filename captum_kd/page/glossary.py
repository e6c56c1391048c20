"""The key words of a page and their definitions, the only source of both."""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple

__all__ = ["GLOSSARY", "Term", "with_links"]


class Term(NamedTuple):
    """A key word.

    Attributes:
        word (str): the entry in the glossary.
        definition (str): one or two sentences.
        other (tuple of str): further spellings that are links to it.
    """

    word: str
    definition: str
    other: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        return "word-" + re.sub(r"\W+", "-", self.word.lower()).strip("-")


GLOSSARY = (
    Term(
        "Teacher",
        "The network whose knowledge was distilled.",
    ),
    Term(
        "Student",
        "A network that was trained with the Teacher's help.",
        ("Students",),
    ),
    Term(
        "Base",
        "A network of the Student's architecture and recipe that was trained without the Teacher. What a Student has "
        "and Bases also have is no sign of distillation.",
        ("Bases",),
    ),
    Term(
        "placebo Teacher",
        "A network of the Teacher's recipe that taught nobody. Its share shows what any such network would get.",
        ("placebo Teachers", "placebos", "Placebo Teachers", "placebos' mean"),
    ),
    Term(
        "representation",
        "The distances between all inputs in the features of a layer. All scores compare representations, so layers may"
        " have any size.",
        ("representations", "geometry"),
    ),
    Term(
        "FSS",
        "Feature similarity score: the unbiased squared distance correlation of two representations. It is 1 if all "
        "distances agree up to scale. Compare it with the FSS of two Bases, never with 0.",
        ("Feature similarity",),
    ),
    Term(
        "RS",
        "Relevance score: how well a representation follows the labels (unbiased squared distance correlation). It is "
        "no accuracy, and depends on the class frequencies.",
        ("relevance", "Relevance"),
    ),
    Term(
        "given",
        "\u201cS given B\u201d is the part of the representation S that is left after its projection on the representation B has "
        "been removed.",
    ),
    Term(
        "distilled",
        "The part of the Student's representation that the Base lacks (Student given Base), or its RS.",
    ),
    Term(
        "residual",
        "The part of the Base's representation that the Student lacks (Base given Student), or its RS.",
    ),
    Term(
        "unique share",
        "How much of a representation is left after the other one is removed: 1 - FSS\u00b2. Below .01, distilled and "
        "residual scores describe almost nothing.",
        ("unique", "unique_share"),
    ),
    Term(
        "Teacher's share",
        "How well the part that only the Student has follows the Teacher's representation. It is a correlation, not a "
        "fraction. Two Bases have one as well: compare it with the null and with placebo Teachers.",
        ("Teacher's shares",),
    ),
    Term(
        "beyond the labels",
        "The same after the labels have been removed from the Teacher's representation.",
    ),
    Term(
        "null",
        "The same score of a Base given another Base: what another training run without the Teacher gives.",
    ),
    Term(
        "all Bases",
        "The span of all Bases' representations, which is removed at once.",
        ("given all Bases", "all Bases but one"),
    ),
    Term(
        "seed control",
        "An exact test: is the score of Students given Bases larger than that of Bases given other Bases? It asks "
        "whether another training run would give the same result.",
        ("Seed control", "test over seeds"),
    ),
    Term(
        "corrected p-value",
        "A p-value that Holm's method multiplies, because several layers or classes are tested.",
        ("corrected p", "Holm"),
    ),
    Term(
        "undecided",
        "There are too few seeds to answer: even the clearest result would have p above .05.",
    ),
    Term(
        "accuracy",
        "The share of inputs whose class a network predicts.",
        ("Accuracy",),
    ),
    Term(
        "agreement",
        "The share of inputs for which two networks predict the same class.",
        ("Agreement",),
    ),
    Term(
        "ECE",
        "Expected calibration error: how far a network's confidence is from its accuracy, over 15 bins.",
        ("calibration error", "calibration"),
    ),
    Term(
        "KL",
        "Kullback-Leibler divergence of predicted probabilities, in nats. 0 for equal predictions.",
    ),
    Term(
        "JS",
        "Jensen-Shannon divergence of predicted probabilities, in nats, at most 0.693. 0 for equal predictions.",
    ),
    Term(
        "negative transfer",
        "Errors that the Student shares with the Teacher on inputs where the Base is right.",
        ("same errors",),
    ),
    Term(
        "distilled map",
        "Where the Student's activations carry what the Student has, the Base lacks and the labels need.",
        ("distilled maps",),
    ),
    Term(
        "residual map",
        "The same for the Base, given the Student.",
        ("residual maps",),
    ),
    Term(
        "gain of J",
        "J is how well the part of a model's representation that the other model lacks follows the labels (or the Teacher). The "
        "positions of a map add up to the gain: J at this input minus J at the population's mean features.",
    ),
    Term(
        "net map",
        "The distilled minus the residual map of integrated maps, in the unit of the gain.",
        ("net maps", "net"),
    ),
    Term(
        "Grad-CAM",
        "A map of what raises the logit of a class. It knows one network only.",
    ),
    Term(
        "keep curve",
        "Accuracy on inputs of which only the positions that a map ranks highest are kept. A better map has a larger "
        "area.",
        ("keep curves",),
    ),
    Term(
        "reliability",
        "About the correlation of means over pairs of models with those of other seeds. Below .5, most of the "
        "differences between inputs come from the seeds.",
    ),
)

_BY_SPELLING = {spelling: term for term in GLOSSARY for spelling in (term.word, *term.other)}
_SPELLINGS = re.compile(
    r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(_BY_SPELLING, key=len, reverse=True))) + r")(?![\w-])"
)


def with_links(text: str) -> str:
    """HTML of a text in which the first occurrence of each key word is a link to the glossary."""
    seen: set[str] = set()
    parts, end = [], 0
    for found in _SPELLINGS.finditer(text):
        term = _BY_SPELLING[found[0]]
        if term.word not in seen:
            seen.add(term.word)
            parts += [escape(text[end : found.start()]), f'<a class="word" href="#{term.anchor}">{escape(found[0])}</a>']
            end = found.end()
    return "".join([*parts, escape(text[end:])])
