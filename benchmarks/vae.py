"""The score of lesson 21's VAE after so many seconds of training: `python -m benchmarks.vae --seconds 85 --threads 2`.

Trains on all 60,000 grey training images. The last line is the negative ELBO in nats, the mean over all 10,000 test
images with one z sampled from q each and the KL in closed form; no choice was made on the test set.
"""

import argparse

import torch

from aigc_course.data import Batches, fashion_mnist
from aigc_course.models.vae import VAE, active_units, evaluate, negative_elbo, to_float
from aigc_course.runtime import seed_everything
from aigc_course.training import one_cycle, train


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=85, help="of training; loading and scoring are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    g = seed_everything(options.seed)
    model = VAE()

    def step(x):
        noise = torch.randn(len(x), 20, generator=g)
        return negative_elbo(model, x, noise)[0]

    batches = Batches(fashion_mnist("train")[0], batch_size=128, seed=options.seed, prepare=to_float)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    history = train(step, model, batches, optimizer=optimizer, seconds=options.seconds, schedule=one_cycle)
    print(f"{len(history)} steps, {len(history) * 128 / options.seconds:.0f} images a second")

    test_images = fashion_mnist("test")[0]
    score, reconstruction, kl = evaluate(model, test_images)
    print(f"reconstruction {reconstruction:.2f}, KL {kl:.2f} nats, {active_units(model, test_images)} of 20 active")
    print(f"negative ELBO {score:.2f}")


if __name__ == "__main__":
    main()
