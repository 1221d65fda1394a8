"""Runs lessons headlessly and measures them: `run` into build/run/, `execute` in place, for the outputs to commit.

`results` writes the tables.
"""

import argparse
import base64
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import nbformat
import psutil
from nbclient import NotebookClient

from aigc_course.course import find_lesson, lessons
from aigc_course.paths import BUILD, NOTEBOOKS, ROOT

MEASURED = BUILD / "run" / "measured.json"
CELL_TIMEOUT = 1200  # seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "execute", "results"])
    parser.add_argument("lessons", nargs="*", help="ids or names; all if none")
    options = parser.parse_args()
    chosen = [find_lesson(word) for word in options.lessons] or lessons()
    if options.command == "results":
        return results()
    for lesson in chosen:
        {"run": run, "execute": execute}[options.command](lesson)


def run(lesson):
    """Runs one lesson with papermill at `cpu` into build/run/."""
    target = BUILD / "run" / f"{lesson.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", lesson.notebook(), target, "--cwd", NOTEBOOKS / "en"]
    command += ["-p", "profile", "cpu", "--execution-timeout", str(CELL_TIMEOUT)]
    command += ["--no-progress-bar", "--log-level", "ERROR"]
    with tempfile.TemporaryDirectory() as checkpoints, Measurement() as measurement:
        code = subprocess.call(command, env={**os.environ, "AIGC_CHECKPOINTS": checkpoints})
    if code:
        sys.exit(f"{lesson.name} failed; {target.relative_to(ROOT)} shows where")
    note(lesson, measurement, nbformat.read(target, as_version=4))


class Measurement:
    """What a `with` block takes: `minutes`, and `peak`, the most memory of this process and its children, GB."""

    def __enter__(self):
        self.began, self.peak, self.over = time.monotonic(), 0.0, threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.minutes = (time.monotonic() - self.began) / 60
        self.over.set()

    def watch(self):
        process = psutil.Process()
        while not self.over.wait(0.2):
            try:
                family = [process, *process.children(recursive=True)]
                self.peak = max(self.peak, sum(p.memory_info().rss for p in family) / 1e9)
            except psutil.Error:
                pass  # one of them has just ended


def note(lesson, measurement, notebook):
    """Keeps what a whole run took, and its final figures, for `results`."""
    MEASURED.parent.mkdir(parents=True, exist_ok=True)
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    took = {"minutes": round(measurement.minutes, 2), "peak_gb": round(measurement.peak, 2)}
    measured[lesson.id] = {**took, **reported(notebook)}
    MEASURED.write_text(json.dumps(dict(sorted(measured.items())), indent=1), encoding="utf-8")
    print(f"{lesson.name}: {measurement.minutes:.1f} minutes, {measurement.peak:.1f} GB", flush=True)


def reported(notebook):
    """What `report(...)` stored in a notebook: {"profile": ..., "figures": {name: value}}."""
    for cell in reversed(notebook.cells):
        for output in cell.get("outputs", []):
            if "aigc" in output.get("metadata", {}):
                kept = output.metadata["aigc"]
                return {"profile": kept["profile"], "figures": dict(kept["figures"])}
    raise ValueError("the notebook's last code cell does not call report(...)")


def execute(lesson):
    """Runs the English edition in place at `cpu`; outputs and counts only, no timings in it. Then sync the Chinese."""
    if os.environ.get("AIGC_PROFILE", "cpu") != "cpu":
        sys.exit(f"AIGC_PROFILE is {os.environ['AIGC_PROFILE']!r}: outputs are committed from a run at 'cpu' only.")
    path = lesson.notebook()
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as checkpoints:
        os.environ |= {"AIGC_PROFILE": "cpu", "AIGC_CHECKPOINTS": checkpoints, "AIGC_PROGRESS": checkpoints}
        os.environ.pop("AIGC_LANG", None)
        client = NotebookClient(
            notebook, timeout=CELL_TIMEOUT, record_timing=False, coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        with Measurement() as measurement:
            client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                sys.exit(f"{lesson.name}: cell {cell.id} writes to stderr, nothing is saved: {output.text[:300]}")
    nbformat.write(notebook, path)
    note(lesson, measurement, notebook)
    print(f"{path.relative_to(ROOT)} executed; now `python tools/editions.py sync {lesson.id}`", flush=True)


def results():
    """Writes what `run` or `execute` measured: minutes into course.toml, the table and the picture of both READMEs."""
    if not MEASURED.exists():
        sys.exit("nothing is measured yet: `make run` first")
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    if wrong := [i for i, m in measured.items() if m["profile"] != "cpu"]:
        sys.exit(f"lessons {', '.join(wrong)} were not measured at 'cpu'")
    (ROOT / "docs" / "vae.png").write_bytes(figure(find_lesson("vae"), "latent-walk"))
    toml = ROOT / "course.toml"
    text = toml.read_text(encoding="utf-8")
    for lesson_id, found in measured.items():
        block = re.search(rf'\[\[lesson\]\]\nid = "{lesson_id}"\n(?:.+\n?)*', text)
        line = f"minutes = {math.ceil(found['minutes'])}\n"
        new = re.sub(r"minutes = .*\n?", "", block[0]).rstrip("\n") + "\n" + line
        text = text.replace(block[0], new)
    toml.write_text(text, encoding="utf-8")
    for language, readme in (("en", "README.md"), ("zh", "README.zh.md")):
        path = ROOT / readme
        table = "\n".join(table_rows(language, measured))
        before, rest = path.read_text(encoding="utf-8").split("<!-- lessons -->\n")
        after = rest[rest.index("\n<!-- /lessons -->") :]
        new = f"{before}<!-- lessons -->\n{table}{after}"
        path.write_text(new, encoding="utf-8")
    print("course.toml and the READMEs are written; now `python tools/generated_cells.py`")


def figure(lesson, cell_id):
    """The picture that a cell of a committed lesson shows, as the bytes of a PNG."""
    cell = next(c for c in nbformat.read(lesson.notebook(), as_version=4).cells if c.id == cell_id)
    return base64.b64decode(next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})))


def table_rows(language, measured):
    """The table of lessons in Markdown."""
    head = {
        "en": "| lesson | minutes | peak memory | final figure |",
        "zh": "| 课程 | 分钟 | 内存峰值 | 最终结果 |",
    }[language]
    yield head
    yield "|---|---|---|---|"
    for lesson in lessons():
        link = f"[{lesson.id} {lesson.title[language]}](notebooks/{language}/{lesson.name}.ipynb)"
        found = measured.get(lesson.id)
        if not found:
            yield f"| {link} | | | |"
            continue
        name, value = next(iter(found["figures"].items()))
        shown = f"{value:.4g}" if isinstance(value, float) else value
        yield f"| {link} | {found['minutes']:.1f} | {found['peak_gb']:.1f} GB | {name}: {shown} |"


if __name__ == "__main__":
    main()
