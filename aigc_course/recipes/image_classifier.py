"""The classifier in whose feature space lesson 23 measures: `python -m aigc_course.recipes.image_classifier`.

Trains it on the 60,000 training images of Fashion-MNIST, scores it on the 10,000 test images, and writes weights,
configuration and a model card to data/models/fashion_classifier/. No choice was made by the test images.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save

from aigc_course.data import FASHION_CLASSES, Batches, fashion_mnist
from aigc_course.files import write_atomically
from aigc_course.models.classifier import FASHION_CLASSIFIER, ImageClassifier, share_recognised
from aigc_course.recipes.pretraining import print_sums
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import one_cycle, train

CONFIG = dict(width=16, features=64, num_classes=10, dropout=0.3)
STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 3750, 128, 4e-3, 0.02  # eight epochs

CARD = """# Fashion classifier

A small convolutional network that names the class of a garment. Lesson 23 of the course measures generated images in
its feature space. In Python: `from aigc_course.models.classifier import fashion_classifier`.

- **Model:** `aigc_course.models.classifier.ImageClassifier`: three convolutions with batch normalisation, then
  {features} features and ten classes. {parameters:,} parameters, kept as float16 (`model.safetensors`); `config.json`
  holds the shape.
- **Data:** the 60,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747; MIT licence,
  Copyright 2017 Zalando SE: [notice](../../LICENSES/fashion_mnist.txt)), grey values from 0 to 1.
- **Training:** {steps:,} steps of {batch_size} images; cross-entropy, AdamW with weight decay {decay}, learning rate
  {rate} with one cycle, dropout {dropout}, seed {seed}, {minutes:.0f} minutes on {threads} threads.
- **Limits:** its classes are the ten of Fashion-MNIST, and whatever it sees it puts into one of them. Distances in its
  feature space weigh what tells these classes apart and little else; figures measured there compare with other figures
  measured there, and with none from another network.
- **Licence:** the course's.

| figure | value |
|---|---:|
{figures}

Made by `{command}` with Python {python}, torch {torch}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=FASHION_CLASSIFIER, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed_everything(options.seed)
    device = pick_device()
    images, labels = fashion_mnist("train")
    test_images, test_labels = fashion_mnist("test")

    model = ImageClassifier(**CONFIG).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    prepare = lambda x, y: (x.unsqueeze(1).float() / 255, y)
    batches = Batches(images, labels, batch_size=BATCH_SIZE, seed=options.seed, prepare=prepare)

    def step(batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    began = time.monotonic()
    history = train(step, model, batches, optimizer=optimizer, steps=options.steps, schedule=one_cycle)
    minutes = (time.monotonic() - began) / 60

    weights = {n: v.half().cpu().contiguous() for n, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict({n: v.float() for n, v in weights.items()}, strict=False)  # scored as it will be loaded
    figures = {
        "accuracy on the 10,000 test images": share_recognised(model, test_images, test_labels),
        "accuracy on 10,000 of the training images": share_recognised(model, images[:10_000], labels[:10_000]),
    }
    for k, name in enumerate(FASHION_CLASSES):
        of_class = test_labels == k
        figures[f"accuracy on the test images of class {name}"] = share_recognised(
            model, test_images[of_class], test_labels[of_class]
        )
    for name, value in figures.items():
        print(f"{name:<50} {value:.4f}")

    write_atomically(options.target / "model.safetensors", save(weights))
    write_atomically(options.target / "config.json", json.dumps({"model": CONFIG}).encode())
    card = CARD.format(
        features=CONFIG["features"], parameters=sum(p.numel() for p in model.parameters()), steps=len(history),
        batch_size=BATCH_SIZE, decay=WEIGHT_DECAY, rate=LEARNING_RATE, dropout=CONFIG["dropout"], seed=options.seed,
        minutes=max(1, minutes), threads=options.threads,
        figures="\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items()),
        command=" ".join(["python -m aigc_course.recipes.image_classifier", *sys.argv[1:]]),
        python=platform.python_version(), torch=version("torch"),
    )  # fmt: skip
    write_atomically(options.target / "README.md", card.encode())
    print_sums(options.target)


if __name__ == "__main__":
    main()
