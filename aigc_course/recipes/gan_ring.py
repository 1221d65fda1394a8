"""Lesson 22's games on the ring over several seeds: `python -m aigc_course.recipes.gan_ring --seeds 0 1 2 3 4`.

Writes data/results/gan_ring.json: for each seed and each way to play, the modes covered (of 8) and the share of good
points among 10,000, at the end and at four moments on the way. Every generator takes the same number of steps.
"""

import argparse

import torch

from aigc_course.models.gan import (
    NOISE_DIM,
    critic_generator_loss,
    critic_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    saturating_loss,
    score_ring,
    small_network,
    train_ring,
)
from aigc_course.recipes.results import write_results
from aigc_course.runtime import seed_everything

STEPS, PENALTY, LIPSCHITZ, CRITIC_STEPS = 1500, 0.1, 5.0, 3  # as in the lesson at "cpu"
WAYS = ("saturating", "non-saturating", "gradient penalty", "spectral normalisation", "Wasserstein")


def play(way, seed, steps):
    """One game as in the lesson: its scores as a dict."""
    g = seed_everything(seed)
    generator = small_network(NOISE_DIM, 2)
    discriminator = small_network(2, 1, lipschitz=LIPSCHITZ if way == "spectral normalisation" else None)
    losses = {
        "saturating": (discriminator_loss, saturating_loss),
        "Wasserstein": (critic_loss, critic_generator_loss),
    }.get(way, (discriminator_loss, generator_loss))

    def penalty(critic, x, fake):
        return PENALTY * gradient_penalty(critic, x, fake, torch.rand(len(x), 1, generator=g))

    fixed, path = torch.randn(10_000, NOISE_DIM, generator=torch.Generator().manual_seed(1)), []

    def watch(step):
        if step % (steps // 4) == 0:
            with torch.no_grad():
                path.append(score_ring(generator(fixed)))

    train_ring(
        generator,
        discriminator,
        steps,
        g,
        losses,
        penalty=penalty if way in ("gradient penalty", "Wasserstein") else None,
        critic_steps=CRITIC_STEPS if way == "Wasserstein" else 1,
        watch=watch,
    )
    modes, good = path[-1]
    return {"way": way, "seed": seed, "steps": steps, "modes": modes, "good": good, "path": path}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # for networks as small as these, a second thread does not help
    results = []
    for way in WAYS:
        for seed in options.seeds:
            results.append(play(way, seed, options.steps))
            print(results[-1], flush=True)
    write_results("gan_ring", {"games": results})


if __name__ == "__main__":
    main()
