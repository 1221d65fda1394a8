"""How the figures look: one style, a palette that colour-blind readers can tell apart, sheets of images."""

import math
import textwrap

import matplotlib.pyplot as plt
import torch

from aigc_course.course import direct_needs

# Okabe and Ito, 2008, Color Universal Design
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def use_course_style():
    """Sets matplotlib's defaults for a lesson: size, palette, light grid, titles to the left."""
    plt.rcParams.update(
        {
            "figure.figsize": (7, 3.6),
            "figure.dpi": 100,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "grid.alpha": 0.25,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.cmap": "gray_r",
        }
    )


def show_images(images, *, columns=10, title="", row_labels=None, scale=0.62, ax=None):
    """Draws images as one sheet, row by row.

    images: `(N, H, W)` or `(N, 1, H, W)`, uint8 or float in [0, 1]; dark is high, as ink on paper.
    row_labels: a text for each row. scale: inches per image. Returns the axes.
    """
    images = torch.as_tensor(images).detach().cpu()
    images = images.float() if images.is_floating_point() else images / 255
    images = images.reshape(-1, *images.shape[-2:])  # (N, H, W)
    n, height, width = images.shape
    rows = math.ceil(n / columns)
    sheet = torch.zeros(rows * columns, height + 2, width + 2)
    sheet[:n, 1:-1, 1:-1] = images
    sheet = sheet.reshape(rows, columns, height + 2, width + 2).permute(0, 2, 1, 3)
    sheet = sheet.reshape(rows * (height + 2), columns * (width + 2))
    if ax is None:
        _, ax = plt.subplots(figsize=(columns * scale, rows * scale * height / width + 0.3))
    ax.imshow(sheet.numpy(), vmin=0, vmax=1, interpolation="nearest")
    ax.set(title=title, xticks=[])
    ax.set_yticks([(i + 0.5) * (height + 2) for i in range(rows)] if row_labels else [], row_labels or [])
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def show_lessons(listed, parts, *, here=None, ax=None):
    """Draws lessons as boxes, parts side by side, and an arrow from each to those that build on it.

    listed: `Lesson`s. parts: {digit: English title}. here: id of the lesson that is drawn filled. A lesson stands one
    row below the lowest of those that it needs; what these need in turn gets no arrow. Returns the axes.
    """
    needs, places, middles, left = direct_needs(listed), {}, {}, 0
    row = {key: depth(needs, key) for key in needs}
    for part in sorted({lesson.part for lesson in listed}):
        rows = [[x.id for x in listed if x.part == part and row[x.id] == r] for r in range(max(row.values()) + 1)]
        width = max(map(len, rows))
        middles[part] = left + (width - 1) / 2
        for r, ids in enumerate(rows):
            places |= {key: (middles[part] + i - (len(ids) - 1) / 2, r) for i, key in enumerate(ids)}
        left += width + 0.25
    lowest = max(row.values())
    if ax is None:
        _, ax = plt.subplots(figsize=(1.2 * left, 0.8 * (lowest + 1.7)))
    ax.set(xlim=(-0.55, left - 0.7), ylim=(lowest + 0.4, -0.9))
    ax.axis("off")
    for lesson in listed:
        (x, y), colour = places[lesson.id], part_colour(lesson.part)
        fill, ink = (colour, "white") if lesson.id == here else ("white", "black")
        ax.add_patch(plt.Rectangle((x - 0.46, y - 0.3), 0.92, 0.6, ec=colour, fc=fill, lw=1.5))
        title = textwrap.fill(lesson.title["en"].split(":")[0], 19, break_on_hyphens=False)
        ax.text(x, y, f"{lesson.id}\n{title}", ha="center", va="center", fontsize=7.5, color=ink)
        for other in needs[lesson.id]:
            x0, y0 = places[other]
            ax.plot([x0, x0, x, x], [y0 + 0.3, y - 0.5, y - 0.5, y - 0.4], color="#777777", lw=1.2, zorder=0)
            ax.annotate("", (x, y - 0.3), (x, y - 0.5), arrowprops=dict(arrowstyle="->", color="#777777", shrinkA=0))
    for part, x in middles.items():
        ax.text(x, -0.6, parts[part], ha="center", color=part_colour(part), fontweight="bold")
    return ax


def part_colour(part):
    """The colour of a part of the course, by its digit; never black."""
    return COLOURS[int(part) % (len(COLOURS) - 1)]


def depth(needs, key):
    """The length of the longest chain of needs that leads to a lesson; `needs` as `direct_needs` gives them."""
    return max((depth(needs, other) + 1 for other in needs[key]), default=0)
