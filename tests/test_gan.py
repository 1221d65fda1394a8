"""The game of lesson 22: losses against closed forms, steps that touch their own network only, a stored table."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.distributions import Normal
from torch.testing import assert_close

from aigc_course.data import stored_results
from aigc_course.models.gan import (
    DEVIATION,
    NOISE_DIM,
    critic_generator_loss,
    critic_loss,
    discriminator_loss,
    discriminator_step,
    draw_ring,
    generator_loss,
    generator_step,
    gradient_penalty,
    ring_centres,
    saturating_loss,
    score_ring,
    small_network,
    train_ring,
)


def grid_mean(density, values, width):
    return (density * values).sum() * width


def two_bells(distance):
    """Densities of N(0, 1) and N(distance, 1) on a grid, the best logit there, and the grid's width."""
    x = torch.linspace(-12, 12 + distance, 8001, dtype=torch.float64)
    log_p, log_q = Normal(0.0, 1.0).log_prob(x), Normal(distance, 1.0).log_prob(x)
    return log_p.exp(), log_q.exp(), log_p - log_q, x[1] - x[0]


def test_losses_are_the_logarithms_that_they_stand_for():
    real, fake = torch.randn(2, 50, 1, dtype=torch.float64)
    assert_close(discriminator_loss(real, fake), -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()))
    assert_close(generator_loss(fake), -fake.sigmoid().log().mean())
    assert_close(saturating_loss(fake), (1 - fake.sigmoid()).log().mean())
    assert critic_loss(real, fake) == fake.mean() - real.mean() and critic_generator_loss(fake) == -fake.mean()


def test_losses_are_finite_for_logits_that_are_very_sure():
    sure = torch.tensor([300.0])
    assert discriminator_loss(-sure, sure) == 600 and generator_loss(-sure) == 300 and saturating_loss(sure) == -300


@pytest.mark.parametrize("distance", [0.0, 1.0, 4.0])
def test_best_discriminator_loss_is_given_by_the_jensen_shannon_divergence(distance):
    p, q, best, width = two_bells(distance)
    m = (p + q) / 2
    jsd = (grid_mean(p, torch.log(p / m), width) + grid_mean(q, torch.log(q / m), width)) / 2
    softplus = torch.nn.functional.softplus
    loss = grid_mean(p, softplus(-best), width) + grid_mean(q, softplus(best), width)
    assert_close(loss, 2 * math.log(2) - 2 * jsd)


def test_losses_on_samples_with_the_best_logit_approach_the_closed_form():
    distance, g = 1.5, torch.Generator().manual_seed(0)
    p, q, best, width = two_bells(distance)
    logit = lambda x: distance**2 / 2 - distance * x
    real, fake = torch.randn(200_000, generator=g), distance + torch.randn(200_000, generator=g)
    softplus = torch.nn.functional.softplus
    exact = grid_mean(p, softplus(-best), width) + grid_mean(q, softplus(best), width)
    assert abs(discriminator_loss(logit(real), logit(fake)) - exact) < 0.01
    assert abs(generator_loss(logit(fake)) - grid_mean(q, softplus(-best), width)) < 0.015


def copies(network):
    return [value.detach().clone() for value in network.parameters()]


def moved(network, before):
    return [not torch.equal(now, then) for now, then in zip(network.parameters(), before)]


@pytest.mark.parametrize("losses", [(discriminator_loss, generator_loss), (critic_loss, critic_generator_loss)])
@pytest.mark.parametrize("lipschitz", [None, 5.0])
def test_each_step_touches_its_own_parameters_only(losses, lipschitz):
    torch.manual_seed(0)
    generator, discriminator = small_network(NOISE_DIM, 2), small_network(2, 1, lipschitz=lipschitz)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), 1e-3)
    optimizer_g = torch.optim.Adam(generator.parameters(), 1e-3)
    x, noise = draw_ring(64, torch.Generator().manual_seed(0)), torch.randn(64, NOISE_DIM)
    for _ in range(3):
        before_g, before_d = copies(generator), copies(discriminator)
        discriminator_step(generator, discriminator, optimizer_d, x, noise, losses[0])
        assert not any(moved(generator, before_g)) and sum(moved(discriminator, before_d)) >= 5
        before_d = copies(discriminator)
        loss = generator_step(generator, discriminator, optimizer_g, noise, losses[1])
        assert not any(moved(discriminator, before_d)) and all(moved(generator, before_g))
        assert not loss.requires_grad


def test_a_step_is_not_disturbed_by_gradients_that_lie_around():
    torch.manual_seed(0)
    generator, discriminator = small_network(NOISE_DIM, 2), small_network(2, 1)
    x, noise = draw_ring(64, torch.Generator().manual_seed(0)), torch.randn(64, NOISE_DIM)
    start = copies(discriminator)
    results = []
    for mess in (False, True):
        with torch.no_grad():
            for value, old in zip(discriminator.parameters(), start):
                value.copy_(old)
                value.grad = torch.ones_like(value) if mess else None
        discriminator_step(generator, discriminator, torch.optim.SGD(discriminator.parameters(), 0.1), x, noise)
        results.append(copies(discriminator))
    assert_close(results[0], results[1])


def test_directions_of_the_steps():
    """A discriminator step makes its loss smaller, and a generator step raises the logits of its points."""
    torch.manual_seed(0)
    generator, discriminator = small_network(NOISE_DIM, 2), small_network(2, 1)
    x, noise = draw_ring(256, torch.Generator().manual_seed(0)), torch.randn(256, NOISE_DIM)
    loss = lambda: discriminator_loss(discriminator(x), discriminator(generator(noise))).item()
    before = loss()
    discriminator_step(generator, discriminator, torch.optim.SGD(discriminator.parameters(), 0.01), x, noise)
    assert loss() < before
    for loss_of in (generator_loss, saturating_loss, critic_generator_loss):
        before = discriminator(generator(noise)).mean()
        generator_step(generator, discriminator, torch.optim.SGD(generator.parameters(), 0.01), noise, loss_of)
        assert discriminator(generator(noise)).mean() > before


def test_gradient_penalty_of_a_plane_is_known_for_points_and_for_images():
    plane = nn.Linear(3, 1)
    x, fake, mix = torch.randn(7, 3), torch.randn(7, 3), torch.rand(7, 1)
    assert_close(gradient_penalty(plane, x, fake, mix), (plane.weight.norm() - 1) ** 2)
    images = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 4, 1))
    x, fake, mix = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4), torch.rand(3, 1, 1, 1)
    penalty = gradient_penalty(images, x, fake, mix)
    assert_close(penalty, (images[1].weight.norm() - 1) ** 2)
    penalty.backward()
    assert images[1].weight.grad.abs().sum() > 0


def test_gradient_penalty_looks_between_the_points():
    bowl = lambda x: x.square().sum(1, keepdim=True) / 2  # its slope at x is the length of x
    x, fake, mix = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.75]])
    assert_close(gradient_penalty(bowl, x, fake, mix), torch.tensor((math.hypot(3.0, 0.5) - 1) ** 2))


def test_spectral_normalisation_bounds_every_slope():
    torch.manual_seed(0)
    network = small_network(2, 1, lipschitz=5.0)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(7)
    for _ in range(50):
        network(torch.zeros(1, 2))  # each call is a round of power iteration
    a, b = 3 * torch.randn(2, 5000, 2)
    slopes = (network(a) - network(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert slopes.max() <= 5.001


def test_scores_of_the_ring():
    g = torch.Generator().manual_seed(0)
    modes, good = score_ring(draw_ring(100_000, g))
    assert modes == 8 and abs(good - (1 - math.exp(-4.5))) < 0.002
    centres = ring_centres()
    assert score_ring(centres[:3].repeat(10, 1)) == (3, 1.0)
    assert score_ring(torch.zeros(50, 2)) == (0, 0.0)
    outside = centres + torch.tensor([3.01 * DEVIATION, 0.0])
    assert score_ring(outside) == (0, 0.0)
    rare = torch.cat([centres[:1].repeat(995, 1), centres[1:2].repeat(5, 1)])
    assert score_ring(rare)[0] == 1  # five in a thousand are not enough


def test_the_same_seed_gives_the_same_game():
    ends = []
    for _ in range(2):
        torch.manual_seed(3)
        generator, discriminator = small_network(NOISE_DIM, 2), small_network(2, 1)
        train_ring(generator, discriminator, 5, torch.Generator().manual_seed(3), critic_steps=2)
        ends.append(copies(generator))
    assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_steps_on_a_gpu_that_is_not_there():
    """FakeTensorMode knows shapes and devices only; it raises where a tensor was made on the wrong device."""
    with FakeTensorMode(), torch.device("cuda"):
        generator, discriminator = small_network(NOISE_DIM, 2), small_network(2, 1)
        x, noise = torch.randn(8, 2), torch.randn(8, NOISE_DIM)
        logits = discriminator(generator(noise))
        assert discriminator_loss(discriminator(x), logits).device.type == "cuda"
        assert generator_loss(logits).shape == ()


def test_stored_games_are_complete():
    games = stored_results("gan_ring")["games"]
    keys = [(game["way"], game["seed"]) for game in games]
    assert len(keys) == len(set(keys)) == 25 and {seed for _, seed in keys} == set(range(5))
    for game in games:
        assert 0 <= game["modes"] <= 8 and 0 <= game["good"] <= 1 and game["steps"] == games[0]["steps"]
