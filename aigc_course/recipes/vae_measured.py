"""Lesson 21's VAE, measured: `python -m aigc_course.recipes.vae_measured --data grey --seeds 0 1 2 --threads 2`.

--data grey: the lesson's images. drawn: each pixel made black or white once, on with probability grey / 255.
threshold: on from 128 upwards. Writes data/results/vae_DATA.json. For each seed it holds the negative ELBO on the
10,000 test images and the importance-weighted bounds on the first 1,000 of them ("bounds": nats, by the number of
draws); for grey also what 10,000 pictures score beside the test images, once as the decoder's means and once as samples
of the pixels. Nothing is chosen by these. A seed that the file holds already is kept, so that the work can be done in
pieces; delete the file to begin anew.
"""

import argparse

import torch

from aigc_course.data import fashion_mnist, stored_results
from aigc_course.image_metrics import features_of, score_images
from aigc_course.models.classifier import fashion_classifier
from aigc_course.models.vae import (
    active_units,
    binarise,
    bound_from,
    evaluate,
    log_importance_weights,
    sharpness,
    to_float,
)
from aigc_course.paths import RESULTS
from aigc_course.recipes.results import write_results
from aigc_course.recipes.vae import LATENT_DIM, STEPS, fit
from aigc_course.runtime import pick_device

COUNT, BOUNDED, DRAWS = 10_000, 1000, (1, 10, 100)  # pictures that are scored; images with bounds; draws for a bound
DATA = {
    "grey": lambda images, noise_seed: images,
    "drawn": binarise,
    "threshold": lambda images, noise_seed: binarise(images),
}


@torch.no_grad()
def pictures_of(model):
    """{"mean": the decoder's means, "sample": samples of the pixels}, each `(COUNT, 1, 28, 28)`, for one set of z."""
    z = torch.randn(COUNT, LATENT_DIM, generator=torch.Generator().manual_seed(8))
    means = model.decode(z.to(pick_device())).sigmoid().cpu()
    return {"mean": means, "sample": torch.bernoulli(means, generator=torch.Generator().manual_seed(9))}


def measure(pictures, classifier, real):
    """What pictures `(N, 1, 28, 28)` score beside real ones, the share of the rarest class, and their sharpness."""
    shares = torch.bincount(features_of(classifier, pictures)[1], minlength=10) / len(pictures)
    scores = score_images(classifier, real, pictures)
    return scores | {"rarest_class": shares.min().item(), "sharpness": sharpness(pictures)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=DATA, default="grey")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photographs = {part: fashion_mnist(part)[0] for part in ("train", "test")}
    images, test_images = [DATA[options.data](photographs[part], seed) for seed, part in enumerate(("train", "test"))]
    x = to_float(test_images[:BOUNDED]).to(pick_device())
    name = f"vae_{options.data}"
    rows = stored_results(name)["seeds"] if (RESULTS / f"{name}.json").exists() else []
    for seed in options.seeds:
        if any((row["seed"], row["steps"]) == (seed, options.steps) for row in rows):
            continue
        model = fit(seed, options.steps, 1.0, images, checkpoint=f"{name}_{seed}")
        log_w = log_importance_weights(model, x, max(DRAWS))
        row = {"seed": seed, "steps": options.steps, "negative_elbo": evaluate(model, test_images)[0]}
        row |= {"active_units": active_units(model, test_images), "bounds": {k: bound_from(log_w, k) for k in DRAWS}}
        if options.data == "grey":
            classifier, real = fashion_classifier().to(pick_device()), to_float(photographs["test"])
            row |= {way: measure(pictures, classifier, real) for way, pictures in pictures_of(model).items()}
        rows.append(row)
        print(row, flush=True)
        write_results(name, {"images": BOUNDED, "seeds": rows})


if __name__ == "__main__":
    main()
