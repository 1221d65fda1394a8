"""Lesson 03's techniques over several seeds: `python -m aigc_course.recipes.generalisation --seeds 0 1 2 3 4`.

Writes data/results/generalisation.json: for each technique, strength and seed the scores of a small network that
learned from 500 images of Fashion-MNIST, at the end of its training and where its validation loss was lowest. Each
seed has its own 500 images. Losses are in nats an image. About 4 minutes on one core.
"""

import argparse
import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from aigc_course.data import Batches, fashion_mnist
from aigc_course.recipes.results import write_results
from aigc_course.runtime import progress

STEPS = 2000  # as in the lesson at "cpu"

pictures = cache(fashion_mnist)


def clothes(split, first, last):
    """Fashion-MNIST: images `(N, 28, 28)` in [0, 1] and labels `(N,)`, from number `first` to before `last`."""
    images, labels = pictures(split)
    return images[first:last] / 255, labels[first:last]


def data_of(seed, size=500):
    """Training images of this seed's own, the same validation and test images for all seeds."""
    first = seed % 10 * 5000  # the first 50,000 images make ten sets of up to 5,000
    return {
        "train": clothes("train", first, first + size),
        "validation": clothes("train", 50_000, 51_000),
        "test": clothes("test", 0, 10_000),
    }


def network(seed, dropout=0.0):
    torch.manual_seed(seed)
    hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


@torch.no_grad()
def judge(model, data):
    """Loss in nats an image, and accuracy, without dropout."""
    logits = model.eval()(data[0])
    return F.cross_entropy(logits, data[1]).item(), (logits.argmax(1) == data[1]).float().mean().item()


def flipped(x, g):
    """Turns each image `(B, H, W)` left to right with probability 1/2."""
    turn = torch.rand(len(x), generator=g) < 0.5
    return torch.where(turn[:, None, None], x.flip(2), x)


def shifted(x, g, most):
    """Moves each image `(B, H, W)` by up to `most` pixels up or down and left or right; what comes in is black."""
    batch, height, width = x.shape
    wide = F.pad(x, (most,) * 4)  # (B, H + 2 most, W + 2 most)
    top, left = torch.randint(2 * most + 1, (2, batch, 1), generator=g)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # (B, H), (B, W)
    return wide[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def fit(data, seed, steps, *, l2=0.0, decay=0.0, dropout=0.0, smoothing=0.0, shift=0, flip=False, every=25):
    """Trains a new network. Returns it as it is at the end, and as it was where its validation loss was lowest, and
    [(step, training (loss, accuracy), validation (loss, accuracy))]."""
    model = network(seed, dropout)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=decay, fused=True)  # fused is faster
    if l2:
        optimiser = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=l2, fused=True)
    batches, g = Batches(*data["train"], batch_size=50, seed=seed), torch.Generator().manual_seed(seed)
    curve, lowest, best = [], math.inf, None
    for i in range(1, steps + 1):
        x, y = batches[i - 1]
        x = flipped(x, g) if flip else x
        x = shifted(x, g, shift) if shift else x
        loss = F.cross_entropy(model.train()(x), y, label_smoothing=smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if i % every == 0:
            curve.append((i, judge(model, data["train"]), judge(model, data["validation"])))
            if curve[-1][2][0] < lowest:
                lowest, best = curve[-1][2][0], copy.deepcopy(model)
    return model, best, curve


TECHNIQUES = {  # the strengths of which the validation images choose one
    "nothing": [{}],
    "L2 in the loss": [dict(l2=strength) for strength in (1e-3, 1e-2)],
    "weight decay": [dict(decay=strength) for strength in (1.0, 3.0)],
    "dropout": [dict(dropout=p) for p in (0.2, 0.5)],
    "label smoothing": [dict(smoothing=epsilon) for epsilon in (0.1, 0.3)],
    "shift": [dict(shift=1), dict(shift=2)],
    "flip": [dict(flip=True)],
    "together, mild": [dict(decay=1.0, dropout=0.2, smoothing=0.1, shift=1)],
    "together, strong": [dict(decay=3.0, dropout=0.5, smoothing=0.3, shift=1)],
}


def one_run(technique, settings, seed, steps, size=500):
    """One training; its scores at the end and where it would have been stopped early, as a dict."""
    data = data_of(seed, size)
    last, best, curve = fit(data, seed, steps, **settings)
    row = {"technique": technique, "settings": settings, "seed": seed}
    row["stopped_at"] = min(curve, key=lambda point: point[2][0])[0]
    for name, model in (("end", last), ("stopped", best)):
        scores = {part: judge(model, data[part]) for part in data}
        row[name] = {f"{part}_{what}": x for part in data for what, x in zip(("loss", "accuracy"), scores[part])}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for technique, strengths in progress(TECHNIQUES.items(), desc="techniques"):
        for settings in strengths:
            runs += [one_run(technique, settings, seed, STEPS) for seed in options.seeds]
    runs += [one_run("5,000 images", {}, seed, STEPS, size=5000) for seed in options.seeds]
    write_results("generalisation", {"runs": runs})


if __name__ == "__main__":
    main()
