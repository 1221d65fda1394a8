"""The VAE of lesson 21 against references, and on a GPU that is not there."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close

from aigc_course.models.vae import VAE, gaussian_kl, negative_elbo, reconstruction_loss


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
