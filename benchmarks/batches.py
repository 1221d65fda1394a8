"""Images a second of the course's batches beside torch's DataLoader: `python -m benchmarks.batches`.

Both give shuffled batches of Fashion-MNIST as floats in [-1, 1] with labels: `Batches` with lesson 23's preparation,
and `DataLoader` over `torchvision.datasets.FashionMNIST` with `ToTensor` and `Normalize`, in this process. By turns, a
few rounds in one run; the last line is the ratio of the medians.
"""

import argparse
import time
from statistics import median

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from aigc_course.data import Batches, fashion_mnist
from aigc_course.models.dcgan import to_signed
from aigc_course.paths import own_folder


def same_pictures(batches, published):
    """True if both ways make the same numbers of the first images, in the same order."""
    ours = to_signed(*[tensor[:64] for tensor in batches.tensors])
    theirs = [torch.stack([published[i][0] for i in range(64)]), torch.tensor([published[i][1] for i in range(64)])]
    return torch.allclose(ours[0], theirs[0], atol=1e-6) and torch.equal(ours[1], theirs[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=200, help="of the DataLoader in a round; ten times as many ours")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    ours = Batches(*fashion_mnist("train"), batch_size=options.batch_size, seed=0, prepare=to_signed)
    transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
    published = FashionMNIST(own_folder("cache"), train=True, download=False, transform=transform)
    loader = DataLoader(published, batch_size=options.batch_size, shuffle=True, drop_last=True)
    assert same_pictures(ours, published), "the two ways give different pictures"

    speeds = {"Batches": [], "DataLoader": []}
    for turn in range(options.rounds):
        start, count = time.perf_counter(), 10 * options.batches
        for step in range(turn * count, (turn + 1) * count):
            ours[step]
        speeds["Batches"].append(count * options.batch_size / (time.perf_counter() - start))
        start = time.perf_counter()
        for step, _ in enumerate(loader, start=1):
            if step == options.batches:
                break
        speeds["DataLoader"].append(step * options.batch_size / (time.perf_counter() - start))
    for name, values in speeds.items():
        print(f"{name:<10}  {median(values):9,.0f} images a second ({min(values):,.0f} to {max(values):,.0f})")
    print(f"ratio {median(speeds['Batches']) / median(speeds['DataLoader']):.1f}")


if __name__ == "__main__":
    main()
