"""How the figures look: one style, a palette that colour-blind readers can tell apart, sheets of images."""

import math

import matplotlib.pyplot as plt
import torch

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
