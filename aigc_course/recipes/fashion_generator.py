"""The generator whose drawings open lesson 00: `python -m aigc_course.recipes.fashion_generator`.

Plays the game of lesson 23 on the 60,000 training images of Fashion-MNIST, longer than the lesson does, measures 10,000
drawings, and writes weights, configuration and a model card to data/models/fashion_generator/.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save

from aigc_course.data import Batches, fashion_mnist
from aigc_course.files import write_atomically
from aigc_course.image_metrics import score_images
from aigc_course.models.classifier import fashion_classifier
from aigc_course.models.dcgan import (
    BATCH_SIZE,
    RATE,
    Discriminator,
    Generator,
    draw_weights,
    sample,
    to_signed,
    train_game,
)
from aigc_course.paths import DATA
from aigc_course.recipes.pretraining import print_sums
from aigc_course.runtime import pick_device, seed_everything

CONFIG = dict(width=32, num_classes=10)
STEPS, COUNT = 12_000, 10_000

CARD = """# Fashion generator

The generator of a conditional DCGAN: it draws garments of a class that one asks for, from 64 random numbers. Lesson 00
of the course shows its drawings, lesson 23 trains one like it. In Python:
`from aigc_course.models.dcgan import fashion_generator, sample`.

- **Model:** `aigc_course.models.dcgan.Generator`: {parameters:,} parameters, kept as float16 (`model.safetensors`);
  `config.json` holds the shape.
- **Data:** the 60,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747; MIT licence,
  Copyright 2017 Zalando SE: [notice](../../LICENSES/fashion_mnist.txt)) and their classes.
- **Training:** {steps:,} steps of {batch_size} images against the discriminator of lesson 23; Adam, learning rate
  {rate} down to 0 in a straight line, seed {seed}, {minutes:.0f} minutes, threads: {threads}.
- **Limits:** grey pictures of 28 by 28 pixels, of ten classes of garments, and nothing else.
- **Licence:** the course's.

| figure of 10,000 drawings, a thousand of each class, beside the 10,000 test images | drawings | training images |
|---|---:|---:|
{figures}

In the feature space of the course's [classifier](../fashion_classifier/README.md): "fid" is the Frechet distance,
"precision" and "recall" are the shares of drawings among the real images and of real images among the drawings, and
"entropy" is that of the classes seen, in nats (2.303 at most). The last column is for 10,000 real images.

Made by `{command}` with Python {python}, torch {torch}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=DATA / "models" / "fashion_generator", help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    g, device = seed_everything(options.seed), pick_device()
    images, labels = fashion_mnist("train")
    batches = Batches(images, labels, batch_size=BATCH_SIZE, seed=options.seed, prepare=to_signed)
    generator, discriminator = draw_weights(Generator(**CONFIG)).to(device), draw_weights(Discriminator()).to(device)
    began = time.monotonic()
    train_game(generator, discriminator, batches, g, steps=options.steps)
    minutes = (time.monotonic() - began) / 60

    weights = {n: v.half().cpu().contiguous() for n, v in generator.state_dict().items() if v.is_floating_point()}
    generator.load_state_dict({n: v.float() for n, v in weights.items()}, strict=False)  # scored as it will be loaded
    classifier, real = fashion_classifier().to(device), fashion_mnist("test")[0].unsqueeze(1) / 255
    scores = score_images(classifier, real, sample(generator, torch.arange(COUNT) % 10, seed=8))
    floor = score_images(classifier, real, images[:COUNT].unsqueeze(1) / 255)
    print(scores, floor)

    write_atomically(options.target / "model.safetensors", save(weights))
    write_atomically(options.target / "config.json", json.dumps({"model": CONFIG}).encode())
    card = CARD.format(
        parameters=sum(p.numel() for p in generator.parameters()), steps=options.steps, batch_size=BATCH_SIZE,
        rate=RATE, seed=options.seed, minutes=max(1, minutes), threads=options.threads,
        figures="\n".join(f"| {name} | {value:.3f} | {floor[name]:.3f} |" for name, value in scores.items()),
        command=" ".join(["python -m aigc_course.recipes.fashion_generator", *sys.argv[1:]]),
        python=platform.python_version(), torch=version("torch"),
    )  # fmt: skip
    write_atomically(options.target / "README.md", card.encode())
    print_sums(options.target)


if __name__ == "__main__":
    main()
