"""The convolutional GAN of lesson 23, where each of these is explained, and the two that it is compared with."""

import functools
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from aigc_course.data import shipped
from aigc_course.models.gan import discriminator_step, generator_step
from aigc_course.runtime import progress
from aigc_course.training import TrainingDiverged

NOISE_DIM, BATCH_SIZE = 64, 64  # numbers that a generator gets; images in a step
RATE = 5e-4  # of Adam at the start, both sides
FIRST_TRY = dict(rate=2e-4, decay=False)  # how the two simpler games are played


def to_signed(images, labels):
    """Bytes `(B, 28, 28)` as floats in [-1, 1], `(B, 1, 28, 28)` in channels_last, and their labels `(B,)`."""
    x = images.unsqueeze(1).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last), labels


class Generator(nn.Module):
    """Images `(B, 1, 28, 28)` in (-1, 1) from noise `(B, NOISE_DIM)` and labels `(B,)`."""

    def __init__(self, width=32, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        self.project = nn.Linear(NOISE_DIM + num_classes, 2 * width * 7 * 7, bias=False)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),  # (B, width, 14, 14)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # (B, 1, 28, 28)
            nn.Tanh(),
        )

    def draw(self, noise, wish):
        """The images for wishes `(B, num_classes)`, how much of each class; a label is a wish for one class."""
        h = self.project(torch.cat([noise, wish], dim=1))
        h = h.reshape(len(noise), 7, 7, -1).permute(0, 3, 1, 2)  # (B, 2 width, 7, 7), stored as channels_last
        return self.layers(h)

    def forward(self, noise, labels):
        return self.draw(noise, F.one_hot(labels, self.num_classes).float())


class Discriminator(nn.Module):
    """A logit `(B, 1)` for "a real image of this class", from images `(B, 1, 28, 28)` in [-1, 1] and labels `(B,)`."""

    def __init__(self, width=32, num_classes=10):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # (B, width, 14, 14)
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),  # (B, 2 width, 7, 7)
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, num_classes, 7),  # (B, num_classes, 1, 1)
            nn.Flatten(),
        )

    def forward(self, x, labels):
        return self.layers(x).gather(1, labels.unsqueeze(1))  # each class has a question of its own


def draw_weights(network):
    """Draws the weights of every layer from N(0, 0.02), those of batch normalisation from N(1, 0.02); biases are 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    return network.to(memory_format=torch.channels_last)


class WithoutLabels(nn.Module):
    """A network that is given labels and does not look at them."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, labels):
        return self.layers(x)


def multilayer_networks(width=512):
    """(generator, discriminator) of dense layers, which look at no labels: the game of lesson 22 with 784 pixels."""
    generator = WithoutLabels(
        nn.Linear(NOISE_DIM, width // 2),
        nn.ReLU(),
        nn.Linear(width // 2, width),
        nn.ReLU(),
        nn.Linear(width, 784),
        nn.Tanh(),
        nn.Unflatten(1, (1, 28, 28)),
    )
    discriminator = WithoutLabels(
        nn.Flatten(),
        nn.Linear(784, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width // 2),
        nn.LeakyReLU(0.2),
        nn.Linear(width // 2, 1),
    )
    return generator, discriminator


def first_try(width=32):
    """(generator, discriminator), the baseline of `benchmarks.dcgan`: the paper's layers, no labels, nothing else."""
    generator = WithoutLabels(
        nn.Unflatten(1, (NOISE_DIM, 1, 1)),
        nn.ConvTranspose2d(NOISE_DIM, 2 * width, 7, bias=False),  # (B, 2 width, 7, 7)
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),  # (B, width, 14, 14)
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # (B, 1, 28, 28)
        nn.Tanh(),
    )
    discriminator = WithoutLabels(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 7),
        nn.Flatten(),
    )
    return [network.to(memory_format=torch.channels_last) for network in (generator, discriminator)]


def train_game(generator, discriminator, batches, g, *, steps=None, seconds=None, rate=RATE, decay=True, watch=None):
    """Plays the game on batches of (images in [-1, 1], labels); all noise comes from the CPU generator g.

    steps or seconds: the budget. rate: of Adam on both sides; decay: down to 0 in a straight line. watch(step): called
    after each step. Returns the losses of each step, (discriminator's, generator's); both networks end in evaluation
    mode. Raises TrainingDiverged when a loss is no longer finite.
    """
    device, losses = next(generator.parameters()).device, []
    adam = dict(lr=rate, betas=(0.5, 0.999), fused=True)
    optimizers = [torch.optim.Adam(network.parameters(), **adam) for network in (discriminator, generator)]
    noise = lambda: torch.randn(batches.batch_size, NOISE_DIM, generator=g).to(device)
    generator.train(), discriminator.train()
    began, done, bar = time.monotonic(), 0.0, progress(total=steps, desc="the game")
    while done < 1:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * (1 - done if decay else 1)
        x, labels = [part.to(device) for part in batches[len(losses)]]
        draw, judge = [functools.partial(network, labels=labels) for network in (generator, discriminator)]
        loss_d = discriminator_step(draw, judge, optimizers[0], x, noise())
        loss_g = generator_step(draw, judge, optimizers[1], noise())
        losses.append((loss_d.item(), loss_g.item()))
        if not math.isfinite(sum(losses[-1])):
            raise TrainingDiverged(f"losses {losses[-1]} at step {len(losses)}: a smaller rate than {rate} is needed")
        if watch:
            watch(len(losses))
        bar.update()
        done = len(losses) / steps if steps else (time.monotonic() - began) / seconds
    bar.close()
    generator.eval(), discriminator.eval()
    return losses


def fashion_generator():
    """The generator that comes with the course, in evaluation mode, on the CPU, float32.

    Made by `python -m aigc_course.recipes.fashion_generator`; see data/models/fashion_generator/README.md. Raises
    DamagedFile when one of its files is cut or altered.
    """
    config, weights = shipped("fashion_generator")
    generator = Generator(**config["model"])
    generator.load_state_dict(weights, strict=False)  # without batch normalisation's counts of batches
    return generator.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def sample(generator, labels, seed=0, noise=None):
    """Images in [0, 1], `(N, 1, 28, 28)` on the CPU, one of each of the labels `(N,)`."""
    device = next(generator.parameters()).device
    if noise is None:
        noise = torch.randn(len(labels), NOISE_DIM, generator=torch.Generator().manual_seed(seed))
    pairs = zip(noise.split(1000), labels.split(1000))
    return torch.cat([(generator(z.to(device), y.to(device)).cpu() + 1) / 2 for z, y in pairs]).contiguous()
