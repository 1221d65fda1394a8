"""The variational autoencoder of lesson 21, where each of these is explained."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def gaussian_kl(mean, log_variance):
    """KL of N(mean, exp(log_variance)) to N(0, I) in nats; both `(B, d)`, result `(B,)`."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def reparameterise(mean, log_variance, noise):
    """A sample of N(mean, exp(log_variance)), made from standard Gaussian `noise`; all `(B, d)`."""
    return mean + (0.5 * log_variance).exp() * noise


def reconstruction_loss(logits, x):
    """Bernoulli cross-entropy in nats, summed over pixels; both `(B, 1, 28, 28)`, x in [0, 1], result `(B,)`."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(dim=1)


class VAE(nn.Module):
    """Variational autoencoder (Kingma and Welling, 2014) for images x `(B, 1, 28, 28)` in [0, 1]."""

    def __init__(self, latent_dim=20, width=512, hidden=256):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),  # (B, 784)
            nn.Linear(784, width),
            nn.ReLU(),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
            nn.ReLU(),
            nn.Linear(width, 784),
            nn.Unflatten(1, (1, 28, 28)),  # (B, 1, 28, 28)
        )

    def encode(self, x):
        """Mean and log-variance of q(z | x), both `(B, latent_dim)`."""
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, latent):
        """Logits of the pixels' means, `(B, 1, 28, 28)`."""
        return self.decoder(latent)


def negative_elbo(model, x, noise, beta=1.0):
    """(loss, reconstruction, KL) in nats, means over the batch; noise `(B, latent_dim)` is standard Gaussian."""
    mean, log_variance = model.encode(x)
    logits = model.decode(reparameterise(mean, log_variance, noise))
    reconstruction = reconstruction_loss(logits, x).mean()
    kl = gaussian_kl(mean, log_variance).mean()
    return reconstruction + beta * kl, reconstruction, kl


def to_float(images):
    """Bytes `(B, 28, 28)` as floats in [0, 1], `(B, 1, 28, 28)`."""
    return images.unsqueeze(1).float() / 255


@torch.no_grad()
def evaluate(model, images, sample=True):
    """(negative ELBO, reconstruction, KL) in nats, means over `images` (bytes), one z each; sample=False: z = mean."""
    x = to_float(images).to(next(model.parameters()).device)
    mean, log_variance = model.encode(x)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(x.device) * sample
    reconstruction = reconstruction_loss(model.decode(reparameterise(mean, log_variance, noise)), x).mean().item()
    kl = gaussian_kl(mean, log_variance).mean().item()
    return reconstruction + kl, reconstruction, kl


@torch.no_grad()
def active_units(model, images):
    """How many latent coordinates have a posterior mean that varies over `images` (bytes) by more than 0.01."""
    means = model.encode(to_float(images).to(next(model.parameters()).device))[0]  # (N, d)
    return int((means.var(dim=0) > 0.01).sum())


@torch.no_grad()
def log_importance_weights(model, x, k, noise_seed=0):
    """log w of k draws from q(z | x) for each of the images x `(B, 1, 28, 28)` in [0, 1]: `(k, B)`, in nats."""
    mean, log_variance = model.encode(x)
    source, rows = torch.Generator().manual_seed(noise_seed), []
    for _ in range(k):
        noise = torch.randn(mean.shape, generator=source).to(x.device)
        z = reparameterise(mean, log_variance, noise)
        log_p_over_q = 0.5 * (noise.square() + log_variance - z.square()).sum(dim=1)  # log p(z) - log q(z | x)
        rows.append(log_p_over_q - reconstruction_loss(model.decode(z), x))
    return torch.stack(rows)


def bound_from(log_w, k):
    """The importance-weighted bound with k draws in nats, a mean over images: log_w `(draws, B)`, in groups of k.

    After Burda, Grosse and Salakhutdinov, 2016, arXiv:1509.00519. The draws must be a multiple of k.
    """
    groups = log_w.reshape(-1, k, log_w.shape[1])
    return (groups.logsumexp(dim=1) - math.log(k)).mean().item()


def binarise(images, noise_seed=None):
    """Grey bytes as black and white ones, 0 or 255, of the same shape.

    noise_seed: None puts a pixel on from 128 upwards; a number draws each pixel once, on with probability grey / 255.
    """
    if noise_seed is None:
        return (images >= 128).byte() * 255
    dice = torch.rand(images.shape, generator=torch.Generator().manual_seed(noise_seed))
    return (dice < images / 255).byte() * 255


def sharpness(images):
    """Mean squared Laplacian of images `(N, 1, H, W)`: how much a pixel differs from its four neighbours."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).to(images)
    return F.conv2d(images, kernel[None, None]).square().mean().item()
