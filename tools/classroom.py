"""For teachers: copies of the lessons for students, and assignments that nbgrader grades.

    python tools/classroom.py student           build/student/: both editions without outputs
    python tools/classroom.py assignment 21     build/assignment/: an nbgrader course folder with lesson 21 in it
    python tools/classroom.py same              lists handed-in answers that equal the solutions of the course

docs/TEACHING.md shows how a class is graded with it.
"""

import argparse
import ast
import inspect
import re
import shutil
import sys
import textwrap
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from editions import read, write_if_changed  # noqa: E402

from aigc_course.course import config, find_lesson, lessons  # noqa: E402
from aigc_course.exercises import all_exercises  # noqa: E402

CARD = re.compile(r"> \*\*(?:Exercise|练习) ([\d.]+)\*\* · (?:difficulty|难度) (\d).*?(\d+) (?:minutes|分钟)")
SOLUTIONS = re.compile(r"\bsolution\(|exercises\.lesson_|exercises import lesson_|\bEXERCISES\b|\ball_exercises\b")

HEAD = {
    "en": """\
# {title}: exercises

These are the exercises of the [lesson]({link}); have it beside you. Write your answer in place of `...` and run the \
cell: `check` tries it on random inputs and says what is wrong, `hint("{first}")` gives a hint.

Hand in this file. Add cells where you like, but do not copy, merge or delete those that are here: they carry hidden \
marks for grading. The points stand below each exercise. Before you hand it in, restart the kernel and run \
all cells.""",
    "zh": """\
# {title}：练习

这里是[第 {id} 课]({link})的练习，做题时请把课文放在手边。把 `...` 换成你的代码，然后运行单元格：\
`check` 会用随机输入来检验，并指出哪里不对；`hint("{first}")` 给出提示。

做完后交这个文件。可以随意添加单元格，但不要复制、合并或删除原有的单元格，评分要靠其中隐藏的标记。\
每题的分值写在题目下面。交之前请重启内核，把全部单元格再运行一遍。""",
}
POINTS = {
    "en": "# Points: {n}. This cell is marked; leave it as it is.",
    "zh": "# 本题 {n} 分。这一格用于评分，请不要改动。",
}
HIDDEN = """
### BEGIN HIDDEN TESTS
from aigc_course.exercises import lesson_{lesson}
result = next(e for e in lesson_{lesson}.EXERCISES if e.id == "{id}").check({name})
assert result.passed, result.messages[{language}]
### END HIDDEN TESTS"""

STUDENT = """\
# {en} · {zh}

{count} lessons as students get them: without outputs, exercises open. English is in `notebooks/en`, Chinese in \
`notebooks/zh`.

**What you need.** The course itself, installed: it holds the data, the models and the checks. Follow "Start" in its \
README ({url}), or the README of the folder that your teacher gave you. The course's own JupyterLab (`make lab`) opens \
the same lessons; to use these files instead, open them with the course's Python as the kernel. No network is needed.

**使用说明。** 这里是学生用的 {count} 课笔记本：没有运行结果，练习留空；英文在 `notebooks/en`，中文在 `notebooks/zh`。\
先要装好课程本身，数据、模型和判题程序都在里面：请按课程 README（{url}）中“开始学习”一节安装，\
或按老师所发文件夹里的说明安装。\
课程自带的 JupyterLab（`make lab`）打开的就是同样的课；要用这里的文件，请选择课程的 Python 作为内核。不需要网络。
"""


def written_in(lesson, root=ROOT):
    """The languages that a lesson is there in: a new one is English for a while."""
    return [language for language in ("en", "zh") if lesson.notebook(language, root).exists()]


# ---- exercises in a notebook, and functions in the code that somebody has written


def exercises_of(notebook):
    """(number, points, minutes, card, cell) for each exercise of a lesson: its Markdown card and its code cell."""
    match = None
    for cell in notebook.cells:
        found = CARD.search(cell.source) if cell.cell_type == "markdown" else None
        if found:
            match, card = found, cell.source[found.start() :]
        elif match and re.search(rf'^check\("{re.escape(match[1])}"', cell.source, re.M):
            yield match[1], int(match[2]), int(match[3]), card, cell
            match = None


def functions(source):
    """{name: syntax tree} of the functions that a code cell defines; none if Python cannot read it."""
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return {}
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def body(function):
    """The statements of a function's syntax tree, without the docstring."""
    return function.body[ast.get_docstring(function) is not None :]


def same_code(one, other):
    """True if two functions have the same arguments and statements; names, docstrings, type hints do not count."""
    arguments = [[a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)] for f in (one, other)]
    return arguments[0] == arguments[1] and [ast.dump(s) for s in body(one)] == [ast.dump(s) for s in body(other)]


def solutions(lesson_id=""):
    """{number: (source, syntax tree) of the solution} of a lesson's exercises, or of all."""
    found = {}
    for exercise in all_exercises():
        if exercise.id.startswith(lesson_id):
            source = textwrap.dedent(inspect.getsource(exercise.solution))
            found[exercise.id] = source, functions(source)[exercise.solution.__name__]
    return found


def given_away(notebook, lesson_id):
    """Exercises of a lesson whose answer stands in the notebook: not a stub, or the solution somewhere else."""
    known, found = solutions(f"{lesson_id}."), []
    for number, _, _, _, cell in exercises_of(notebook):
        stub = functions(cell.source)[known[number][1].name]
        if [ast.unparse(statement) for statement in body(stub)] not in (["..."], ["pass"]):
            found.append(number)
    for cell in notebook.cells:
        defined = functions(cell.source).values() if cell.cell_type == "code" else ()
        found += [number for number, (_, tree) in known.items() if any(same_code(tree, f) for f in defined)]
    return sorted(set(found))


# ---- make student


def student(root=ROOT, out=None):
    """Writes the students' copies and returns their folder."""
    out = Path(out or root / "build" / "student")
    shutil.rmtree(out, ignore_errors=True)
    for lesson in lessons(root):
        for language in written_in(lesson, root):
            notebook = read(lesson.notebook(language, root))
            if open_answers := given_away(notebook, lesson.id):
                raise SystemExit(f"{lesson.name} ({language}) holds the answers of {', '.join(open_answers)}")
            for cell in notebook.cells:
                for mark in ("english", "untranslated"):
                    cell.metadata.pop(mark, None)
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            write_if_changed(out / "notebooks" / language / f"{lesson.name}.ipynb", notebook)
    course = config(root)
    readme = STUDENT.format(**course["title"], url=course["repository"]["url"], count=len(lessons(root)))
    (out / "README.md").write_text(readme, encoding="utf-8")
    return out


# ---- make assignment


def assignment(lesson, root=ROOT, out=None):
    """Puts a lesson's exercises into an nbgrader course folder, one assignment in each language; returns the folder.

    An assignment holds the lesson's imports and its exercises, and nothing else of it: to grade forty of them must
    not train forty models.
    """
    out = Path(out or root / "build" / "assignment")
    for language in written_in(lesson, root):
        name = lesson.name if language == "en" else f"{lesson.name}_zh"
        notebook = read(lesson.notebook(language, root))
        write_if_changed(out / "source" / name / f"{name}.ipynb", source_notebook(lesson, language, notebook, root))
    settings = out / "nbgrader_config.py"
    if not settings.exists():  # the teacher may have changed it
        shutil.copyfile(ROOT / "tools" / "nbgrader_config.py", settings)
    return out


def source_notebook(lesson, language, notebook, root=ROOT):
    """The teacher's version: solutions between nbgrader's marks, hidden tests. nbgrader makes the students' of it."""
    found, known = list(exercises_of(notebook)), solutions(f"{lesson.id}.")
    if not found:
        raise SystemExit(f"{lesson.name} has no exercises")
    repository = config(root)["repository"]
    link = f"{repository['url']}/blob/{repository['branch']}/notebooks/{language}/{lesson.name}.ipynb"
    title = f"{lesson.id} · {lesson.title[language]}"
    head = HEAD[language].format(title=title, id=lesson.id, link=link, first=found[0][0])
    imports = next((c.source for c in notebook.cells if c.id == "imports"), "")
    imports = re.sub(r"(from aigc_course\.exercises import ).*", r"\1check, hint", imports)
    cells = [locked(v4.new_markdown_cell(head, id="head")), locked(v4.new_code_cell(imports, id="imports"))]
    for number, points, _, card, cell in found:
        mark, name = number.replace(".", "-"), known[number][1].name
        answer = v4.new_code_cell(with_solution(cell.source, *known[number]), id=f"answer-{mark}")
        test = POINTS[language].format(n=points) + HIDDEN.format(
            lesson=lesson.id, id=number, name=name, language=int(language == "zh")
        )
        test = v4.new_code_cell(test, id=f"test-{mark}")
        cells.append(locked(v4.new_markdown_cell(card, id=f"card-{mark}")))
        cells += [marked(answer, solution=True), marked(test, grade=True, locked=True, points=points)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def with_solution(stub, source, tree):
    """The exercise's cell with the solution's statements in place of its `...`, between nbgrader's marks."""
    statements = textwrap.dedent("\n".join(source.splitlines()[body(tree)[0].lineno - 1 :]))
    region = textwrap.indent(f"### BEGIN SOLUTION\n{statements}\n### END SOLUTION", "    ")
    stub = re.sub(r"(?m):[ ]\.\.\.$", ":\n    ...", stub)
    return re.sub(r"(?m)^    \.\.\.$", lambda match: region, stub)


def marked(cell, grade=False, solution=False, locked=False, points=None):
    """The cell with what nbgrader wants to know of it."""
    cell.metadata["nbgrader"] = {
        "schema_version": 3, "grade_id": cell.id, "grade": grade, "solution": solution, "locked": locked, "task": False,
    }  # fmt: skip
    if points is not None:
        cell.metadata["nbgrader"]["points"] = points
    return cell


def locked(cell):
    return marked(cell, locked=True)


# ---- answers that are the course's own


def same(folder):
    """(student, exercise, why) for each answer under `folder`/submitted that is the course's own solution."""
    known, found = solutions(), []
    for path in sorted(Path(folder).glob("submitted/*/*/*.ipynb")):
        who, lesson_id = path.parts[-3], path.name[:2]
        try:
            codes = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
        except Exception as error:  # not a notebook at all: nbgrader will say so too
            found.append((who, path.name, f"cannot be read: {error!r:.60}"))
            continue
        defined = {name: tree for code in codes for name, tree in functions(code).items()}
        for number, (_, tree) in known.items():
            answer = defined.get(tree.name)
            if number.startswith(f"{lesson_id}.") and answer is not None and same_code(tree, answer):
                found.append((who, number, f"same as the solution ({len(ast.unparse(body(tree)).splitlines())} lines)"))
        if any(SOLUTIONS.search(code) for code in codes):
            found.append((who, path.stem, "asks the course for its solutions"))
    return found


def main(arguments=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("command", choices=("student", "assignment", "same"))
    parser.add_argument("lessons", nargs="*", metavar="lesson", help="for assignment: 21 or vae")
    parser.add_argument("--folder", type=Path, help="another folder than the one under build/")
    options = parser.parse_args(arguments)
    if options.command == "student":
        print(f"{student(out=options.folder)} is ready")
    elif options.command == "assignment":
        if not options.lessons:
            parser.error("which lesson? make assignment LESSON=21")
        for word in options.lessons:
            folder = assignment(find_lesson(word), out=options.folder)
            print(f"{find_lesson(word).name} is in {folder}; docs/TEACHING.md says how to go on")
    else:
        found = same(options.folder or ROOT / "build" / "assignment")
        for who, what, why in found:
            print(f"{who}  {what}  {why}")
        print(f"{len(found)} found" if found else "no answer is the course's own")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
