"""What every lesson begins and ends with: profile, seeds, quiet libraries, bars that leave nothing, the report."""

import logging
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat import v4

from aigc_course import runtime
from aigc_course.runtime import progress, report, resolve_profile, seed_everything

ROOT = Path(__file__).resolve().parent.parent
TINY_GPT2 = """\
from transformers import GPT2Config, GPT2LMHeadModel
config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50, bos_token_id=0, eos_token_id=0)
GPT2LMHeadModel(config).save_pretrained("tiny")
model = GPT2LMHeadModel.from_pretrained("tiny")"""


# -- profile, seeds, device


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """resolve_profile sets variables of libraries: they go back after each test."""
    for name in ("AIGC_PROFILE", "HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "given, variable, cuda, expected",
    [
        ("auto", None, False, "cpu"),
        ("auto", None, True, "gpu"),
        ("auto", "", True, "gpu"),
        ("auto", "auto", False, "cpu"),
        ("auto", "smoke", True, "smoke"),
        ("auto", "cpu", True, "cpu"),
        ("auto", "gpu", False, "gpu"),
        ("cpu", "smoke", True, "cpu"),
        ("smoke", "gpu", True, "smoke"),
        ("gpu", "cpu", False, "gpu"),
        ("cpu", "nonsense", False, "cpu"),
    ],
)
def test_the_profile_is_the_one_given_or_the_variables_or_the_machines(given, variable, cuda, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    if variable is not None:
        monkeypatch.setenv("AIGC_PROFILE", variable)
    assert resolve_profile(given) == expected
    if given == "auto":
        assert resolve_profile() == expected


@pytest.mark.parametrize(
    "given, variable, message",
    [
        ("CPU", None, "profile is 'CPU'; it must be 'auto' or one of 'smoke', 'cpu', 'gpu'"),
        ("", "cpu", "profile is ''"),
        ("auto", "Smoke", "AIGC_PROFILE is 'Smoke'; it must be"),
    ],
)
def test_another_profile_is_an_error(given, variable, message, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("AIGC_PROFILE", variable)
    with pytest.raises(ValueError, match=message):
        resolve_profile(given)


def test_one_seed_gives_the_same_numbers():
    def draw(seed):
        generator = seed_everything(seed)
        return [random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()]

    first = draw(7)
    assert draw(7) == first
    assert all(a != b for a, b in zip(first, draw(8)))
    assert seed_everything(7).device.type == "cpu"
    torch.rand(5)  # the generator is one of its own
    assert torch.rand(1, generator=seed_everything(7)).item() == first[3]


@pytest.mark.parametrize("cuda, expected", [(True, "cuda"), (False, "cpu")])
def test_the_device_is_the_gpu_where_there_is_one(cuda, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert runtime.pick_device().type == expected


def test_transformers_that_was_imported_first_falls_silent_too(tmp_path, monkeypatch, capfd):
    from transformers.utils import logging as transformers_logging

    monkeypatch.chdir(tmp_path)
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_progress_bar()
    exec(TINY_GPT2)
    assert "Loading weights" in capfd.readouterr().err  # what there is to silence
    resolve_profile()
    exec(TINY_GPT2)
    logging.getLogger("transformers").warning("advice")
    assert capfd.readouterr() == ("", "")


# -- progress bars


def test_a_bar_leaves_no_trace_where_nobody_looks(capfd):
    assert list(progress(range(3))) == [0, 1, 2]
    bar = progress(total=3)
    bar.update()
    bar.set_postfix_str("loss 0.1")
    bar.close()
    assert capfd.readouterr() == ("", "")


def test_a_bar_at_a_terminal_goes_away_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(3), desc="counting")) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "counting" in shown and "3" in shown
    assert shown.endswith("\r") and not shown.split("\r")[-2].strip()  # the line is blank again


# -- in a notebook

CELLS = {
    "profile": """\
import os
os.environ["AIGC_PROFILE"] = "smoke"
import accelerate
from aigc_course.runtime import progress, report, resolve_profile
from aigc_course.training import train
resolve_profile()""",
    "bar": """\
for i in progress(range(3), desc="bar"):
    pass""",
    "training": """\
import torch
model = torch.nn.Linear(2, 1)
def step(x):
    return model(x).pow(2).mean()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
options = dict(optimizer=optimizer, evaluate=lambda: 1.0, evaluate_every=1, patience=2)
history = train(step, model, [torch.ones(4, 2)] * 9, steps=9, **options)
assert len(history) == 3""",
    "interrupted": """\
try:
    for i in progress(range(9)):
        if i == 4:
            raise KeyboardInterrupt
except KeyboardInterrupt:
    pass""",
    "transformers": TINY_GPT2,
    "printed": 'print("before")\nfor i in progress(range(3)):\n    print(i)',
    "report": """\
report("21_vae", "smoke", {"negative ELBO, nats": torch.tensor(238.7612), "a < b": 3, "name": "x"})""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """{(who runs it, cell): outputs} of the cells above, run headlessly and as JupyterLab runs them."""
    folder = tmp_path_factory.mktemp("a notebook 笔记")
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source, id=name) for name, source in CELLS.items()])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    found = {}
    with pytest.MonkeyPatch.context() as patch, client.setup_kernel():
        for who, metadata in (("nobody", {}), ("somebody", {"cellId": "some-cell"})):
            patch.setattr(client.kc.session, "metadata", metadata)  # goes out with each request
            for i, cell in enumerate(notebook.cells):
                cell.outputs = []
                client.execute_cell(cell, i)
                found[who, cell.id] = [output.copy() for output in cell.outputs]
    return found


@pytest.fixture(scope="module", autouse=True)
def kernels_find_the_course():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


def test_a_kernel_takes_the_profile_of_the_variable(outputs):
    assert [output["data"]["text/plain"] for output in outputs["nobody", "profile"]] == ["'smoke'"]


@pytest.mark.parametrize("cell", ["bar", "training", "interrupted", "transformers"])
def test_a_headless_run_leaves_nothing(cell, outputs):
    assert outputs["nobody", cell] == []


@pytest.mark.parametrize("cell", ["bar", "training", "interrupted"])
def test_a_bar_that_was_seen_leaves_no_text_in_the_saved_notebook(cell, outputs):
    """Also after early stopping and an interrupt, which tqdm's own bar stays behind for, in red."""
    (output,) = outputs["somebody", cell]  # there was a bar
    assert output["output_type"] == "display_data" and dict(output["data"]) == {"text/html": ""}


def test_bars_take_nothing_else_away(outputs):
    for who in ("nobody", "somebody"):
        text = "".join(output["text"] for output in outputs[who, "printed"] if output["output_type"] == "stream")
        assert text == "before\n0\n1\n2\n"


def test_transformers_is_quiet_in_front_of_somebody_too(outputs):
    assert outputs["somebody", "transformers"] == []


# -- report


def test_a_report_is_a_table_and_metadata_that_survive_in_the_notebook(outputs):
    (output,) = outputs["nobody", "report"]
    assert output["output_type"] == "display_data"
    figures = [["negative ELBO, nats", pytest.approx(238.7612)], ["a < b", 3], ["name", "x"]]
    assert output["metadata"]["aigc"] == {"lesson": "21_vae", "profile": "smoke", "figures": figures}
    assert re.split(r"\s{2,}|\n", output["data"]["text/plain"]) == [
        "negative ELBO, nats", "238.8", "a < b", "3", "name", "x"
    ]  # fmt: skip
    assert "<td>negative ELBO, nats</td><td>238.8</td>" in output["data"]["text/html"]
    assert "<td>a &lt; b</td>" in output["data"]["text/html"]


def test_a_report_without_figures_is_an_error():
    with pytest.raises(ValueError, match="at least one figure"):
        report("21_vae", "cpu", {})


def test_a_report_outside_a_notebook_is_printed(capsys):
    report("21_vae", "cpu", {"loss, nats": 0.123456, "steps": np.int64(20)})
    assert capsys.readouterr().out == "loss, nats  0.1235\nsteps       20\n"
