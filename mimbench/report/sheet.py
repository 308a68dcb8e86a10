"""What figures are drawn on: wide for a desk and for paper, narrow for a phone; the same panels, placed differently."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARTIST = "row:"  # begins the SVG id of what is drawn of a row, so that the page's filter finds it
LEGEND_LINE = 0.21  # inches


@dataclass(frozen=True)
class Sheet:
    width: float  # inches
    across: int  # panels side by side
    small_across: int  # small panels side by side
    letters: int  # of a row's label on one line
    legend_below: bool

    def wrapped(self, label: str) -> str:
        return textwrap.fill(label, self.letters)

    def panels(
        self, count: int, height: float, *, small: bool = False, sharey: bool = False
    ) -> tuple[Figure, list[Axes]]:
        """`height`: of each panel, in inches."""
        from matplotlib.figure import Figure

        across = min(self.small_across if small else self.across, count)
        down = math.ceil(count / across)
        width = self.width if small or across == self.across or count == 1 else self.width / self.across
        figure = Figure(figsize=(width, height * down))
        axes = list(figure.subplots(down, across, squeeze=False, sharey=sharey).flat)
        for spare in axes[count:]:
            spare.remove()
        return figure, axes[:count]

    def legend(self, figure: Figure, handles: dict[str, Artist]) -> None:
        """Beside the panels, or below them where there is no room. `handles`: by row's name, labeled."""
        if self.legend_below:
            lines = sum(str(handle.get_label()).count("\n") + 1 for handle in handles.values())
            figure.set_size_inches(self.width, figure.get_size_inches()[1] + LEGEND_LINE * lines)
            legend = figure.legend(handles=list(handles.values()), loc="outside lower left", fontsize=9)
        else:
            legend = figure.legend(handles=list(handles.values()), loc="outside right center", fontsize=9)
        for name, line, text in zip(handles, legend.get_lines(), legend.get_texts(), strict=True):
            line.set_gid(ARTIST + name)
            text.set_gid(ARTIST + name)


WIDE = Sheet(width=9.2, across=2, small_across=3, letters=38, legend_below=False)
NARROW = Sheet(width=4.3, across=1, small_across=2, letters=22, legend_below=True)
