"""Set-up that installs once, in the right way for the machine; and the measuring and executing of lessons."""

import ast
import base64
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import v4
from packaging.requirements import Requirement

from aigc_course import course

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import run_lessons  # noqa: E402

import manage  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# -- set-up


class Machine:
    """Notes each command, and does what `python -m venv` would have done."""

    def __init__(self):
        self.commands, self.fails = [], lambda command: False

    def call(self, command, **options):
        command = [str(part) for part in command]
        self.commands.append(command)
        if self.fails(command):
            return 1
        if command[1:3] == ["-m", "venv"]:
            manage.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            manage.PYTHON.touch()
        return 0

    def did(self):
        """The commands since the last call, without their constant parts."""
        constant = {str(manage.PYTHON), sys.executable, "-m", "--quiet", "--disable-pip-version-check"}
        found = [" ".join(part for part in command if part not in constant) for command in self.commands]
        self.commands.clear()
        return [line.replace(str(manage.VENV), ".venv") for line in found]


MAKES, INSTALLS = "venv .venv", "pip install -c constraints.txt -e "


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A fresh clone, in a folder with a space and Chinese characters in its name, on a machine with only Python."""
    move_to(tmp_path / "课程 clone", monkeypatch)
    for name in ("pyproject.toml", "constraints.txt"):
        (manage.ROOT / name).write_text(name, encoding="utf-8")
    machine = Machine()
    monkeypatch.setattr(subprocess, "call", machine.call)
    monkeypatch.setattr(manage, "torch_index", lambda: None)
    return machine


def move_to(root, monkeypatch):
    root.mkdir(exist_ok=True)
    monkeypatch.setattr(manage, "ROOT", root)
    monkeypatch.setattr(manage, "VENV", root / ".venv")
    monkeypatch.setattr(manage, "PYTHON", root / ".venv" / manage.PYTHON.relative_to(manage.PYTHON.parents[1]))


@pytest.mark.parametrize("kind, package", [("lab", "."), ("test", ".[test]")])
def test_a_second_call_installs_nothing(kind, package, machine):
    manage.set_up(kind)
    assert machine.did() == [MAKES, INSTALLS + package]
    manage.set_up(kind)
    manage.set_up("lab")
    assert machine.did() == []  # the tests' installation holds that of the lab


def test_tests_need_more_than_the_lab(machine):
    manage.set_up("lab")
    machine.did()
    manage.set_up("test")
    assert machine.did() == [INSTALLS + ".[test]"]
    manage.set_up("lab")
    manage.set_up("test")
    assert machine.did() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_once(name, machine):
    manage.set_up("test")
    machine.did()
    (manage.ROOT / name).write_text("changed", encoding="utf-8")
    manage.set_up("test")
    assert machine.did() == [INSTALLS + ".[test]"]
    manage.set_up("test")
    assert machine.did() == []


def test_after_a_move_of_the_folder_the_environment_is_made_anew(machine, monkeypatch):
    manage.set_up("test")
    machine.did()
    (manage.VENV / "old").touch()
    moved = manage.ROOT.with_name("moved 课程")
    manage.ROOT.rename(moved)
    move_to(moved, monkeypatch)
    manage.set_up("test")
    assert machine.did() == [MAKES, INSTALLS + ".[test]"]
    assert not (manage.VENV / "old").exists()
    manage.set_up("test")
    assert machine.did() == []


def test_an_interrupted_set_up_goes_on(machine, monkeypatch):
    manage.VENV.mkdir()  # as `python -m venv` left it when it was interrupted
    manage.set_up("lab")
    assert machine.did() == [MAKES, INSTALLS + "."]
    (manage.VENV / "installed-lab").unlink()  # as pip left it
    manage.set_up("lab")
    assert machine.did() == [INSTALLS + "."]


def test_a_venv_that_somebody_else_made_is_used_and_not_deleted(machine):
    manage.PYTHON.parent.mkdir(parents=True)
    manage.PYTHON.touch()
    (manage.VENV / "theirs").touch()
    manage.set_up("lab")
    assert machine.did() == [MAKES, INSTALLS + "."]
    assert (manage.VENV / "theirs").exists()


def test_where_the_tested_versions_do_not_fit_the_ranges_are_tried(machine, capsys):
    machine.fails = lambda command: "constraints.txt" in command
    manage.set_up("lab")
    assert machine.did() == [MAKES, INSTALLS + ".", "pip install -e ."]
    assert "ranges of pyproject.toml" in capsys.readouterr().out
    manage.set_up("lab")
    assert machine.did() == []


def test_a_failure_is_not_taken_for_an_installation(machine):
    machine.fails = lambda command: "pip" in command
    for _ in range(2):
        with pytest.raises(SystemExit, match="Installing failed.*Run the same command again"):
            manage.set_up("lab")
    machine.fails = lambda command: "venv" in command
    shutil.rmtree(manage.VENV)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        manage.set_up("lab")


def test_the_cpu_build_of_torch_comes_first_where_there_is_an_index_of_it(machine, monkeypatch):
    monkeypatch.setattr(manage, "torch_index", lambda: "https://example.org/cpu")
    machine.fails = lambda command: "--index-url" in command  # if it fails, pip's own index is used
    manage.set_up("lab")
    torch = "pip install -c constraints.txt --index-url https://example.org/cpu torch torchvision"
    assert machine.did() == [MAKES, torch, INSTALLS + "."]


class Answer:
    def close(self):
        pass


@pytest.mark.parametrize(
    "system, nvidia, answers, variable, expected",
    [
        ("Linux", False, True, None, manage.CPU_TORCH),
        ("Linux", False, False, None, None),
        ("Linux", True, True, None, None),
        ("Windows", False, True, None, None),
        ("Darwin", False, True, None, None),
        ("Linux", False, True, "default", None),
        ("Linux", True, False, "https://example.org/whl", "https://example.org/whl"),
        ("Windows", False, False, "https://example.org/whl", "https://example.org/whl"),
    ],
)
def test_which_index_torch_comes_from(system, nvidia, answers, variable, expected, monkeypatch):
    exists = Path.exists
    asked = []

    def urlopen(address, timeout):
        asked.append((address, timeout))
        if not answers:
            raise urllib.error.URLError("no network")
        return Answer()

    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(Path, "exists", lambda path: nvidia if "nvidia" in str(path) else exists(path))
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    if variable:
        monkeypatch.setenv("AIGC_TORCH_INDEX", variable)
    assert manage.torch_index() == expected
    assert all(timeout <= 5 for _, timeout in asked) and not (asked and (variable or nvidia))


# -- commands


def manage_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["manage.py", *arguments])
    with pytest.raises(SystemExit) as end:
        manage.main()
    return end.value.code


@pytest.mark.parametrize(
    "arguments, kind, started",
    [
        (["lab"], "lab", ["-m", "aigc_course.cli", "lab"]),
        (["lab", ""], "lab", ["-m", "aigc_course.cli", "lab"]),
        (["test", "-k", "data"], "test", ["-m", "pytest", "-k", "data"]),
        (["run"], "test", ["tools/run_lessons.py", "run"]),
        (["run", "21"], "test", ["tools/run_lessons.py", "run", "21"]),
        (["execute", "01", "21"], "test", ["tools/run_lessons.py", "execute", "01", "21"]),
        (["results"], "test", ["tools/run_lessons.py", "results"]),
        (["html"], "test", ["tools/html_pages.py"]),
        (["student"], "test", ["tools/classroom.py", "student"]),
        (["slides", "21"], "test", ["tools/slides.py", "21"]),
        (["assignment", "21"], "test", ["tools/classroom.py", "assignment", "21"]),
        (["bundle", "", "windows"], "test", ["tools/bundle.py", "windows"]),
    ],
)
def test_each_command_starts_its_script(arguments, kind, started, monkeypatch):
    called = []
    monkeypatch.setattr(manage, "set_up", called.append)

    def call(command, cwd, env):
        called.append((command, cwd, env))
        return 5

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(subprocess, "call", call)
    assert manage_main(monkeypatch, *arguments) == 5
    kind_asked, (command, cwd, environment) = called
    assert kind_asked == kind and command == [manage.PYTHON, *started] and cwd == ROOT
    assert environment.get("HF_HUB_OFFLINE") == (None if kind == "lab" else "1")  # a learner may go online
    if started[0].startswith("tools/"):
        assert (ROOT / started[0]).is_file()


def test_ctrl_c_waits_until_the_command_has_ended(monkeypatch):
    """It ends by itself; killed at once, `aigc-course lab` could leave JupyterLab running."""

    def call(command, **options):
        signal.raise_signal(signal.SIGINT)
        return 0

    monkeypatch.setattr(manage, "set_up", lambda kind: None)
    monkeypatch.setattr(subprocess, "call", call)
    before = signal.getsignal(signal.SIGINT)
    assert manage_main(monkeypatch, "lab") == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_an_older_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert "needs Python 3.11 or newer" in manage_main(monkeypatch, "lab")
    for minor in (8, 10):  # it must be able to read the script to say so
        ast.parse((ROOT / "manage.py").read_text(encoding="utf-8"), feature_version=(3, minor))


def test_set_up_needs_only_python():
    """What is not in the standard library is not there yet."""
    tree = ast.parse((ROOT / "manage.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_make_calls_the_script_and_nothing_else():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = [line for line in makefile.splitlines() if line.startswith("\t")]
    assert recipes == ["\t$(PYTHON) manage.py $@ $(LESSON) $(MACHINE)"]
    targets = re.search(r"^(\w[\w ]*):$", makefile, re.M)[1].split()
    assert set(targets) == set(manage.COMMANDS) - {"colab"}
    if shutil.which("make"):
        alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not in make test
        said = subprocess.run(
            ["make", "-n", "run", "LESSON=21"], cwd=ROOT, env=alone, capture_output=True, text=True, encoding="utf-8"
        )
        assert said.stdout.split() == ["python3", "manage.py", "run", "21"]


def test_colab_keeps_what_is_there(monkeypatch):
    class Installed:
        def __init__(self, name, version):
            self.metadata, self.version = {"Name": name}, version

    there = [
        Installed("torch", "2.11.0+cu128"),
        Installed("Typing_Extensions", "4.15"),
        Installed("six", "1.17"),
        Installed("six", "1.16"),  # an older one, further back on sys.path
        Installed(None, "0.1"),  # the remains of a removed package
    ]
    called = []

    def run(command, check):
        assert check
        command = [str(part) for part in command]
        held = Path(command[command.index("-c") + 1]).read_text(encoding="utf-8") if "-c" in command else None
        called.append((command, held))

    monkeypatch.setattr(importlib.metadata, "distributions", lambda: there)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(manage, "set_up", None)
    monkeypatch.setattr(sys, "argv", ["manage.py", "colab"])
    manage.main()
    (needed, held), (ours, _) = called
    assert held == "torch==2.11.0+cu128\ntyping-extensions==4.15\nsix==1.17\n"
    assert needed[:4] == ours[:4] == [sys.executable, "-m", "pip", "install"]
    assert set(PROJECT["dependencies"]) - set(needed) == {"jupyterlab>=4.4"}  # Colab has its own front end
    assert ours[-3:] == ["--no-deps", "-e", str(ROOT)]


# -- what is installed


def test_conda_installs_the_package_with_the_ranges_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert environment["name"] == "aigc-course" and environment["channels"] == ["conda-forge"]
    assert python.replace(" ", "") == "python" + PROJECT["requires-python"]
    assert pip == "pip" and packages == {"pip": ["-e ."]}


def versions(path):
    """{name: version} of a list of exact versions."""
    lines = [line.split("#")[0].split(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}


def test_constraints_hold_an_exact_version_of_each_requirement():
    exact = versions(ROOT / "constraints.txt")
    for line in PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(exact[requirement.name.lower()]), line


# -- tools/run_lessons.py

COURSE = """
[[lesson]]
id = "01"
slug = "quick"
en = "Quick"
zh = "快"
needs = []
minutes = 99

[[lesson]]
id = "21"
slug = "vae"
en = "Last"
zh = "最后"
needs = ["01"]
"""
REPORT = """\
from IPython.display import display
figures = {"loss, nats": 0.123456, "steps": 20}
display("done", metadata={"aigc": {"lesson": "01_quick", "profile": profile, "figures": list(figures.items())}})"""


@pytest.fixture
def small_course(tmp_path, monkeypatch):
    """A course of one short lesson, in a folder with a space and Chinese characters in its name."""
    root = tmp_path / "课程 course"
    (root / "notebooks" / "en").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "course.toml").write_text(COURSE, encoding="utf-8")
    for name, head in (("README.md", "The lessons"), ("README.zh.md", "课程")):
        text = f"# {head}\n<!-- lessons -->\nan old table\n<!-- /lessons -->\n\nThe end\n"
        (root / name).write_text(text, encoding="utf-8")
    notebook = course.Lesson.notebook
    monkeypatch.setattr(
        course.Lesson, "notebook", lambda lesson, language="en", root=root: notebook(lesson, language, root)
    )
    monkeypatch.setattr(run_lessons, "lessons", lambda: course.lessons(root))
    monkeypatch.setattr(run_lessons, "find_lesson", lambda word: course.find_lesson(word, root))
    monkeypatch.setattr(run_lessons, "ROOT", root)
    monkeypatch.setattr(run_lessons, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(run_lessons, "BUILD", root / "build")
    monkeypatch.setattr(run_lessons, "MEASURED", root / "build" / "run" / "measured.json")
    for name in ("AIGC_PROFILE", "AIGC_CHECKPOINTS", "AIGC_PROGRESS", "AIGC_LANG"):
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))  # what `execute` sets goes back after the test
    return root


def write_lesson(root, *sources):
    cells = [v4.new_code_cell('profile = "auto"', id="parameters", metadata={"tags": ["parameters"]})]
    cells += [v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / "en" / "01_quick.ipynb")


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run_lessons.py", *arguments])
    run_lessons.main()


def test_run_measures_a_lesson_and_results_writes_the_tables(small_course, monkeypatch):
    use = 'import time, pathlib\nblock = b"x" * 400_000_000\ntime.sleep(0.5)\nprint(pathlib.Path.cwd().name)'
    write_lesson(small_course, use, REPORT)
    before = (small_course / "notebooks" / "en" / "01_quick.ipynb").read_bytes()
    monkeypatch.setenv("AIGC_PROFILE", "smoke")  # `run` measures at cpu all the same
    run_tool(monkeypatch, "run", "01")
    measured = json.loads(run_lessons.MEASURED.read_text(encoding="utf-8"))
    assert measured["01"]["profile"] == "cpu"
    assert measured["01"]["figures"] == {"loss, nats": 0.123456, "steps": 20}
    assert measured["01"]["minutes"] + 0.005 >= 0.5 / 60 and measured["01"]["peak_gb"] > 0.4
    ran = nbformat.read(run_lessons.MEASURED.with_name("01_quick.ipynb"), as_version=4)
    assert "en" in [output.get("text", "").strip() for cell in ran.cells for output in cell.outputs]
    assert (small_course / "notebooks" / "en" / "01_quick.ipynb").read_bytes() == before

    picture = v4.new_output("display_data", {"image/png": base64.b64encode(b"a picture").decode()})
    cells = [v4.new_code_cell("draw", id="latent-walk", outputs=[v4.new_output("stream", text="text"), picture])]
    nbformat.write(v4.new_notebook(cells=cells), small_course / "notebooks" / "en" / "21_vae.ipynb")
    measured["01"] |= {"minutes": 2.34, "peak_gb": 1.25}
    run_lessons.MEASURED.write_text(json.dumps(measured), encoding="utf-8")
    for _ in range(2):  # a second time changes nothing
        run_tool(monkeypatch, "results")
        assert (small_course / "README.md").read_text(encoding="utf-8") == (
            "# The lessons\n<!-- lessons -->\n| lesson | minutes | peak memory | final figure |\n|---|---|---|---|\n"
            "| [01 Quick](notebooks/en/01_quick.ipynb) | 2.3 | 1.2 GB | loss, nats: 0.1235 |\n"
            "| [21 Last](notebooks/en/21_vae.ipynb) | | | |\n"
            "<!-- /lessons -->\n\nThe end\n"
        )
        chinese = (small_course / "README.zh.md").read_text(encoding="utf-8")
        assert "[01 快](notebooks/zh/01_quick.ipynb)" in chinese and "loss, nats: 0.1235" in chinese
        assert (small_course / "course.toml").read_text(encoding="utf-8") == COURSE.replace("99", "3")
        assert (small_course / "docs" / "vae.png").read_bytes() == b"a picture"


def test_run_says_where_a_lesson_failed(small_course, monkeypatch):
    write_lesson(small_course, "1 / 0", REPORT)
    with pytest.raises(SystemExit, match="01_quick failed; build.run.01_quick.ipynb shows where"):
        run_tool(monkeypatch, "run", "quick")
    assert "ZeroDivisionError" in run_lessons.MEASURED.with_name("01_quick.ipynb").read_text(encoding="utf-8")
    assert not run_lessons.MEASURED.exists()
    with pytest.raises(SystemExit, match="nothing is measured yet"):
        run_tool(monkeypatch, "results")


def test_results_takes_only_runs_at_cpu(small_course, monkeypatch):
    write_lesson(small_course, REPORT)
    measured = {"01": {"minutes": 1, "peak_gb": 1, "profile": "smoke", "figures": {"loss": 1.0}}}
    run_lessons.MEASURED.parent.mkdir(parents=True)
    run_lessons.MEASURED.write_text(json.dumps(measured), encoding="utf-8")
    with pytest.raises(SystemExit, match="lessons 01 were not measured at 'cpu'"):
        run_tool(monkeypatch, "results")
    assert "an old table" in (small_course / "README.md").read_text(encoding="utf-8")


def test_execute_writes_outputs_and_no_timings(small_course, monkeypatch):
    write_lesson(small_course, 'import os\nprint(os.environ["AIGC_PROFILE"], os.environ.get("AIGC_LANG"))', REPORT)
    monkeypatch.setenv("AIGC_LANG", "zh")
    run_tool(monkeypatch, "execute", "01")
    notebook = nbformat.read(small_course / "notebooks" / "en" / "01_quick.ipynb", as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    assert notebook.cells[1].outputs[0].text == "cpu None\n"
    assert [dict(cell.metadata) for cell in notebook.cells] == [{"tags": ["parameters"]}, {}, {}]
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}  # no version: it differs between machines
    measured = json.loads(run_lessons.MEASURED.read_text(encoding="utf-8"))["01"]
    assert measured["figures"] == {"loss, nats": 0.123456, "steps": 20} and measured["peak_gb"] > 0


def test_execute_refuses_other_profiles_and_what_stands_in_red(small_course, monkeypatch):
    write_lesson(small_course, 'import sys\nprint("advice", file=sys.stderr)', REPORT)
    path = small_course / "notebooks" / "en" / "01_quick.ipynb"
    before = path.read_bytes()
    for profile in ("smoke", "gpu"):
        monkeypatch.setenv("AIGC_PROFILE", profile)
        with pytest.raises(SystemExit, match=f"AIGC_PROFILE is '{profile}'"):
            run_tool(monkeypatch, "execute", "01")
    monkeypatch.delenv("AIGC_PROFILE")
    with pytest.raises(SystemExit, match="cell cell-0 writes to stderr, nothing is saved: advice"):
        run_tool(monkeypatch, "execute", "01")
    assert path.read_bytes() == before and not run_lessons.MEASURED.exists()


def test_a_lesson_without_a_report_is_an_error():
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1"), v4.new_markdown_cell("text")])
    with pytest.raises(ValueError, match="does not call report"):
        run_lessons.reported(notebook)
