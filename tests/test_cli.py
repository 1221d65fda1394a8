"""The command `aigc-course`, in a small course of its own, whose JupyterLab only says how it was called."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_course import cli, course, exercises

ROOT = Path(__file__).resolve().parent.parent
COURSE = """
[[lesson]]
id = "01"
slug = "first"
en = "First"
zh = "第一课"
needs = []
minutes = 1.5

[[lesson]]
id = "02"
slug = "planned"
en = "Planned"
zh = "计划中"
needs = ["01"]

[[lesson]]
id = "21"
slug = "vae"
en = "VAE"
zh = "变分自编码器"
needs = ["01", "02"]
"""


@pytest.fixture
def root(tmp_path):
    """A course with lessons 01 and 21 written, in a folder with a space and Chinese characters in its name."""
    root = tmp_path / "生成式 AI 课程"
    shutil.copytree(ROOT / "aigc_course", root / "aigc_course", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "course.toml").write_text(COURSE, encoding="utf-8")
    for language in ("en", "zh"):
        for name in ("01_first", "21_vae"):
            write(root / "notebooks" / language / f"{name}.ipynb", f"{name} {language}, version 1")
    write(root / "jupyterlab" / "__init__.py", "")
    write(root / "jupyterlab" / "__main__.py", "import json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(7)")
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read(path):
    return path.read_text(encoding="utf-8")


def aigc_course(root, *arguments, **variables):
    """Runs the command; returns (exit code, what it printed)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "LANG", "PYTHONPATH")}
    environment |= {"PYTHONPATH": str(root), **variables}
    command = [sys.executable, "-m", "aigc_course.cli", *arguments]
    done = subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def lab(root, *options, **variables):
    """What JupyterLab was called with."""
    code, printed = aigc_course(root, "lab", *options, **variables)
    assert code == 7, printed  # the exit code of our JupyterLab
    return json.loads(printed.splitlines()[-1]), printed


# -- copies


def test_lessons_that_cannot_be_written_are_a_clear_error(root):
    """No folder can be made in a file, not even by root; a full disk is told in the same words."""
    for command in ("lab", "copy"):
        code, printed = aigc_course(root, command, AIGC_LESSONS=str(root / "course.toml" / "mine"))
        assert code == 1 and "Traceback" not in printed, printed
        assert str(root / "course.toml" / "mine" / "en") in printed and "could not be written (Not a dir" in printed
        assert "Free some disk space, or name another folder in AIGC_LESSONS" in printed


def test_lab_makes_copies_once_and_adds_what_is_new(root):
    lab(root)
    mine = root / "my_lessons"
    assert sorted(path.relative_to(mine).as_posix() for path in mine.rglob("*.ipynb")) == [
        "en/01_first.ipynb", "en/21_vae.ipynb", "zh/01_first.ipynb", "zh/21_vae.ipynb"
    ]  # fmt: skip
    assert read(mine / "zh" / "21_vae.ipynb") == "21_vae zh, version 1"

    write(mine / "en" / "21_vae.ipynb", "my work")
    write(mine / "en" / "notes.ipynb", "my notes")
    (mine / "zh" / "01_first.ipynb").unlink()
    for name in ("01_first", "21_vae", "02_planned"):  # an update that also brings a lesson
        write(root / "notebooks" / "en" / f"{name}.ipynb", "version 2")
    lab(root)
    assert read(mine / "en" / "21_vae.ipynb") == "my work" and read(mine / "en" / "notes.ipynb") == "my notes"
    assert read(mine / "en" / "01_first.ipynb") == "01_first en, version 1"
    assert read(mine / "en" / "02_planned.ipynb") == "version 2"
    assert not (mine / "zh" / "02_planned.ipynb").exists()
    assert read(mine / "zh" / "01_first.ipynb") == "01_first zh, version 1"
    assert read(root / "notebooks" / "en" / "21_vae.ipynb") == "version 2"


def test_reset_restores_one_lesson_and_keeps_a_backup(root):
    mine = root / "my_lessons"
    assert aigc_course(root, "reset", "21")[0] == 0  # also before there are copies
    write(mine / "en" / "01_first.ipynb", "my first")
    for n, word in enumerate(("21", "vae", "21_vae"), start=1):
        write(mine / "en" / "21_vae.ipynb", f"my work {n}")
        code, printed = aigc_course(root, "reset", word)
        assert code == 0 and "21_vae is as it was published" in printed
        assert f"21_vae.bak{n}.ipynb" in printed and printed.count("kept") == 1  # the Chinese one was not changed
        assert read(mine / "en" / "21_vae.ipynb") == "21_vae en, version 1"
        assert read(mine / "en" / f"21_vae.bak{n}.ipynb") == f"my work {n}"
    assert read(mine / "en" / "21_vae.bak1.ipynb") == "my work 1"
    assert read(mine / "en" / "01_first.ipynb") == "my first"
    write(root / "notebooks" / "zh" / "21_vae.ipynb", "version 2")
    aigc_course(root, "reset", "21")
    assert read(mine / "zh" / "21_vae.ipynb") == "version 2"
    assert read(mine / "zh" / "21_vae.bak1.ipynb") == "21_vae zh, version 1"


def test_reset_of_no_lesson_names_those_there_are(root):
    for word in ("99", "planned"):
        code, printed = aigc_course(root, "reset", word)
        assert code == 1 and printed == f"no lesson '{word}'; there are 01_first, 21_vae\n"
    assert not (root / "my_lessons").exists()


# -- JupyterLab


def test_lab_opens_the_first_lesson(root):
    arguments, _ = lab(root, "--", "--port=8899", "--ip=0.0.0.0")
    mine = root / "my_lessons"
    assert arguments[0] == "--LabApp.default_url=/lab/tree/en/01_first.ipynb"
    assert (mine / "en" / "01_first.ipynb").exists()
    assert f"--ServerApp.root_dir={mine}" in arguments
    assert arguments[-2:] == ["--port=8899", "--ip=0.0.0.0"]


@pytest.mark.parametrize(
    "variables, language",
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "AIGC_LANG": "en"}, "en"),
        ({"LANG": "C.UTF-8", "AIGC_LANG": "zh"}, "zh"),
    ],
)
def test_lab_opens_the_edition_of_the_systems_language(variables, language, root):
    assert f"/lab/tree/{language}/" in lab(root, **variables)[0][0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a screen")
def test_lab_without_a_screen_says_where_to_go(root):
    arguments, printed = lab(root)
    assert "--no-browser" in arguments and "open the address" in printed
    for screen in ("DISPLAY", "WAYLAND_DISPLAY"):
        arguments, printed = lab(root, **{screen: ":0"})
        assert "--no-browser" not in arguments and "open the address" not in printed


@pytest.mark.parametrize("user, expected", [(0, True), (1000, False)])
def test_lab_as_root(user, expected, monkeypatch):
    called = []
    monkeypatch.setattr(cli, "copy_lessons", lambda: None)
    monkeypatch.setattr(cli, "set_up_jupyterlab", lambda: None)
    monkeypatch.setattr(cli, "lessons", lambda: [course.Lesson("21", "vae", {}, (), None)])
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or 0)
    assert cli.main(["lab"]) == 0
    assert called[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert ("--allow-root" in called[0]) == expected

    def interrupted(command):
        signal.raise_signal(signal.SIGINT)  # Ctrl-C is how one ends it; JupyterLab gets it too, and asks nothing
        return 0 if "--ServerApp.answer_yes=True" in command else 1

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(subprocess, "call", interrupted)
    assert cli.main(["lab"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_jupyterlab_asks_nothing_and_wraps_long_lines_in_our_own_environment(tmp_path, monkeypatch):
    config = tmp_path / ".venv" / "etc" / "jupyter" / "labconfig" / "page_config.json"
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other"))
    cli.set_up_jupyterlab()
    assert list(tmp_path.iterdir()) == []  # somebody else's environment stays as it is
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    cli.set_up_jupyterlab()
    assert json.loads(read(config)) == {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    overrides = json.loads(read(config.with_name("default_setting_overrides.json")))
    assert overrides["@jupyterlab/notebook-extension:tracker"]["codeCellConfig"] == {"lineWrap": True}
    write(config, "{}")
    cli.set_up_jupyterlab()
    assert read(config) == "{}"


# -- progress


def test_progress_says_what_is_open(monkeypatch, capsys):
    def lesson(lesson_id, slug):
        return course.Lesson(lesson_id, slug, {}, (), None)

    ids = ["01.1", "01.2", "01.10", "21.1"]
    monkeypatch.setattr(cli, "lessons", lambda: [lesson("01", "first"), lesson("02", "none"), lesson("21", "vae")])
    found = [exercises.Exercise(i, None, None, (), ()) for i in ids]
    monkeypatch.setattr(exercises, "all_exercises", lambda: found)
    monkeypatch.setattr(exercises, "passed_exercises", lambda: {"01.2", "21.1", "77.7"})
    assert not cli.main(["progress"])
    assert capsys.readouterr().out == (
        "01_first: 1 of 3 passed; open: 01.1, 01.10\n21_vae: 1 of 1 passed; open: none\n"
    )


def test_an_unknown_command_explains_itself(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tea"])
    assert "lab" in capsys.readouterr().err


# -- the list of lessons


def test_lessons_are_those_written_in_their_order(root):
    assert [lesson.name for lesson in course.lessons(root)] == ["01_first", "21_vae"]
    planned = course.lessons(root, planned=True)
    assert [lesson.name for lesson in planned] == ["01_first", "02_planned", "21_vae"]
    assert planned[2].needs == ("01", "02") and planned[2].part == "2" and planned[2].minutes is None
    assert planned[0].title == {"en": "First", "zh": "第一课"} and planned[0].minutes == 1.5
    assert planned[2].notebook("zh", root) == root / "notebooks" / "zh" / "21_vae.ipynb"


@pytest.mark.parametrize("word", ["21", "vae", "21_vae"])
def test_a_lesson_is_found_by_id_slug_or_name(word, root):
    assert course.find_lesson(word, root).name == "21_vae"


def test_no_lesson_is_an_error_that_names_those_there_are(root):
    with pytest.raises(ValueError, match="no lesson 'va'; there are 01_first, 21_vae"):
        course.find_lesson("va", root)
