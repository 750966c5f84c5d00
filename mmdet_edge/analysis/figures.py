"""Figures that compare runs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from .comparison import Comparison, Curve
from .statistics import lower_is_better

COLORS = ('#333333', '#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
"""Of the baseline and of the variants after it: distinct for color-blind readers too (Okabe and Ito)."""

LINE_STYLES = ('-', '--', ':')
"""Change when all colors are used up."""


def draw_image(axes: Axes, image: np.ndarray, masks: Iterable[np.ndarray] = (), interpolation: str = 'nearest') -> None:
    """Show an image, (H, W, 3), RGB, uint8, without a scale, and the outlines of binary masks, (H, W).

    ``interpolation`` is one of matplotlib's.
    """
    height, width = image.shape[:2]
    axes.imshow(image, interpolation=interpolation)
    # A margin, so that the outline closes at the image border.
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for mask in masks:
        for color, line_width in (('black', 2.6), ('yellow', 1.4)):
            axes.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=color, linewidths=line_width)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ``color``, ``linestyle`` and ``label`` of matplotlib's ``plot`` for each name, the baseline first."""
    return {
        name: dict(
            color=COLORS[i % len(COLORS)], linestyle=LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)], label=name
        )
        for i, name in enumerate(names)
    }


def make_panels(number: int, columns: int, styles: dict[str, dict[str, Any]]) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels, ``columns`` side by side, with one legend of ``styles`` above them."""
    rows, longest = math.ceil(number / columns), max(map(len, styles))
    # As many names side by side as fit.
    legend_columns = max(1, min(len(styles), 40 * columns // (longest + 6)))
    height = 3.25 * rows + 0.22 * math.ceil(len(styles) / legend_columns) + 0.1
    figure = Figure(figsize=(max(4.2 * columns, 0.09 * longest + 0.8), height))
    figure.set_layout_engine('constrained', w_pad=0.08, h_pad=0.06)
    handles = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(handles=handles, loc='outside upper left', ncols=legend_columns, frameon=False, borderaxespad=0)
    return figure, [figure.add_subplot(rows, columns, i) for i in range(1, number + 1)]


def draw_band(axes: Axes, x: Any, mean: np.ndarray, spread: Any, style: dict[str, Any]) -> None:
    """Draw a curve, ``x`` and ``mean``, (T,), its points marked if there are few, and a band around it.

    ``spread``, (T,) or one number, is half the width of the band; :func:`line_styles` makes ``style``.
    """
    axes.plot(x, mean, marker='o' if len(x) < 20 else None, **style, markersize=3.5, linewidth=1.6)
    axes.fill_between(x, mean - spread, mean + spread, color=style['color'], alpha=0.18, lw=0)


def title_panel(axes: Axes, title: str, metric: str) -> None:
    """Write title, direction and label of the iterations; add a grid."""
    # On two lines: side by side, long names would run into each other.
    axes.set_title(f'{title}\n({"lower" if lower_is_better(metric) else "higher"} is better)', fontsize=10)
    axes.set_xlabel('iteration')
    axes.grid(alpha=0.3)


def _draw_metric(axes: Axes, metric: str, curves: dict[str, Curve], styles: dict[str, dict[str, Any]]) -> None:
    """Draw mean and band of all variants, and the target."""
    baseline, lowest = next(iter(styles)), math.inf
    for name, curve in curves.items():
        mean, spread = curve.mean, 0.0 if curve.spread is None else curve.spread
        draw_band(axes, curve.iterations, mean, spread, styles[name])
        lowest = min(lowest, float(np.min(mean - spread)))
    if baseline in curves:
        axes.axhline(curves[baseline].mean[-1], color=styles[baseline]['color'], linestyle=(0, (1, 2)), linewidth=1)
    title_panel(axes, metric, metric)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    if lower_is_better(metric) and lowest > 0:
        # The first iterations of a loss would flatten the rest.
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(comparison: Comparison, columns: int = 3) -> Figure:
    """Draw the variants of a comparison over the training iterations, one panel per metric.

    The smoothed mean over the seeds is a line, the standard deviation a band, the target (the baseline's final value) a
    dotted line. At most ``columns`` panels are side by side; 3 by default.
    """
    styles = line_styles(list(comparison.runs))
    figure, panels = make_panels(len(comparison.curves), min(columns, len(comparison.curves)), styles)
    for axes, (metric, curves) in zip(panels, comparison.curves.items()):
        _draw_metric(axes, metric, curves, styles)
    return figure
