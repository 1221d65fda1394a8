"""Lesson 23's games over several seeds: `python -m aigc_course.recipes.dcgan --seeds 0 1 2 --threads 2`.

Writes data/results/dcgan.json: for each seed the perceptrons, a DCGAN without labels ("first try", the baseline of
benchmarks.dcgan) and the lesson's DCGAN after the lesson's number of steps, with FID, precision and recall of 10,000
drawings beside the 10,000 test images of Fashion-MNIST, and the entropy of the classes that the course's classifier
sees; "floor" holds the same for 10,000 training images. Nothing is chosen by these.
"""

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
    multilayer_networks,
    sample,
    to_signed,
    train_game,
)
from aigc_course.recipes.results import seeds_of, write_results
from aigc_course.runtime import pick_device, seed_everything

STEPS, COUNT = 3000, 10_000  # as in the lesson at "cpu"
WAYS = ("perceptron", "first try", "DCGAN")


def play(way, seed, steps, images, labels):
    """One game as in the lesson; its generator."""
    g, device = seed_everything(seed), pick_device()
    batches = Batches(images, labels, batch_size=BATCH_SIZE, seed=seed, prepare=to_signed)
    labelled = lambda: (draw_weights(Generator()), draw_weights(Discriminator()))
    networks = {"perceptron": multilayer_networks, "first try": first_try, "DCGAN": labelled}[way]()
    generator, discriminator = [network.to(device) for network in networks]
    settings = {} if way == "DCGAN" else FIRST_TRY
    train_game(generator, discriminator, batches, g, steps=steps, **settings)
    return generator


def main():
    seeds = seeds_of(__doc__)
    images, labels = fashion_mnist("train")
    classifier, real = fashion_classifier().to(pick_device()), fashion_mnist("test")[0].unsqueeze(1) / 255
    floor = score_images(classifier, real, images[:COUNT].unsqueeze(1) / 255)
    print(floor, flush=True)
    games = []
    for seed in seeds:
        for way in WAYS:
            drawn = sample(play(way, seed, STEPS, images, labels), torch.arange(COUNT) % 10, seed=8)
            games.append({"way": way, "seed": seed, "steps": STEPS, **score_images(classifier, real, drawn)})
            print(games[-1], flush=True)
    write_results("dcgan", {"images": COUNT, "floor": floor, "games": games})


if __name__ == "__main__":
    main()
