"""Sets the course up and runs it. `make X` calls `python manage.py X`; without make (Windows), call it yourself.

Needs only Python 3.11 or newer: everything else is installed into `.venv` beside this file.
"""

import argparse
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WHEELS = ROOT.parent / "aigc-course-wheels"  # what to install without a network, in a folder that `bundle` made
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
COMMANDS = {
    "lab": "open the lessons in JupyterLab (your copies, in my_lessons/)",
    "test": "run all tests",
    "run": "run every lesson, or those named, into build/ and measure minutes and memory",
    "execute": "run lessons in place, for committing",
    "results": "write what `run` or `execute` measured into course.toml and the READMEs",
    "html": "render both editions for reading offline, into build/html/",
    "student": "copies of the lessons for students, without outputs, into build/student/",
    "slides": "slides of the lessons named, for showing offline, into build/slides/",
    "assignment": "exercises of the lessons named, for grading with nbgrader, into build/assignment/",
    "bundle": "a folder that installs without a network, into build/bundle/",
    "setup": "only make .venv, with what the tests need",
    "colab": "install what is missing on Colab, leaving its torch alone",
}


def main():
    if sys.version_info < (3, 11):  # noqa: UP036 (somebody may start it with an older one)
        sys.exit(f"The course needs Python 3.11 or newer; this is {platform.python_version()} ({sys.executable}).")
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="e.g. the ids of lessons")
    options = parser.parse_args()
    command, more = options.command, [a for a in options.arguments if a]
    if command == "colab":
        return install_on_colab()
    set_up("lab" if command == "lab" else "test")
    if command == "setup":
        return
    script = {
        "lab": ["-m", "aigc_course.cli", "lab"],
        "test": ["-m", "pytest"],
        "html": ["tools/html_pages.py"],
        "student": ["tools/classroom.py", "student"],
        "slides": ["tools/slides.py"],
        "assignment": ["tools/classroom.py", "assignment"],
        "bundle": ["tools/bundle.py"],
    }.get(command, ["tools/run_lessons.py", command])
    environment = {**os.environ, "PYTHONUTF8": "1"}
    if command != "lab":
        environment["HF_HUB_OFFLINE"] = "1"
    # Ctrl-C reaches the command too, and we wait until it has ended: killed here, it may leave its own child running.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        sys.exit(subprocess.call([PYTHON, *script, *more], cwd=ROOT, env=environment))
    finally:
        signal.signal(signal.SIGINT, before)


def set_up(kind):
    """Makes .venv and installs the course into it, once; `kind` is "lab" or "test" (which holds all of "lab")."""
    files = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    wanted = hashlib.sha256(files).hexdigest()
    stamps = {name: VENV / f"installed-{name}" for name in ("lab", "test")}
    for name in ("test", kind):
        if made_here() and stamps[name].is_file() and stamps[name].read_text(encoding="utf-8") == wanted:
            return
    if not made_here():
        print("Making .venv ...", flush=True)
        if (VENV / "made-in").exists():
            shutil.rmtree(VENV, ignore_errors=True)  # ours, but the folder has moved
        if subprocess.call([sys.executable, "-m", "venv", VENV]):
            sys.exit("Python could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv")
        (VENV / "made-in").write_text(str(ROOT), encoding="utf-8")
    print("Installing into .venv; the first time this takes some minutes and a few GB.", flush=True)
    package = ".[test]" if kind == "test" else "."
    index = torch_index()
    if index:
        pip("-c", "constraints.txt", "--index-url", index, "torch", "torchvision")
    if pip("-c", "constraints.txt", "-e", package):
        print("The tested versions do not fit here; trying the ranges of pyproject.toml.", flush=True)
        if pip("-e", package):
            sys.exit("Installing failed; the lines above say why. Run the same command again to go on.")
    stamps[kind].write_text(wanted, encoding="utf-8")


def made_here():
    """True if we made .venv, and in this folder: a virtual environment does not survive a move of its folder."""
    note = VENV / "made-in"
    return PYTHON.exists() and note.is_file() and note.read_text(encoding="utf-8") == str(ROOT)


def torch_index():
    """The index of torch's CPU builds, where that is the better choice; AIGC_TORCH_INDEX overrides it.

    AIGC_TORCH_INDEX is the address of an index, or "default" for what pip is set up with.
    """
    chosen = os.environ.get("AIGC_TORCH_INDEX")
    if chosen:
        return None if chosen == "default" else chosen
    if WHEELS.is_dir() or platform.system() != "Linux" or Path("/proc/driver/nvidia/version").exists():
        return None
    try:
        urllib.request.urlopen(f"{CPU_TORCH}/torch/", timeout=3).close()
        return CPU_TORCH
    except OSError:
        return None


def pip(*arguments):
    offline = ["--no-index", f"--find-links={WHEELS}"] if WHEELS.is_dir() else []
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *offline, *arguments]
    return subprocess.call(command, cwd=ROOT)


def install_on_colab():
    """Installs the course into the running Python, with everything that is already there held at its version."""
    import importlib.metadata
    import tempfile
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [r for r in project["dependencies"] if not r.startswith("jupyterlab")]
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.txt"
        versions = {}
        for found in importlib.metadata.distributions():
            name = (found.metadata["Name"] or "").lower().replace("_", "-")
            versions.setdefault(name, found.version)  # of two installed versions, the one that Python imports
        versions.pop("", None)
        held.write_text("".join(f"{n}=={v}\n" for n, v in versions.items()), encoding="utf-8")
        install = [sys.executable, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "-c", held, *needed], check=True)
        subprocess.run([*install, "--no-deps", "-e", ROOT], check=True)


if __name__ == "__main__":
    main()
