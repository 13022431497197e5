"""Renders an SVG document as PNG; the one door to resvg.

Needs `resvg-py`, one wheel without dependencies, and sends nothing: the names of data stay on this machine.
"""

from __future__ import annotations

import re

from raypipe.drawing.vector import FONTS
from raypipe.errors import SpecError

_ZOOM = 2.0
_MOST_PX = 16_000
"""A wider or higher picture is drawn smaller, since viewers refuse larger ones."""
_SHEET = f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" font-family="{FONTS}">'
_LETTER = _SHEET + '<text y="30" font-size="30">{}</text></svg>'


def png(picture: str) -> bytes:
    """An SVG document as PNG. Raises SpecError when resvg, or any font, is missing."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        problem = "a .png needs resvg-py: pip install 'raypipe[draw]'; or write .svg or .mmd, which need nothing"
        raise SpecError.of("picture", problem) from None
    if svg_to_bytes(svg_string=_LETTER.format("M")) == svg_to_bytes(svg_string=_LETTER.format("")):
        problem = "this machine has no font to write into a .png; install fonts-dejavu, or write .svg or .mmd"
        raise SpecError.of("picture", problem)
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', picture)
    zoom = min(_ZOOM, _MOST_PX / max(int(side) for side in found.groups())) if found else _ZOOM
    return bytes(svg_to_bytes(svg_string=picture, zoom=zoom))
