"""FID after so many seconds of the game of lesson 23: `python -m benchmarks.dcgan --seconds 180 --threads 2`.

Trains on the 60,000 training images of Fashion-MNIST and draws 10,000, a thousand of each class. The last line is
their FID against as many test images in the feature space of the course's classifier; no choice was made on these.
--baseline plays the first try instead: DCGAN without labels, learning rate 2e-4 throughout. It draws what it likes.
--samples FILE saves the drawings, `torch.save` of floats in [0, 1], `(10000, 1, 28, 28)`.
"""

import argparse
from pathlib import Path

import torch

from aigc_course.data import Batches, fashion_mnist
from aigc_course.image_metrics import score_images
from aigc_course.models.classifier import fashion_classifier
from aigc_course.models.dcgan import (
    BATCH_SIZE,
    FIRST_TRY,
    Discriminator,
    Generator,
    draw_weights,
    first_try,
    sample,
    to_signed,
    train_game,
)
from aigc_course.runtime import seed_everything


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=180, help="of training; loading and scoring are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000, help="of images to draw")
    parser.add_argument("--samples", type=Path, help="file to save them to")
    parser.add_argument("--baseline", action="store_true", help="the first try instead of the lesson's DCGAN")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    g = seed_everything(options.seed)

    images, labels = fashion_mnist("train")
    batches = Batches(images, labels, batch_size=BATCH_SIZE, seed=options.seed, prepare=to_signed)
    if options.baseline:
        generator, discriminator = first_try()
    else:
        generator, discriminator = draw_weights(Generator()), draw_weights(Discriminator())
    settings = FIRST_TRY if options.baseline else {}
    losses = train_game(generator, discriminator, batches, g, seconds=options.seconds, **settings)
    print(f"{len(losses)} steps, {len(losses) / options.seconds:.1f} a second")

    drawn = sample(generator, torch.arange(options.count) % 10, seed=options.seed)
    if options.samples:
        torch.save(drawn, options.samples)
    real = fashion_mnist("test")[0][: options.count].unsqueeze(1) / 255
    scores = score_images(fashion_classifier(), real, drawn)
    print(f"precision {scores['precision']:.3f}, recall {scores['recall']:.3f} beside {len(real):,} real images")
    print(f"entropy of predicted classes {scores['entropy']:.3f} nats (log 10 is 2.303)")
    print(f"FID {scores['fid']:.2f}")


if __name__ == "__main__":
    main()
