"""Checkpoints that survive a killed process, a full disk and a damaged file.

A run has a folder; each checkpoint is a folder in it, `step_00000500/`, with `tensors.safetensors`, `state.json` and
`SHA256SUMS`. It is written under a temporary name, flushed to the disk and renamed, so that a checkpoint is whole or
not there; the one before is kept. Nothing is ever unpickled.
"""

import json
import os
import random
import shutil
import tempfile
import uuid

import numpy as np
import torch
from safetensors.torch import load, save

from aigc_course.files import DamagedFile, read_sums, sha256, verify
from aigc_course.paths import own_folder

KEPT = 2  # the newest, and the one before


class CheckpointError(Exception):
    """A checkpoint could not be written or used; the text says why and what to do."""


class Checkpoints:
    """The checkpoints of one run.

    name: names the folder, in AIGC_CHECKPOINTS or the course's own folder. config: what the run depends on, as JSON;
    checkpoints of a run with another `config` are refused.
    """

    def __init__(self, name, config):
        self.folder = own_folder("checkpoints") / name
        self.config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists

    def save(self, step, tensors, state):
        """Writes a checkpoint: `tensors` is {name: tensor}, `state` is JSON. Raises CheckpointError, old ones kept."""
        files = {
            "tensors.safetensors": save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}),
            "state.json": json.dumps({"step": step, "config": self.config, **state}).encode(),
        }
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.mkdtemp(dir=self.folder, prefix="unfinished_")
            for name, content in files.items():
                write_and_flush(os.path.join(temporary, name), content)
            sums = "".join(f"{sha256(os.path.join(temporary, name))}  {name}\n" for name in files)
            write_and_flush(os.path.join(temporary, "SHA256SUMS"), sums.encode())
            target = self.folder / f"step_{step:08d}"
            shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be there
            os.rename(temporary, target)
        except OSError as error:
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)
            kept = [old for old in self.found() if old.name < f"step_{step:08d}"]
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to {self.folder} ({error.strerror}). "
                + (f"The one before, {kept[0].name}, is whole. " if kept else "")
                + "Free some disk space, or name another folder in AIGC_CHECKPOINTS, and run the cell again."
            ) from error
        newer = [other for other in self.found() if other.name > target.name]  # damaged, so load() passed them over
        for old in [*newer, *self.found()[len(newer) + KEPT :], *self.folder.glob("unfinished_*")]:
            discard(old)

    def remove(self):
        """Deletes the checkpoints of a finished run; killed in between, it leaves none that is half there."""
        for checkpoint in self.found():
            discard(checkpoint)
        shutil.rmtree(self.folder, ignore_errors=True)

    def found(self):
        """The folders of the checkpoints, newest first."""
        return sorted(self.folder.glob("step_*"), reverse=True)

    def load(self):
        """(step, tensors, state) of the newest checkpoint that is whole, or None if there is none.

        A damaged one is named, and the one before it is used. Raises CheckpointError if all are damaged or if they
        belong to another configuration.
        """
        candidates = self.found()
        for folder in candidates:
            try:
                state = read_checked(folder)
            except DamagedFile as error:
                print(f"Checkpoint {folder.name} is not used: {error}")
                continue
            self.refuse_other_config(state["config"])
            tensors = load((folder / "tensors.safetensors").read_bytes())  # not mapped: the file will be deleted
            return state["step"], tensors, state
        if candidates:
            raise CheckpointError(f"Every checkpoint in {self.folder} is damaged. Delete that folder to begin again.")
        return None

    def refuse_other_config(self, other):
        """Raises CheckpointError that lists the settings in which `other` differs."""
        names = sorted({n for n in {**other, **self.config} if other.get(n) != self.config.get(n)})
        if names:
            changes = "; ".join(f"{n} was {other.get(n)!r}, is {self.config.get(n)!r}" for n in names)
            raise CheckpointError(
                f"{self.folder} holds an unfinished run with other settings ({changes}). Put them back to go on with "
                f'it, or begin again: `from aigc_course.checkpoints import forget; forget("{self.folder.name}")`.'
            )


def read_checked(folder):
    """state.json of a checkpoint, after both files were compared with their SHA-256; raises DamagedFile."""
    try:
        sums = read_sums(folder / "SHA256SUMS")
        for name in ("tensors.safetensors", "state.json"):
            verify(folder / name, sums[name], "An older checkpoint is used if there is one.")
    except (OSError, KeyError, ValueError) as error:
        raise DamagedFile(f"{folder / 'SHA256SUMS'} cannot be read ({error}).") from error
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def write_and_flush(path, content):
    """Writes bytes and waits until the disk has them."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def discard(checkpoint):
    """Deletes a checkpoint: it loses its name first, so that a half deleted one is never taken for a damaged one."""
    unfinished = checkpoint.with_name(f"unfinished_{uuid.uuid4().hex}")
    try:
        checkpoint.rename(unfinished)
    except OSError:
        return  # on Windows: another program is reading it; it is deleted after the next save
    shutil.rmtree(unfinished, ignore_errors=True)


def forget(name):
    """Deletes the checkpoints of the run `name`, so that it begins again."""
    Checkpoints(name, None).remove()


def random_state(generator=None):
    """(tensors, json) with the random state of torch, CUDA, Python, NumPy and of a generator of your own."""
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    if generator is not None:
        tensors["random.generator"] = generator.get_state()
    kind, keys, *rest = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}


def restore_random_state(tensors, state, generator=None):
    """Puts back what random_state() gave."""
    torch.set_rng_state(tensors["random.torch"].cpu())
    if torch.cuda.is_available() and "random.cuda.0" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda.0"].cpu())
    if generator is not None:
        generator.set_state(tensors["random.generator"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def optimizer_state(optimizer):
    """(tensors, json) of an optimiser; the tensors are named `optimizer.PARAMETER.NAME`."""
    whole = optimizer.state_dict()
    tensors, numbers = {}, {}
    for parameter, values in whole["state"].items():
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"optimizer.{parameter}.{name}"] = value
            else:
                numbers[f"{parameter}.{name}"] = value
    return tensors, {"groups": whole["param_groups"], "numbers": numbers}


def restore_optimizer_state(optimizer, tensors, state):
    """Puts back what optimizer_state() gave, each tensor in the memory layout of its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    restored = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".", 2)
            like = parameters[int(i)]
            if name != "step" and value.shape == like.shape:
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            restored.setdefault(int(i), {})[name] = value
    for key, value in state["numbers"].items():
        i, name = key.split(".", 1)
        restored.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": restored, "param_groups": state["groups"]})
