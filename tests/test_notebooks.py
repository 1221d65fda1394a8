"""The lessons as they are committed, and as they run: form, nbval on derivations, papermill on all at `smoke`."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest

from aigc_course.course import lessons
from aigc_course.exercises import all_exercises
from aigc_course.paths import NOTEBOOKS, ROOT

LESSONS = lessons()
DERIVATIONS = {"01", "11", "20", "22"}  # nbval compares their outputs
BY_ID = {lesson.id: lesson for lesson in LESSONS}
CHINESE_RUN = "21"
LOCAL_PATH = re.compile(r"/home/|/root/|/tmp/|/Users/|\b[A-Z]:\\+Users| at 0x[0-9a-f]{6,}")


def read(lesson, language="en"):
    return nbformat.read(lesson.notebook(language), as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def text_of(outputs):
    """What an output shows as text, in one string, as a reader sees it."""
    parts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return "".join(parts)


every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


def test_every_notebook_is_listed_in_course_toml_and_stands_in_both_languages():
    listed = {f"{lesson.name}.ipynb" for lesson in lessons(planned=True)}
    for language in ("en", "zh"):
        there = {path.name for path in (NOTEBOOKS / language).glob("*.ipynb")}
        assert there <= listed
        assert there == {f"{lesson.name}.ipynb" for lesson in LESSONS}


def test_every_written_lesson_is_in_both_readmes():
    for language, readme in (("en", "README.md"), ("zh", "README.zh.md")):
        text = (ROOT / readme).read_text(encoding="utf-8")
        assert [lesson.id for lesson in LESSONS if f"notebooks/{language}/{lesson.name}.ipynb" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_of_the_pages_are_right(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto:")):
            assert ((ROOT / page).parent / target).exists(), target


@every_lesson
@pytest.mark.parametrize("language", ["en", "zh"])
def test_links_between_lessons_are_right(lesson, language):
    for cell in read(lesson, language).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", cell.source):
                if not target.startswith("http"):
                    assert (NOTEBOOKS / language / target).exists(), f"{cell.id}: {target}"


@every_lesson
def test_was_committed_from_one_clean_run_at_cpu(lesson):
    notebook = read(lesson)
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
        assert not LOCAL_PATH.search(cell.source + text_of(cell.outputs)), cell.id
        assert set(cell.metadata) <= {"tags", "slideshow"}, cell.id
    reports = [o.metadata["aigc"] for o in cells[-1].outputs if "aigc" in o.get("metadata", {})]
    assert [(r["lesson"], r["profile"]) for r in reports] == [(lesson.id, "cpu")]


@every_lesson
def test_one_parameters_cell_and_then_the_profile(lesson):
    cells = code_cells(read(lesson))
    marked = [i for i, c in enumerate(cells) if "parameters" in tags(c)]
    assert len(marked) == 1
    assert 'profile = "auto"' in cells[marked[0]].source
    assert cells[marked[0] + 1].source.startswith("profile = resolve_profile(profile)")


@every_lesson
def test_every_numbered_equation_is_checked(lesson):
    notebook = read(lesson)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    numbered = re.findall(r"\\tag\{([^}]*)\}", prose)
    checked = set()
    for cell in code_cells(notebook):
        for line in re.findall(r"^# checks (.+)$", cell.source, re.M):
            assert "assert" in cell.source, cell.id
            checked |= set(re.findall(r"\(([\d.]+)\)", line))
    assert len(numbered) == len(set(numbered)) and set(numbered) == checked
    if lesson.id in DERIVATIONS:
        assert len(numbered) >= 10
    assert all(number.startswith(lesson.id + ".") for number in numbered)


@every_lesson
def test_exercises_have_a_card_and_a_check_in_both_languages(lesson):
    ids = [e.id for e in all_exercises() if e.id.startswith(lesson.id + ".")]
    notebook = read(lesson)
    assert [i for c in code_cells(notebook) for i in re.findall(r'^check\("([\d.]+)"', c.source, re.M)] == ids
    for language, card in (
        ("en", r"> \*\*Exercise {}\*\* · difficulty [123] of 3 · \d+ minutes\n>\n> "),
        ("zh", r"> \*\*练习 {}\*\* · 难度 [123]/3 · \d+ 分钟\n>\n> "),
    ):
        prose = "\n".join(c.source for c in read(lesson, language).cells if c.cell_type == "markdown")
        for number in ids:
            assert re.search(card.format(re.escape(number)), prose), (language, number)


def definitions(source, constants=()):
    """{name: syntax tree as text} of the functions, the classes and these constants at the top of a piece of code."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in constants:
            found[node.targets[0].id] = ast.dump(node)
    return found


def definitions_of(lesson, constants=()):
    """Pairs (definitions, cell id) of a lesson's code cells."""
    for cell in code_cells(read(lesson)):
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        yield definitions(code, constants), cell.id


def test_a_definition_in_a_lesson_and_in_the_package_is_the_same():
    package = {}
    for path in (ROOT / "aigc_course").rglob("*.py"):
        if "exercises" not in path.parts and "recipes" not in path.parts:
            package |= definitions(path.read_text(encoding="utf-8"))
    shared = [
        (f"{lesson.name}: {name} in cell {cell}", tree == package[name])
        for lesson in LESSONS
        for found, cell in definitions_of(lesson)
        for name, tree in found.items()
        if name in package
    ]
    assert shared and [where for where, same in shared if not same] == []


@pytest.mark.parametrize(
    ("number", "recipe", "constants", "functions"),
    [("02", "hyperparameters", {"OPTIMISERS", "SCHEDULES"}, 7), ("03", "generalisation", {"pictures"}, 7)],
)
def test_a_recipe_and_its_lesson_define_the_same(number, recipe, constants, functions):
    path = ROOT / "aigc_course" / "recipes" / f"{recipe}.py"
    ours = definitions(path.read_text(encoding="utf-8"), constants)
    lesson = {name: tree for found, _ in definitions_of(BY_ID[number], constants) for name, tree in found.items()}
    shared = ours.keys() & lesson.keys()
    assert constants <= shared and len(shared - constants) >= functions
    assert [name for name in sorted(shared) if ours[name] != lesson[name]] == []


def script(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


def test_the_two_editions_agree():
    done = script("tools/editions.py", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_cells_are_up_to_date():
    done = script("tools/generated_cells.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["check", "format --check"])
def test_ruff(what):
    done = script("-m", "ruff", *what.split(), ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("number", sorted(DERIVATIONS & set(BY_ID)))
def test_derivations_give_the_committed_outputs(number, tmp_path):
    """nbval compares the cells tagged nbval-check-output; all others need only run."""
    lesson = BY_ID[number]
    checked = [c for c in code_cells(read(lesson)) if "nbval-check-output" in tags(c)]
    assert len(checked) >= 8
    assert all(c.execution_count and c.outputs for c in checked)  # nbval passes a cell that was never run
    options = [
        "-p",
        "nbval",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=300",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", NOTEBOOKS, "-c", os.devnull, *options, lesson.notebook()],
        cwd=NOTEBOOKS / "en",
        env={**os.environ, "AIGC_PROFILE": "smoke"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed == len(code_cells(read(lesson)))


RUNS = [(lesson, "en") for lesson in LESSONS] + [(lesson, "zh") for lesson in LESSONS if lesson.id == CHINESE_RUN]


@pytest.mark.parametrize("lesson, language", RUNS, ids=[f"{lesson.name}-{language}" for lesson, language in RUNS])
def test_runs_headlessly_from_another_folder(lesson, language, tmp_path):
    """papermill at `smoke`; cells tagged nbval-check-output must show what is committed, so not the profile."""
    source = shutil.copy(lesson.notebook(language), tmp_path)
    target = tmp_path / "executed.ipynb"
    assert "profile" in papermill.inspect_notebook(source)  # papermill runs on silently without the parameter
    papermill.execute_notebook(
        source, target, parameters={"profile": "smoke"}, cwd=tmp_path, kernel_name="python3",
        execution_timeout=300, progress_bar=False,
    )  # fmt: skip
    executed = nbformat.read(target, as_version=4)
    injected = [c for c in executed.cells if "injected-parameters" in tags(c)]
    assert len(injected) == 1 and 'profile = "smoke"' in injected[0].source
    assert all(c.execution_count for c in code_cells(executed))
    assert json.dumps(executed.cells[-1].outputs).count('"profile": "smoke"') == 1
    committed = {c.id: c for c in code_cells(read(lesson))}
    for cell in code_cells(executed):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"{cell.id}: {output.text}"
        if "nbval-check-output" in tags(cell):
            assert committed[cell.id].execution_count and committed[cell.id].outputs, cell.id
            assert text_of(cell.outputs) == text_of(committed[cell.id].outputs), cell.id
