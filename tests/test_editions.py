"""The editions tool: every way in which the two languages can drift apart must be caught."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent


sys.path.insert(0, str(ROOT / "tools"))
import editions  # noqa: E402

INTRO = "## Why a bound\nThe evidence lower bound is what we can compute, see `prior` and $z$.\n\n$$a = b \\tag{21.1}$$"
INTRO_ZH = "## 为什么要用下界\n证据下界是我们能算出来的量，参见 `prior` 与 $z$。\n\n$$a = b \\tag{21.1}$$"
LATER = "What we see in this figure is a map of the latent space."
LATER_ZH = "从图中可以看到潜空间的地图。"


def markdown(cell_id, source, **metadata):
    return v4.new_markdown_cell(source, id=cell_id, metadata=metadata)


def code(cell_id, source, count, *tags):
    output = v4.new_output("stream", name="stdout", text=f"{count}\n")
    metadata = {"tags": list(tags)} if tags else {}
    return v4.new_code_cell(source, id=cell_id, execution_count=count, outputs=[output], metadata=metadata)


def english_notebook():
    notebook = v4.new_notebook(metadata={"language_info": {"name": "python"}})
    notebook.cells = [
        markdown("title", "# 21 · Variational autoencoders"),
        code("colab", "import sys", 1),
        markdown("intro", INTRO),
        code("parameters", 'profile = "auto"', 2, "parameters"),
        markdown("formula-only", "$$p(x) := 1$$"),
        code("run", "print(3)\nx = 1", 3, "nbval-check-output"),
        markdown("later", LATER),
    ]
    return notebook


class Lesson:
    """A small course in a temporary folder with one lesson, and shortcuts to look at it and change it."""

    def __init__(self, root):
        self.root = root
        (root / "docs").mkdir()
        shutil.copy(ROOT / "docs" / "glossary.csv", root / "docs" / "glossary.csv")
        editions.write_if_changed(self.path("en"), english_notebook())

    def path(self, language, name="21_vae"):
        return editions.notebook_path(self.root, language, name)

    def cells(self, language="zh"):
        return {cell.id: cell for cell in editions.read(self.path(language)).cells}

    def change(self, language, change):
        """Calls `change(notebook, cells by id)` and writes the notebook."""
        notebook = editions.read(self.path(language))
        change(notebook, {cell.id: cell for cell in notebook.cells})
        editions.write_if_changed(self.path(language), notebook)

    def write(self, language, **sources):
        self.change(language, lambda _, cells: [cells[i].update(source=s) for i, s in sources.items()])

    def run(self, *arguments):
        return editions.main([*arguments, "--root", str(self.root)])

    def commit(self):
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
            name = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
            subprocess.run(["git", *name, *command], cwd=self.root, check=True, capture_output=True)


@pytest.fixture
def fresh(tmp_path):
    """The English edition alone."""
    return Lesson(tmp_path)


@pytest.fixture
def lesson(fresh):
    """Both editions, translated and accepted."""
    fresh.run("sync")
    fresh.write("zh", title="# 21 · 变分自编码器", intro=INTRO_ZH, later=LATER_ZH)
    assert fresh.run("accept", "21") == 0
    return fresh


# ---- sync


def test_sync_makes_a_chinese_notebook_whose_prose_waits_for_a_translator(fresh, capsys):
    assert fresh.run("sync") == 0
    cells = fresh.cells()
    assert list(cells) == list(fresh.cells("en"))
    assert cells["intro"].source == INTRO and cells["intro"].metadata["untranslated"] is True
    assert cells["title"].metadata == {} and cells["run"].metadata == {"tags": ["nbval-check-output"]}
    assert fresh.run("check") == 1
    assert "cell intro is untranslated" in capsys.readouterr().out


def test_a_second_sync_writes_nothing(lesson, capsys):
    lesson.run("sync")
    before = lesson.path("zh").read_bytes(), lesson.path("zh").stat().st_mtime_ns
    capsys.readouterr()
    lesson.run("sync")
    lesson.run("accept", "21")
    assert (lesson.path("zh").read_bytes(), lesson.path("zh").stat().st_mtime_ns) == before
    assert "written" not in capsys.readouterr().out


def test_files_are_written_as_nbformat_writes_them(lesson, tmp_path):
    text = lesson.path("zh").read_text(encoding="utf-8")
    nbformat.write(nbformat.reads(text, 4), tmp_path / "again.ipynb")
    assert text == (tmp_path / "again.ipynb").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "证据下界" in text and json.loads(text)["nbformat_minor"] == 5
    nbformat.validate(nbformat.reads(text, 4))


def test_sync_carries_code_outputs_tags_order_and_metadata_and_keeps_the_chinese(lesson):
    def rework(notebook, cells):
        cells["run"].source = "print(4)\n"
        cells["run"].outputs[0].text = "4\n"
        cells["run"].execution_count = 9
        cells["intro"].metadata["tags"] = ["lead"]
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        notebook.cells.insert(3, notebook.cells.pop())

    lesson.change("en", rework)
    assert lesson.run("check") == 1
    lesson.run("sync")
    assert lesson.run("check") == 0
    english, chinese = editions.read(lesson.path("en")), editions.read(lesson.path("zh"))
    for a, b in zip(english.cells, chinese.cells, strict=True):
        assert a.cell_type == "markdown" or a == b
    assert chinese.metadata == english.metadata
    assert lesson.cells()["intro"].source == INTRO_ZH
    assert lesson.cells()["title"].source == "# 21 · 变分自编码器"


def test_sync_never_clears_a_mark(fresh, capsys):
    fresh.run("sync")
    fresh.write("zh", intro=INTRO_ZH)
    fresh.run("sync")
    assert fresh.cells()["intro"].source == INTRO_ZH and "untranslated" in fresh.cells()["intro"].metadata
    fresh.run("accept", "21", "--cells", "intro")
    fresh.write("en", intro=INTRO + " More.")
    fresh.run("sync")
    assert fresh.cells()["intro"].metadata["english"] == editions.digest(INTRO)


def test_untouched_english_in_the_chinese_edition_follows_the_english(fresh):
    fresh.run("sync")
    fresh.write("en", intro=INTRO + " More.")
    fresh.run("sync")
    cell = fresh.cells()["intro"]
    assert cell.source == INTRO + " More." and "untranslated" in cell.metadata


def test_a_new_cell_comes_untranslated_and_a_dropped_one_is_shown(lesson, capsys):
    def rework(notebook, cells):
        notebook.cells[2] = markdown("opening", "A quite different opening of the lesson.")

    lesson.change("en", rework)
    capsys.readouterr()
    lesson.run("sync")
    said = capsys.readouterr().out
    assert "new cell opening, untranslated" in said
    assert "dropped cell intro" in said and INTRO_ZH in said
    assert list(lesson.cells()) == list(lesson.cells("en"))


def test_a_dropped_cell_that_was_never_translated_is_only_named(fresh, capsys):
    fresh.run("sync")
    fresh.change("en", lambda notebook, cells: notebook.cells.remove(cells["later"]))
    capsys.readouterr()
    fresh.run("sync")
    said = capsys.readouterr().out
    assert "dropped cell later" in said and LATER not in said


# ---- check: each kind of difference


def edit(cell_id, **changes):
    return lambda notebook, cells: cells[cell_id].update(changes)


def swap(notebook, cells):
    notebook.cells[3], notebook.cells[5] = notebook.cells[5], notebook.cells[3]


def remove(cell_id):
    return lambda notebook, cells: notebook.cells.remove(cells[cell_id])


DRIFTS = {
    "one byte of code": (edit("run", source="print(3)\nx = 2"), "cell run holds other code"),
    "a newline after the code": (edit("run", source="print(3)\nx = 1\n"), "cell run holds other code"),
    "code of a generated cell": (edit("colab", source="import os"), "cell colab holds other code"),
    "another order": (swap, "another order"),
    "a missing tag": (edit("parameters", metadata={}), "cell parameters has other tags"),
    "an extra tag": (edit("later", metadata={"tags": ["x"]}), "cell later has other tags"),
    "other cell metadata": (edit("run", metadata={"tags": ["nbval-check-output"], "a": 1}), "other metadata"),
    "an output": (edit("run", outputs=[]), "cell run has another outputs"),
    "output text": (lambda _, c: c["run"].outputs[0].update(text="4\n"), "cell run has another outputs"),
    "an execution count": (edit("run", execution_count=7), "cell run has another execution count"),
    "a missing cell": (remove("run"), "cell run is missing in Chinese"),
    "a missing Markdown cell": (remove("later"), "cell later is missing in Chinese"),
    "an extra cell": (lambda n, _: n.cells.append(code("more", "", 4)), "cell more is not in the English"),
    "a cell twice": (lambda n, c: n.cells.append(c["run"]), "Chinese has two cells run"),
    "a cell of another type": (lambda n, c: n.cells.__setitem__(5, markdown("run", "文")), "is code in English"),
    "a cell without id": (lambda n, c: n.cells[2].pop("id"), "cells without id"),
    "the notebook's metadata": (lambda n, _: n.metadata.update(a=1), "the notebook's metadata differs"),
    "an untranslated mark": (lambda _, c: c["intro"].metadata.update(untranslated=True), "intro is untranslated"),
    "no stamp": (lambda _, c: c["intro"].metadata.pop("english"), "cell intro was never accepted"),
    "a wrong stamp": (lambda _, c: c["intro"].metadata.update(english="0" * 12), "cell intro is stale"),
    "English prose": (edit("later", source=LATER), "cell later is still English"),
    "a heading's level": (edit("intro", source="#" + INTRO_ZH), "cell intro has other headings"),
    "an equation's number": (edit("intro", source=INTRO_ZH.replace("21.1", "21.2")), "other equation numbers"),
    "a sign in a formula": (edit("intro", source=INTRO_ZH.replace("a =", "-a =")), "other displayed formulas"),
    "an attachment": (edit("later", attachments={"a.png": {"image/png": ""}}), "another attachments"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_check_catches(drift, lesson, capsys):
    assert lesson.run("check") == 0, capsys.readouterr().out
    change, message = DRIFTS[drift]
    notebook = editions.read(lesson.path("zh"))
    change(notebook, {cell.id: cell for cell in notebook.cells})
    lesson.path("zh").write_text(v4.writes(notebook), encoding="utf-8")
    assert lesson.run("check") == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("language", ["en", "zh"])
def test_check_catches_a_broken_file(language, lesson, capsys):
    lesson.path(language).write_text("{", encoding="utf-8")
    assert lesson.run("check") == 1
    assert "cannot be read" in capsys.readouterr().out


def test_check_catches_a_file_that_only_one_edition_has(lesson, capsys):
    lesson.path("zh").rename(lesson.path("zh", "22_gan"))
    assert lesson.run("check") == 1
    said = capsys.readouterr().out
    assert "21_vae: has no Chinese edition" in said and "22_gan: the Chinese edition has no English one" in said


def test_generated_title_may_differ(lesson):
    lesson.write("en", title="# 21 · Another title, about 5 minutes on two CPU cores")
    assert lesson.run("check") == 0


def test_formulas_may_differ_in_words_spaces_and_full_stops_only():
    one, two = r"$$a_{\text{new}} = b,\quad c. \tag{1.1}$$", r"$$a_{\text{新}}=b, c。\tag{1.1}$$"
    assert editions.formulas(one) == editions.formulas(two) != editions.formulas(two.replace("b", "-b"))


# ---- stale cells


def test_a_stale_cell_shows_what_changed_in_the_english(lesson, capsys):
    lesson.commit()
    lesson.write("en", intro=INTRO.replace("can compute", "can never compute"))
    lesson.commit()
    assert lesson.run("check") == 1
    said = capsys.readouterr().out
    assert "cell intro is stale" in said
    assert "    -The evidence lower bound is what we can compute" in said
    assert "    +The evidence lower bound is what we can never compute" in said
    lesson.write("zh", intro=INTRO_ZH.replace("能算", "永远算不"))
    assert lesson.run("accept", "21", "--cells", "intro") == 0
    assert lesson.run("check") == 0


@pytest.mark.parametrize("repository", [True, False])
def test_a_stale_cell_whose_english_was_never_committed_says_so(repository, lesson, capsys):
    lesson.write("en", intro="## First thoughts\nThese words nobody has ever committed to the history.")
    if repository:
        lesson.commit()
    assert lesson.run("check") == 1
    assert "not in git's history" in capsys.readouterr().out


# ---- accept


def test_accept_refuses_text_that_is_still_english_and_stamps_the_rest(fresh, capsys):
    fresh.run("sync")
    fresh.write("zh", intro=INTRO_ZH)
    assert fresh.run("accept", "21") == 1
    assert "refused, still English: later" in capsys.readouterr().out
    cells = fresh.cells()
    assert cells["intro"].metadata == {"english": editions.digest(INTRO)}
    assert cells["formula-only"].metadata == {"english": editions.digest("$$p(x) := 1$$")}
    assert "untranslated" in cells["later"].metadata


def test_accept_stamps_only_the_cells_named(fresh):
    fresh.run("sync")
    fresh.write("zh", intro=INTRO_ZH, later=LATER_ZH)
    assert fresh.run("accept", "21_vae", "--cells", "later") == 0
    assert "untranslated" in fresh.cells()["intro"].metadata
    assert "untranslated" not in fresh.cells()["later"].metadata


@pytest.mark.parametrize(
    "arguments",
    [
        ["accept"],
        ["accept", "22"],
        ["accept", "21", "--cells", "nowhere"],
        ["accept", "21", "--cells", "run"],
        ["sync", "21", "--cells", "intro"],
    ],
)
def test_wrong_use_is_refused_and_changes_nothing(arguments, lesson):
    before = lesson.path("zh").read_bytes()
    with pytest.raises(SystemExit) as stop:
        lesson.run(*arguments)
    assert stop.value.code not in (0, None)
    assert lesson.path("zh").read_bytes() == before


# ---- glossary


@pytest.fixture(scope="module")
def glossary():
    return editions.load_glossary(ROOT / "docs" / "glossary.csv")


@pytest.mark.parametrize(
    "english, chinese, missing",
    [
        ("Posterior collapse is seen.", "可以看到后验坍塌。", []),
        ("Posterior collapse is seen.", "可以看到后验崩溃。", ["posterior collapse"]),
        ("two latent\nvariables", "两个变量", ["latent variable"]),
        ("two latent variables", "两个**潜变量**", []),
        ("With dropout", "用了 dropout", []),
        ("With dropout", "用了随机失活", []),
        ("With dropout", "用了丢弃法", ["dropout"]),
        ("A VAE and its KL divergence", "变分自编码器及其KL散度", []),
        ("A VAE", "VAE", []),
        ("the validation set", "验证集", []),
        ("the test sets", "验证集", ["test set"]),
        ("a fair test, a long training", "公平的检验", []),
        ("the cross-entropy", "交叉熵", []),
        ("the cross entropy and its entropy", "熵", ["cross-entropy"]),
        ("a tokenised text, the encoders", "文本，编码器", []),
        ("the vocabularies", "词汇", ["vocabulary"]),
        ("use `dropout` in $prior$ and $$\\text{prior}$$", "如下", []),
        ("a prior", "取 `先验`", ["prior"]),
        ("the chain rule", "链式法则", []),
        ("calculus", "微积分", []),
    ],
)
def test_glossary_terms(english, chinese, missing, glossary):
    assert [form for form, _ in editions.missing_terms(english, chinese, glossary)] == missing


def test_the_check_warns_of_a_missing_term_and_does_not_fail(lesson, capsys):
    lesson.write("zh", intro=INTRO_ZH.replace("证据下界", "证据的下限"))
    capsys.readouterr()
    assert lesson.run("check") == 0
    said = capsys.readouterr().out
    assert "warning: cell intro says 'evidence lower bound' in English" in said and "1 warnings" in said


def test_a_glossary_row_with_unequal_terms_is_refused(tmp_path):
    (tmp_path / "g.csv").write_text("en,zh\nprior / posterior,先验\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        editions.load_glossary(tmp_path / "g.csv")


def test_every_glossary_row_is_its_own_translation(glossary):
    with open(ROOT / "docs" / "glossary.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert editions.missing_terms(row["en"], row["zh"], glossary) == [], row


# ---- the course itself


def test_the_command_line_runs_as_a_script(lesson):
    command = [sys.executable, str(ROOT / "tools" / "editions.py"), "check", "--root", str(lesson.root)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "1 lessons, 0 problems, 0 warnings\n"), done.stderr


def test_the_two_editions_of_the_course_agree(capsys):
    assert editions.main(["check"]) == 0, capsys.readouterr().out
