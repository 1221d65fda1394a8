"""A training loop on Hugging Face Accelerate: the same code on one CPU, one GPU or many processes."""

import hashlib
import inspect
import math
import shutil
import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from aigc_course.checkpoints import (
    Checkpoints,
    optimizer_state,
    random_state,
    restore_optimizer_state,
    restore_random_state,
)
from aigc_course.runtime import progress


class TrainingDiverged(Exception):
    """The loss or the gradient is no longer a finite number."""


@dataclass
class History:
    """What training recorded: a list per name with one value a step, and (step, score) pairs of evaluations."""

    values: dict = field(default_factory=dict)
    evaluations: list = field(default_factory=list)

    def __getitem__(self, name):
        return self.values[name]

    def __len__(self):
        return len(self.values.get("loss", ()))

    def add(self, **numbers):
        for name, number in numbers.items():
            self.values.setdefault(name, []).append(number)


def one_cycle(fraction, warmup=0.3, start=0.04, end=1e-4):
    """Factor on the learning rate: a cosine up from `start` to 1 during `warmup`, then a cosine down to `end`.

    fraction: how much of the training is done, in [0, 1]. After Smith and Topin, 2017, Super-Convergence,
    arXiv:1708.07120.
    """
    if fraction < warmup:
        low, high, part = start, 1.0, fraction / warmup
    else:
        low, high, part = 1.0, end, (fraction - warmup) / (1 - warmup)
    return low + (high - low) * (1 - math.cos(math.pi * part)) / 2


def warmup_cosine(fraction, warmup=0.05, end=0.1):
    """Factor on the learning rate: linear up to 1 during `warmup`, then a cosine down to `end`."""
    if fraction < warmup:
        return fraction / warmup
    return end + (1 - end) * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup))) / 2


def train(
    step, model, batches, *, optimizer, steps=None, seconds=None, schedule=None, clip_norm=None, generator=None,
    evaluate=None, evaluate_every=None, patience=None, checkpoint=None, checkpoint_every=None, config=None,
    desc="training", accelerator=None,
):  # fmt: skip
    """Trains `model` in place and returns a History.

    step(batch): the loss as a scalar tensor, or (loss, {"name": number, ...}) to record more.
    batches: batches[i] is the batch of step i (see data.Batches); it is moved to the model's device.
    steps or seconds: the budget. Only a budget in steps gives the same weights again.
    schedule(fraction): factor on the optimiser's learning rate, e.g. one_cycle.
    clip_norm: largest Euclidean norm of the whole gradient.
    generator: the CPU generator that `step` draws noise from; its state is saved in checkpoints.
    evaluate(): a score, lower is better, called every `evaluate_every` steps with the model in evaluation mode. After
    `patience` evaluations without a better score training stops; the weights of the best score are put back.
    checkpoint: a name. A run that was killed goes on from its last checkpoint (one every `checkpoint_every` steps, by
    default twenty in all) and ends with the weights of an uninterrupted run. A finished run leaves none behind.
    config: settings of your own that the run depends on; a checkpoint with other ones is refused.

    Raises TrainingDiverged when the loss or the gradient is no longer finite, CheckpointError when a checkpoint
    cannot be written or used.
    """
    if (steps is None) == (seconds is None):
        raise ValueError("give a budget: either steps or seconds")
    if checkpoint and seconds is not None:
        raise ValueError("a run with a budget in seconds cannot be repeated, so it takes no checkpoint")
    accelerator = accelerator or Accelerator()
    if hasattr(batches, "processes"):
        batches.rank, batches.processes = accelerator.process_index, accelerator.num_processes
    device = next(model.parameters()).device
    base_rates = [group["lr"] for group in optimizer.param_groups]
    history, best = History(), Best()
    saved, first = None, 0
    if checkpoint:
        saved = Checkpoints(checkpoint, settings(step, model, batches, optimizer, steps, schedule, clip_norm, config))
        first = restore(saved, model, optimizer, generator, history, best)
    checkpoint_every = checkpoint_every or max(1, (steps or 0) // 20)

    model.train()
    bar = progress(total=steps, desc=desc)
    bar.update(first)
    began, i = time.monotonic(), first
    while not best.stopped:
        done = i / steps if steps is not None else (time.monotonic() - began) / seconds
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, base_rates):
            group["lr"] = rate * (schedule(done) if schedule else 1.0)
        result = step(send_to_device(batches[i], device))
        loss, numbers = result if isinstance(result, tuple) else (result, {})
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        average_gradients(model, accelerator)
        norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm) if clip_norm else None
        history.add(loss=accelerator.reduce(loss.detach(), "mean").item(), **{k: float(v) for k, v in numbers.items()})
        stop_if_diverged(i, history["loss"][-1], norm)
        optimizer.step()
        i += 1
        bar.update()
        bar.set_postfix_str(f"loss {history['loss'][-1]:.3f}", refresh=False)
        if evaluate and i % evaluate_every == 0:
            model.eval()
            with torch.no_grad():
                history.evaluations.append((i, float(evaluate())))
            model.train()
            best.see(history.evaluations[-1][1], model, patience)
        if saved and i % checkpoint_every == 0 and i < steps and accelerator.is_main_process:
            keep(saved, i, model, optimizer, generator, history, best)
    bar.close()
    if best.weights:
        model.load_state_dict(best.weights)
    model.eval()
    accelerator.wait_for_everyone()
    if saved and accelerator.is_main_process:
        shutil.rmtree(saved.folder, ignore_errors=True)
    return history


@dataclass
class Best:
    """The best evaluation so far, for early stopping."""

    score: float = math.inf
    weights: dict = None
    waited: int = 0
    stopped: bool = False

    def see(self, score, model, patience):
        if score < self.score:
            self.score, self.waited = score, 0
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience


def average_gradients(model, accelerator):
    """Each process has seen its part of the batch: the gradient of the whole is the mean of theirs."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")


def stop_if_diverged(step, loss, norm):
    """Raises TrainingDiverged before bad numbers reach the weights."""
    what = "loss" if not math.isfinite(loss) else "gradient" if norm is not None and not math.isfinite(norm) else None
    if what:
        raise TrainingDiverged(
            f"The {what} is not a finite number at step {step} (loss {loss}). The weights are those of the step "
            "before. Usual causes: a learning rate that is too high, log(0) or a division by zero in the loss, "
            "NaN in the data."
        )


def settings(step, model, batches, optimizer, steps, schedule, clip_norm, config):
    """What a run depends on, as JSON; `code` stands for the source of the step and of the functions it calls."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return {
        "config": config or {},
        "steps": steps,
        "batch_size": getattr(batches, "batch_size", None),
        "seed": getattr(batches, "seed", None),
        "optimizer": [type(optimizer).__name__, groups],
        "schedule": getattr(schedule, "__name__", repr(schedule)) if schedule else None,
        "clip_norm": clip_norm,
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
        "code": hashlib.sha256("".join(sorted(sources(step, {}).values())).encode()).hexdigest()[:16],
    }


def sources(thing, found):
    """{name: source} of a function, or of a class's methods, and of those in the same module that its code names.

    A learner who edits the loss after an interrupt must not go on with a run that had another loss.
    """
    functions = vars(thing).values() if inspect.isclass(thing) else [thing]
    for function in filter(inspect.isfunction, functions):
        if function.__qualname__ in found:
            continue
        try:
            found[function.__qualname__] = inspect.getsource(function)
        except OSError:  # typed at a prompt: there is no source to compare
            continue
        for name in function.__code__.co_names:
            other = function.__globals__.get(name)
            if getattr(other, "__module__", None) == function.__module__:
                sources(other, found)
    return found


def keep(saved, step, model, optimizer, generator, history, best):
    """Writes a checkpoint of everything that the next step depends on."""
    moments, optimizer_json = optimizer_state(optimizer)
    randomness, random_json = random_state(generator)
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | moments | randomness
    tensors |= {f"best.{k}": v for k, v in (best.weights or {}).items()}
    state = {
        "optimizer": optimizer_json,
        "random": random_json,
        "history": {"values": history.values, "evaluations": history.evaluations},
        "best": {"score": best.score if best.weights else None, "waited": best.waited, "stopped": best.stopped},
    }
    saved.save(step, tensors, state)


def restore(saved, model, optimizer, generator, history, best):
    """Puts the newest whole checkpoint back into all of its arguments; returns the step to go on with."""
    loaded = saved.load()
    if loaded is None:
        return 0
    step, tensors, state = loaded

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    device = next(model.parameters()).device
    model.load_state_dict(part("model."))
    restore_optimizer_state(optimizer, tensors, state["optimizer"])
    restore_random_state(tensors, state["random"], generator)
    history.values = state["history"]["values"]
    history.evaluations = [tuple(pair) for pair in state["history"]["evaluations"]]
    if part("best."):
        best.score, best.weights = state["best"]["score"], {k: v.to(device) for k, v in part("best.").items()}
    best.waited, best.stopped = state["best"]["waited"], state["best"]["stopped"]
    print(f"Going on from step {step} of an interrupted run.")
    return step
