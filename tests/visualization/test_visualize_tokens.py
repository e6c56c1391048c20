"""Sentences in rows, tested by the figure's artists, the page's spans and Captum's own table."""

import re
from html import unescape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import visualization
from captum.attr._utils import visualization as captum_visualization
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from captum_kd import TransferAttributions
from captum_kd.visualization import TokenFigure, token_records, visualize_tokens
from captum_kd.visualization._words import find_mark, join_pieces
from figures import assert_legible

SENTENCES = [
    "[CLS] Where is Moz ##amb ##ique ? [SEP]".split(),
    "[CLS] Who died ? [SEP] [PAD] [PAD] [PAD]".split(),
]
T = 8
MASK = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])


def token_maps(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, T, generator=torch.Generator().manual_seed(seed)) * MASK[:, None]


def transfer() -> TransferAttributions:
    return TransferAttributions(token_maps(1), token_maps(2))._with_unit(
        False, relu_attributions=False, attr_dim_summation=True, adds_up=True
    )


def drawn(figure: TokenFigure) -> list[tuple[str, tuple[float, ...]]]:
    """Each word and its color, in reading order."""
    words = [text for text in figure.axes[0].texts if not text.get_parse_math()]
    boxes = [patch.get_facecolor() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return list(zip([text.get_text() for text in words], boxes, strict=True))


def spans(page: str) -> list[tuple[str, str]]:
    """Each word and the text shown while the pointer is over it."""
    found = re.findall(r'<span class="w[^>]*title="([^"]*)">([^<]*)</span>', page)
    return [(unescape(word), unescape(hover)) for hover, word in found]


def words(tokens: list[str]) -> list[str]:
    """The words, with spaces where there are some."""
    joined = join_pieces(tokens, range(len(tokens)), find_mark([tokens]))
    return "".join(("" if word.is_glued else " ") + word.text for word in joined).strip().split(" ")


# ----------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "tokens, expected",
    [
        ("[CLS] play ##ing un ##afford ##able ? [SEP]".split(), ["[CLS]", "playing", "unaffordable?", "[SEP]"]),
        ("<s> Where Ġis ĠMoz amb ique ? </s>".split(), ["<s>", "Where", "is", "Mozambique?", "</s>"]),
        ("▁Where ▁is ▁Moz amb ique ? </s>".split(), ["Where", "is", "Mozambique?", "</s>"]),
        (["who", "won", "?"], ["who", "won?"]),
        # One emoji and one accent in several byte-level tokens.
        (["a", "ĠðŁĺ", "Ģ", "Ġcaf", "Ã", "©"], ["a", "😀", "café"]),
        (["▁a", "▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "b"], ["a", "😀b"]),
        # A space may be a token of its own.
        (["▁a", "▁", "wr", "ote"], ["a", "wrote"]),
        # Words of spaces alone and line breaks are visible.
        (["a", "Ġ", "Ġb", "Ċ"], ["a", "␣", "b", "\\n"]),
        # A literal mark of another tokenizer does not count against the more frequent one.
        ("un ##able ##s Ġanni".split(), ["unables", "Ġanni"]),
        ("Ġ## Ġtitle Ġof".split(), ["##", "title", "of"]),
    ],
)
def test_pieces_become_words(tokens, expected):
    assert words(tokens) == expected


def test_scripts_without_spaces_stay_in_their_pieces():
    joined = join_pieces(["▁我", "喜欢", "猫", "▁กิน", "ข้าว", "▁кош", "ка"], range(7), "▁")
    assert [word.text for word in joined] == ["我", "喜欢", "猫", "กิน", "ข้าว", "кошка"]


def test_pieces_behind_a_removed_token_start_a_word():
    joined = join_pieces(["a", "##b", "##c"], [0, 2], "##")
    assert [(word.text, word.positions) for word in joined] == [("a", (0,)), ("c", (2,))]


def test_unknown_and_masked_words_are_not_special():
    tokens = ["[CLS]", "[UNK]", "[MASK]", "<unk>", "<mask>", "<b>", "<|endoftext|>", "</s>", "<\uff5cend\uff5c>"]
    special = [word.text for word in join_pieces(tokens, range(len(tokens)), "") if word.is_special]
    assert special == ["[CLS]", "<|endoftext|>", "</s>", "<\uff5cend\uff5c>"]


@pytest.mark.parametrize("kind", ["WordPiece", "ByteLevel", "Metaspace"])
def test_words_of_a_trained_tokenizer(kind):
    tokenizers = pytest.importorskip("tokenizers")
    models, pre, trainers = tokenizers.models, tokenizers.pre_tokenizers, tokenizers.trainers
    text = "Which unbelievable elephants of Mozambique wrote unaffordable novels"
    model = models.WordPiece(unk_token="[UNK]") if kind == "WordPiece" else models.BPE()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = {
        "WordPiece": pre.Whitespace, "ByteLevel": lambda: pre.ByteLevel(add_prefix_space=False), "Metaspace": pre.Metaspace,
    }[kind]()  # fmt: skip
    trainer = trainers.WordPieceTrainer if kind == "WordPiece" else trainers.BpeTrainer
    tokenizer.train_from_iterator([text], trainer(vocab_size=60, special_tokens=["[UNK]"]))
    tokens = tokenizer.encode(text).tokens
    assert len(tokens) > len(text.split())
    assert words(tokens) == text.split()


# ----------------------------------------------------------------------------- figure


def test_a_row_of_words_for_each_sentence_and_map():
    figure = visualize_tokens(SENTENCES, {"net": token_maps(), "Grad-CAM": token_maps().abs()})
    rows = [["[CLS]", "Where", "is", "Mozambique", "?", "[SEP]"]] * 2 + [["[CLS]", "Who", "died", "?", "[SEP]"]] * 2
    assert [word for word, _ in drawn(figure)] == sum(rows, [])
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_parse_math()]
    assert labels == ["net", "Grad-CAM"] * 2


def test_a_word_has_the_sum_of_its_pieces():
    maps = torch.zeros(1, 1, 5)
    maps[0, 0, :4] = torch.tensor([0.5, -1.0, 2.0, 1.0])
    figure = visualize_tokens([["a", "b", "##c", "##d", "e"]], {"net": maps}, scale="map")
    colors = colormaps["RdBu_r"]
    expected = [("a", colors(0.5 + 0.25 / 2)), ("bcd", colors(1.0)), ("e", colors(0.5))]
    for (word, color), (expected_word, expected_color) in zip(drawn(figure), expected, strict=True):
        assert word == expected_word
        np.testing.assert_allclose(color, expected_color)
    assert spans(figure.to_html()) == [
        ("a", "a: +0.5"), ("bcd", "b ##c ##d: +2 (-1 +2 +1)"), ("e", "e: 0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scale, strongest", [("shared", [4, 4, 4, 4]), ("name", [2, 4, 2, 4]), ("map", [1, 3, 2, 4]), ([["a", "b"]], [4, 4, 4, 4])]
)
def test_scales(scale, strongest):
    maps = {"a": torch.tensor([[[1.0]], [[2.0]]]), "b": torch.tensor([[[3.0]], [[4.0]]])}
    figure = visualize_tokens([["x"], ["y"]], maps, scale=scale)
    values = np.array([1, 3, 2, 4])
    found = np.array([color for _, color in drawn(figure)])
    np.testing.assert_allclose(found, colormaps["RdBu_r"](0.5 + 0.5 * values / np.array(strongest)))
    assert len(figure.axes) - 1 == {"name": 2}.get(str(scale), 1)


def test_integrated_maps_show_net_first_with_one_scale_a_unit_and_sums():
    maps = transfer()
    figure = visualize_tokens(SENTENCES, maps)
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_parse_math()]
    assert labels[::2] == ["net", "distilled", "residual"] * 2
    assert labels[1] == f"sum {float(maps.net[0].sum()):+.2g}"
    (bar,) = figure.axes[1:]
    assert bar.get_xlabel().replace("\n", " ") == "all maps: gain of J per word"


def test_left_out_tokens_still_count_in_the_sum():
    maps = torch.tensor([[[5.0, 1.0, 2.0, -4.0]]])
    sentence = [["[CLS]", "a", "b", "[SEP]"]]
    figure = visualize_tokens(sentence, {"net": maps}, units={"net": "gain of J"}, special_tokens=False)
    assert [word for word, _ in drawn(figure)] == ["a", "b"]
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_parse_math()]
    assert labels == ["net", "sum +4,\nshown +3"]
    np.testing.assert_allclose(drawn(figure)[1][1], colormaps["RdBu_r"](1.0))  # the scale is that of the words shown


def test_padding_is_left_out_by_length_name_or_mask():
    maps = token_maps()
    short = [[token for token in sentence if token != "[PAD]"] for sentence in SENTENCES]
    named = SENTENCES
    masked = [[token.replace("[PAD]", "x") for token in sentence] for sentence in SENTENCES]
    nonzero = {"net": torch.where(MASK[:, None] == 1, maps, 7.0)}
    pages = {
        visualize_tokens(short, {"net": maps}).to_html(),
        visualize_tokens(named, {"net": maps}).to_html(),
        visualize_tokens(masked, nonzero, token_mask=MASK).to_html(),
        visualize_tokens(short, nonzero, token_mask=MASK.bool()).to_html(),
    }
    assert len(pages) == 1


def test_padding_on_the_left():
    sentences = [["<|endoftext|>", "<|endoftext|>", "Who", "Ġdied"]]
    figure = visualize_tokens(sentences, {"net": torch.ones(1, 1, 4)}, token_mask=torch.tensor([[0, 0, 1, 1]]))
    assert [word for word, _ in drawn(figure)] == ["Who", "died"]


HOSTILE = [
    "$x_1$", "<script>", "&amp;", "\n", "\x1b[31m", "😀", "x" * 300, "W" * 90, "a\u202eb", '"', "\\$", "中文", "_", "\ud800",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_text_stays_text():
    name = "$net$ <b> & \n \x1b"
    figure = visualize_tokens(
        [HOSTILE], {name: torch.randn(1, 1, len(HOSTILE))}, sentence_titles=["$a_b$ </h2> &"], title="<i> $x$",
        units={name: "$J$ </p>"},
    )  # fmt: skip
    assert_legible(figure)
    page = figure.to_html()
    texts = [word for word, _ in spans(page)]
    assert texts[:4] == ["$x_1$", "<script>", "&amp;", "\\n"] and len(texts) == len(HOSTILE)
    assert "".join(word for word, _ in drawn(figure)) == "".join(texts)
    assert not re.search(r"<(?:script|b|i|/h2>\s*&)>|\x1b|\u202e", page)
    page.encode("utf-8")


@pytest.mark.parametrize("dpi", [72, 100, 150, 300])
def test_text_fits_its_box_and_the_page(dpi):
    sentence = "[CLS] Illicit Mozambique filled , iiiillll WWWW and ffi , the quick brown fox ? [SEP]".split() * 4
    names = ("net", "a very long name of a map that needs several lines", "c", "d")
    maps = {name: torch.randn(1, 1, len(sentence)) for name in names}
    figure = visualize_tokens([sentence], maps, sentence_titles=["label LOC, predicted LOC " * 9], title="word " * 60)
    figure.set_dpi(dpi)
    assert figure.get_figwidth() == 7.0
    assert_legible(figure)
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches]
    shown = [text.get_window_extent() for text in figure.axes[0].texts if not text.get_parse_math()]
    for text, box in zip(shown, boxes, strict=True):
        assert box.x0 - 1 <= text.x0 and text.x1 <= box.x1 + 1 and box.y0 - 1 <= text.y0 and text.y1 <= box.y1 + 1


def test_text_has_contrast():
    def luminance(color: Any) -> float:
        linear = np.where(np.array(color) <= 0.04045, np.array(color) / 12.92, ((np.array(color) + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    maps = torch.linspace(-1, 1, 101)[None, None]
    figure = visualize_tokens([["a"] * 101], {"net": maps})
    page = figure.to_html()
    for light, dark, ink in re.findall(r'style="--light:(\S+);--dark:(\S+);--ink:(\S+)"', page):
        for background, letters in ((light, ink), (dark, "#fff")):
            pair = sorted(luminance(plt.matplotlib.colors.to_rgb(color)) for color in (background, letters))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_figures_stay_out_of_pyplot_and_arguments_as_they_were():
    maps = token_maps()
    before = maps.clone()
    figure = visualize_tokens(SENTENCES, {"net": maps.requires_grad_()}, token_mask=MASK)
    assert plt.get_fignums() == [] and torch.equal(maps, before) and figure.figure is figure


# ----------------------------------------------------------------------------- page and records


def test_page_is_self_contained_and_written(tmp_path):
    figure = visualize_tokens(SENTENCES, transfer(), sentence_titles=["LOC", "HUM"], title="Questions")
    page = figure.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert not re.search(r"<script|https?:|src=|url\(", page)
    assert [word for word, _ in spans(page)] == [word for word, _ in drawn(figure)]
    assert "<h2 dir=\"auto\">LOC</h2>" in page and "all maps: gain of J per word" in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_records_for_captums_table(monkeypatch):
    maps = {"net": token_maps(), "<b>": 2 * token_maps(1)}
    records = token_records(SENTENCES, maps, labels=[1, 2], predictions=["LOC", "<HUM>"], probabilities=[0.9, 0.8])
    assert all(type(record) is visualization.VisualizationDataRecord for record in records)
    assert [record.attr_class for record in records] == ["net", "&lt;b&gt;"] * 2
    assert [record.true_class for record in records] == ["1", "1", "2", "2"]
    first = records[0]
    assert first.raw_input_ids == ["[CLS]", "Where", "is", "Mozambique", "?", "[SEP]"]
    values = maps["net"][0, 0].double()
    sums = torch.stack([*values[:3], values[3:6].sum(), *values[6:]])
    torch.testing.assert_close(first.word_attributions * max(sums.abs().max(), maps["net"][1].abs().max()), sums)
    assert first.attr_score == pytest.approx(float(values.sum()))
    for name, value in (("HAS_IPYTHON", True), ("HTML", str), ("display", lambda _: None)):
        monkeypatch.setattr(captum_visualization, name, value, raising=False)
    table = visualization.visualize_text(records)
    assert "Mozambique" in table and "LOC (0.90)" in table and "<b>b" not in table and "<HUM>" not in table
    assert visualization.visualize_text(token_records(SENTENCES, maps))


# ----------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"tokens": "Where is it?"}, TypeError, "one list of tokens for each sentence.*convert_ids_to_tokens"),
        ({"tokens": ["Where", "Who"]}, TypeError, r"tokens\[0\] must be a list of tokens \(str\), got 'Where'"),
        ({"tokens": [[1, 2], [3]]}, TypeError, r"tokens\[0\] must be a list of tokens \(str\)"),
        ({"tokens": []}, TypeError, "one list of tokens for each sentence"),
        ({"tokens": SENTENCES[:1]}, ValueError, "has 2 maps for 1 inputs"),
        ({"tokens": [SENTENCES[0] + ["x"], SENTENCES[1]]}, ValueError, r"\[0\] has 9 tokens, but the maps have 8 positions"),
        ({"tokens": [SENTENCES[0][1:-1], SENTENCES[1]]}, ValueError, r"\[0\] has 6 tokens, but maps\['net'\] is not 0 at"),
        ({"maps": {}}, TypeError, "maps must map names to tensors"),
        ({"maps": token_maps()}, TypeError, "maps must map names to tensors"),
        ({"maps": {"net": token_maps()[:, 0]}}, ValueError, r"shape \(N, 1, T\).*unsqueeze"),
        ({"maps": {"net": token_maps()[..., None]}}, ValueError, "maps of images, but the inputs are tokens"),
        ({"maps": {"net": token_maps().long()}}, TypeError, "floating point tensor"),
        ({"maps": {"net": token_maps() / 0}}, ValueError, "non-finite"),
        ({"maps": {"net": (token_maps(), token_maps())}}, TypeError, "is a tuple of 2.*choose"),
        ({"maps": TransferAttributions((token_maps(),), (token_maps(),))}, TypeError, "is a tuple of 1.*choose"),
        ({"maps": {"a": token_maps(), "b": token_maps()[..., :7]}}, ValueError, "{'a': 8, 'b': 7}.*another tokenizer"),
        ({"token_mask": MASK[:, :5]}, ValueError, "token_mask has 5 tokens, but the maps have 8 positions"),
        ({"scale": "column"}, ValueError, "scale must be 'map', 'name' or 'shared'"),
        ({"scale": [["nett"]]}, ValueError, r"some of \['net'\]"),
        ({"scale": 3}, TypeError, "groups of titles"),
        ({"units": {"nett": "J"}}, ValueError, r"some of \['net'\]"),
        ({"sentence_titles": ["a"]}, ValueError, "one text for each of the 2 sentences, got 1"),
        ({"sentence_titles": "ab"}, TypeError, "sentence_titles must be a list of texts"),
        ({"special_tokens": "hide"}, TypeError, "special_tokens must be True or False"),
        ({"title": 3}, TypeError, "title"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    arguments = {"tokens": SENTENCES, "maps": {"net": token_maps()}, **changes}
    with pytest.raises(error, match=message):
        visualize_tokens(arguments.pop("tokens"), arguments.pop("maps"), **arguments)


def test_bad_fields_of_records_are_named():
    with pytest.raises(ValueError, match="probabilities must be a list of one number for each of the 2 sentences"):
        token_records(SENTENCES, {"net": token_maps()}, probabilities=[0.5])
    with pytest.raises(ValueError, match="labels must hold one text"):
        token_records(SENTENCES, {"net": token_maps()}, labels=[0])
