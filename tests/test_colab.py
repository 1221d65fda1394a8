"""A lesson on Colab, tried without Colab: torch is installed, the folder is empty, the first cell does the rest.

The environment lies over that of the tests, as Colab's packages lie under what a notebook adds. `google.colab` is an
empty module that the kernel has imported, as on Colab, and git takes the course's address from a repository made of
this folder. There is no network.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

from aigc_course.course import config, find_lesson, lessons
from aigc_course.paths import ROOT

DERIVATION, TRAINING = find_lesson("20"), find_lesson("21")
MUST_RUN = bool(os.environ.get("AIGC_MUST_RUN"))  # .ci/run sets it: a test that cannot be done there is a failure
# Looking for pip by find_spec would switch off setuptools' own distutils in this process.
NEEDED = {"git": shutil.which("git"), "pip": any(importlib.metadata.distributions(name="pip"))}
MISSING = ", ".join(name for name, there in NEEDED.items() if not there)
needs_tools = pytest.mark.skipif(bool(MISSING) and not MUST_RUN, reason=f"needs {MISSING}")

# What Colab's IPython 7.34 and ipywidgets 7.7.1 have, as far as lessons may want it: we looked into those versions.
HAVE = {
    "IPython": "get_ipython",
    "IPython.display": "Audio Code DisplayHandle HTML IFrame Image JSON Latex Markdown Math SVG clear_output display",
    "ipywidgets": "Accordion Box BoundedFloatText BoundedIntText Button Checkbox Dropdown FloatLogSlider FloatSlider "
    "HBox HTML Image IntProgress IntSlider Label Layout Output Play Select SelectionSlider Tab Text Textarea "
    "ToggleButton ToggleButtons VBox fixed interact interact_manual interactive interactive_output jslink link",
}
VERSIONS = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}, sort_keys=True))
"""
SEEN = """
import json, sys, aigc_course, torch
print("SEEN", json.dumps([aigc_course.__file__, torch.__version__, sys.prefix]))
"""
RUN = """
import sys, nbformat, papermill
source, target, cell = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell(cell))
nbformat.write(notebook, source)
papermill.execute_notebook(
    source, target, parameters={"profile": "smoke"}, kernel_name="python3", progress_bar=False, execution_timeout=300
)
"""


def git(*arguments, **options):
    """Runs git as somebody without settings of their own."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    author = {
        f"GIT_{who}_{what}": "nobody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    command = ["git", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, **settings, **author}, capture_output=True, **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository of this folder as it is now, on the branch that the first cell asks for."""
    if not (ROOT / ".git").exists():
        pytest.fail("git is needed to know which files would be published") if MUST_RUN else pytest.skip("not a clone")
    folder = tmp_path_factory.mktemp("published") / "course.git"
    git("init", "--quiet", "--bare", "--initial-branch", config()["repository"]["branch"], folder)
    here = ["--git-dir", folder, "--work-tree", ROOT, "-c", "core.bare=false", "-c", "core.compression=0"]
    git(*here, "add", "--all", cwd=ROOT)
    git(*here, "commit", "--quiet", "--message", "as it is now", cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def colab(tmp_path_factory, published):
    """(folder to work in, its Python, environment variables): a machine as Colab gives one, without a network."""
    home = tmp_path_factory.mktemp("colab")
    venv.create(home / "env", with_pip=False, symlinks=os.name != "nt")
    python = home / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    said = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], encoding="utf-8"
    )
    packages = Path(said.strip())
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    # The tests' packages, but not this folder: a plain path in a .pth file, whose own .pth files Python does not read.
    below = Path(importlib.util.find_spec("torch").origin).parent.parent
    (packages / "what_colab_has.pth").write_text(str(below), encoding="utf-8")
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n", encoding="utf-8")
    (home / "content").mkdir()
    git_settings = {
        f"url.{published.as_uri()}.insteadOf": config()["repository"]["url"],
        "safe.directory": "*",
        "protocol.allow": "never",
        "protocol.file.allow": "always",
    }
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIGC_", "PYTHONPATH"))}
    variables |= {"IPYTHONDIR": str(home / "ipython"), "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull}
    variables |= {"GIT_CONFIG_COUNT": str(len(git_settings))}
    for k, (name, value) in enumerate(git_settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{k}": name, f"GIT_CONFIG_VALUE_{k}": value}
    # Nothing is left for pip to fetch: what the course needs is there, and so is setuptools, which builds the course
    # (torch needs it too). "0" means no isolation: pip reads it as the value of its setting `build_isolation`.
    variables |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    variables |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}  # where nobody answers
    return home / "content", python, variables


def installed(colab):
    folder, python, variables = colab
    command = [python, "-c", VERSIONS]
    return json.loads(subprocess.check_output(command, cwd=folder, env=variables, encoding="utf-8"))


@needs_tools
@pytest.mark.parametrize("lesson", [DERIVATION, TRAINING], ids=lambda lesson: lesson.name)
def test_a_lesson_runs_and_torch_stays(lesson, colab):
    """The first lesson finds an empty folder, the second what the first has left there."""
    folder, python, variables = colab
    before = installed(colab)
    shutil.copy(lesson.notebook(), folder)
    done = subprocess.run(
        [python, "-c", RUN, f"{lesson.name}.ipynb", "ran.ipynb", SEEN], cwd=folder, env=variables,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((folder / "ran.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = "".join("".join(o.get("text", "")) for cell in cells for o in cell.get("outputs", []))
    package, torch, prefix = json.loads(re.search(r"SEEN (\[.*\])", printed)[1])
    assert Path(package) == folder / "aigc-course" / "aigc_course" / "__init__.py"
    assert Path(prefix) == python.parent.parent
    after = installed(colab)
    assert torch == importlib.import_module("torch").__version__ and after == before
    (record,) = python.parent.parent.rglob(
        "aigc_course-*.dist-info/direct_url.json"
    )  # what pip wrote, here and not below
    assert json.loads(record.read_text(encoding="utf-8"))["url"] == (folder / "aigc-course").as_uri()


# ---- Colab's versions


def pinned():
    """{name: version} of constraints-colab.txt."""
    lines = (ROOT / "constraints-colab.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_what_colab_has_fits_the_ranges_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    versions = pinned()
    assert [name for name in ranges if name in versions and not ranges[name].contains(versions[name])] == []
    assert {"torch", "torchvision", "transformers", "numpy", "ipykernel", "ipywidgets"} <= set(ranges) & set(versions)


def names_used(code):
    """What of IPython and ipywidgets a piece of code imports or reaches through a module, as dotted names."""
    tree, modules = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("IPython", "ipywidgets"):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        if isinstance(node, ast.Import):
            modules |= {name.asname or name.name: name.name for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and modules.get(ast.unparse(node.value)) in HAVE:
            yield f"{modules[ast.unparse(node.value)]}.{node.attr}"


def test_lessons_use_only_what_colabs_ipython_and_ipywidgets_have():
    code = "import ipywidgets as w, IPython.display\nfrom IPython.core import a\nw.TagsInput\nIPython.display.HTML"
    assert set(names_used(code)) == {"IPython.core.a", "ipywidgets.TagsInput", "IPython.display.HTML"}
    known = {f"{module}.{name}" for module, names in HAVE.items() for name in names.split()}
    places = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "aigc_course").rglob("*.py")}
    for lesson in lessons():
        cells = nbformat.read(lesson.notebook(), as_version=4).cells
        places |= {f"{lesson.name}, {cell.id}": cell.source for cell in cells if cell.cell_type == "code"}
    used = {place: set(names_used(code)) for place, code in places.items()}
    assert any(used.values()) and {place: names - known for place, names in used.items() if names - known} == {}
