"""The convolutional GAN of lesson 23: whose parameters a step moves, which way up images are, what stops a bad game."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

from aigc_course.data import Batches, fashion_mnist
from aigc_course.image_metrics import score_images
from aigc_course.models.classifier import fashion_classifier
from aigc_course.models.dcgan import (
    FIRST_TRY,
    NOISE_DIM,
    RATE,
    Discriminator,
    Generator,
    WithoutLabels,
    draw_weights,
    fashion_generator,
    first_try,
    multilayer_networks,
    sample,
    to_signed,
    train_game,
)
from aigc_course.models.gan import discriminator_loss, discriminator_step, generator_loss, generator_step
from aigc_course.paths import DATA
from aigc_course.training import TrainingDiverged
from benchmarks import batches as batches_benchmark
from benchmarks import dcgan as dcgan_benchmark


def small_pair():
    return draw_weights(Generator(width=4)), draw_weights(Discriminator(width=4))


PAIRS = {"dcgan": small_pair, "first try": lambda: first_try(width=4), "multilayer": lambda: multilayer_networks(16)}


def toy_batches(batch_size=16):
    """Two classes of pictures: a bar on top, a bar at the left."""
    images = torch.zeros(200, 28, 28, dtype=torch.uint8)
    images[::2, 3:9], images[1::2, :, 3:9] = 255, 255
    return Batches(images, torch.arange(200) % 2, batch_size=batch_size, seed=0, prepare=to_signed)


def copies(network):
    return [value.detach().clone() for value in network.parameters()]


def moved(network, before):
    return [not torch.equal(now, then) for now, then in zip(network.parameters(), before)]


@pytest.mark.parametrize("name", PAIRS)
def test_each_step_touches_its_own_parameters_only(name):
    torch.manual_seed(0)
    generator, discriminator = PAIRS[name]()
    optimizer_d = torch.optim.Adam(discriminator.parameters(), 1e-3)
    optimizer_g = torch.optim.Adam(generator.parameters(), 1e-3)
    x, labels = toy_batches()[0]
    draw, judge = partial(generator, labels=labels), partial(discriminator, labels=labels)
    for _ in range(2):
        before_g, before_d = copies(generator), copies(discriminator)
        discriminator_step(draw, judge, optimizer_d, x, torch.randn(len(x), NOISE_DIM))
        assert not any(moved(generator, before_g)) and all(moved(discriminator, before_d))
        before_d = copies(discriminator)
        generator_step(draw, judge, optimizer_g, torch.randn(len(x), NOISE_DIM))
        assert not any(moved(discriminator, before_d)) and all(moved(generator, before_g))


@pytest.mark.parametrize("name", PAIRS)
def test_shapes_and_ranges(name):
    generator, discriminator = PAIRS[name]()
    noise, labels = torch.randn(6, NOISE_DIM), torch.arange(6)
    drawn = generator(noise, labels)
    assert drawn.shape == (6, 1, 28, 28) and drawn.abs().max() <= 1
    assert discriminator(drawn, labels).shape == (6, 1)
    pictures = sample(generator.eval(), torch.arange(6))
    assert pictures.shape == (6, 1, 28, 28) and 0 <= pictures.min() and pictures.max() <= 1


def test_losses_of_labelled_networks_against_the_closed_form():
    """Two classes, two pictures: with the best logit of each class the loss is 2 log 2 less twice the mean JSD."""
    p = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)  # p_data(x | y)
    q = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)  # the generator's
    logits, m = (p / q).log(), (p + q) / 2
    jsd = (torch.xlogy(p, p / m).sum(1) + torch.xlogy(q, q / m).sum(1)) / 2
    g, n = torch.Generator().manual_seed(0), 200_000
    y = torch.randint(2, (n,), generator=g)
    real, fake = [torch.where(torch.rand(n, generator=g) < table[y, 0], 0, 1) for table in (p, q)]
    loss = discriminator_loss(logits[y, real], logits[y, fake])
    assert abs(loss - (2 * math.log(2) - 2 * jsd.mean())) < 0.005
    expected = (q * F.softplus(-logits)).sum(1).mean()
    assert abs(generator_loss(logits[y, fake]) - expected) < 0.005


def test_the_label_picks_the_question_and_the_garment():
    torch.manual_seed(0)
    generator, discriminator = small_pair()
    generator.eval(), discriminator.eval()
    x, labels = torch.rand(10, 1, 28, 28), torch.arange(10).flip(0)
    answers = discriminator.layers(x)
    assert_close(discriminator(x, labels)[:, 0], answers.flip(1).diag())
    noise = torch.randn(1, NOISE_DIM).expand(10, -1)
    drawn = generator(noise, labels)
    assert (drawn - drawn[:1]).abs().amax((1, 2, 3))[1:].min() > 1e-4
    assert_close(generator.draw(noise, torch.eye(10).flip(0)), drawn)


def ramp(height, width):
    """`(1, 1, height, width)`: 0 everywhere but for one mark, right of the middle and above it."""
    x = torch.zeros(1, 1, height, width)
    x[..., 2, width - 3] = 1
    return x


def spatial_layers():
    networks = [*small_pair(), *first_try(width=4)]
    layers = [layer for network in networks for layer in network.modules()]
    return [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]


@pytest.mark.parametrize("layer", spatial_layers(), ids=str)
def test_layers_keep_their_axes(layer):
    """A mark in a picture that is not square comes out at the place where it went in, counted in strides."""
    height, width = 12, 17
    x = ramp(height, width).expand(-1, layer.in_channels, -1, -1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        if layer.bias is not None:
            layer.bias.zero_()
        y = layer(x)[0, 0]
    k, s, p = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    rows, columns = [torch.arange(size, dtype=torch.float) for size in y.shape]
    row, column = (y.sum(1) * rows).sum() / y.sum(), (y.sum(0) * columns).sum() / y.sum()
    if isinstance(layer, nn.ConvTranspose2d):
        assert y.shape == ((height - 1) * s + k - 2 * p, (width - 1) * s + k - 2 * p)
        place = lambda u: s * u - p + (k - 1) / 2
        assert_close((row.item(), column.item()), (place(2.0), place(width - 3.0)))
    else:
        assert y.shape == ((height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1)
        hit = lambda u, size: [i for i in range(size) if 0 <= u + p - s * i < k]
        middle = lambda u, size: sum(hit(u, size)) / len(hit(u, size))
        assert_close((row.item(), column.item()), (middle(2, y.shape[0]), middle(width - 3, y.shape[1])))


@pytest.mark.parametrize("name", ["dcgan", "first try"])
def test_the_small_picture_lies_under_the_large_one(name):
    """What is changed at one place of the generator's 7 x 7 picture changes the drawing there and nowhere else."""
    torch.manual_seed(0)
    generator = PAIRS[name]()[0].eval()
    layers = generator.layers if name == "dcgan" else generator.layers[2:]
    h = torch.randn(1, 8, 7, 7)
    other = h.clone()
    other[:, :, 1, 5] += 3
    with torch.no_grad():
        changed = (layers(other) - layers(h)).abs()[0, 0] > 1e-7
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    assert 4 * 1 - 3 <= rows.min() and rows.max() <= 4 * 1 + 6
    assert 4 * 5 - 3 <= columns.min() and columns.max() <= 4 * 5 + 6


def test_projection_puts_channels_rows_and_columns_where_they_belong():
    generator = small_pair()[0].eval()
    seen = []
    generator.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        generator.project.weight.zero_()
        generator.project.weight.view(7, 7, 8, -1)[1, 5, 3, 0] = 1.0  # row 1, column 5, channel 3
        generator(torch.ones(1, NOISE_DIM), torch.tensor([0]))
    assert seen[0].shape == (1, 8, 7, 7) and seen[0].nonzero().tolist() == [[0, 3, 1, 5]]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_preparation_and_dense_layers_keep_rows_and_columns():
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1, 2, 20] = 255
    x, labels = to_signed(images, torch.tensor([3, 4]))
    assert x.shape == (2, 1, 28, 28) and x.is_contiguous(memory_format=torch.channels_last)
    assert x[1, 0, 2, 20] == 1 and x.sum() == -2 * 784 + 2 and labels.tolist() == [3, 4]
    generator, discriminator = multilayer_networks()
    flat = torch.arange(784.0)[None]
    assert generator.layers[-1](flat)[0, 0, 2, 20] == 2 * 28 + 20
    assert discriminator.layers[0](x)[1, 2 * 28 + 20] == 1  # in channels_last too


def test_the_game_learns_which_way_up_its_pictures_are():
    torch.manual_seed(0)
    generator, discriminator = draw_weights(Generator(width=8)), draw_weights(Discriminator(width=8))
    train_game(generator, discriminator, toy_batches(32), torch.Generator().manual_seed(0), steps=120, rate=2e-3)
    top, left = sample(generator, torch.tensor([0, 1]))[:, 0]
    assert top[3:9].mean() > top[12:].mean() + 0.4 and left[:, 3:9].mean() > left[:, 12:].mean() + 0.4


def test_weights_are_drawn_by_the_papers_rule():
    torch.manual_seed(0)
    for network in (draw_weights(Generator()), draw_weights(Discriminator())):
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                assert abs(layer.weight.std() - 0.02) < 0.002 and layer.weight.mean().abs() < 0.003
            if isinstance(layer, nn.BatchNorm2d):
                assert abs(layer.weight.mean() - 1) < 0.02 and layer.weight.std() < 0.05
            if getattr(layer, "bias", None) is not None:
                assert not layer.bias.any()


def test_the_same_seed_gives_the_same_game_and_the_rate_falls():
    ends = []
    for _ in range(2):
        torch.manual_seed(3)
        pair = small_pair()
        losses = train_game(*pair, toy_batches(), torch.Generator().manual_seed(3), steps=6)
        ends.append((losses, copies(pair[0])))
        assert not pair[0].training and not pair[1].training and len(losses) == 6
    assert ends[0][0] == ends[1][0]
    assert_close(ends[0][1], ends[1][1], rtol=0, atol=0)

    def path(**settings):
        torch.manual_seed(3)
        pair, steps, last = small_pair(), [], []

        def watch(step):
            now = torch.cat([value.detach().flatten() for value in pair[0].parameters()])
            steps.append((now - last[0]).norm().item() if last else 0.0)
            last[:] = [now]

        train_game(*pair, toy_batches(), torch.Generator().manual_seed(3), steps=20, watch=watch, **settings)
        return steps[-1]

    assert path() < 0.3 * path(decay=False)


def test_a_budget_in_seconds_ends():
    losses = train_game(*small_pair(), toy_batches(), torch.Generator(), seconds=0.2)
    assert len(losses) >= 1


@pytest.mark.parametrize("name", PAIRS)
def test_ten_times_the_rate_stays_finite_or_says_so(name):
    torch.manual_seed(0)
    pair = PAIRS[name]()
    rate = FIRST_TRY["rate"] if name != "dcgan" else RATE
    try:
        losses = train_game(*pair, toy_batches(), torch.Generator().manual_seed(0), steps=60, rate=10 * rate)
    except TrainingDiverged as error:
        assert "a smaller rate" in str(error)
    else:
        assert all(math.isfinite(value) for pair_of_losses in losses for value in pair_of_losses)
        assert all(value.isfinite().all() for network in pair for value in network.parameters())


def test_a_game_that_runs_off_is_stopped_with_a_clear_error():
    torch.manual_seed(0)
    pair = WithoutLabels(nn.Linear(NOISE_DIM, 784), nn.Unflatten(1, (1, 28, 28))), multilayer_networks(16)[1]
    with pytest.raises(TrainingDiverged, match=r"losses \(.*\) at step \d+: a smaller rate than 1e\+30 is needed"):
        train_game(*pair, toy_batches(), torch.Generator().manual_seed(0), steps=50, rate=1e30)


def test_drawings_do_not_depend_on_their_neighbours():
    torch.manual_seed(0)
    pair = small_pair()
    train_game(*pair, toy_batches(), torch.Generator().manual_seed(0), steps=3)
    labels = torch.arange(10)
    many = sample(pair[0], labels, seed=5)
    noise = torch.randn(10, NOISE_DIM, generator=torch.Generator().manual_seed(5))
    alone = torch.cat([sample(pair[0], labels[i : i + 1], noise=noise[i : i + 1]) for i in range(10)])
    assert_close(many, alone, atol=1e-5, rtol=1e-5)


def test_networks_on_a_gpu_that_is_not_there():
    """FakeTensorMode knows shapes and devices only; it raises where a tensor was made on the wrong device."""
    with FakeTensorMode(), torch.device("cuda"):
        generator, discriminator = Generator(), Discriminator()
        labels = torch.zeros(8, dtype=torch.long)
        logits = discriminator(generator(torch.randn(8, NOISE_DIM), labels), labels)
        assert logits.device.type == "cuda" and logits.shape == (8, 1)


@pytest.mark.parametrize("more", [[], ["--baseline"]])
def test_the_benchmark_saves_what_it_scores(more, tmp_path, monkeypatch, capsys):
    target = tmp_path / "samples.pt"
    arguments = ["dcgan", "--seconds", "0.2", "--threads", "1", "--count", "100", "--samples", str(target), *more]
    monkeypatch.setattr("sys.argv", arguments)
    before = torch.get_num_threads()
    dcgan_benchmark.main()
    torch.set_num_threads(before)
    saved = torch.load(target)
    assert saved.shape == (100, 1, 28, 28) and saved.dtype == torch.float32
    assert 0 <= saved.min() and saved.max() <= 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FID ")


def test_the_benchmark_of_batches_compares_the_same_pictures(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["batches", "--batches", "3", "--rounds", "1", "--threads", "1"])
    before = torch.get_num_threads()
    batches_benchmark.main()
    torch.set_num_threads(before)
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio ")


def test_the_shipped_generator_is_as_good_as_its_card_says():
    card = (DATA / "models" / "fashion_generator" / "README.md").read_text(encoding="utf-8")
    stated = {name: float(card.split(f"| {name} | ")[1].split(" ")[0]) for name in ("fid", "precision", "recall")}
    real, drawn = (
        fashion_mnist("test")[0][:3000].unsqueeze(1) / 255,
        sample(fashion_generator(), torch.arange(3000) % 10),
    )
    found = score_images(fashion_classifier(), real, drawn)  # the FID of fewer images is a little larger
    assert stated["fid"] < 8 and abs(found["fid"] - stated["fid"]) < 1.5
    assert all(abs(found[name] - stated[name]) < 0.1 for name in ("precision", "recall"))


def test_the_shipped_generator_draws_the_same_again_and_what_it_is_asked_for():
    generator, labels = fashion_generator(), torch.arange(200) % 10
    drawn = sample(generator, labels)
    assert torch.equal(drawn, sample(generator, labels)) and not generator.training
    with torch.no_grad():
        assert (fashion_classifier()(drawn).argmax(1) == labels).float().mean() > 0.8
