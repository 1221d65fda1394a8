"""A training loop on Hugging Face Accelerate: the same code on one CPU, one GPU or many processes."""

import functools
import hashlib
import inspect
import math
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


class Both:
    """Two optimisers that step together."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def zero_grad(self, set_to_none=True):
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


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
    if (evaluate is None) != (evaluate_every is None):
        raise ValueError("evaluate and evaluate_every go together: what to call, and after how many steps")
    if patience is not None and evaluate is None:
        raise ValueError("patience counts evaluations, so it needs evaluate")
    accelerator = accelerator or Accelerator()
    if hasattr(batches, "divide"):
        batches.divide(accelerator.process_index, accelerator.num_processes)
    device = next(model.parameters()).device
    base_rates = [group["lr"] for group in optimizer.param_groups]
    history, best = History(), Best()
    saved, first = None, 0
    if checkpoint:
        budget = {"steps": steps, "clip_norm": clip_norm, "evaluate_every": evaluate_every, "patience": patience}
        saved = Checkpoints(checkpoint, budget | settings(step, model, batches, optimizer, schedule, config))
        first = restore(saved, model, optimizer, generator, history, best)
        if first and accelerator.is_main_process:
            print(f"Going on from step {first} of an interrupted run.")
    checkpoint_every = checkpoint_every or max(1, (steps or 0) // 20)

    model.train()
    bar = progress(total=steps, desc=desc)
    bar.update(first)
    began, i = time.monotonic(), first
    try:
        while not best.stopped:
            done = i / steps if steps is not None else mean((time.monotonic() - began) / seconds, accelerator)
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, base_rates):
                group["lr"] = rate * (schedule(done) if schedule else 1.0)
            result = step(send_to_device(batches[i], device))
            loss, numbers = result if isinstance(result, tuple) else (result, {})
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            average_gradients(model, accelerator)
            norm = clip_gradients(model, clip_norm)
            history.add(**{name: mean(value, accelerator) for name, value in {"loss": loss, **numbers}.items()})
            stop_if_diverged(i, history["loss"][-1], norm)
            optimizer.step()
            i += 1
            bar.update()
            bar.set_postfix_str(f"loss {history['loss'][-1]:.3f}", refresh=False)
            if evaluate and i % evaluate_every == 0:
                model.eval()
                with torch.no_grad():
                    history.evaluations.append((i, mean(evaluate(), accelerator)))
                model.train()
                best.see(history.evaluations[-1][1], model, patience)
            if saved and i % checkpoint_every == 0 and i < steps and accelerator.is_main_process:
                keep(saved, i, model, optimizer, generator, history, best)
    finally:
        bar.close()
        for group, rate in zip(optimizer.param_groups, base_rates):
            group["lr"] = rate  # as it was given, so that an interrupted cell can be run again
    if best.weights:
        model.load_state_dict(best.weights)
    model.eval()
    accelerator.wait_for_everyone()
    if saved and accelerator.is_main_process:
        saved.remove()
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


def mean(number, accelerator):
    """A number as a float; its mean over the processes, so that all of them decide alike."""
    number = number.detach().item() if torch.is_tensor(number) else float(number)
    if accelerator.num_processes > 1:
        number = accelerator.reduce(torch.tensor(number, device=accelerator.device), "mean").item()
    return number


def clip_gradients(model, clip_norm):
    """The Euclidean norm of the whole gradient, which is then cut to `clip_norm` if that is given."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, norm)
    return norm.item()


def stop_if_diverged(step, loss, norm):
    """Raises TrainingDiverged before bad numbers reach the weights."""
    what = "loss" if not math.isfinite(loss) else "gradient" if not math.isfinite(norm) else None
    if what:
        raise TrainingDiverged(
            f"The {what} is not a finite number at step {step} (loss {loss}). The weights are those of the step "
            "before. Usual causes: a learning rate that is too high, log(0) or a division by zero in the loss, "
            "NaN in the data."
        )


def settings(step, model, batches, optimizer, schedule, config):
    """What else a run depends on, as JSON; the last entry stands for the source of the step and of what it calls."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    module = getattr(step.func if isinstance(step, functools.partial) else step, "__module__", None)
    code = "".join(sorted(sources(step, module, {}).values()))
    return {
        "config": config or {},
        "batch_size": getattr(batches, "batch_size", None),
        "per_epoch": getattr(batches, "per_epoch", None),
        "seed": getattr(batches, "seed", None),
        "optimizer": [type(optimizer).__name__, groups],
        "schedule": [round(schedule(k / 8), 6) for k in range(8)] if schedule else None,
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
        "code of the step": hashlib.sha256(code.encode()).hexdigest()[:16],
    }


def sources(thing, module, found):
    """{code: source} of a function, or of a class's or an object's methods, and of all that it names in `module`.

    A learner who edits the loss after an interrupt must not go on with a run that had another loss.
    """
    if isinstance(thing, functools.partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            sources(part, module, found)
    if getattr(thing, "__module__", None) != module:
        return found
    if inspect.isfunction(thing):
        functions = [thing]
    else:
        thing = getattr(thing, "__self__", thing)  # of a method: its object
        functions = vars(thing if inspect.isclass(thing) else type(thing)).values()
    for function in filter(inspect.isfunction, functions):
        if function.__code__ in found:
            continue
        try:
            found[function.__code__] = inspect.getsource(function)
        except OSError:  # typed at a prompt: there is no source to compare
            continue
        named = [function.__globals__.get(name) for name in names_in(function.__code__)]
        for other in named + [cell.cell_contents for cell in function.__closure__ or ()]:
            sources(other, module, found)
    return found


def names_in(code):
    """The names that a function's code uses, also in the functions and comprehensions inside it."""
    return set(code.co_names).union(*[names_in(inner) for inner in code.co_consts if inspect.iscode(inner)])


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
    return step
