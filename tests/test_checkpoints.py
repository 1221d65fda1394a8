"""Checkpoints: a run that is killed, fills the disk or finds damage ends as an undisturbed one, or says why not."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file

from aigc_course import checkpoints, files
from aigc_course.checkpoints import CheckpointError, Checkpoints, forget
from aigc_course.training import one_cycle, train, warmup_cosine

PACKAGE = Path(checkpoints.__file__).parent


class Interrupted(Exception):
    """Stands for the Interrupt button."""


@cache
def undisturbed(kind):
    """The outcome of a run that nothing disturbs."""
    return runs.run(kind, name=f"undisturbed {kind}")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the run's checkpoints, a new one for each test. All runs use one thread, to be the same."""
    undisturbed("everything")
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path / "checkpoints"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "checkpoints" / "run"
    torch.set_num_threads(threads)


def interrupt(kind="everything", before_step=10, **changes):
    """Leaves an unfinished run behind, with checkpoints after steps 6 and 9."""

    def stop(step):
        if step == before_step:
            raise Interrupted

    with pytest.raises(Interrupted):
        runs.run(kind, watch=stop, **changes)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- killed


def run_killed(processes, tmp_path, kind, trap):
    """One run in a process that kills itself at `trap`; returns True if it was killed, False if it finished."""
    process = processes.Process(target=runs.run_into, args=(tmp_path / "killed", kind, tmp_path / "checkpoints", trap))
    process.start()
    process.join()
    assert process.exitcode in (-9, 0), (tmp_path / "killed.txt").read_text(encoding="utf-8")
    return process.exitcode == -9


def run_again(processes, tmp_path, kind):
    """The outcome of starting that run again, in a process of its own."""
    target = (tmp_path / "again", kind, tmp_path / "checkpoints")
    process = processes.Process(target=runs.run_into, args=target)
    process.start()
    process.join()
    assert process.exitcode == 0
    return json.loads((tmp_path / "again").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", runs.KINDS)
@pytest.mark.parametrize("step", [0, 2, 3, 7])
def test_killed_before_a_step_and_started_again(kind, step, processes, tmp_path):
    assert run_killed(processes, tmp_path, kind, ("step", step))
    assert run_again(processes, tmp_path, kind) == undisturbed(kind)
    said = (tmp_path / "again.txt").read_text(encoding="utf-8")
    saved = step // runs.EVERY * runs.EVERY
    assert said == (f"Going on from step {saved} of an interrupted run.\n" if saved else "")


@pytest.mark.parametrize("where", ["open", "half a file", "fsync", "rename", "unlink", "rmdir"])
def test_killed_inside_a_save_at_each_file_operation(where, processes, tmp_path, folder):
    n = 0
    while run_killed(processes, tmp_path, "everything", (where, n := n + 1)):
        for checkpoint in folder.glob("step_*"):
            checkpoints.read_checked(checkpoint)  # a folder of that name is whole at every moment
        assert run_again(processes, tmp_path, "everything") == undisturbed("everything"), f"{where} {n}"
        assert not folder.exists()
    assert n > 3  # at least once a save: it was killed in each of them


def test_killed_over_and_over(processes, tmp_path):
    steps = [("step", 4), ("rename", 1), ("half a file", 3), ("step", 8), ("fsync", 2), ("step", 8), ("unlink", 2)]
    for trap in steps:
        assert run_killed(processes, tmp_path, "convolutions", trap)
    assert run_again(processes, tmp_path, "convolutions") == undisturbed("convolutions")


def test_killed_from_outside_and_started_in_a_new_interpreter(processes, tmp_path, folder, course_on_path):
    """A new interpreter has other addresses and hashes than the first: nothing that is compared may hold them."""
    process = processes.Process(target=runs.slow_run, args=(tmp_path / "checkpoints",))
    process.start()
    while not list(folder.glob("step_*6")) and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -9
    subprocess.run(
        [sys.executable, runs.__file__, "everything", tmp_path / "again"],
        env={**course_on_path, "AIGC_CHECKPOINTS": str(tmp_path / "checkpoints"), "PYTHONHASHSEED": "77"},
        check=True,
    )
    assert "Going on from step" in (tmp_path / "again.txt").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "again").read_text(encoding="utf-8")) == undisturbed("everything")


def test_a_full_disk_loses_nothing_saved_before(processes, tmp_path):
    target = (tmp_path / "full", "everything", tmp_path / "checkpoints")
    process = processes.Process(target=runs.run_on_a_full_disk, args=target)
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "full").read_text(encoding="utf-8"))
    assert "step 9 could not be written" in found["message"] and "step_00000006, is whole" in found["message"]
    assert "AIGC_CHECKPOINTS" in found["message"]
    assert found["left"] == ["step_00000003", "step_00000006"]
    assert found["then"] == undisturbed("everything")


# -- interrupted and run again


@pytest.mark.parametrize("kind", runs.KINDS)
def test_two_checkpoints_are_kept_and_a_finished_run_leaves_none(kind, folder):
    stops = 7 if kind == "early stopping" else 10
    interrupt(kind, before_step=stops)
    assert names(folder) == [f"step_{stops - stops % 3 - 3:08d}", f"step_{stops - stops % 3:08d}"]
    assert names(folder / names(folder)[0]) == ["SHA256SUMS", "state.json", "tensors.safetensors"]
    assert runs.run(kind) == undisturbed(kind)
    assert not folder.exists()


def test_the_variable_moves_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path / "云端 硬盘"))
    interrupt()
    assert names(tmp_path / "云端 硬盘" / "run") == ["step_00000006", "step_00000009"]


def test_the_same_objects_can_be_trained_on_after_an_interrupt():
    """In a notebook the cell with `train` is run again, not those that made the model and the optimiser."""
    model, arguments = runs.prepare("everything")
    rates = [group["lr"] for group in arguments["optimizer"].param_groups]

    def stop(step):
        if step == 10:
            raise Interrupted

    arguments["batches"].watch = stop
    with pytest.raises(Interrupted):
        train(**arguments, checkpoint="run", checkpoint_every=3)
    assert [group["lr"] for group in arguments["optimizer"].param_groups] == rates
    arguments["batches"].watch = lambda step: None
    history = train(**arguments, checkpoint="run", checkpoint_every=3)
    assert runs.outcome(model, history, arguments["generator"]) == undisturbed("everything")


def test_weights_keep_their_memory_layout():
    interrupt("convolutions")
    model, arguments = runs.prepare("convolutions")
    train(**arguments, checkpoint="run", checkpoint_every=3)
    for values in arguments["optimizer"].state.values():
        moments = [value for value in values.values() if torch.is_tensor(value) and value.dim() == 4]
        assert all(value.is_contiguous(memory_format=torch.channels_last) for value in moments)
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert arguments["optimizer"].state[model[3].weight]["momentum_buffer"].stride() == model[3].weight.stride()


def test_tied_weights_stay_tied():
    interrupt("tied weights")
    model, arguments = runs.prepare("tied weights")
    train(**arguments, checkpoint="run", checkpoint_every=3)
    assert model.head.weight is model.embedding.weight


def test_forget_begins_again(folder, capsys):
    interrupt()
    forget("run")
    assert not folder.exists()
    forget("run")  # again is no error
    assert runs.run("everything") == undisturbed("everything")
    assert capsys.readouterr().out == ""


# -- damaged


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [truncate, empty, change_a_byte, Path.unlink]
FILES = ["tensors.safetensors", "state.json", "SHA256SUMS"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(damage, name, folder, capsys):
    interrupt()
    damage(folder / "step_00000009" / name)
    assert runs.run("everything") == undisturbed("everything")
    said = capsys.readouterr().out
    assert said.startswith("Checkpoint step_00000009 is not used: ") and "Going on from step 6" in said
    assert str(folder / "step_00000009" / name) in said or "SHA256SUMS" in name
    if damage is change_a_byte and name == "state.json":
        found = said.split("SHA-256 ")[1][:64]
        assert found != said.split("expected ")[1][:64]  # both sums


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_every_checkpoint_is_damaged_it_says_so(damage, folder):
    interrupt()
    damage(folder / "step_00000006" / "state.json")
    damage(folder / "step_00000009" / "tensors.safetensors")
    with pytest.raises(CheckpointError, match="Every checkpoint in .*run is damaged") as error:
        runs.run("everything")
    assert str(folder) in str(error.value) and "Delete" in str(error.value)
    forget("run")
    assert runs.run("everything") == undisturbed("everything")


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(folder):
    """The run goes on from step 6 and saves at 7 and 8: both are kept, and the damaged one of step 9 is not."""
    interrupt()
    truncate(folder / "step_00000009" / "tensors.safetensors")
    interrupt(before_step=8, checkpoint_every=1)
    assert names(folder) == ["step_00000007", "step_00000008"]
    empty(folder / "step_00000008" / "state.json")
    assert runs.run("everything") == undisturbed("everything")


# -- of another run


def learning_rate(arguments):
    arguments["optimizer"].param_groups[1]["lr"] = 0.5


def other_optimizer(arguments):
    arguments["optimizer"] = torch.optim.Adam(arguments["model"].parameters(), lr=1e-2)


def other_data(arguments):
    tensors = [tensor[:30] for tensor in arguments["batches"].tensors]
    arguments["batches"] = runs.Batches(*tensors, batch_size=10, seed=5)


def other_seed(arguments):
    arguments["batches"].seed = 6


def other_width(arguments):
    model = arguments["model"]
    model[1], model[4] = torch.nn.Linear(64, 48), torch.nn.Linear(48, 4)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda a: a.update(config={"beta": 2.0}), r"config was \{'beta': 1.0\}, is \{'beta': 2.0\}"),
        (lambda a: a.update(config=None), r"config was \{'beta': 1.0\}, is \{\}"),
        (learning_rate, "optimizer was .*'lr': 0.01,.* is .*'lr': 0.5,"),
        (other_optimizer, r"optimizer was \['AdamW'.* is \['Adam'"),
        (lambda a: a.update(steps=13), "steps was 12, is 13"),
        (lambda a: a.update(schedule=warmup_cosine), "schedule was .* is "),
        (lambda a: a.update(schedule=partial(one_cycle, warmup=0.5)), "schedule was .* is "),
        (lambda a: a.update(clip_norm=0.6), "clip_norm was 0.5, is 0.6"),
        (lambda a: a.update(patience=2), "patience was None, is 2"),
        (lambda a: a.update(evaluate_every=3), "evaluate_every was 2, is 3"),
        (other_data, "per_epoch was 4, is 3"),
        (other_seed, "seed was 5, is 6"),
        (other_width, r"shapes was .*\[32, 64\].* is .*\[48, 64\]"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(change, named, folder):
    interrupt(config={"beta": 1.0})
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    model, arguments = runs.prepare("everything")
    arguments["config"] = {"beta": 1.0}
    change(arguments)
    weights = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(CheckpointError, match=named) as error:
        train(**arguments, checkpoint="run", checkpoint_every=3)
    assert str(error.value).count(" was ") == 1  # nothing else is named
    assert 'forget("run")' in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_settings_that_json_changes_are_the_same_settings():
    """A tuple comes back as a list, a number as a key as text."""
    config = {"betas": (0.9, 0.99), "weights": {1: 2.0}, "lr": 0.1 + 0.2}
    interrupt(config=config)
    assert runs.run("everything", config=config) == undisturbed("everything")


def test_a_schedule_with_arguments_can_be_gone_on_with():
    """The text of a partial function holds an address, which another process does not share."""
    schedule = dict(schedule=partial(one_cycle, warmup=0.5))
    interrupt(**schedule)
    runs.run("everything", schedule=partial(one_cycle, warmup=0.5))


LESSON = """
import functools, torch

class Model(torch.nn.Linear):
    def distance(self, x):
        return (self(x) - x).pow(2)

def average(x):
    return sum(penalty(row) for row in x)

def penalty(row):
    return row.abs().sum()

def loss(model, x):
    return model.distance(x).mean() + 1e-3 * average(x)

model = Model(3, 3)

def step(batch):
    return loss(model, batch)

class Trainer:
    def step(self, batch):
        return self.loss(batch)

    def loss(self, batch):
        return loss(model, batch)

def make_step(model, loss=loss):
    cost = functools.partial(loss, model)
    def step(batch):
        return cost(batch)
    return step
"""
EDITS = [
    ("loss(model, batch)\n\nclass", "2 * loss(model, batch)\n\nclass"),
    ("+ 1e-3", "+ 1e-2"),
    (".pow(2)", ".pow(4)"),
    ("penalty(row) for", "2 * penalty(row) for"),
    ("row.abs()", "row.square()"),
]


def lesson_step(tmp_path, source, which):
    """The step of a lesson whose cells are `source`, in which the module is called __main__ as in a notebook."""
    path = tmp_path / f"cell_{abs(hash(source))}.py"  # as in a notebook: an edited cell is another file
    path.write_text(source, encoding="utf-8")
    space = {"__name__": "__main__"}
    exec(compile(source, path, "exec"), space)
    step = {"function": "step", "method": "Trainer().step", "closure": "make_step(model)"}[which]
    return space["model"], eval(step, space)


@pytest.mark.parametrize("which", ["function", "method", "closure"])
@pytest.mark.parametrize("old, new", EDITS)
def test_an_edited_loss_is_refused(old, new, which, tmp_path):
    if which != "function" and "class" in old:
        old, new = {"method": ("self.loss(batch)", "-self.loss(batch)"), "closure": ("cost(b", "-cost(b")}[which]

    def attempt(source, stop_before=None):
        torch.manual_seed(0)
        model, step = lesson_step(tmp_path, source, which)
        batches = runs.WatchedBatches(torch.rand(8, 3), batch_size=4, seed=0)

        def watch(i):
            if i == stop_before:
                raise Interrupted

        batches.watch = watch
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        train(step, model, batches, optimizer=optimizer, steps=4, checkpoint="run", checkpoint_every=1)

    with pytest.raises(Interrupted):
        attempt(LESSON, stop_before=2)
    assert LESSON.count(old) == 1
    with pytest.raises(CheckpointError, match=r"other settings \(code of the step was '\w+', is '\w+'\)"):
        attempt(LESSON.replace(old, new))
    attempt("# moved down by an edit above\n" + LESSON)


# -- how it is stored


def test_nothing_is_pickled(monkeypatch, folder):
    def refuse(*arguments, **options):
        raise AssertionError("pickle is used")

    for owner in (pickle, torch):
        monkeypatch.setattr(owner, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "dumps", refuse)
    interrupt()
    assert runs.run("everything") == undisturbed("everything")
    monkeypatch.undo()
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        unsafe = ("pickle.", "import pickle", "torch.load(", "torch.save(", "np.load(", "joblib.load(", "save_state(")
        for word in unsafe:
            assert word not in source, f"{path.name} has {word}"


def test_what_a_checkpoint_holds(folder):
    interrupt()
    tensors = load_file(folder / "step_00000009" / "tensors.safetensors")
    state = json.loads((folder / "step_00000009" / "state.json").read_text(encoding="utf-8"))
    weights = {name for name in tensors if name.startswith("model.")}
    assert weights == {"model.1.weight", "model.1.bias", "model.4.weight", "model.4.bias"}
    assert {"best.1.weight", "optimizer.0.exp_avg", "random.torch", "random.generator"} <= tensors.keys()
    assert state["step"] == 9 and len(state["history"]["values"]["loss"]) == 9
    assert state["best"]["score"] == min(score for _, score in state["history"]["evaluations"])
    assert {"python", "numpy"} == state["random"].keys() and "schedule" in state["config"]


def test_a_lesson_with_its_own_loop():
    """Save, load and remove without `train`."""
    ours = Checkpoints("own loop", {"lr": 0.1})
    assert ours.load() is None
    weights = torch.randn(3, 4).T  # not contiguous
    ours.save(5, {"w": weights}, {"losses": [1.5, float("inf")]})
    step, tensors, state = Checkpoints("own loop", {"lr": 0.1}).load()
    assert step == 5 and torch.equal(tensors["w"], weights) and state["losses"] == [1.5, float("inf")]
    ours.save(7, {"w": weights + 1}, {})
    ours.save(12, {"w": weights + 2}, {})
    assert [path.name for path in ours.found()] == ["step_00000012", "step_00000007"]
    assert torch.equal(ours.load()[1]["w"], weights + 2)
    with pytest.raises(CheckpointError, match="lr was 0.1, is 0.2"):
        Checkpoints("own loop", {"lr": 0.2}).load()
    ours.remove()
    assert not ours.folder.exists() and ours.load() is None


def test_loaded_tensors_do_not_depend_on_the_file():
    """A mapped file would keep Windows from deleting the checkpoint, and fail where a mounted folder goes away."""
    ours = Checkpoints("mapped", {})
    ours.save(1, {"w": torch.arange(100_000.0)}, {})
    tensors = ours.load()[1]
    (ours.folder / "step_00000001" / "tensors.safetensors").write_bytes(b"")  # would be a bus error
    assert torch.equal(tensors["w"], torch.arange(100_000.0))


def test_an_unwritable_folder_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="step 3 could not be written to .*AIGC_CHECKPOINTS"):
        runs.run("everything")


def test_random_states_come_back():
    generator = torch.Generator().manual_seed(1)

    def draw():
        torch_own = [torch.rand(1).item(), torch.rand(1, generator=generator).item()]
        return torch_own + [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]

    draw()  # gauss and randn keep their second number for the next call
    tensors, state = checkpoints.random_state(generator)
    state = json.loads(json.dumps(state))
    expected = [draw() for _ in range(3)]
    checkpoints.restore_random_state(tensors, state, generator)
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize(
    "make, dtype",
    [
        (torch.optim.SGD, torch.float32),
        (partial(torch.optim.SGD, momentum=0.9, nesterov=True), torch.float32),
        (torch.optim.Adam, torch.float32),
        (torch.optim.Adam, torch.bfloat16),
        (partial(torch.optim.AdamW, amsgrad=True), torch.float32),
        (torch.optim.RMSprop, torch.float32),
        (torch.optim.Adagrad, torch.float32),
        (torch.optim.NAdam, torch.float32),
    ],
)
def test_optimizers_go_on_as_they_were(make, dtype):
    """Also with a parameter that is a single number, whose moments look like the count of steps."""

    def new():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.tensor(2.0, dtype=dtype))]
        return parameters, make(parameters, lr=0.1)

    def go(parameters, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            ((parameters[0] * parameters[1]).exp().sum() * 0.01).backward()
            optimizer.step()

    straight, undisturbed_optimizer = new()
    go(straight, undisturbed_optimizer, 7)
    first, optimizer = new()
    go(first, optimizer, 4)
    tensors, state = checkpoints.optimizer_state(optimizer)
    tensors, state = {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(state))
    second, optimizer = new()
    with torch.no_grad():
        for a, b in zip(second, first):
            a.copy_(b)
    checkpoints.restore_optimizer_state(optimizer, tensors, state)
    go(second, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(straight, second))
    for a, b in zip(straight, second):
        torch.testing.assert_close(optimizer.state[b], undisturbed_optimizer.state[a], rtol=0, atol=0)


# -- files


def test_write_atomically_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "new" / "名字.bin"
    files.write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def fails(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old" and names(path.parent) == ["名字.bin"]
    monkeypatch.undo()
    files.write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer" and names(path.parent) == ["名字.bin"]


def test_a_file_in_a_shared_folder_can_be_read_by_others(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a b").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert files.sha256(tmp_path / "a b") == digest
    (tmp_path / "SUMS").write_text(f"{digest}  a b\n\n", encoding="utf-8")
    assert files.read_sums(tmp_path / "SUMS") == {"a b": digest}


def test_cross_entropy_of_the_runs_goes_down():
    """The runs train something, so that equal ends mean something."""
    losses = undisturbed("everything")["history"]["cross-entropy"]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
