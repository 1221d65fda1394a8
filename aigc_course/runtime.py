"""What every lesson begins and ends with: profile, seed, device, progress bars and the final report."""

import html
import logging
import os
import random
import sys
import warnings

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

PROFILES = ("smoke", "cpu", "gpu")


def resolve_profile(profile="auto"):
    """The budget that a lesson runs at: "smoke" (tests), "cpu" or "gpu".

    A name is taken as it is; "auto" takes the environment variable AIGC_PROFILE, else "gpu" where CUDA is, else
    "cpu". Raises ValueError for any other word. Loading bars and advice of Hugging Face libraries are turned off.
    """
    quiet()
    where, wanted = "profile", profile
    if wanted == "auto":
        where, wanted = "AIGC_PROFILE", os.environ.get("AIGC_PROFILE") or "auto"
    if wanted == "auto":
        wanted = "gpu" if torch.cuda.is_available() else "cpu"
    if wanted not in PROFILES:
        raise ValueError(f"{where} is {wanted!r}; it must be 'auto' or one of {', '.join(map(repr, PROFILES))}")
    return wanted


def quiet():
    """Turns off the loading bars, advice and download notices of transformers and its hub library."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    else:
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*IProgress not found.*")


def seed_everything(seed):
    """Seeds Python, NumPy and torch; returns a CPU generator of the same seed.

    Draw noise from that generator and move it to the device: then one seed gives the same run on every device.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device():
    """The GPU where CUDA is, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def somebody_is_looking():
    """True in JupyterLab, Notebook 7, VS Code, Colab and at a terminal; False in headless runs.

    Such front ends send the id of the cell with the code that they want run; nbclient, papermill and nbval do not.
    """
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return sys.stderr.isatty()
    if "google.colab" in sys.modules or "VSCODE_PID" in os.environ:
        return True
    return "cellId" in shell.kernel.get_parent().get("metadata", {})


def progress(iterable=None, *, total=None, desc=""):
    """`iterable` with a progress bar that goes away at the end, and with no trace at all in headless runs.

    As with tqdm, `.set_postfix_str(text)` shows a text beside the bar.
    """
    seen = somebody_is_looking()
    bar = notebook_bar() if seen and get_ipython() is not None else tqdm
    return bar(iterable, total=total, desc=desc, leave=False, disable=not seen)


def notebook_bar():
    """tqdm's bar for notebooks, which at its end, or an interrupt, also goes away from the saved output."""
    from tqdm.notebook import tqdm as widget_bar

    class Bar(widget_bar):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, display=False, **options)
            self.output = display(self.container, display_id=True)

        def close(self):
            if self.disable:  # closed already
                return
            super().close()
            self.container.close()
            self.output.update({"text/html": ""}, raw=True)

    return Bar


class Report:
    """A lesson's final figures as a small table; `metadata` goes into the notebook with it."""

    def __init__(self, lesson, profile, figures):
        pairs = [[name, value] for name, value in figures.items()]  # a notebook file sorts the names of a dict
        self.metadata = {"aigc": {"lesson": lesson, "profile": profile, "figures": pairs}}
        self.rows = [
            (name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in figures.items()
        ]

    def __repr__(self):
        width = max(len(name) for name, _ in self.rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows)

    def _repr_html_(self):
        rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in self.rows)
        return f"<table>{rows}</table>"


def report(lesson, profile, figures):
    """Shows a lesson's final figures, and stores them with the profile in the metadata of the cell's output.

    figures: {"name, unit": number}; the first is the one that the README's table shows.
    """
    if not figures:
        raise ValueError("report needs at least one figure")
    figures = {name: value.item() if hasattr(value, "item") else value for name, value in figures.items()}
    shown = Report(lesson, profile, figures)
    display(shown, metadata=shown.metadata)
