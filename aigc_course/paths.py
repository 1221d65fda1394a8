"""Where things lie: the course's own files, and the few places that it writes to."""

import errno
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
RESULTS = DATA / "results"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"


def writable(folder):
    """True if a file can be made in `folder`, which is created if need be, or could be if the disk were not full.

    On a full disk nothing moves elsewhere: progress and checkpoints that are there would seem lost.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)


def own_folder(kind):
    """Folder for what the course writes; `kind` is "cache", "checkpoints" or "progress".

    The environment variable AIGC_CACHE (AIGC_CHECKPOINTS, AIGC_PROGRESS) decides if it is set. Otherwise it is
    `.aigc/` in the course's folder, or in the home folder when the course's folder cannot be written.
    """
    chosen = os.environ.get(f"AIGC_{kind.upper()}")
    if chosen:
        return Path(chosen).expanduser()
    beside = ROOT / ".aigc" / kind
    return beside if writable(beside) else Path.home() / ".aigc" / kind


def my_lessons():
    """Folder of the learner's own copies of the lessons; it need not exist yet.

    The environment variable AIGC_LESSONS decides if it is set. Otherwise it is `my_lessons/` in the course's folder, or
    `aigc_lessons/` in the home folder when the course's folder cannot be written, as on a machine that a class shares.
    """
    chosen = os.environ.get("AIGC_LESSONS")
    if chosen:
        return Path(chosen).expanduser()
    beside = ROOT / "my_lessons"
    return beside if writable(beside) else Path.home() / "aigc_lessons"


def progress_file():
    """The JSON file that remembers which exercises were passed."""
    return own_folder("progress") / "exercises.json"
