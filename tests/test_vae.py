"""The VAE of lesson 21 against references, and on a GPU that is not there."""

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close

from aigc_course.data import stored_results
from aigc_course.models.vae import (
    VAE,
    binarise,
    bound_from,
    gaussian_kl,
    log_importance_weights,
    negative_elbo,
    reconstruction_loss,
    sharpness,
)


def test_losses_equal_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(7, 5), torch.randn(7, 5)
    posterior = Normal(mean, (log_variance / 2).exp())
    assert_close(gaussian_kl(mean, log_variance), kl_divergence(posterior, Normal(0.0, 1.0)).sum(1))
    logits, x = torch.randn(7, 1, 28, 28), torch.bernoulli(torch.rand(7, 1, 28, 28))
    assert_close(reconstruction_loss(logits, x), -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1))


def test_negative_elbo_is_the_sum_of_its_parts():
    torch.manual_seed(0)
    model, x, noise = VAE(latent_dim=4), torch.rand(6, 1, 28, 28), torch.randn(6, 4)
    for beta in (0.5, 1.0, 3.0):
        loss, reconstruction, kl = negative_elbo(model, x, noise, beta)
        assert_close(loss, reconstruction + beta * kl)
    mean, log_variance = model.encode(x)
    by_hand = reconstruction_loss(model.decode(mean + (log_variance / 2).exp() * noise), x).mean()
    assert_close(by_hand, reconstruction)


def test_images_keep_their_axes():
    """A pattern that is not symmetric reaches the loss the right way round: turned targets must cost more."""
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 28, 28)
    x[:, :, 3:9, 5:25] = 1
    model = VAE(latent_dim=2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        negative_elbo(model, x, torch.randn(1, 2), 0.0)[0].backward()
        optimizer.step()
    drawn = model.decode(model.encode(x)[0])
    costs = {
        turn: reconstruction_loss(drawn, turn(x)).item() for turn in (lambda t: t, lambda t: t.mT, lambda t: t.flip(2))
    }
    right, *wrong = costs.values()
    assert right < 0.1 * min(wrong)


@pytest.mark.parametrize("latent_dim", [20, 2])
def test_forward_loss_and_sampling_on_a_gpu_that_is_not_there(latent_dim):
    """FakeTensorMode knows shapes and devices only; it raises where a tensor was made on the wrong device."""
    with FakeTensorMode(), torch.device("cuda"):
        model = VAE(latent_dim)
        loss, _, _ = negative_elbo(model, torch.rand(128, 1, 28, 28), torch.randn(128, latent_dim))
        assert loss.device.type == "cuda" and loss.shape == ()
        drawn = model.decode(torch.randn(40, latent_dim)).sigmoid()
        assert drawn.shape == (40, 1, 28, 28) and drawn.device.type == "cuda"


def test_log_weights_equal_torch_distributions():
    torch.manual_seed(0)
    model, x, k = VAE(latent_dim=3), torch.bernoulli(torch.rand(5, 1, 28, 28)), 4
    found = log_importance_weights(model, x, k, noise_seed=7)
    source = torch.Generator().manual_seed(7)
    noise = torch.stack([torch.randn(5, 3, generator=source) for _ in range(k)])
    with torch.no_grad():
        mean, log_variance = model.encode(x)
        guess = Normal(mean, (log_variance / 2).exp())
        z = mean + guess.stddev * noise  # (k, 5, 3)
        log_p_x = torch.stack([Bernoulli(logits=model.decode(draw)).log_prob(x).sum((1, 2, 3)) for draw in z])
        expected = log_p_x + Normal(0.0, 1.0).log_prob(z).sum(2) - guess.log_prob(z).sum(2)
    assert found.shape == (k, 5)
    assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_importance_weighted_bound_of_groups():
    torch.manual_seed(0)
    log_w = torch.randn(12, 5, dtype=torch.float64) * 3
    by_hand = [log_w[i : i + 4].exp().mean(0).log() for i in (0, 4, 8)]
    assert abs(bound_from(log_w, 4) - torch.stack(by_hand).mean().item()) < 1e-9
    assert abs(bound_from(log_w, 1) - log_w.mean().item()) < 1e-9
    bounds = [bound_from(log_w, k) for k in (1, 2, 4, 12)]
    assert bounds == sorted(bounds)
    assert abs(bound_from(log_w - 2000, 4) - bound_from(log_w, 4) + 2000) < 1e-9  # exp(-2000) is 0
    with pytest.raises(RuntimeError):
        bound_from(log_w, 5)


def test_binarised_images_are_bytes_of_two_values():
    grey = torch.arange(256, dtype=torch.uint8).repeat(4000, 1)
    threshold, drawn = binarise(grey), binarise(grey, noise_seed=0)
    for images in (threshold, drawn):
        assert images.dtype == torch.uint8 and set(images.unique().tolist()) == {0, 255}
    assert (threshold[:, :128] == 0).all() and (threshold[:, 128:] == 255).all()
    assert (drawn[:, 0] == 0).all() and (drawn[:, 255] == 255).all()  # black and white stay what they are
    share = (drawn == 255).double().mean(0)
    assert (share - torch.arange(256) / 255).abs().max() < 0.04  # five standard errors
    assert (binarise(grey, 0) == drawn).all() and (binarise(grey, 1) != drawn).any()


def test_sharpness_of_a_dot_a_ramp_and_a_line():
    dot, steps = torch.zeros(1, 1, 28, 28), torch.arange(28.0)
    dot[..., 10, 15] = 1
    assert abs(sharpness(dot) - 20 / 26**2) < 1e-6  # 4 * 4 at the dot, 1 at each neighbour
    assert sharpness(((steps[:, None] + 2 * steps) / 100)[None, None]) < 1e-9
    line = torch.zeros(2, 1, 28, 28)
    line[1, :, 10] = 1  # a row: -2 on it, 1 above and below; the other image is empty
    assert abs(sharpness(line) - 26 * 6 / 26**2 / 2) < 1e-6


def test_measured_models_are_those_of_the_seeds():
    """vae_grey.json repeats the trainings of vae.json: the same seeds give the same scores."""
    stored = {name: stored_results(name) for name in ("vae", "vae_grey")}
    scores = {row["seed"]: row["negative_elbo"] for row in stored["vae"]["seeds"]}
    for row in stored["vae_grey"]["seeds"]:
        assert math.isclose(row["negative_elbo"], scores[row["seed"]], abs_tol=0.5)


@pytest.mark.parametrize("name", ["grey", "drawn", "threshold"])
def test_measurements_hold_every_seed_and_tighten(name):
    stored = stored_results(f"vae_{name}")
    command = f"python -m aigc_course.recipes.vae_measured --data {name} --seeds 0 1 2"
    assert stored["made_by"]["command"].startswith(command)
    assert [(row["seed"], row["steps"]) for row in stored["seeds"]] == [(0, 9000), (1, 9000), (2, 9000)]
    for row in stored["seeds"]:
        assert row["bounds"]["1"] < row["bounds"]["10"] < row["bounds"]["100"]
