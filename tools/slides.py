"""Slides of a lesson that need no network: `make slides LESSON=21`, or `python tools/slides.py 21`.

    python tools/slides.py 21              build/slides/21_vae.en.html and 21_vae.zh.html, with what they load beside
    python tools/slides.py types           gives every cell that has none its slide type, in both editions
    python tools/slides.py types --check   writes nothing, exits 1 where a cell has no slide type

nbconvert makes the slides from the types in the cells' metadata. `types` follows a simple rule (`slide_type`); a type
that somebody has chosen, in JupyterLab under "Property Inspector", is kept. reveal.js comes from the package pyreveal.
"""

import argparse
import ast
import importlib.util
import re
import shutil
import sys
from pathlib import Path

from nbconvert import SlidesExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import html_pages  # noqa: E402
from classroom import CARD, written_in  # noqa: E402
from editions import read, write_if_changed  # noqa: E402

from aigc_course.course import find_lesson, lessons  # noqa: E402

SET_UP = ("colab", "imports", "parameters", "resolve-profile", "report")
LINES = 26  # of text that a slide holds, a little smaller than usual
WIDTH = 110  # characters in a line of text
FIGURE = 13  # lines that a picture takes

REVEAL = ("LICENSE", "dist/reveal.js", "dist/reveal.css", "dist/theme/white.css", "dist/plugin/notes.js")

# nbconvert's page with its scripts and its mathematics from the folder beside it. All slides are laid out at once, so
# that MathJax can measure its formulas; then what is too high for the screen is made smaller.
TEMPLATE = r"""
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script type="text/x-mathjax-config">
MathJax.Hub.Config({
  jax: ["input/TeX", "output/HTML-CSS"],
  tex2jax: {inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]], processEscapes: true, processEnvironments: true},
  "HTML-CSS": {availableFonts: [], webFont: "STIX-Web", imageFont: null, matchFontHeight: false,
               undefinedFamily: "'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif"},
  showMathMenu: false, messageStyle: "none", skipStartupTypeset: true
});
</script>
<script src="mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"></script>
{%- endblock -%}
{%- block html_head_css -%}
<style>
.reveal .slides { text-align: left; }
.reveal .slides section { max-height: 100%; overflow: hidden auto; padding: 0; }
.reveal .slides :is(h1, h2, h3) { text-transform: none; letter-spacing: normal; font-weight: 600; }
.reveal .jp-RenderedHTMLCommon { line-height: 1.5; }
.reveal .jp-RenderedHTMLCommon h1 { font-size: 2em; }
.reveal .jp-RenderedHTMLCommon h2 { font-size: 1.6em; }
.reveal .jp-RenderedHTMLCommon h3 { font-size: 1.3em; }
.reveal pre { width: 100%; margin: 0; box-shadow: none; font-size: inherit; line-height: 1.35; }
.reveal img { margin: 0; max-height: 400px; }
.reveal .jp-Cell { padding: 0.2em 0; }
.reveal, .reveal .jp-RenderedHTMLCommon { font-family: "Source Sans Pro", "Noto Sans CJK SC", "Source Han Sans SC",
  "PingFang SC", "Microsoft YaHei", sans-serif; }
</style>
{%- endblock -%}
{%- block footer_js -%}
<script src="reveal/dist/reveal.js"></script>
<script src="reveal/dist/plugin/notes.js"></script>
<script>
function fit() {
  const height = Reveal.getConfig().height;
  for (const slide of document.querySelectorAll(".slides section:not(:has(section))")) {
    const needed = slide.scrollHeight;
    if (needed > height) slide.style.zoom = Math.max(0.6, height / needed);
  }
  Reveal.layout();
  document.body.classList.add("ready");
}
Reveal.initialize({width: 1180, height: 720, margin: 0.03, center: false, hash: true, slideNumber: "c/t",
                   viewDistance: 1000, mobileViewDistance: 1000, transition: "none", plugins: [RevealNotes]})
  .then(() => MathJax.Hub.Queue(["Typeset", MathJax.Hub], fit));
</script>
{%- endblock -%}
"""


# ---- slide types


def only_asserts(source):
    """True for code that shows nothing: asserts, and what prepares them."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    inner = [s for outer in statements for s in (outer.body if isinstance(outer, (ast.If, ast.For)) else [outer])]
    return all(isinstance(s, (ast.Assert, ast.Assign)) for s in inner) and isinstance(inner[-1], ast.Assert)


def height(cell):
    """About how many lines of text a cell takes on a slide, pictures and displayed formulas included."""
    lines = sum(1 + len(line) // WIDTH for line in cell.source.splitlines() if line.strip())
    lines += cell.source.count("$$") if cell.cell_type == "markdown" else 0
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        lines += FIGURE if "image/png" in data else len((output.get("text") or data.get("text/plain", "")).splitlines())
    return lines


def slide_types(notebook):
    """{cell id: slide type} by the rule, for all cells of the English edition.

    A heading begins a slide, a heading of the third level or a cell that does not fit any more a slide below it. Code
    that belongs to the text above it appears at a keypress. Set-up, exercises and cells that only assert are left out.
    """
    types, used, exercises = {}, 0, False
    for cell in notebook.cells:
        heading = re.match(r"(#+) ", cell.source) if cell.cell_type == "markdown" else None
        if cell.cell_type == "markdown" and (heading or CARD.search(cell.source)):
            exercises = bool(CARD.search(cell.source))
        lines = height(cell)
        hidden = cell.cell_type == "code" and not cell.get("outputs") and only_asserts(cell.source)
        if exercises or cell.id in SET_UP or hidden:
            types[cell.id] = "skip"
        elif heading and len(heading[1]) < 3:
            types[cell.id], used = "slide", lines
        elif heading or used + lines > LINES:
            types[cell.id], used = "subslide", lines
        else:
            types[cell.id], used = "fragment" if cell.cell_type == "code" else "-", used + lines
    return types


def missing_types(root=ROOT, write=False):
    """Paths of notebooks with cells that have no slide type; with `write` they get one."""
    found = []
    for lesson in lessons(root):
        types = slide_types(read(lesson.notebook("en", root)))
        for language in written_in(lesson, root):
            path = lesson.notebook(language, root)
            notebook = read(path)
            missing = [cell for cell in notebook.cells if "slideshow" not in cell.metadata]
            for cell in missing:
                cell.metadata["slideshow"] = {"slide_type": types.get(cell.id, "-")}
            if missing:
                found.append(path)
                if write:
                    write_if_changed(path, notebook)
    return found


# ---- slides


def render(lesson, language, out, root=ROOT):
    """Writes one lesson's slides in one language; returns their path."""
    notebook, page = read(lesson.notebook(language, root)), out / f"{lesson.name}.{language}.html"
    types = slide_types(read(lesson.notebook("en", root)))
    for cell in notebook.cells:
        cell.metadata.setdefault("slideshow", {"slide_type": types[cell.id]})
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?<!!)\[([^\]]*)\]\([^)]*\.ipynb[^)]*\)", r"\1", cell.source)  # no notebooks here
        if cell.id == "title":
            cell.source = cell.source.splitlines()[0]
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if html_pages.WIDGET not in o.get("data", {})]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["title"] = f"{lesson.id} · {lesson.title[language]}"
    exporter = SlidesExporter(
        config=Config({"NbConvertBase": {"display_data_priority": html_pages.SHOWN}}), raw_template=TEMPLATE,
        reveal_url_prefix="reveal", reveal_theme="white", language_code=language,
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    exporter.log.setLevel("ERROR")  # it asks for descriptions of pictures: in a lesson they are the text below
    text, _ = exporter.from_notebook_node(notebook)
    page.write_text(text, encoding="utf-8")
    return page


def build(chosen, root=ROOT, out=None):
    """Writes the slides of lessons and what they load; returns problems, one line each."""
    out = Path(out or root / "build" / "slides")
    html_pages.copy_mathjax(out / "mathjax")
    reveal = Path(importlib.util.find_spec("pyreveal").origin).parent / "revealjs"
    for part in REVEAL:
        (out / "reveal" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(reveal / part, out / "reveal" / part)
    problems = []
    for lesson in chosen:
        for language in written_in(lesson, root):
            page = render(lesson, language, out, root)
            remote = html_pages.remote_references(page.read_text(encoding="utf-8"))
            problems += [f"{page.name} would fetch {what[:100]}" for what in remote]
    return problems


def main(arguments=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("lessons", nargs="+", metavar="lesson", help="21 or vae; or the word `types`")
    parser.add_argument("--check", action="store_true", help="with types: write nothing")
    options = parser.parse_args(arguments)
    if options.lessons == ["types"]:
        found = missing_types(write=not options.check)
        for path in found:
            print(f"{'without slide types' if options.check else 'written'}: {path.relative_to(ROOT).as_posix()}")
        return int(options.check and bool(found))
    problems = build([find_lesson(word) for word in options.lessons])
    print("\n".join([*problems, f"open the pages in {ROOT / 'build' / 'slides'}; the key ? shows what keys do"]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
