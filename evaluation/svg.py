"""Matplotlib figures as inline SVG that follows the page: its fonts, and its colours in light and dark."""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

# Colours to draw with. Each becomes a CSS variable of the page, which has a light and a dark value.
INK = "#000000"
PAPER = "#ffffff"
MUTED = "#767676"
FAINT = "#d9d9d9"
ACCENT = "#1f5fa8"
WARN = "#a8431f"
CSS_COLOURS = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    MUTED: "var(--muted)",
    FAINT: "var(--faint)",
    ACCENT: "var(--accent)",
    WARN: "var(--warn)",
}

STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
SVG_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "armflow",  # the same figure gives the same file
}


@contextmanager
def report_style() -> Iterator[None]:
    """Draw figures of the report within this."""
    with mpl.rc_context(STYLE):
        yield


def inline_svg(figure: Figure, alt: str) -> str:
    """The figure as an <svg> element. `alt` says in words what it shows."""
    buffer = StringIO()
    with mpl.rc_context(SVG_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda match: CSS_COLOURS.get(match[0], match[0]), svg)
    svg = _own_ids(svg, prefix=f"f{zlib.crc32(svg.encode()):08x}-")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _own_ids(svg: str, prefix: str) -> str:
    """Figures share a page, and matplotlib gives all of them the same ids."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return re.sub(r"url\(#", f"url(#{prefix}", svg)
