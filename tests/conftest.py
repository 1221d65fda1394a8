"""What all tests share: they need no network, and write nothing outside pytest's temporary folder."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "PYTHONUTF8": "1"}
for name in ("AIGC_PROFILE", "AIGC_LANG", "AIGC_STRICT", "AIGC_TORCH_INDEX", "AIGC_LESSONS"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """The folders that the course writes to; the cache holds Fashion-MNIST, unpacked once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("cache", "checkpoints", "progress"):
            patch.setenv(f"AIGC_{kind.upper()}", str(tmp_path_factory.mktemp(kind)))
        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # what kernels write
            patch.setenv(variable, str(tmp_path_factory.mktemp("jupyter")))
        yield


@pytest.fixture(scope="session")
def course_on_path():
    """The environment of a subprocess that imports this folder's course and the modules beside the tests."""
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS), *before]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def processes(course_on_path):
    """Makes processes in no time: each is forked from one that has imported torch and the course, and no more.

    They can kill themselves as `kill -9` does, and a next one starts as afresh as a new interpreter would.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("needs fork and kill -9")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", course_on_path["PYTHONPATH"])
        patch.setenv("PYTHONWARNINGS", "ignore:resource_tracker")  # a killed process leaves tqdm's lock behind
        first = context.Process(target=print)  # starts the server
        first.start()
        first.join()
    return context
