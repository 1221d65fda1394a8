"""The command `aigc-course`: open the lessons, restore one, show what has been passed, look for what is wrong."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (from a clone, somebody may start it with an older one)
    from aigc_course.doctor import python_version

    sys.exit(str(python_version()))

from aigc_course.course import find_lesson, lessons
from aigc_course.files import write_atomically
from aigc_course.paths import ROOT, my_lessons

LANGUAGES = ("en", "zh")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="aigc-course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lab_parser = commands.add_parser("lab", help="open JupyterLab on your copies of the lessons")
    lab_parser.add_argument("options", nargs="*", help="options for `jupyter lab`, after --")
    reset_parser = commands.add_parser("reset", help="put one lesson back as it was published")
    reset_parser.add_argument("lesson", help="its number or name: 21, vae")
    commands.add_parser("copy", help="copy the lessons that you do not have yet, and say where they are")
    commands.add_parser("progress", help="show the exercises that you have passed")
    commands.add_parser("doctor", help="look at this machine and this installation, and say what to do")
    options = parser.parse_args(arguments)
    if options.command == "lab":
        return lab(options.options)
    if options.command == "copy":
        copy_lessons()
        print(f"your lessons are in {my_lessons()}")
        return 0
    if options.command == "reset":
        return reset(options.lesson)
    if options.command == "doctor":
        return doctor()
    return show_progress()


def copy_lessons():
    """Copies the lessons that the learner's folder lacks; what is there already is never overwritten."""
    folder = my_lessons()
    for lesson in lessons():
        for language in LANGUAGES:
            copy = folder / language / lesson.notebook(language).name
            if lesson.notebook(language).exists() and not copy.exists():
                try:
                    write_atomically(copy, lesson.notebook(language).read_bytes())
                except OSError as error:
                    remedy = "Free some disk space, or name another folder in AIGC_LESSONS, and try again."
                    sys.exit(f"{copy} could not be written ({error.strerror}). {remedy}")


def lab(options):
    """Opens JupyterLab at its first lesson, in Chinese where the system's language is Chinese."""
    copy_lessons()
    first = lessons()[0]
    wanted = os.environ.get("AIGC_LANG") or os.environ.get("LANG", "")
    language = "zh" if wanted.lower().startswith("zh") else "en"
    command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{language}/{first.name}.ipynb"]
    command += [f"--ServerApp.root_dir={my_lessons()}", "--LabApp.news_url=None", "--ServerApp.answer_yes=True"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command.append("--no-browser")
        print("There is no screen here: open the address that JupyterLab prints below in a browser.")
    set_up_jupyterlab()
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches JupyterLab too, and we wait until it ends
    try:
        return subprocess.call([*command, *options])
    finally:
        signal.signal(signal.SIGINT, before)


def set_up_jupyterlab():
    """In our own .venv, JupyterLab does not ask whether it may fetch news, and wraps lines of code."""
    folder = Path(sys.prefix) / "etc" / "jupyter" / "labconfig"
    files = {
        "page_config.json": {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
        "default_setting_overrides.json": {
            "@jupyterlab/notebook-extension:tracker": {"codeCellConfig": {"lineWrap": True}}
        },
    }
    for name, content in files.items():
        if Path(sys.prefix) == ROOT / ".venv" and not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content), encoding="utf-8")


def reset(word):
    """Puts both editions of one lesson in `my_lessons/` back; your versions are kept beside them as `.bak.ipynb`."""
    try:
        lesson = find_lesson(word)
    except ValueError as error:
        sys.exit(str(error))
    folder = my_lessons()
    for language in LANGUAGES:
        copy = folder / language / lesson.notebook(language).name
        if copy.exists() and copy.read_bytes() != lesson.notebook(language).read_bytes():
            backup = free_name(copy)
            copy.rename(backup)
            print(f"your version is kept as {backup.relative_to(folder.parent)}")
        copy.unlink(missing_ok=True)
    copy_lessons()
    print(f"{lesson.name} is as it was published")


def free_name(path):
    """A name for a backup of `path` that is not taken: 21_vae.bak1.ipynb, 21_vae.bak2.ipynb, ..."""
    n = 1
    while (backup := path.with_name(f"{path.stem}.bak{n}{path.suffix}")).exists():
        n += 1
    return backup


def doctor():
    """Prints what `examine` finds, a line each; 1 if something is wrong, else 0."""
    from aigc_course.doctor import examine

    findings = examine()
    print(*findings, sep="\n")
    return int(not all(finding.fine for finding in findings))


def show_progress():
    """One line a lesson: how many of its exercises have been passed, and which are open."""
    from aigc_course.exercises import all_exercises, passed_exercises

    passed = passed_exercises()
    for lesson in lessons():
        ids = [e.id for e in all_exercises() if e.id.startswith(lesson.id + ".")]
        if ids:
            still_open = ", ".join(i for i in ids if i not in passed) or "none"
            print(f"{lesson.name}: {len(passed.intersection(ids))} of {len(ids)} passed; open: {still_open}")


if __name__ == "__main__":
    sys.exit(main())
