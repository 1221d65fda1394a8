"""The adversarial game of lesson 22, where each of these is explained: losses, steps, and a ring of eight Gaussians."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

RADIUS, DEVIATION, NOISE_DIM = 2.0, 0.05, 16  # of the ring, of each of its modes; numbers that the generator gets


def discriminator_loss(real_logits, fake_logits):
    """Binary cross-entropy of "real or generated?", nats a pair: minus the value V of the game; logits of any shape."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits):
    """The non-saturating loss of the generator (Goodfellow et al., 2014), the mean of -log D, in nats."""
    return F.softplus(-fake_logits).mean()


def saturating_loss(fake_logits):
    """The generator's loss in the minimax game, the mean of log(1 - D), in nats."""
    return -F.softplus(fake_logits).mean()


def critic_loss(real_scores, fake_scores):
    """Minus what a critic earns: its mean on generated points less that on real ones (Arjovsky et al., 2017)."""
    return fake_scores.mean() - real_scores.mean()


def critic_generator_loss(fake_scores):
    """What a Wasserstein generator makes small: minus the critic's mean on its points."""
    return -fake_scores.mean()


def gradient_penalty(critic, x, fake, mix):
    """Mean of (slope - 1)^2 between real x and fake, both `(B, ...)`; mix `(B, 1, ...)` in [0, 1] says where.

    Gulrajani et al. (2017). The slope is the norm of the critic's gradient in its input, example by example.
    """
    between = (mix * x + (1 - mix) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def discriminator_step(generator, discriminator, optimizer, x, noise, loss_of=discriminator_loss, penalty=None):
    """One step of the discriminator on real x and on generator(noise); the generator stays as it is.

    optimizer holds the discriminator's parameters; penalty: (discriminator, x, fake) -> what is added to the loss.
    Returns the loss, a number without a graph.
    """
    fake = generator(noise).detach()
    loss = loss_of(discriminator(x), discriminator(fake))
    if penalty is not None:
        loss = loss + penalty(discriminator, x, fake)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def generator_step(generator, discriminator, optimizer, noise, loss_of=generator_loss):
    """One step of the generator against the discriminator as it is; optimizer holds the generator's parameters."""
    loss = loss_of(discriminator(generator(noise)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


class Times(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def small_network(inputs, outputs, width=64, lipschitz=None):
    """A perceptron with two hidden layers, `(B, inputs)` to `(B, outputs)`; spectral normalisation if `lipschitz`.

    lipschitz: no two outputs are then further apart than this many times their inputs, once the layers' power
    iterations have converged (Miyato et al., 2018).
    """
    layers = [nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, outputs)]
    if lipschitz:
        layers = [spectral_norm(layer) for layer in layers]
    hidden = [layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]]
    return nn.Sequential(*hidden, Times(lipschitz)) if lipschitz else nn.Sequential(*hidden)


def ring_centres():
    """The eight centres of the ring, `(8, 2)`."""
    angles = torch.arange(8) * math.pi / 4
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def draw_ring(n, g):
    """n points of the ring of eight Gaussians, `(n, 2)`, drawn with the generator g."""
    return ring_centres()[torch.randint(8, (n,), generator=g)] + DEVIATION * torch.randn(n, 2, generator=g)


def score_ring(x):
    """(modes covered, share of good points) for points x `(n, 2)`.

    A point is good within three deviations of a centre; a mode is covered if one point in a hundred is good there.
    """
    distance, nearest = torch.cdist(x, ring_centres()).min(dim=1)
    good = distance < 3 * DEVIATION
    counts = torch.bincount(nearest[good], minlength=8)
    return int((counts >= len(x) / 100).sum()), good.float().mean().item()


def train_ring(generator, discriminator, steps, g, losses=None, penalty=None, critic_steps=1, watch=None):
    """Plays the game on the ring; all randomness comes from g, 256 points a step, Adam on both sides.

    losses: (of the discriminator, of the generator). watch: called with the number of steps done, after each.
    """
    loss_d, loss_g = losses or (discriminator_loss, generator_loss)
    adam = dict(lr=1e-3, betas=(0.5, 0.999), fused=True)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), **adam)
    optimizer_g = torch.optim.Adam(generator.parameters(), **adam)
    noise = lambda: torch.randn(256, NOISE_DIM, generator=g)
    for step in range(1, steps + 1):
        for _ in range(critic_steps):
            x = draw_ring(256, g)
            discriminator_step(generator, discriminator, optimizer_d, x, noise(), loss_d, penalty)
        generator_step(generator, discriminator, optimizer_g, noise(), loss_g)
        if watch:
            watch(step)
