"""How a recipe writes its results: figures, versions and the command, so that anyone can get them again."""

import argparse
import json
import platform
import sys
from importlib.metadata import version

import torch

from aigc_course.files import write_atomically
from aigc_course.paths import RESULTS


def seeds_of(text):
    """The seeds that the command line asks for; sets the number of threads. text: the recipe's docstring."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options.seeds


def write_results(name, results):
    """Writes data/results/NAME.json: `results` (JSON) with the command and the versions that made them."""
    module = sys.modules["__main__"].__spec__
    command = ["python", "-m", module.name] if module else ["python", sys.argv[0]]
    made_by = {
        "command": " ".join(command + sys.argv[1:]),
        "python": platform.python_version(),
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    path = RESULTS / f"{name}.json"
    write_atomically(path, json.dumps({"made_by": made_by, **results}, indent=1).encode())
    print(f"written: data/results/{path.name}")
