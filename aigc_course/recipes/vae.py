"""Lesson 21's VAE over several seeds and prices of information: `python -m aigc_course.recipes.vae --seeds 0 1 2`.

Writes data/results/vae.json: "seeds" holds the lesson's training with each seed, "betas" shorter trainings with the
loss reconstruction + beta * KL. Scores are means over the 10,000 test images, in nats; nothing is chosen by them.
"""

import argparse

import torch

from aigc_course.data import Batches, fashion_mnist
from aigc_course.models.vae import VAE, active_units, evaluate, negative_elbo, to_float
from aigc_course.recipes.results import write_results
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import one_cycle, train

LATENT_DIM, STEPS, BETA_STEPS = 20, 9000, 3000  # as in the lesson at "cpu"
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def fit(seed, steps, beta, images, checkpoint=None):
    """The lesson's training on `images` (bytes); its model."""
    g, device = seed_everything(seed), pick_device()
    model = VAE(LATENT_DIM).to(device)

    def step(x):
        noise = torch.randn(len(x), LATENT_DIM, generator=g).to(device)
        loss, reconstruction, kl = negative_elbo(model, x, noise, beta)
        return loss, {"reconstruction": reconstruction, "kl": kl}

    batches = Batches(images, batch_size=128, seed=seed, prepare=to_float)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    options = dict(steps=steps, schedule=one_cycle, generator=g, checkpoint=checkpoint)
    train(step, model, batches, optimizer=optimizer, **options)
    return model


def run(seed, steps, beta, images, test_images):
    """One training as in the lesson; its scores on the test images as a dict."""
    model = fit(seed, steps, beta, images)
    scores = dict(zip(("negative_elbo", "reconstruction", "kl"), evaluate(model, test_images)))
    return {"seed": seed, "beta": beta, "steps": steps, **scores, "active_units": active_units(model, test_images)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the lesson's training")
    parser.add_argument("--beta-steps", type=int, default=BETA_STEPS)
    options = parser.parse_args()
    images, test_images = fashion_mnist("train")[0], fashion_mnist("test")[0]
    plans = {
        "seeds": [(seed, options.steps, 1.0) for seed in options.seeds],
        "betas": [(seed, options.beta_steps, beta) for beta in BETAS for seed in options.seeds],
    }
    results = {}
    for name, plan in plans.items():
        results[name] = []
        for seed, steps, beta in plan:
            results[name].append(run(seed, steps, beta, images, test_images))
            print(results[name][-1], flush=True)
    write_results("vae", results)


if __name__ == "__main__":
    main()
