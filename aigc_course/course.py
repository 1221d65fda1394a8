"""The list of lessons, read from course.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from aigc_course.paths import ROOT


@dataclass(frozen=True)
class Lesson:
    """One lesson: id "21", slug "vae", title {"en", "zh"}, ids of the lessons it needs, minutes on two cores."""

    id: str
    slug: str
    title: dict
    needs: tuple
    minutes: float | None

    @property
    def name(self):
        return f"{self.id}_{self.slug}"

    @property
    def part(self):
        return self.id[0]

    def notebook(self, language="en", root=ROOT):
        """Path of the notebook in one edition, whether it is written yet or not."""
        return Path(root) / "notebooks" / language / f"{self.name}.ipynb"


def config(root=ROOT):
    """course.toml as a dict."""
    return tomllib.loads((Path(root) / "course.toml").read_text(encoding="utf-8"))


def lessons(root=ROOT, planned=False):
    """The lessons in order; those that are not written yet only if `planned`."""
    listed = [
        Lesson(r["id"], r["slug"], {"en": r["en"], "zh": r["zh"]}, tuple(r["needs"]), r.get("minutes"))
        for r in config(root)["lesson"]
    ]
    return [lesson for lesson in listed if planned or lesson.notebook(root=root).exists()]


def find_lesson(word, root=ROOT):
    """The written lesson called by id ("21"), slug ("vae") or name ("21_vae"); ValueError names those there are."""
    for lesson in lessons(root):
        if word in (lesson.id, lesson.slug, lesson.name):
            return lesson
    raise ValueError(f"no lesson {word!r}; there are {', '.join(known.name for known in lessons(root))}")


def direct_needs(listed):
    """{id: ids of the lessons that it needs, less those that another of these needs already}, within `listed`.

    Where 12 needs 10 and 11, and 11 needs 10, that is {"10": (), "11": ("10",), "12": ("11",)}.
    """
    needs = {lesson.id: lesson.needs for lesson in listed}
    needs = {key: tuple(n for n in found if n in needs) for key, found in needs.items()}

    def before(key):
        return set(needs[key]).union(*map(before, needs[key]))

    return {key: tuple(n for n in found if not any(n in before(m) for m in found)) for key, found in needs.items()}
