"""The style of the figures. The page replaces these colors by its own, light or dark, so each has one purpose."""

INK, FAINT, PAPER = "#1f2328", "#d0d7de", "#ffffff"
ACCENT, BASE, MUTED = "#0969da", "#bc4c00", "#8c959f"
ON_PAGE = {INK: "ink", FAINT: "faint", PAPER: "paper", ACCENT: "accent", BASE: "base", MUTED: "muted"}  # page/base.css
STYLE = {
    "axes.edgecolor": FAINT, "axes.facecolor": PAPER, "axes.labelcolor": INK, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "font.size": 10, "grid.color": FAINT, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "font.family": "DejaVu Sans",
    "svg.fonttype": "none", "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a label is text, with whatever dollars are in it
}  # fmt: skip
