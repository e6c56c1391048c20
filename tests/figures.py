"""What a reader of a figure needs, checked on the rendered figure."""

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

SMALLEST_PRINT = 7.0


def drawn_texts(figure: Figure) -> list[Text]:
    """Every text that a reader sees; ticks outside the limits and axes that are off have texts, too."""
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in axes.findobj(Axis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    hidden.update((tick.label1, tick.label2))
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden]


def assert_legible(figure: Figure) -> None:
    """Every text is large enough, inside the figure and clear of every other text; legends are clear of data."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(text, text.get_window_extent(renderer)) for text in drawn_texts(figure)]
    assert boxes
    for text, box in boxes:
        assert text.get_fontsize() >= SMALLEST_PRINT, f"{text.get_text()!r} is small"
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} is cut: {box.extents}, {figure.bbox.extents}"
    # The box of a slanted text is mostly empty.
    upright = [(text, box) for text, box in boxes if text.get_rotation() in (0.0, 90.0)]
    for (one, box), (other, its) in combinations(upright, 2):
        apart = box.x1 <= its.x0 + 1 or its.x1 <= box.x0 + 1 or box.y1 <= its.y0 + 1 or its.y1 <= box.y0 + 1
        assert apart, f"{one.get_text()!r} lies on {other.get_text()!r}"
    panels = [axes.get_window_extent() for axes in figure.axes if axes.axison]
    for legend in (axes.get_legend() for axes in figure.axes if axes.get_legend() is not None):
        assert not any(legend.get_window_extent(renderer).overlaps(panel) for panel in panels)
