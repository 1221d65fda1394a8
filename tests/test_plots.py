"""Figures: the pixels of a sheet of images, and a palette that every reader can tell apart."""

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from aigc_course.course import Lesson, direct_needs
from aigc_course.plots import COLOURS, show_images, show_lessons, use_course_style


@pytest.fixture(autouse=True)
def plain_matplotlib():
    with plt.rc_context():
        yield
    plt.close("all")


def sheet(ax):
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 1, 5, 4)])
def test_images_stand_row_by_row(shape):
    images = torch.rand(shape)
    ax = show_images(images, columns=3)
    pixels = sheet(ax)
    assert pixels.shape == (3 * 7, 3 * 6)  # a border of one pixel around each of 5 x 4
    for i, image in enumerate(images.reshape(7, 5, 4)):
        row, column = divmod(i, 3)
        tile = pixels[7 * row : 7 * row + 7, 6 * column : 6 * column + 6]
        np.testing.assert_array_equal(tile[1:-1, 1:-1], image)
        assert tile.sum() == pytest.approx(image.sum().item(), rel=1e-5)
    assert not pixels[14:, 6:].any()  # two places are empty
    assert ax.images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("top", [255, 1])
def test_bytes_are_scaled_by_255_however_dark_they_are(top):
    images = torch.randint(top + 1, (4, 6, 6), dtype=torch.uint8)
    for given in (images, images.numpy()):
        pixels = sheet(show_images(given, columns=1))
        np.testing.assert_allclose(pixels[1:7, 1:7], images[0].numpy() / 255, rtol=1e-6)


def test_a_float_that_is_a_little_over_1_does_not_darken_the_others():
    images = torch.full((2, 4, 4), 0.5)
    images[1, 0, 0] = 1.001
    assert sheet(show_images(images))[1, 1] == 0.5


def test_a_sheet_takes_part_in_a_figure():
    _, (left, right) = plt.subplots(1, 2)
    images = torch.rand(4, 3, 3, requires_grad=True)
    ax = show_images(images, columns=2, title="It learns", row_labels=["before", "after"], ax=right)
    assert ax is right and not left.images and ax.get_title(loc="left") + ax.get_title() == "It learns"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["before", "after"]
    assert list(ax.get_yticks()) == [2.5, 7.5] and list(ax.get_xticks()) == []
    assert list(show_images(images).get_yticks()) == []


def test_the_style_uses_the_palette():
    use_course_style()
    ax = plt.subplots()[1]
    drawn = [ax.plot([0, 1])[0].get_color() for _ in COLOURS]
    assert drawn == list(COLOURS) and len(set(COLOURS)) == 7


def test_colours_differ_for_colour_blind_readers():
    """Each pair, as a reader without the cones for green or red sees it (Vienot, Brettel and Mollon, 1999)."""
    linear = np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS]) ** 2.2
    to_cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    no_green = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    no_red = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    for missing in (np.eye(3), no_green, no_red):
        seen = linear @ (np.linalg.inv(to_cones) @ missing @ to_cones).T
        seen = seen.clip(0, 1) ** (1 / 2.2)
        distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(distances) > 0.1


def listed(**needs):
    """Lessons called by their ids, as in `listed(a01="", a02="01")`."""
    return [Lesson(key[1:], "s", {"en": f"Title {key[1:]}: more"}, tuple(n.split()), None) for key, n in needs.items()]


COURSE = listed(a00="", a01="", a02="01", a03="01 02", a10="01", a11="01 02 10", a12="10 99", a13="03 12", a20="01")


def test_direct_needs_leave_out_what_another_need_brings():
    found = direct_needs(COURSE)
    assert found["03"] == ("02",) and found["11"] == ("02", "10") and found["13"] == ("03", "12")
    assert found["12"] == ("10",), "99 is not listed"
    assert found["00"] == found["01"] == () and list(found) == [lesson.id for lesson in COURSE]
    for lesson in COURSE:  # brute force: with the direct needs alone one comes to the same lessons
        assert reached(found, lesson.id) == reached({x.id: x.needs for x in COURSE} | {"99": ()}, lesson.id) - {"99"}


def reached(needs, key):
    return set(needs[key]).union(*(reached(needs, other) for other in needs[key]))


def test_the_map_has_a_box_for_each_lesson_and_an_arrow_downwards_for_each_need():
    ax = show_lessons(COURSE, {"0": "Foundations", "1": "Language", "2": "Images"}, here="00")
    boxes = [(box.get_x(), box.get_y()) for box in ax.patches]
    assert len(boxes) == len(set(boxes)) == len(COURSE)
    assert all(abs(x - u) >= 0.92 or abs(y - v) >= 0.6 for i, (x, y) in enumerate(boxes) for u, v in boxes[:i])
    texts = [text.get_text() for text in ax.texts if text.get_text()]
    assert {text.split("\n")[0] for text in texts} == {lesson.id for lesson in COURSE} | {
        "Foundations",
        "Language",
        "Images",
    }
    assert "00\nTitle 00" in texts
    assert len(ax.lines) == sum(map(len, direct_needs(COURSE).values()))
    assert all(line.get_ydata()[0] < line.get_ydata()[-1] for line in ax.lines)  # the axis points down
    filled = [box for box in ax.patches if box.get_facecolor() != (1, 1, 1, 1)]
    assert len(filled) == 1
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    assert all(left < x and x + 0.92 < right and top < y and y + 0.6 < bottom for x, y in boxes)


def test_the_map_of_this_course_can_be_drawn():
    from aigc_course.course import config, lessons

    planned = lessons(planned=True)
    ax = show_lessons(planned, {digit: name["en"] for digit, name in config()["parts"].items()})
    assert len(ax.patches) == len(planned)
