"""The cells made from course.toml: what they say, that they work, and that the course's are up to date."""

import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import editions  # noqa: E402
import generated_cells  # noqa: E402

COURSE = """\
# A comment that stays.
[repository]
url = "https://github.com/people/aigc-course"   # and this one
branch = "main"

[[lesson]]
id = "01"
slug = "cross_entropy"
en = "Cross-entropy"
zh = "交叉熵"
needs = []
minutes = 0.6

[[lesson]]
id = "20"
slug = "elbo"
en = "The evidence lower bound"
zh = "证据下界"
needs = ["01"]

[[lesson]]
id = "21"
slug = "vae"
en = "Variational autoencoders"
zh = "变分自编码器"
needs = ["01", "20"]
minutes = 4.2
url = "not the repository's"
"""


@pytest.fixture
def course(tmp_path):
    """A temporary course: lessons 01 and 21 written, 20 planned, 21 in both languages."""
    (tmp_path / "course.toml").write_bytes(COURSE.encode("utf-8"))
    for language, name in (("en", "01_cross_entropy"), ("en", "21_vae"), ("zh", "21_vae")):
        notebook = v4.new_notebook(
            cells=[
                v4.new_markdown_cell("# old", id="title", metadata={"tags": ["keep"]}),
                v4.new_code_cell("# generated", id="colab", execution_count=1),
                v4.new_markdown_cell("text", id="text"),
            ]
        )
        editions.write_if_changed(editions.notebook_path(tmp_path, language, name), notebook)
    return tmp_path


def cells(root, language, name):
    return {cell.id: cell for cell in editions.read(editions.notebook_path(root, language, name)).cells}


def run(root, *arguments):
    return generated_cells.main([*arguments, "--root", str(root)])


def test_the_title_says_where_to_open_it_how_long_it_takes_and_what_it_needs(course):
    assert run(course) == 0
    assert (
        cells(course, "en", "21_vae")["title"].source
        == """\
# 21 · Variational autoencoders

[Open in Colab](https://colab.research.google.com/github/people/aigc-course/blob/main/notebooks/en/21_vae.ipynb) · \
[中文](../zh/21_vae.ipynb) · about 4 minutes on two CPU cores

Builds on [lesson 01, Cross-entropy](01_cross_entropy.ipynb); lesson 20, The evidence lower bound."""
    )
    assert (
        cells(course, "zh", "21_vae")["title"].source
        == """\
# 21 · 变分自编码器

[在 Colab 中打开](https://colab.research.google.com/github/people/aigc-course/blob/main/notebooks/zh/21_vae.ipynb) · \
[English](../en/21_vae.ipynb) · 在双核 CPU 上约需 4 分钟

先修内容：[第 01 课《交叉熵》](01_cross_entropy.ipynb)、第 20 课《证据下界》。"""
    )
    first = cells(course, "en", "01_cross_entropy")["title"].source
    assert first.endswith("about 1 minute on two CPU cores")


def test_minutes_that_nobody_measured_are_left_out(course):
    text = (course / "course.toml").read_text(encoding="utf-8").replace("minutes = 4.2\n", "")
    (course / "course.toml").write_text(text, encoding="utf-8")
    run(course)
    assert "minute" not in cells(course, "en", "21_vae")["title"].source
    assert "分钟" not in cells(course, "zh", "21_vae")["title"].source


def test_check_fails_until_the_cells_are_written_and_writing_twice_changes_nothing(course, capsys):
    assert run(course, "--check") == 1
    assert "out of date: notebooks/zh/21_vae.ipynb" in capsys.readouterr().out
    assert cells(course, "en", "21_vae")["title"].source == "# old"
    run(course)
    assert run(course, "--check") == 0
    path = editions.notebook_path(course, "en", "21_vae")
    before = path.read_bytes(), path.stat().st_mtime_ns
    run(course)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_everything_else_in_the_notebook_stays(course):
    before = cells(course, "en", "21_vae")
    run(course)
    after = cells(course, "en", "21_vae")
    assert after["text"] == before["text"]
    assert after["title"].metadata == before["title"].metadata and after["colab"].execution_count == 1


def test_missing_cells_are_added_at_the_top(course):
    path = editions.notebook_path(course, "en", "21_vae")
    editions.write_if_changed(path, v4.new_notebook(cells=[v4.new_markdown_cell("text", id="text")]))
    run(course)
    assert list(cells(course, "en", "21_vae")) == ["title", "colab", "text"]


def test_a_fork_changes_the_address_with_one_command(course):
    run(course, "--repository", "https://github.com/some-one/Fork.git/")
    expected = COURSE.replace("https://github.com/people/aigc-course", "https://github.com/some-one/Fork")
    assert (course / "course.toml").read_bytes() == expected.encode("utf-8")
    assert run(course, "--check") == 0
    for language in ("en", "zh"):
        for cell_id in ("title", "colab"):
            source = cells(course, language, "21_vae")[cell_id].source
            assert "some-one/Fork" in source and "people" not in source


def test_windows_line_endings_of_course_toml_stay(course):
    (course / "course.toml").write_bytes(COURSE.replace("\n", "\r\n").encode("utf-8"))
    run(course, "--repository", "https://github.com/a/b")
    expected = COURSE.replace("https://github.com/people/aigc-course", "https://github.com/a/b")
    assert (course / "course.toml").read_bytes() == expected.replace("\n", "\r\n").encode("utf-8")


@pytest.mark.parametrize("url", ["git@github.com:a/b", "https://gitlab.com/a/b", "https://github.com/a", 'https://"'])
def test_an_address_that_colab_cannot_open_is_refused(url, course):
    with pytest.raises(SystemExit):
        run(course, "--repository", url)
    assert (course / "course.toml").read_bytes() == COURSE.encode("utf-8")


# ---- the Colab cell


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The commands that the cell would run; it runs in a temporary folder."""
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(subprocess, "run", lambda command, check: made.append((command, check)))
    return made


def test_the_colab_cell_does_nothing_elsewhere(course, calls):
    path = list(sys.path)
    exec(generated_cells.colab_cell(course), {})
    assert calls == [] and sys.path == path


def test_the_colab_cell_clones_once_installs_and_finds_the_package(course, calls, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(generated_cells.colab_cell(course), {})
    clone = "git clone --depth 1 --branch main https://github.com/people/aigc-course aigc-course".split()
    install = [sys.executable, "aigc-course/manage.py", "colab"]
    assert calls == [(clone, True), (install, True)]
    assert sys.path[0] == str(tmp_path / "aigc-course")
    calls.clear()
    (tmp_path / "aigc-course").mkdir()
    exec(generated_cells.colab_cell(course), {})
    assert calls == [(install, True)]


def test_the_colab_cell_begins_with_its_explanation_and_is_short(course):
    lines = generated_cells.colab_cell(course).splitlines()
    assert lines[0].startswith("# Only on Colab: ") and len([line for line in lines if line]) <= 12
    assert max(map(len, lines)) <= 110


# ---- the course itself


def test_the_generated_cells_of_the_course_are_up_to_date(capsys):
    assert generated_cells.main(["--check"]) == 0, capsys.readouterr().out
