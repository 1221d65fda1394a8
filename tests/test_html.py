"""Pages for reading offline: nothing remote in them, lessons linked to lessons, mathematics beside them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import editions  # noqa: E402
import html_pages  # noqa: E402

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
COURSE = """
[title]
en = "The course"
zh = "课程"
[[lesson]]
id = "01"
slug = "one"
en = "One & only"
zh = "其一"
needs = []
[[lesson]]
id = "02"
slug = "two"
en = "Two"
zh = "其二"
needs = []
"""
PROSE = r"""# 01 · One

See [two](02_two.ipynb#Later), [中文](../zh/01_one.ipynb), [notation](../../docs/NOTATION.md),
[paper](https://arxiv.org/abs/1312.6114) and [below](#Later).

$$a \le b \tag{1.1}$$

$$\begin{aligned} c &= d_\phi(x \mid z) \\ &= e \end{aligned} \tag{1.2}$$

Inline $f_i * g_i < h$.

## Later
"""


def notebook(prose):
    shown = [
        v4.new_output("display_data", data={"image/png": PIXEL, "text/plain": "figure"}),
        v4.new_output("display_data", data={"text/html": "<table><tr><td>238.8</td></tr></table>"}),
        v4.new_output("display_data", data={html_pages.WIDGET: {"model_id": "a"}, "text/plain": "a slider"}),
    ]
    return v4.new_notebook(
        metadata={"language_info": {"name": "python"}},
        cells=[
            v4.new_markdown_cell(prose, id="title"),
            v4.new_code_cell("# Only on Colab", id="colab"),
            v4.new_code_cell("x = 1  # a comment", id="run", outputs=shown, execution_count=1),
        ],
    )


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of two lessons, the second in English only, rendered."""
    root = tmp_path_factory.mktemp("a course 课程")
    (root / "docs").mkdir()
    (root / "docs" / "NOTATION.md").write_text("notation", encoding="utf-8")
    (root / "course.toml").write_text(COURSE, encoding="utf-8")
    for language, name in (("en", "01_one"), ("zh", "01_one"), ("en", "02_two")):
        prose = PROSE if language == "en" else "# 01 · 其一\n\n见[第 02 课](../en/02_two.ipynb)。"
        editions.write_if_changed(editions.notebook_path(root, language, name), notebook(prose))
    assert html_pages.main(["--root", str(root)]) == 0
    return root


def page(course, name):
    return (course / "build" / "html" / name).read_text(encoding="utf-8")


def links(text):
    return re.findall(r'<a [^>]*?href="([^"]*)"', text)


def test_every_page_is_there_and_nothing_in_it_is_remote(course):
    out = course / "build" / "html"
    pages = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.html"))
    assert pages == ["en/01_one.html", "en/02_two.html", "index.html", "zh/01_one.html"]
    for name in pages:
        assert html_pages.remote_references(page(course, name)) == []
        assert not re.search(r"cdnjs|unpkg|jsdelivr|require\.js|mermaid|jquery", page(course, name), re.I)
    assert "url(" not in page(course, "style.css") and "@import" not in page(course, "style.css")


def test_everything_that_a_page_loads_lies_beside_it(course):
    for name in ("en/01_one.html", "zh/01_one.html", "index.html"):
        file = course / "build" / "html" / name
        text = page(course, name)
        loaded = re.findall(r'<(?:script|img)[^>]* src="([^"]*)"|<link[^>]* href="([^"]*)"', text)
        loaded = [a or b for a, b in loaded if not a.startswith("data:")]
        assert loaded
        for target in loaded:
            assert (file.parent / target.partition("?")[0]).is_file(), target


def test_links(course):
    english, chinese = links(page(course, "en/01_one.html")), links(page(course, "zh/01_one.html"))
    assert "02_two.html#Later" in english and "../zh/01_one.html" in english and "#Later" in english
    assert "https://arxiv.org/abs/1312.6114" in english
    assert "../../../docs/NOTATION.md" in english and "../en/02_two.html" in chinese
    for name in ("en/01_one.html", "en/02_two.html", "zh/01_one.html", "index.html"):
        folder = (course / "build" / "html" / name).parent
        for target in links(page(course, name)):
            assert ".ipynb" not in target
            path = target.partition("#")[0]
            assert not path or "://" in path or (folder / path).exists(), target
    assert links(page(course, "index.html")) == ["en/01_one.html", "zh/01_one.html", "en/02_two.html"]


def test_language_title_figures_and_code(course):
    english, chinese = page(course, "en/01_one.html"), page(course, "zh/01_one.html")
    assert '<html lang="en">' in english and "<title>01 · One</title>" in english
    assert '<html lang="zh">' in chinese and "<title>01 · 其一</title>" in chinese
    for font in ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei"):
        assert font in page(course, "style.css")
    assert f"data:image/png;base64,{PIXEL}" in english and 'class="highlight' in english and "238.8" in english
    assert "Only on Colab" not in english and "a slider" not in english and "No description" not in chinese
    assert "One &amp; only" in page(course, "index.html")


def test_mathematics_reaches_the_page_untouched_and_mathjax_comes_with_its_licence(course):
    english = page(course, "en/01_one.html")
    assert r"$$a \le b \tag{1.1}$$" in english and r"d_\phi(x \mid z) \\" in english
    assert r"$f_i * g_i &lt; h$" in english
    mathjax = course / "build" / "html" / "mathjax"
    assert "Apache License" in (mathjax / "LICENSE").read_text(encoding="utf-8")
    assert any(mathjax.rglob("*.woff"))
    assert sum(f.stat().st_size for f in mathjax.rglob("*") if f.is_file()) < 4e6


@pytest.mark.parametrize(
    "remote",
    [
        '<script src="https://a.b/c.js"></script>',
        '<script src="//a.b/c.js"></script>',
        "<script>import m from 'https://a.b/c.mjs'</script>",
        '<link rel="stylesheet" href="http://a.b/c.css">',
        '<img src="https://a.b/c.png">',
        '<img srcset="c.png 1x, https://a.b/c.png 2x">',
        "<style>@import 'https://a.b/c.css';</style>",
        "<style>p { background: url(//a.b/c.png) }</style>",
        "<p style=\"background: url('https://a.b/c.png')\"></p>",
        '<iframe src="https://a.b"></iframe>',
        '<video poster="https://a.b/c.png"></video>',
    ],
)
def test_whatever_is_remote_is_found(remote):
    assert html_pages.remote_references(f"<html><body>{remote}</body></html>")


def test_a_link_and_embedded_data_are_not_remote():
    harmless = '<a href="https://a.b">x</a><img src="data:image/png;base64,//AA"><img src="a//b.png">'
    assert html_pages.remote_references(harmless) == []


def test_a_remote_picture_in_a_lesson_fails_the_build(course, tmp_path, capsys):
    (tmp_path / "course.toml").write_text(COURSE, encoding="utf-8")
    picture = notebook("# One\n\n![a picture](https://example.org/a.png)")
    editions.write_if_changed(editions.notebook_path(tmp_path, "en", "01_one"), picture)
    assert html_pages.main(["--root", str(tmp_path)]) == 1
    assert "en/01_one.html would fetch https://example.org/a.png" in capsys.readouterr().out


def test_pages_of_lessons_that_are_gone_go(course, tmp_path):
    shutil.copytree(course, tmp_path / "c")
    (tmp_path / "c" / "notebooks" / "en" / "02_two.ipynb").unlink()
    html_pages.main(["--root", str(tmp_path / "c")])
    assert not (tmp_path / "c" / "build" / "html" / "en" / "02_two.html").exists()


# ---- in a browser


def rendered(file, tmp_path):
    """The page's HTML after MathJax has worked on it."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=60000",
        "--dump-dom",
    ]
    command = ["chromium", *options, file.as_uri()]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120).stdout


def broken_formulas(text):
    """Pieces of a rendered page where MathJax gave up or met an unknown command, which it sets in red."""
    return re.findall(r'<[^>]*(?:class="(?:merror|noError)|mathcolor="red"|color: red)[^>]*>[^<]*', text)


needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")


@needs_browser
def test_a_browser_sets_the_formulas_with_their_numbers(course, tmp_path):
    text = rendered(course / "build" / "html" / "en" / "01_one.html", tmp_path)
    assert len(re.findall(r'class="[^"]*MathJax_Display', text)) == 2
    assert ">(1.1)<" in text and ">(1.2)<" in text and not broken_formulas(text)


@needs_browser
@pytest.mark.parametrize("formula", [r"\unknown x", r"\frac{1", r"\begin{aligned} a"])
def test_a_browser_shows_a_broken_formula(formula, course, tmp_path):
    (tmp_path / "course.toml").write_text(COURSE, encoding="utf-8")
    path = editions.notebook_path(tmp_path, "en", "01_one")
    editions.write_if_changed(path, notebook(f"# One\n\n$${formula}$$"))
    html_pages.main(["--root", str(tmp_path)])
    assert broken_formulas(rendered(tmp_path / "build" / "html" / "en" / "01_one.html", tmp_path / "profile"))


# ---- the course itself


@pytest.fixture(scope="module")
def pages_of_the_course(tmp_path_factory):
    out = tmp_path_factory.mktemp("html")
    assert html_pages.build(ROOT, out) == []
    return out


def test_the_course_renders_with_nothing_remote(pages_of_the_course):
    written = {p.stem for p in (ROOT / "notebooks").glob("??/*.ipynb")}
    assert {p.stem for p in pages_of_the_course.glob("??/*.html")} == written


@needs_browser
@pytest.mark.parametrize("name", [f"{p.parent.name}/{p.stem}" for p in sorted(ROOT.glob("notebooks/??/*.ipynb"))])
def test_a_browser_sets_every_formula_of_the_course(name, pages_of_the_course, tmp_path):
    text = rendered(pages_of_the_course / f"{name}.html", tmp_path)
    assert "MathJax" in text and broken_formulas(text) == []
