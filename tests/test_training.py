"""The training loop against loops written by hand, torch's schedules and a single process."""

import json
import math
import subprocess
import sys

import pytest
import runs
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from aigc_course import training
from aigc_course.data import Batches
from aigc_course.training import TrainingDiverged, one_cycle, train, warmup_cosine


def make(lr=0.1, optimizer=torch.optim.AdamW, seed=0):
    """(model, step, batches, optimizer) of a small regression."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(20, 4)
    batches = Batches(x, x.sum(1, keepdim=True), batch_size=5, seed=2)
    return model, lambda batch: F.mse_loss(model(batch[0]), batch[1]), batches, optimizer(model.parameters(), lr=lr)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# -- the loop


@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("schedule", [None, one_cycle])
def test_equals_a_loop_written_by_hand(clip_norm, schedule):
    model, step, batches, optimizer = make()
    expected, rates = [], []
    for i in range(15):
        rates.append(0.1 * (schedule(i / 15) if schedule else 1))
        optimizer.param_groups[0]["lr"] = rates[-1]
        loss = step(batches[i])
        optimizer.zero_grad()
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        expected.append(loss.item())
    by_hand = weights(model)

    model, step, batches, optimizer = make()
    used = []

    def watched(batch):
        used.append(optimizer.param_groups[0]["lr"])
        return step(batch)

    history = train(watched, model, batches, optimizer=optimizer, steps=15, schedule=schedule, clip_norm=clip_norm)
    assert torch.equal(weights(model), by_hand)
    assert history["loss"] == expected and used == rates and len(history) == 15
    assert optimizer.param_groups[0]["lr"] == 0.1  # ready for another call
    assert not model.training


def test_each_group_keeps_its_own_rate():
    model, step, batches, _ = make()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.0}], 0.1)
    before = [parameter.clone() for parameter in model.parameters()]
    train(step, model, batches, optimizer=optimizer, steps=3, schedule=lambda fraction: 0.5)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert changed == [True, True, False, False]


def test_history_holds_what_the_step_returns(recwarn):
    model, step, batches, optimizer = make()

    def with_parts(batch):
        loss = step(batch)
        return loss, {"twice": 2 * loss, "number": 3, "array": loss.detach().numpy()}

    history = train(with_parts, model, batches, optimizer=optimizer, steps=4)
    assert list(history.values) == ["loss", "twice", "number", "array"]
    assert history["twice"] == [2 * loss for loss in history["loss"]]
    assert history["number"] == [3.0] * 4 and history["array"] == history["loss"]
    assert {type(value) for values in history.values.values() for value in values} == {float}
    assert history.evaluations == [] and not recwarn.list  # a warning would stand in red under a lesson's cell


def test_the_model_learns_in_training_mode_and_is_judged_in_evaluation_mode():
    model, step, batches, optimizer = make()
    seen = []

    def watched(batch):
        seen.append(model.training and torch.is_grad_enabled())
        return step(batch)

    def evaluate():
        seen.append(model.training or torch.is_grad_enabled())
        return 0.0

    model.eval()
    train(watched, model, batches, optimizer=optimizer, steps=4, evaluate=evaluate, evaluate_every=2)
    assert seen == [True, True, False, True, True, False]


def test_early_stopping_puts_the_best_weights_back():
    model, step, batches, optimizer = make()
    scores, kept = iter([3.0, 1.0, 2.0, 1.0, math.nan, 0.0]), []

    def evaluate():
        kept.append(weights(model))
        return torch.tensor(next(scores))

    history = train(
        step, model, batches, optimizer=optimizer, steps=100, evaluate=evaluate, evaluate_every=2, patience=3
    )
    assert [score for _, score in history.evaluations[:4]] == [3.0, 1.0, 2.0, 1.0]
    assert [step for step, _ in history.evaluations] == [2, 4, 6, 8, 10] and len(history) == 10
    assert torch.equal(weights(model), kept[1])
    assert not torch.equal(kept[1], kept[4])


def test_without_patience_the_best_weights_are_put_back_at_the_end():
    model, step, batches, optimizer = make()
    kept = []

    def evaluate():
        kept.append(weights(model))
        return abs(len(kept) - 2)

    history = train(step, model, batches, optimizer=optimizer, steps=9, evaluate=evaluate, evaluate_every=2)
    assert len(history) == 9 and history.evaluations == [(2, 1), (4, 0), (6, 1), (8, 2)]
    assert torch.equal(weights(model), kept[1])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize(
    "what, spoil", [("loss", lambda loss: loss * math.nan), ("loss", lambda loss: loss / 0), ("gradient", None)]
)
def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(what, spoil, clip_norm):
    """The square root has a finite value at 0 and an infinite slope."""
    spoil = spoil or (lambda loss: loss + (0 * loss).sqrt())
    model, step, batches, optimizer = make()
    before = []

    def goes_wrong(batch):
        before.append(weights(model))
        return spoil(step(batch)) if len(before) == 6 else step(batch)

    with pytest.raises(TrainingDiverged, match=f"The {what} is not a finite number at step 5") as error:
        train(goes_wrong, model, batches, optimizer=optimizer, steps=10, clip_norm=clip_norm, schedule=one_cycle)
    assert "learning rate" in str(error.value)
    assert torch.equal(weights(model), before[5]) and weights(model).isfinite().all()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("factor", [10, 1e4, 1e38])
def test_a_rate_that_is_too_high_ends_well_or_with_a_clear_error(factor):
    model, step, batches, optimizer = make(lr=0.1 * factor, optimizer=torch.optim.SGD)
    try:
        history = train(step, model, batches, optimizer=optimizer, steps=60)
        assert all(map(math.isfinite, history["loss"]))
    except TrainingDiverged as error:
        assert "learning rate that is too high" in str(error)
    assert weights(model).isfinite().all()


def test_a_budget_in_seconds_ends():
    model, step, batches, optimizer = make()
    fractions = []

    def schedule(fraction):
        fractions.append(fraction)
        return one_cycle(fraction)

    history = train(step, model, batches, optimizer=optimizer, seconds=0.2, schedule=schedule)
    assert len(history) == len(fractions) > 1
    assert fractions == sorted(fractions) and 0 <= fractions[0] < fractions[-1] < 1


def test_batches_may_be_a_plain_list():
    model, step, batches, optimizer = make()
    train(step, model, [batches[i] for i in range(3)], optimizer=optimizer, steps=3)
    other = make()
    train(other[1], other[0], other[2], optimizer=other[3], steps=3)
    assert torch.equal(weights(model), weights(other[0]))


def test_one_seed_gives_the_same_run_twice():
    first, second = (runs.run("everything", name=f"seed {i}") for i in range(2))
    assert first == second


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({}, "either steps or seconds"),
        ({"steps": 1, "seconds": 1}, "either steps or seconds"),
        ({"seconds": 1, "checkpoint": "x"}, "cannot be repeated"),
        ({"steps": 1, "evaluate": lambda: 0}, "evaluate_every"),
        ({"steps": 1, "evaluate_every": 5}, "go together"),
        ({"steps": 1, "patience": 5}, "patience"),
    ],
)
def test_arguments_that_do_not_fit(wrong, message):
    model, step, batches, optimizer = make()
    with pytest.raises(ValueError, match=message):
        train(step, model, batches, optimizer=optimizer, **wrong)


def test_headless_training_prints_nothing(capfd):
    model, step, batches, optimizer = make()
    train(step, model, batches, optimizer=optimizer, steps=5)
    assert capfd.readouterr() == ("", "")


def test_the_bar_is_closed_where_training_stops(monkeypatch):
    closed = []
    progress = training.progress

    def watched(**options):
        bar = progress(**options)
        monkeypatch.setattr(bar, "close", lambda: closed.append(bar))
        return bar

    monkeypatch.setattr(training, "progress", watched)
    model, step, batches, optimizer = make()
    train(step, model, batches, optimizer=optimizer, steps=9, evaluate=lambda: 0, evaluate_every=1, patience=2)
    with pytest.raises(TrainingDiverged):
        train(lambda batch: step(batch) * math.nan, model, batches, optimizer=optimizer, steps=9)
    assert len(closed) == 2


# -- two processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory, course_on_path):
    """What `runs.two_processes` found in each of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**course_on_path, "AIGC_CHECKPOINTS": str(folder / "checkpoints"), "TMPDIR": str(folder)}
    command += [runs.__file__, "two processes", folder / "rank"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Going on from step 6") == 1
    return [json.loads((folder / f"rank{rank}").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    return runs.without_chance(Accelerator(cpu=True))


@pytest.mark.parametrize("which", ["undisturbed", "resumed"])
def test_two_processes_train_as_one(which, pair, alone):
    """Each has half of every batch."""
    for rank in (0, 1):
        assert (pair[rank]["rank"], pair[rank]["processes"]) == (rank, 2)
        ours = pair[rank][which]
        assert ours["history"]["examples"] == [5] * runs.STEPS and alone["history"]["examples"] == [10] * runs.STEPS
        for name in ("loss", "the loss", "accuracy"):
            torch.testing.assert_close(ours["history"][name], alone["history"][name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours["weights"], alone["weights"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor(ours["evaluations"]), torch.tensor(alone["evaluations"]), rtol=1e-4, atol=1e-5
        )
    assert pair[0][which] == pair[1][which]


def test_only_the_main_process_writes_checkpoints(pair):
    assert [found["saves"] for found in pair] == [3, 0]  # after steps 3, 6 and 9
    assert [found["left"] for found in pair] == [["step_00000003", "step_00000006"]] * 2


def test_two_processes_end_a_budget_in_seconds_together(pair):
    assert pair[0]["seconds"] == pair[1]["seconds"] and len(pair[0]["seconds"]["history"]["loss"]) > 1


def test_a_batch_that_cannot_be_divided_is_refused(pair):
    assert "batch_size 5 must be a multiple of 2" in pair[0]["odd"]


# -- schedules


@pytest.mark.parametrize("warmup, start, end", [(0.3, 0.04, 1e-4), (0.1, 0.5, 0.01)])
def test_one_cycle_is_that_of_torch(warmup, start, end):
    total = 1000
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warmup,
        div_factor=1 / start, final_div_factor=start / end, cycle_momentum=False,
    )  # fmt: skip
    peak = warmup * total - 1  # torch's first part ends a step early, its last step is the end
    for k in range(total):
        fraction = warmup * k / peak if k <= peak else warmup + (1 - warmup) * (k - peak) / (total - 1 - peak)
        assert one_cycle(fraction, warmup, start, end) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if k + 1 < total:
            theirs.step()


def test_one_cycle_at_its_ends_and_peak():
    assert one_cycle(0.0) == pytest.approx(0.04)
    assert one_cycle(0.15) == pytest.approx((0.04 + 1) / 2)
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(0.65) == pytest.approx((1 + 1e-4) / 2)
    assert one_cycle(1.0) == pytest.approx(1e-4)


@pytest.mark.parametrize("warmup, end", [(0.05, 0.1), (0.5, 0.0)])
def test_warmup_cosine_is_linear_and_then_torchs_cosine(warmup, end):
    total = 200
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=end)
    for k in range(total + 1):
        assert warmup_cosine(k / total * warmup, warmup, end) == pytest.approx(k / total)
        ours = warmup_cosine(warmup + (1 - warmup) * k / total, warmup, end)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule, peak, low", [(one_cycle, 0.3, 1e-4), (warmup_cosine, 0.05, 0.0)])
def test_schedules_rise_and_then_fall_within_bounds(schedule, peak, low):
    values = [schedule(k / 1000) for k in range(1001)]
    top = round(1000 * peak)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert min(values) >= low - 1e-12 and max(values) == pytest.approx(1.0) and max(values) <= 1 + 1e-12
