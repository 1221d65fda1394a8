"""Exercises that check themselves: `check("21.2", my_function)`, `hint("21.2")`, `solution("21.2")`.

A module `lesson_NN.py` in this folder holds a lesson's exercises in `EXERCISES`; to add the file is enough.
Environment: AIGC_LANG=en or zh prints one language, AIGC_STRICT=1 makes `check` raise AssertionError.
"""

import difflib
import importlib
import inspect
import json
import os
import pkgutil
import sys
import textwrap
from datetime import date

from .core import Exercise, Mistake, Result

__all__ = ["Exercise", "Mistake", "Result", "all_exercises", "check", "hint", "passed_exercises", "solution"]

_hints_shown = {}


def check(number, function):
    """Says whether `function` solves the exercise with this number, "21.2"; if not, what is wrong with it.

    Raises nothing but KeyboardInterrupt (the Interrupt button), and AssertionError where AIGC_STRICT=1.
    """
    exercise, messages = _find(number)
    passed = False
    if exercise is not None:
        result = exercise.check(function)
        if result.interrupted:
            raise KeyboardInterrupt
        passed, messages = result.passed, result.messages
    if passed:
        _remember(exercise.id)
    _say(messages)
    if os.environ.get("AIGC_STRICT") == "1" and not passed:
        raise AssertionError(messages[0])


def hint(number):
    """Prints a hint; the next call prints the next one."""
    exercise, messages = _find(number)
    if exercise is not None:
        total = len(exercise.hints)
        n = _hints_shown[exercise.id] = min(_hints_shown.get(exercise.id, 0) + 1, total)
        en, zh = exercise.hints[n - 1]
        messages = f"Exercise {number} · hint {n} of {total}: {en}", f"练习 {number} · 提示 {n}/{total}：{zh}"
    _say(messages)


def solution(number):
    """Shows the source of the reference solution."""
    exercise, messages = _find(number)
    if exercise is None:
        return _say(messages)
    source = textwrap.dedent(inspect.getsource(exercise.solution)).strip()
    ipython = sys.modules.get("IPython")
    if ipython and hasattr(ipython.get_ipython(), "kernel"):
        from IPython.display import Markdown, display

        display(Markdown(f"```python\n{source}\n```"))
    else:
        print(source)


def all_exercises():
    """Every `Exercise` of the course, in the order of the lessons."""
    found = [exercise for name in _modules() for exercise in _load(name)]
    return sorted(found, key=lambda exercise: [int(part) for part in exercise.id.split(".")])


def passed_exercises():
    """The set of the numbers of all exercises that were passed on this machine."""
    return set(_read_progress())


def _modules():
    return [m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("lesson_")]


def _load(name):
    return importlib.import_module(f"{__name__}.{name}").EXERCISES


def _find(number):
    """(exercise, None), or (None, messages) where there is none of this number."""
    if not isinstance(number, str):
        return None, (
            'Give the number in quotes first: check("21.2", my_function).',
            '请先写带引号的编号：check("21.2", my_function)。',
        )
    name = f"lesson_{number.split('.')[0]}"
    try:  # its own lesson only: a check must not wait for all others to load
        for exercise in _load(name) if name in _modules() else ():
            if exercise.id == number:
                return exercise, None
        near = difflib.get_close_matches(number, [e.id for e in all_exercises()], n=3, cutoff=0.5)
    except Exception as error:
        return None, (
            f"The exercises could not be loaded: {type(error).__name__}: {error}",
            f"练习题加载失败：{type(error).__name__}: {error}",
        )
    en = f" Did you mean {' or '.join(near)}?" if near else ""
    zh = f"是不是 {' 或 '.join(near)}？" if near else ""
    return None, (f"There is no exercise {number!r}.{en}", f"没有编号为 {number!r} 的练习。{zh}")


def _say(messages):
    """Prints (English, Chinese), a line each, or the one that AIGC_LANG picks."""
    chosen = {"en": messages[:1], "zh": messages[1:]}.get(os.environ.get("AIGC_LANG", "").lower(), messages)
    for line in chosen:
        try:
            print(line)
        except UnicodeEncodeError:  # a console that knows no Chinese
            print(line.encode("ascii", "replace").decode())


def _read_progress():
    """{number: date of the first pass}; empty if there is no file or it cannot be read."""
    from aigc_course.paths import progress_file

    try:
        stored = json.loads(progress_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _remember(number):
    """Adds an exercise to the progress file, or says why that cannot be."""
    from aigc_course.files import write_atomically
    from aigc_course.paths import progress_file

    passed = _read_progress()
    if number not in passed:
        passed[number] = date.today().isoformat()
        try:
            write_atomically(progress_file(), json.dumps(passed, indent=1, sort_keys=True).encode())
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or error
            _say(
                (
                    f"Your progress could not be written ({why}): the pass below is not remembered. "
                    "Free some disk space, or name another folder in AIGC_PROGRESS, and run the cell again.",
                    f"学习进度无法写入（{why}），下面这次通过没有记录下来。"
                    "请腾出磁盘空间，或用 AIGC_PROGRESS 指定另一个文件夹，然后重新运行这个单元格。",
                )
            )
