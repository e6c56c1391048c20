"""Figures and pages of the maps of sentences, and records of them for Captum's ``visualize_text``."""

from __future__ import annotations

from html import escape
from os import PathLike
from typing import Any, Mapping, Optional, Sequence, Union

import torch
from captum.attr import visualization
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd._utils.files import write_whole
from captum_kd._utils.validation import check_str, short_repr
from captum_kd.visualization._sentences import Maps, read_sentences
from captum_kd.visualization._token_figure import draw_sentences
from captum_kd.visualization._token_html import page

__all__ = ["TokenFigure", "token_records", "visualize_tokens"]


class TokenFigure(Figure):
    """A figure of sentences, which can also be written as a page of HTML; made by :func:`visualize_tokens`."""

    _page: str

    def to_html(self, path: Union[None, str, PathLike[str]] = None) -> str:
        """The sentences as one self-contained page without scripts, for light and dark screens of any width.

        The text can be selected and searched. A word shows its tokens and its value while the pointer is over it.

        Args:
            path (str or path, optional): a file to write the page to.

        Returns:
            *str*: the page.
        """
        if path is not None:
            write_whole(path, self._page)
        return self._page


def visualize_tokens(
    tokens: Sequence[Sequence[str]],
    maps: Maps,
    *,
    token_mask: Optional[Tensor] = None,
    sentence_titles: Optional[Sequence[str]] = None,
    scale: Union[None, str, Sequence[Sequence[str]]] = None,
    units: Optional[Mapping[str, str]] = None,
    special_tokens: bool = True,
    title: Optional[str] = None,
) -> TokenFigure:
    """Draws sentences whose words have the colors of their values, once for each kind of map.

    Pieces of words are joined, and the value of a word is the sum of its pieces, because the positions of an integrated
    map add up. The tokens tell what is joined: "##" of WordPiece, "\u0120" of byte-level BPE or "\u2581" of SentencePiece.
    Tokens without such marks are words. Red is above 0, blue is below 0, and white is 0. Long sentences are wrapped.
    Matplotlib's own font lacks the letters of many scripts and draws them from left to right: use the page for these, or set
    ``matplotlib.rcParams["font.family"]`` to a list of fonts that has them.

    Args:
        tokens (sequence of sequences of str): the tokens of N sentences, as ``tokenizer.convert_ids_to_tokens`` gives
            them: all that the model got, in its order. Padding at the end may be left out.
        maps (mapping of str to Tensor, or TransferAttributions): name -> maps (N, 1, T), in the order in which they are
            shown. The result of ``attribute_transfer`` for one layer becomes "distilled" and "residual". If it was
            made with ``n_steps``, "net" comes first, all have one scale, and their unit is stated.
        token_mask (Tensor, optional): (N, T), as ``attention_mask``: positions that are 0 or False are padding and are
            left out. Without it, padding is what lies behind a sentence's tokens, and tokens such as "[PAD]" and "<pad>".
        sentence_titles (sequence of str, optional): N texts above the sentences, such as label and prediction.
        scale (str or sequence of sequences of str, optional): "name" (one color scale for all maps of one name, to
            compare sentences), "shared" (one for the whole figure, for maps in the same unit) or "map" (one for each
            map of each sentence, so that strong and weak maps look alike). Groups of names,
            ``[["net", "net of two Bases"]]``, share a scale within each group. The largest absolute value on a
            scale has the strongest color. Default: "name", or "shared" for maps with a net map.
        units (mapping of str to str, optional): name -> unit of its maps. Maps with a unit have their sum below the name,
            and if tokens are left out also the sum of those that are shown. Default: none, or "gain of J per word" for
            maps that add up to a gain (``TransferAttributions.has_unit``).
        special_tokens (bool): draw tokens such as "[CLS]", "[SEP]", "<s>" and ``"<|endoftext|>"``, small and slanted. False
            leaves them out; their values still count in the sums. Default: True
        title (str, optional): a heading.

    Returns:
        *TokenFigure*: a matplotlib ``Figure``, not registered with pyplot, seven inches wide. Its :meth:`~TokenFigure.to_html`
        gives the same sentences as a page.

    Raises:
        TypeError: tokens that are not lists of texts, maps that are not floating point tensors, a mask that is no tensor.
        ValueError: tokens, maps or mask of different lengths, maps that are not finite, a sentence without tokens in the mask,
            names that do not exist.

    Examples::

        >>> batch = tokenizer(questions, padding=True, return_tensors="pt")
        >>> unicam = UniCAM(student, "transformer.layer.1", base)
        >>> maps = unicam.attribute_transfer(batch, labels, reference=population, n_steps=16)
        >>> tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"]]
        >>> figure = visualize_tokens(tokens, maps, token_mask=batch["attention_mask"])
        >>> figure.savefig("questions.png", dpi=150)
        >>> page = figure.to_html("questions.html")
    """
    sentences = read_sentences(tokens, maps, token_mask, scale, units, special_tokens)
    titles = _checked_texts(sentence_titles, "sentence_titles", len(sentences.words))
    title = check_str(title, "title")
    figure = TokenFigure()
    draw_sentences(figure, sentences, titles, title)
    figure._page = page(sentences, titles, title)
    return figure


def token_records(
    tokens: Sequence[Sequence[str]],
    maps: Maps,
    *,
    token_mask: Optional[Tensor] = None,
    scale: Union[None, str, Sequence[Sequence[str]]] = None,
    special_tokens: bool = True,
    labels: Optional[Sequence[Any]] = None,
    predictions: Optional[Sequence[Any]] = None,
    probabilities: Optional[Sequence[float]] = None,
) -> list[visualization.VisualizationDataRecord]:
    """Records for Captum's ``visualize_text``: for each sentence one of each kind of map.

    Captum's table shows the map's name as "Attribution Label" and its sum as "Attribution Score". Values are divided by
    the largest one on their scale, since Captum's colors end at 1. Words are joined as in :func:`visualize_tokens`.

    Args:
        tokens, maps, token_mask, scale, special_tokens: as in :func:`visualize_tokens`.
        labels (sequence, optional): N true classes or their names. Default: empty texts
        predictions (sequence, optional): N predicted classes or their names. Default: empty texts
        probabilities (sequence of float, optional): N probabilities of the predicted classes. Default: NaN

    Returns:
        *list of captum.attr.visualization.VisualizationDataRecord*

    Raises:
        TypeError, ValueError: as :func:`visualize_tokens`.

    Examples::

        >>> from captum.attr import visualization
        >>> html = visualization.visualize_text(token_records(tokens, maps, labels=labels.tolist()))
    """
    sentences = read_sentences(tokens, maps, token_mask, scale, None, special_tokens)
    n = len(sentences.words)
    true, predicted = _checked_texts(labels, "labels", n), _checked_texts(predictions, "predictions", n)
    if probabilities is not None and (not isinstance(probabilities, (list, tuple, Tensor)) or len(probabilities) != n):
        raise ValueError(
            f"probabilities must be a list of one number for each of the {n} sentences, got {short_repr(probabilities)}."
        )
    return [
        visualization.VisualizationDataRecord(
            word_attributions=torch.tensor(sentences.values(name, i), dtype=torch.float64) / sentences.tops[name][i],
            pred_prob=float("nan") if probabilities is None else float(probabilities[i]),
            pred_class="" if predicted is None else escape(predicted[i]),
            true_class="" if true is None else escape(true[i]),
            attr_class=escape(name),
            attr_score=float(values[i].sum()),
            raw_input_ids=[escape(word.text) for word in words],
            convergence_score=float("nan"),
        )
        for i, words in enumerate(sentences.words)
        for name, values in sentences.maps.items()
    ]


def _checked_texts(texts: Any, argument: str, n: int) -> Optional[list[str]]:
    if texts is None:
        return None
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, (str, int)) for text in texts):
        raise TypeError(f"{argument} must be a list of texts or None, got {short_repr(texts)}.")
    if len(texts) != n:
        raise ValueError(f"{argument} must hold one text for each of the {n} sentences, got {len(texts)}.")
    return [str(text) for text in texts]
