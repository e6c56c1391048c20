"""Self-contained HTML pages of reports, with maps that a reader can choose."""

from captum_kd.page.content import Download, Folded, PageTable, Paragraphs, Picture, Section

__all__ = ["Download", "Folded", "PageTable", "Paragraphs", "Picture", "Section"]
