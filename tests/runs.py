"""Small training runs that the tests kill, damage and start again. `python runs.py KIND RESULT` does one;
`torchrun runs.py "two processes" RESULT` does what two processes share."""

import builtins
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from aigc_course import checkpoints
from aigc_course.data import Batches, fashion_mnist
from aigc_course.runtime import seed_everything
from aigc_course.training import one_cycle, train

KINDS = ("everything", "early stopping", "convolutions", "tied weights")
STEPS = 12
EVERY = 3  # checkpoints after steps 3, 6 and 9


class WatchedBatches(Batches):
    """Batches that call `watch(step)` first; what it raises or kills stops the run before that step."""

    watch = staticmethod(lambda step: None)

    def __getitem__(self, step):
        self.watch(step)
        return super().__getitem__(step)


class Tied(nn.Module):
    """Predicts a token from the one before; embedding and output layer share their weights."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 16), nn.Linear(16, 4, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.embedding(ids)))


def small_data():
    """Images `(40, 1, 8, 8)` and labels `(40,)` that can be told apart."""
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (40,), generator=g)
    images = torch.rand(40, 1, 8, 8, generator=g)
    images[torch.arange(40), 0, labels] += 1.0  # the row of the label is brighter
    return images, labels


def prepare(kind):
    """(model, arguments of train) for one kind of run, the same every time."""
    generator = seed_everything(3)
    images, labels = small_data()
    batches = WatchedBatches(images, labels, batch_size=10, seed=5)
    options = {"steps": STEPS, "generator": generator, "schedule": one_cycle}
    if kind == "convolutions":
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, 4),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    elif kind == "tied weights":
        model = Tied()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
        decayed = {"params": [model[1].weight, model[4].weight], "weight_decay": 0.1, "lr": 2e-2}
        plain = {"params": [model[1].bias, model[4].bias], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([decayed, plain], lr=1e-2)
        options |= {"clip_norm": 0.5, "evaluate_every": 2}
        options["evaluate"] = lambda: F.cross_entropy(model(images), labels)
        if kind == "early stopping":  # nothing is ever better than the first evaluation: it stops after step 8
            options |= {"evaluate": lambda: 1.0, "patience": 3}

    def step(batch):
        x, y = batch
        x = x + 0.1 * torch.randn(x.shape, generator=generator)  # every source of chance takes part
        weight = 1 + 0.1 * random.random() + 0.1 * np.random.rand()
        loss = F.cross_entropy(model(y), (y + 1) % 4) if kind == "tied weights" else F.cross_entropy(model(x), y)
        return loss * weight, {"cross-entropy": loss}

    return model, {"step": step, "model": model, "batches": batches, "optimizer": optimizer, **options}


def outcome(model, history, generator):
    """What two runs must agree in, bit for bit; JSON."""
    weights = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in model.state_dict().items()}
    chance = [torch.rand(1).item(), torch.rand(1, generator=generator).item(), random.random(), np.random.rand()]
    found = {"weights": weights, "history": history.values, "evaluations": history.evaluations, "chance": chance}
    return json.loads(json.dumps(found))


def run(kind, name="run", watch=None, **changes):
    """One training run with checkpoints, from the last one if there is any; returns its outcome."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, arguments = prepare(kind)
        if watch:
            arguments["batches"].watch = watch
        history = train(**{**arguments, "checkpoint": name, "checkpoint_every": EVERY, **changes})
        return outcome(model, history, arguments["generator"])
    finally:
        torch.set_num_threads(threads)


def run_into(result, kind, folder, trap=None):
    """For a process of its own: one run with its checkpoints in `folder`, its outcome written to `result`."""
    os.environ["AIGC_CHECKPOINTS"] = str(folder)
    with open(f"{result}.txt", "w", encoding="utf-8") as sys.stdout:
        watch = set_trap(*trap) if trap else None
        found = run(kind, watch=watch)
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def set_trap(where, n):
    """Makes this process kill itself before step `n`, or at the n-th of the file operations called `where`."""
    if where == "step":
        return lambda step: die() if step == n else None
    count = 0

    def dies_at_last(operation):
        def trapped(*arguments, **options):
            nonlocal count
            count += where != "open" or "b" in arguments[1] and "r" not in arguments[1]
            if count == n:
                if where == "half a file":
                    path, content = arguments
                    Path(path).write_bytes(content[: len(content) // 2])
                if where == "open":
                    operation(*arguments, **options)  # there is an empty file
                die()
            return operation(*arguments, **options)

        return trapped

    owner, name = {
        "fsync": (os, "fsync"),
        "rename": (os, "rename"),
        "unlink": (os, "unlink"),
        "rmdir": (os, "rmdir"),
        "open": (builtins, "open"),
        "half a file": (checkpoints, "write_and_flush"),
    }[where]
    setattr(owner, name, dies_at_last(getattr(owner, name)))
    return None


def run_on_a_full_disk(result, kind, folder):
    """For a process of its own: from step 7 on no file can grow over 500 bytes; later there is room again."""
    import resource

    os.environ["AIGC_CHECKPOINTS"] = str(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step):
        if step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))

    try:
        run(kind, watch=fill)
        message = "no error"
    except checkpoints.CheckpointError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = sorted(path.name for path in (Path(folder) / "run").iterdir())
    found = {"message": message, "left": left, "then": run(kind)}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def slow_run(folder):
    """For a process of its own: a run that somebody has the time to kill."""
    os.environ["AIGC_CHECKPOINTS"] = str(folder)
    run("everything", watch=lambda step: time.sleep(0.05))


def load_at_once(barrier, results, cache):
    """For a process of its own: waits for the others, then reads all of Fashion-MNIST from an empty cache."""
    os.environ["AIGC_CACHE"] = str(cache)
    barrier.wait(60)
    found = [*fashion_mnist("train"), *fashion_mnist("test")]
    results.put([hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in found])


def without_chance(accelerator, name=None, watch=None, batch_size=10, **changes):
    """A run whose loss is the plain mean over a batch, so that one process and two must agree."""
    seed_everything(3)
    images, labels = small_data()
    batches = WatchedBatches(images, labels, batch_size=batch_size, seed=5)
    if watch:
        batches.watch = watch
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(batch):
        x, y = batch
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        return loss, {"examples": len(x), "accuracy": (logits.argmax(1) == y).float().mean(), "the loss": loss}

    options = {"steps": STEPS, "schedule": one_cycle, "clip_norm": 0.5, "evaluate_every": 4}
    options["evaluate"] = lambda: F.cross_entropy(model(images), labels)
    options |= {"checkpoint": name, "checkpoint_every": EVERY, "accelerator": accelerator, **changes}
    history = train(step, model, batches, optimizer=optimizer, **options)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {"history": history.values, "evaluations": history.evaluations, "weights": weights.tolist()}


def two_processes(result):
    """For `torchrun --nproc_per_node 2`: writes what each process found to `result` and its rank."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {"rank": accelerator.process_index, "processes": accelerator.num_processes, "saves": 0}
    save = checkpoints.Checkpoints.save

    def counted(*arguments):
        found["saves"] += 1
        save(*arguments)

    checkpoints.Checkpoints.save = counted

    def stop(step):
        if step == 8:
            raise InterruptedError

    found["undisturbed"] = without_chance(accelerator)
    try:
        without_chance(accelerator, "two", watch=stop)
    except InterruptedError:
        accelerator.wait_for_everyone()
        folder = checkpoints.own_folder("checkpoints") / "two"
        found["left"] = sorted(path.name for path in folder.iterdir())
    found["resumed"] = without_chance(accelerator, "two")
    found["seconds"] = without_chance(accelerator, steps=None, seconds=0.3, checkpoint=None)
    try:
        without_chance(accelerator, "odd", batch_size=5)
    except ValueError as error:
        found["odd"] = str(error)
    Path(f"{result}{found['rank']}").write_text(json.dumps(found), encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    if sys.argv[1] == "two processes":
        two_processes(sys.argv[2])
    else:
        run_into(sys.argv[2], sys.argv[1], os.environ["AIGC_CHECKPOINTS"])
