"""Pages for reading offline: nothing remote in them, lessons linked to lessons, mathematics beside them.

Part of it happens in a browser: Chromium or one of its kin, driven by playwright, which brings none of its own here.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from playwright.sync_api import sync_playwright

from aigc_course.course import config, lessons

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import editions  # noqa: E402
import html_pages  # noqa: E402

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
COURSE = """
[title]
en = "The course"
zh = "课程"
[parts]
0 = { en = "Basics & more", zh = "基础" }
1 = { en = "Nothing yet", zh = "还没有" }
[[lesson]]
id = "01"
slug = "one"
en = "One & only"
zh = "其一"
needs = []
minutes = 0.6
[[lesson]]
id = "02"
slug = "two"
en = "Two"
zh = "其二"
needs = ["01"]
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
    assert pages == ["en/01_one.html", "en/02_two.html", "index.html", "index.zh.html", "zh/01_one.html"]
    for name in pages:
        assert html_pages.remote_references(page(course, name)) == []
        assert not re.search(r"cdnjs|unpkg|jsdelivr|require\.js|mermaid|jquery", page(course, name), re.I)
    assert "url(" not in page(course, "style.css") and "@import" not in page(course, "style.css")


def test_everything_that_a_page_loads_lies_beside_it(course):
    for name in ("en/01_one.html", "zh/01_one.html", "index.html", "index.zh.html"):
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
    for name in ("en/01_one.html", "en/02_two.html", "zh/01_one.html", "index.html", "index.zh.html"):
        folder = (course / "build" / "html" / name).parent
        for target in links(page(course, name)):
            assert ".ipynb" not in target
            path = target.partition("#")[0]
            assert not path or "://" in path or (folder / path).exists(), target


def test_every_lesson_leads_to_the_start_its_twin_and_its_neighbours(course):
    def navigation(name):
        found = BeautifulSoup(page(course, name), "html.parser").select("nav")
        assert str(found[0]) == str(found[-1])  # the same above and below
        return [(a["href"], a.text) for a in found[0].select("a")]

    assert navigation("en/01_one.html") == [
        ("../index.html", "All lessons"), ("../zh/01_one.html", "中文"), ("02_two.html", "Two →")
    ]  # fmt: skip
    assert navigation("zh/01_one.html") == [("../index.zh.html", "全部课程"), ("../en/01_one.html", "English")]
    assert navigation("en/02_two.html") == [("../index.html", "All lessons"), ("01_one.html", "← One & only")]
    assert navigation("index.html") == [("index.zh.html", "中文")]
    assert navigation("index.zh.html") == [("index.html", "English")]


def test_the_start_page_lists_the_lessons_by_part_with_minutes_and_needs(course):
    english = BeautifulSoup(page(course, "index.html"), "html.parser")
    chinese = BeautifulSoup(page(course, "index.zh.html"), "html.parser")
    assert english.html["lang"] == "en" and english.h1.text == english.title.text == "The course"
    assert chinese.html["lang"] == "zh" and chinese.h1.text == chinese.title.text == "课程"
    assert [h.text for h in english.select("h2")] == ["Basics & more"]  # a part without lessons is left out
    cells = [[td.text for td in row.select("td")] for row in english.select("tbody tr")]
    assert cells == [["01 One & only", "1", ""], ["02 Two", "", "01"]]
    assert [[td.text for td in row.select("td")] for row in chinese.select("tbody tr")] == [["01 其一", "1", ""]]
    assert links(page(course, "index.html")) == ["index.zh.html", "en/01_one.html", "en/02_two.html", "en/01_one.html"]


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


# ---- the course itself


@pytest.fixture(scope="module")
def pages_of_the_course(tmp_path_factory):
    out = tmp_path_factory.mktemp("html")
    assert html_pages.build(ROOT, out) == []
    return out


def test_the_course_renders_with_nothing_remote(pages_of_the_course):
    written = {p.stem for p in (ROOT / "notebooks").glob("??/*.ipynb")}
    assert {p.stem for p in pages_of_the_course.glob("??/*.html")} == written


def test_links_between_the_pages_of_the_course_lead_somewhere(pages_of_the_course):
    """Also those with a `#place`; the same links lead somewhere in Jupyter, which test_notebooks.py looks at."""
    places, links, lost = {}, [], []
    for file in sorted(pages_of_the_course.rglob("*.html")):
        soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        places[file] = {element["id"] for element in soup.select("[id]")}
        links += [(file, a["href"]) for a in soup.select("a[href]") if not re.match(r"[a-z]+:", a["href"])]
    for file, target in links:
        path, _, place = target.partition("#")
        leads_to = (file.parent / unquote(path)).resolve() if path else file
        known = places.get(leads_to, {place})  # nbconvert's ids stand in the page as they do in an address
        if not leads_to.exists() or place and not {place, unquote(place)} & known:
            lost.append((file.name, target))
    assert links and lost == []


# ---- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MUST_RUN = bool(os.environ.get("AIGC_MUST_RUN"))  # .ci/run sets it: a test that cannot be done there is a failure
needs_browser = pytest.mark.skipif(not CHROMIUM and not MUST_RUN, reason="needs the browser chromium")


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield browser
        browser.close()


class Reader:
    """Somebody at a browser, who notes what is wrong: errors, what would be fetched from elsewhere, broken formulas."""

    def __init__(self, chromium, **options):
        self.page = chromium.new_page(**options)
        self.wrong = []
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.note(request.url))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"not found: {request.url[:100]}"))

    def note(self, url):
        if not url.startswith(("file:", "data:")):
            self.wrong.append(f"remote: {url[:100]}")

    def open(self, file):
        self.page.goto(file.as_uri())

    def follow(self, text):
        """Clicks on the first link with this text."""
        self.page.get_by_role("link", name=text, exact=True).first.click()

    def problems(self):
        """What is wrong so far, and on the page that is open now, once its formulas are set."""
        if self.page.locator('script[src*="MathJax.js"]').count():
            self.page.wait_for_function("window.MathJax && MathJax.isReady")
            self.page.evaluate("new Promise(done => MathJax.Hub.Queue(done))")
        prose = (
            "let b = document.body.cloneNode(true); b.querySelectorAll('pre, code, script').forEach(e => e.remove()); "
        )
        raw = re.findall(r".{0,40}\$\$.{0,40}", self.page.evaluate(f"{{ {prose} b.textContent }}"))
        return self.wrong + broken_formulas(self.page.content()) + [f"raw: {text}" for text in raw]


@pytest.fixture
def reader(chromium):
    reader = Reader(chromium)
    yield reader
    reader.page.close()


def broken_formulas(text):
    """Pieces of a rendered page where MathJax gave up or met an unknown command, which it sets in red."""
    return re.findall(r'<[^>]*(?:class="(?:merror|noError)|mathcolor="red"|color: red)[^>]*>[^<]*', text)


@needs_browser
def test_a_browser_sets_the_formulas_with_their_numbers(course, reader):
    reader.open(course / "build" / "html" / "en" / "01_one.html")
    assert reader.problems() == []
    text = reader.page.content()
    assert len(re.findall(r'class="[^"]*MathJax_Display', text)) == 2
    assert ">(1.1)<" in text and ">(1.2)<" in text


@needs_browser
@pytest.mark.parametrize(
    "prose, problem",
    [
        (r"$$\unknown x$$", "unknown"),
        (r"$$\frac{1$$", "frac"),
        (r"$$\begin{aligned} a$$", "begin"),
        ("A formula $$ x = 1 without an end.", "raw: "),
        ("<script>console.error('it broke')</script>", "it broke"),
        ("<script>nothing.at.all</script>", "nothing is not defined"),
        ("<script src='http://127.0.0.1:9/require.js'></script>", "remote: http://127.0.0.1:9/require.js"),
        ("<script>fetch('http://127.0.0.1:9/a').catch(() => 0)</script>", "remote: http://127.0.0.1:9/a"),
        ("<img src='lost.png'>", "not found: "),
    ],
)
def test_a_reader_notices_what_is_wrong(prose, problem, course, tmp_path, reader):
    shutil.copytree(course / "build" / "html", tmp_path / "html")
    file = tmp_path / "html" / "en" / "01_one.html"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("</main>", f"<p>{prose}</p></main>"), encoding="utf-8")
    reader.open(file)
    assert any(problem in found for found in reader.problems())


def contrast(one, other):
    """The ratio of two colours' luminance, from 1 to 21 (WCAG 2.2); colours as a browser gives them, `rgb(1, 2, 3)`."""

    def luminance(colour):
        values = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


COLOURS = """selector => [...document.querySelectorAll(selector)].map(element => {
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
})"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(scheme, chromium, pages_of_the_course):
    assert 20.9 < contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") < 21.1
    reader = Reader(chromium, color_scheme=scheme)
    reader.open(pages_of_the_course / "en" / "21_vae.html")
    assert reader.problems() == []
    behind = reader.page.evaluate(COLOURS, "main")[0][1]
    assert (contrast(behind, "rgb(0, 0, 0)") > 10) == (scheme == "light")
    for selector, enough in {"p": 7, "a": 4.5, "td": 7, ".MathJax span": 7, "code": 7, "pre span:not(.w)": 4}.items():
        pairs = {tuple(pair) for pair in reader.page.evaluate(COLOURS, selector)}
        assert pairs and min(contrast(*pair) for pair in pairs) >= enough, (selector, pairs)
    picture = reader.page.evaluate(COLOURS, ".output_png img")[0][1]  # what shows through a transparent figure
    assert picture == "rgb(255, 255, 255)"
    reader.page.close()


@needs_browser
@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_a_walk_from_the_start_to_a_lesson_and_its_twin(lesson, pages_of_the_course, reader):
    def it_is_whole(language):
        assert reader.page.url.endswith(f"/{language}/{lesson.name}.html")
        assert reader.page.locator("h1").first.inner_text().startswith(f"{lesson.id} · {lesson.title[language]}")
        assert reader.problems() == []
        formulas = "$$" in lesson.notebook(language).read_text(encoding="utf-8")
        assert not formulas or reader.page.locator(".MathJax_Display").count()

    reader.open(pages_of_the_course / "index.html")
    assert reader.page.title() == config()["title"]["en"]
    reader.follow(f"{lesson.id} {lesson.title['en']}")
    it_is_whole("en")
    reader.follow("中文")
    it_is_whole("zh")
    reader.follow("全部课程")
    assert reader.page.title() == config()["title"]["zh"]
    reader.follow("English")
    assert reader.page.title() == config()["title"]["en"] and reader.problems() == []
