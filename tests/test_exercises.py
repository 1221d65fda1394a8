"""Every exercise of the course proves itself; the framework is tried on toy exercises and hostile answers."""

import _thread
import dataclasses
import functools
import importlib
import inspect
import json
import os
import random
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from aigc_course import exercises
from aigc_course.exercises import Exercise, Mistake, all_exercises, check, core, hint, solution

SEEDS = range(10)  # each of which makes core.CASES random inputs
CJK = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")  # characters and punctuation

# --- toy exercises: one that is compared, one with several outputs, one that is verified ---


def rms(x, eps):
    """Root mean square of each row: (B, d) -> (B,)."""
    return (x.pow(2).mean(1) + eps).sqrt()


def rms_cases(g):
    rows, columns = torch.randint(2, 6, (2,), generator=g).tolist()
    return torch.randn(rows, columns, generator=g), 0.5


RMS = Exercise(
    id="97.1",
    solution=rms,
    cases=rms_cases,
    mistakes=(
        Mistake(lambda x, eps: x.pow(2).mean(1).sqrt() + eps, "Is eps inside the root?", "eps 在根号内吗？"),
        Mistake(lambda x, eps: (x.pow(2).mean() + eps).sqrt(), "Which axis is averaged?", "对哪个轴取平均？"),
        Mistake(lambda x, eps: (x.pow(2).mean(1) + eps.item()).sqrt(), "eps is a number.", "eps 是一个数。"),
    ),
    hints=(("Square first.", "先平方。"), ("Then take the mean.", "再取平均。")),
)


def summary(words):
    """Number of words, share of each, and the longest."""
    counts = {word: words.count(word) / len(words) for word in words}
    return len(words), counts, max(words, key=len)


SUMMARY = Exercise(
    id="97.2",
    solution=summary,
    cases=lambda g: ([chr(97 + n) * (n + 1) for n in torch.randint(9, (7,), generator=g)],),
    mistakes=(
        Mistake(lambda words: (*summary(words)[:2], min(words)), "Longest, not shortest.", "要最长的"),
        Mistake(lambda words: (len(set(words)), *summary(words)[1:]), "Count repeats too.", "重复的也要算。"),
    ),
    hints=(("Use a dict.", "用字典。"),),
)


def roll(sides, n):
    """n throws of a die, int64 (n,)."""
    return torch.randint(1, sides + 1, (n,))


def verify_roll(function, g):
    throws = function(6, 5000)
    if throws.shape != (5000,):
        return "Return n throws.", "要返回 n 次结果。"
    if sorted(set(throws.tolist())) != [1, 2, 3, 4, 5, 6]:
        return "Look at the smallest and the largest throw.", "看看最小和最大的点数。"


ROLL = Exercise(
    id="97.10",
    solution=roll,
    cases=lambda g: (int(torch.randint(2, 20, (), generator=g)), 50),
    mistakes=(
        Mistake(lambda sides, n: torch.randint(0, sides, (n,)), "A die has no zero.", "骰子没有零点。"),
        Mistake(lambda sides, n: torch.randint(1, sides, (n,)), "The end is exclusive.", "上界不包含在内。"),
    ),
    hints=(("Use torch.randint.", "用 torch.randint。"),),
    verify=verify_roll,
)

TOYS = [RMS, SUMMARY, ROLL]
every = pytest.mark.parametrize("exercise", TOYS + all_exercises(), ids=lambda exercise: exercise.id)


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No test writes to the learner's progress or sees the language of whoever runs it."""
    monkeypatch.setenv("AIGC_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.delenv("AIGC_LANG", raising=False)
    monkeypatch.delenv("AIGC_STRICT", raising=False)
    exercises._hints_shown.clear()


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """The toys as a lesson module that is found like any other."""
    (tmp_path / "lesson_97.py").write_text("EXERCISES = ()\n", encoding="utf-8")
    monkeypatch.setattr(exercises, "__path__", [*exercises.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    module = importlib.import_module("aigc_course.exercises.lesson_97")
    monkeypatch.setattr(module, "EXERCISES", TOYS[::-1])
    yield module
    del sys.modules[module.__name__], exercises.lesson_97


# --- every exercise of the course ---


@every
def test_it_is_complete(exercise):
    assert re.fullmatch(r"\d\d\.[1-9]\d*", exercise.id)
    assert len(exercise.mistakes) >= 2 and len(exercise.hints) >= 1
    pairs = [(mistake.en, mistake.zh) for mistake in exercise.mistakes]
    assert len(set(pairs)) == len(pairs), "two mistakes draw the same hint"
    for en, zh in [*pairs, *exercise.hints]:
        assert en.strip() and not CJK.search(en) and CJK.search(zh)


@every
def test_the_solution_passes(exercise):
    assert exercise.check(exercise.solution).passed
    for seed in SEEDS:
        result = exercise.check(exercise.solution, seed=seed)
        assert result.passed and result.attempted, result.messages


@every
@pytest.mark.parametrize("body", ["...", "pass", '"""What it does."""\n    ...'])
def test_the_stub_is_not_attempted(exercise, body):
    result = exercise.check(stub(exercise.solution, body))
    assert not result.passed and not result.attempted
    assert "not attempted" in result.messages[0] and "还没有作答" in result.messages[1]


@every
def test_every_mistake_draws_its_own_hint(exercise):
    for mistake in exercise.mistakes:
        for seed in SEEDS:
            result = exercise.check(mistake.function, seed=seed)
            assert not result.passed and result.attempted
            assert result.messages[0].endswith(mistake.en) and result.messages[1].endswith(mistake.zh)


@every
def test_empty_answers_are_rejected(exercise):
    first = exercise.cases(torch.Generator().manual_seed(0))

    def constant(*arguments):
        return exercise.solution(*first)

    def zeros(*arguments):
        return like(exercise.solution(*arguments), lambda shape: np.zeros(shape))

    def noise(*arguments):
        return like(exercise.solution(*arguments), lambda shape: 3 * np.random.default_rng().random(shape))

    for answer in (constant, zeros, noise, lambda *arguments: arguments[0], lambda *arguments: None):
        for seed in SEEDS:
            assert not exercise.check(answer, seed=seed).passed


@every
def test_a_seed_makes_the_same_case_and_each_seed_another(exercise):
    first, again, other = (core.outcome(exercise.solution, exercise, seed) for seed in (1, 1, 2))
    assert core.same(first, again, exercise) and not core.same(first, other, exercise)


def test_numbers_are_unique_and_belong_to_their_lesson():
    ids = [exercise.id for exercise in all_exercises()]
    assert len(set(ids)) == len(ids)
    for name in exercises._modules():
        assert all(name == f"lesson_{exercise.id.split('.')[0]}" for exercise in exercises._load(name))


def stub(function, body):
    """A function of the same name and parameters that does nothing, without source code."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    names = inspect.Signature([p if p.default is p.empty else p.replace(default=None) for p in parameters])
    scope = {}
    exec(f"def {function.__name__}{names}:\n    {body}", scope)
    return scope[function.__name__]


def like(value, fill):
    """Something of the same structure and shapes, with other contents."""
    if isinstance(value, torch.Tensor):
        return torch.as_tensor(fill(tuple(value.shape))).to(value.dtype)
    if isinstance(value, np.ndarray):
        return fill(value.shape).astype(value.dtype)
    if isinstance(value, (tuple, list)):
        return type(value)(like(item, fill) for item in value)
    if isinstance(value, dict):
        return {key: like(item, fill) for key, item in value.items()}
    return type(value)(fill(())) if isinstance(value, (bool, int, float)) else type(value)()


# --- what a learner is told ---


def tell(exercise, function, seed=0):
    """The English message; the Chinese one must be there as well."""
    result = exercise.check(function, seed=seed)
    assert len(result.messages) == 2 and CJK.search(result.messages[1])
    assert not any("\n" in message for message in result.messages)
    return result.messages[0]


def test_messages_of_the_simple_cases():
    assert tell(RMS, rms) == "Exercise 97.1 · passed ✓"
    assert RMS.check(rms).messages[1] == "练习 97.1 · 通过 ✓"
    assert "did you forget `return`?" in tell(RMS, lambda x, eps: None)
    assert "without calling it" in tell(RMS, rms(torch.ones(2, 3), 0.1)) and "without" in tell(RMS, None)
    assert "Expected a tensor of shape (" in tell(RMS, lambda x, eps: rms(x, eps)[:, None])
    assert "found a number" in tell(RMS, lambda x, eps: 1.5)
    assert "found a list of" in tell(RMS, lambda x, eps: rms(x, eps).tolist())
    assert "found complex64" in tell(RMS, lambda x, eps: rms(x, eps) + 0j)
    assert "found nan" in tell(RMS, lambda x, eps: rms(x, eps) * float("nan"))
    assert "numbers differ, most at index [" in tell(RMS, lambda x, eps: 2 * rms(x, eps))
    assert "of 8 cases: is there" in tell(RMS, lambda x, eps: rms(x, eps) * (1 if len(x) > 3 else 2))
    assert "takes 1 positional argument but 2 were given" in tell(RMS, lambda x: x)
    assert "Cannot copy out of meta tensor" in tell(RMS, lambda x, eps: rms(x, eps).to("meta"))


def test_messages_of_structured_results():
    assert "Expected a tuple of 3 values, found a number" in tell(SUMMARY, lambda words: len(words))
    assert "of 3 values, found a tuple of 2" in tell(SUMMARY, lambda words: summary(words)[:2])
    upper = tell(SUMMARY, lambda words: (*summary(words)[:2], "X"))
    assert "In value 3 of the result: Expected '" in upper and "found 'X'" in upper
    doubled = tell(SUMMARY, lambda w: (len(w), {k: 2 * v for k, v in summary(w)[1].items()}, "a"))
    assert "In value 2 of the result: In value '" in doubled
    assert "found a dict with the keys [1]" in tell(SUMMARY, lambda words: (len(words), {1: 1}, "a"))
    assert "Longest, not shortest." in tell(SUMMARY, SUMMARY.mistakes[0].function)


def test_an_exception_is_told_with_its_line():
    def broken(x, eps):
        y = x * 2
        return y @ y

    line = inspect.getsourcelines(broken)[1] + 2
    told = tell(RMS, broken)
    assert "It raised RuntimeError: " in told and f"(line {line}: `return y @ y`)" in told
    told = tell(RMS, RMS.mistakes[2].function)
    assert "It raised AttributeError" in told and told.endswith("Hint: eps is a number.")
    told = tell(RMS, lambda x, eps: x.nothing)
    assert not told.endswith("Hint: eps is a number.")  # another AttributeError is not that mistake


def test_verify_speaks_and_recognises_mistakes():
    assert "A die has no zero." in tell(ROLL, ROLL.mistakes[0].function)
    assert "smallest and the largest" in tell(ROLL, lambda sides, n: torch.ones(n))
    assert "did you forget" in tell(ROLL, lambda sides, n: None)
    assert "It raised ZeroDivisionError" in tell(ROLL, lambda sides, n: 1 // (n < 100) + roll(sides, n))


@pytest.mark.parametrize("change", [
    lambda y: y.numpy(), lambda y: y.double(), lambda y: y.half().float() * 0 + y, lambda y: y + 1e-6,
    lambda y: y.clone().requires_grad_(), lambda y: torch.nn.Parameter(y), lambda y: y.to_sparse(),
])  # fmt: skip
def test_what_means_the_same_is_accepted(change):
    assert RMS.check(lambda x, eps: change(rms(x, eps))).passed


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("expected, found, passes", [
    (0.5, torch.tensor(0.5), True), (torch.tensor(0.5), 0.5, True), (0.5, np.float64(0.5), True),
    (2.0, 2, True), (1.0, True, True), (True, 1, False), (2, 2.0, False), ([1.0], torch.tensor([1.0]), False),
    (torch.ones(2), torch.ones(2, dtype=int), True), (torch.ones(2, dtype=int), torch.ones(2), False),
    (torch.zeros(0, 3), torch.zeros(0, 3), True), (torch.zeros(0, 3), torch.zeros(0, 4), False),
    (torch.ones(2).bfloat16(), torch.ones(2), True), (torch.ones(1), 1.0, False),
    (NAN, NAN, True), (1.0, NAN, False), (NAN, 1.0, False), (INF, INF, True), (INF, 1e30, False),
       (1.0, 1.00005, True), (1.0, 1.0003, False), (1 + 2j, 1 + 2j, True), (1 + 2j, 1 - 2j, False),
    ((2, 3), torch.Size([2, 3]), True), ((1.0, 2.0), [1.0, 2.0], True), ((1, 2), (1, 2, 3), False),
    ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"a": 2}, False), ({"a": 1}, {"b": 1}, False),
    ("a", "a", True), ("a", "b", False), (10**30, 10**30, True), ({1, 2}, {2, 1}, True), ({1}, {2}, False),
])  # fmt: skip
def test_numbers_tensors_and_kinds(expected, found, passes):
    toy = Exercise("97.3", lambda: expected, lambda g: (), (), ())
    assert toy.check(lambda: found).passed is passes


def test_an_exercise_sets_its_own_tolerance():
    loose = dataclasses.replace(RMS, rtol=1e-2, same_dtype=True)
    assert loose.check(lambda x, eps: 1.001 * rms(x, eps)).passed
    assert not loose.check(lambda x, eps: rms(x, eps).double()).passed


# --- stubs ---


def empty_with_text(x):
    """Says what it would do."""


def returns_none(x):
    return None


class Holder:
    def method(self, x): ...


def loud(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


@loud
@torch.no_grad()
def decorated(x):
    """Nothing yet."""
    pass


def test_what_counts_as_not_attempted():
    for answer in (empty_with_text, decorated, Holder().method, stub(rms, "pass"), stub(rms, "...")):
        assert core.is_stub(answer), answer
    scope = {}
    exec("async def waits(x):\n    ...\ndef number(x):\n    return 0\ndef assigns(x):\n    y = x", scope)
    answers = scope["waits"], scope["number"], scope["assigns"]
    for answer in (returns_none, lambda x: None, lambda x: ..., rms, print, torch.nn.ReLU(), *answers):
        assert not core.is_stub(answer), answer


# --- hostile answers ---


class Equal:
    """Says that it equals everything."""

    __hash__ = None
    __eq__ = __ge__ = __le__ = lambda self, other: True


class Liar:
    """Claims to be a tensor."""

    __class__ = torch.Tensor


class Unspeakable(BaseException):
    def __str__(self):
        raise Unspeakable


class Trap:
    """Cannot be looked at."""

    def __getattribute__(self, name):
        raise Unspeakable

    def __call__(self, *arguments):
        return self


def raises(error):
    raise error


def forever(*arguments):
    return forever(*arguments)


def nest():
    values = []
    values.append(values)
    return values


HOSTILE = [
    lambda x, eps: sys.exit(), lambda x, eps: raises(Unspeakable()), lambda x, eps: raises(GeneratorExit()),
    lambda x, eps: raises(KeyboardInterrupt()), lambda x, eps: raises(core.Stop()), forever,
    lambda x, eps: Equal(), lambda x, eps: [Equal()] * len(x), lambda x, eps: (Equal(),),
    lambda x, eps: Liar(), lambda x, eps: nest(), lambda x, eps: Trap(), lambda x, eps: {Trap(): 1},
    lambda x, eps: (row for row in x), lambda x, eps: np.array([None, 1]), lambda x, eps: np.array(["a"]),
    lambda x, eps: "text", lambda x, eps: type, lambda x, eps: core.Raised(ValueError()),
    lambda x, eps: x.resize_(0), lambda x, eps: x.set_(), Equal(), Trap(), Trap, int,
    torch.nn.ReLU(), ..., "rms", 3, None,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))  # pytest itself must not look at them
def test_hostile_answers_are_rejected(number):
    result = RMS.check(HOSTILE[number], seconds=2)
    assert result.passed is False and result.attempted is True and CJK.search(result.messages[1])


def test_patching_the_libraries_helps_nobody():
    patched = [(torch.testing, "assert_close"), (torch, "allclose"), (torch, "equal"), (np, "allclose"),
               (np, "array_equal"), (torch.Tensor, "allclose"), (torch.Tensor, "equal")]  # fmt: skip

    def answer(x, eps):
        for owner, name in patched:
            setattr(owner, name, lambda *a, **k: True)
        return torch.zeros(len(x))

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in patched:
            patch.setattr(owner, name, getattr(owner, name))  # to be put back
        assert not RMS.check(answer).passed and RMS.check(rms).passed


def test_each_call_gets_fresh_inputs():
    seen = []

    def spoils(x, eps):
        seen.append(x)
        result = rms(x, eps)
        x.zero_()
        return result

    assert RMS.check(spoils).passed
    assert len({id(x) for x in seen}) == core.CASES

    buffer = torch.zeros(9)  # results are copied at once, so that one buffer for all of them does no harm
    assert RMS.check(lambda x, eps: buffer[: len(x)].copy_(rms(x, eps))).passed


def test_new_inputs_at_every_check():
    seen = []
    for _ in range(2):
        RMS.check(lambda x, eps: seen.append(x) or rms(x, eps))
    assert len({x.sum().item() for x in seen}) == 2 * core.CASES


def test_the_session_stays_as_it_was():
    def selfish(x, eps):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        random.random(), np.random.rand(), torch.rand(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        np.seterr(all="raise")
        return rms(x, eps)

    def state():
        drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return drawn, np.geterr()

    with torch.inference_mode():
        RMS.check(rms)
        assert torch.is_inference_mode_enabled()
    before = state()
    assert RMS.check(selfish).passed and not RMS.check(lambda x, eps: selfish(x, eps) + 1).passed
    assert state() == before and torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32


# --- time and interrupts ---


def swallows(x, eps):
    while True:
        try:
            time.sleep(0.001)
        except:  # noqa: E722
            pass


def swallows_twice(x, eps):
    while True:
        try:
            while True:
                try:
                    len(range(100))
                except BaseException:
                    continue
        except BaseException:
            len("again")


def waits(x, eps):
    while True:
        eps += 1


def back_to(threads):
    """True as soon as no more threads are alive than before; a thread needs a moment to leave."""
    end = time.monotonic() + 2
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.01)
    return threading.active_count() <= threads


@pytest.mark.parametrize("answer", [waits, swallows, swallows_twice])
def test_an_endless_answer_is_stopped_and_really_ends(answer, capfd, monkeypatch):
    monkeypatch.setattr(core, "TIME_LIMIT", 0.2)
    threads, start = threading.active_count(), time.monotonic()
    result = RMS.check(answer)
    assert time.monotonic() - start < 5
    assert not result.passed and result.attempted
    assert result.messages[0].endswith("stopped after 0.2 s: is there a loop that never ends?")
    assert back_to(threads)
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_cannot_be_stopped_is_left_behind():
    threads = threading.active_count()
    result = RMS.check(lambda x, eps: time.sleep(1.5), seconds=0.1)
    assert "Restart the kernel" in result.messages[0] and "重启内核" in result.messages[1]
    assert back_to(threads)  # it ends as soon as Python has a say again


def test_interrupt_gets_through_and_ends_the_answer(toys, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores interrupts
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    threads = threading.active_count()
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        check("97.1", waits)
    timer.join()
    assert back_to(threads)
    with pytest.raises(KeyboardInterrupt):  # the answer's own gets through `check`, not through `.check`
        check("97.1", lambda x, eps: raises(KeyboardInterrupt()))


# --- check, hint, solution, progress ---


def test_check_prints_both_languages_or_one(toys, capsys, monkeypatch):
    check("97.1", stub(rms, "..."))
    assert capsys.readouterr().out == "Exercise 97.1 · not attempted yet.\n练习 97.1 · 还没有作答。\n"
    monkeypatch.setenv("AIGC_LANG", "en")
    check("97.1", RMS.mistakes[0].function)
    assert capsys.readouterr().out == "Exercise 97.1 · not yet. Hint: Is eps inside the root?\n"
    monkeypatch.setenv("AIGC_LANG", "zh")
    check("97.1", RMS.mistakes[0].function)
    assert capsys.readouterr().out == "练习 97.1 · 还不对。提示：eps 在根号内吗？\n"


def test_check_never_raises_for_a_wrong_number(toys, capsys):
    for call in (functools.partial(check, function=rms), hint, solution):
        call("97.7")
        out = capsys.readouterr().out
        assert "no exercise '97.7'" in out and "97.1" in out and "没有编号" in out
        call(97.1)
        assert "in quotes" in capsys.readouterr().out
    check(rms, "97.1")
    assert "in quotes" in capsys.readouterr().out
    check("../x", rms)
    check("", rms)
    assert capsys.readouterr().out.count("There is no exercise") == 2


def test_a_lesson_that_cannot_be_loaded_is_reported(toys, capsys, monkeypatch):
    monkeypatch.delattr(toys, "EXERCISES")
    check("97.1", rms)
    assert "could not be loaded: AttributeError" in capsys.readouterr().out
    monkeypatch.setattr(toys, "EXERCISES", TOYS, raising=False)


def test_strict_mode_raises(toys, monkeypatch):
    monkeypatch.setenv("AIGC_STRICT", "1")
    check("97.1", rms)
    for number, answer in (("97.1", stub(rms, "...")), ("97.1", lambda x, eps: x), ("97.7", rms)):
        with pytest.raises(AssertionError):
            check(number, answer)


def test_hints_come_one_after_the_other(toys, capsys):
    for _ in range(3):
        hint("97.1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Exercise 97.1 · hint 1 of 2: Square first.", "练习 97.1 · 提示 1/2：先平方。"]
    last = ["Exercise 97.1 · hint 2 of 2: Then take the mean.", "练习 97.1 · 提示 2/2：再取平均。"]
    assert lines[2:4] == lines[4:6] == last


def test_solution_shows_the_source(toys, capsys, monkeypatch):
    solution("97.1")
    assert capsys.readouterr().out == inspect.getsource(rms)

    import IPython

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": None}))
    monkeypatch.setattr("IPython.display.display", shown.append)
    solution("97.1")
    assert shown[0].data == f"```python\n{inspect.getsource(rms).strip()}\n```"


def test_all_exercises_are_sorted_by_number(toys):
    assert [exercise.id for exercise in all_exercises()][-3:] == ["97.1", "97.2", "97.10"]


def test_a_console_without_chinese(toys, monkeypatch):
    with open(os.devnull, "w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        check("97.1", rms)


def test_progress_is_kept(toys, tmp_path):
    stored = tmp_path / "progress" / "exercises.json"
    assert exercises.passed_exercises() == set()
    check("97.1", lambda x, eps: x)
    assert not stored.exists()
    check("97.1", rms)
    check("97.2", summary)
    content = stored.read_text(encoding="utf-8")
    check("97.1", rms)
    assert exercises.passed_exercises() == {"97.1", "97.2"} == set(json.loads(content))
    assert stored.read_text(encoding="utf-8") == content
    assert [path.name for path in stored.parent.iterdir()] == ["exercises.json"]


@pytest.mark.parametrize("damaged", [b"", b'{"97.2": ', b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_progress_file_is_replaced(toys, tmp_path, damaged):
    stored = tmp_path / "progress" / "exercises.json"
    stored.parent.mkdir()
    stored.write_bytes(damaged)
    assert exercises.passed_exercises() == set()
    check("97.1", rms)
    assert exercises.passed_exercises() == {"97.1"}


def test_a_failed_write_is_told_and_leaves_the_old_file(toys, tmp_path, monkeypatch, capsys):
    check("97.1", rms)

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    check("97.2", summary)
    assert exercises.passed_exercises() == {"97.1"}
    assert [path.name for path in (tmp_path / "progress").iterdir()] == ["exercises.json"]
    monkeypatch.setenv("AIGC_PROGRESS", str(tmp_path / "lesson_97.py"))  # a folder cannot be made of a file
    check("97.2", summary)
    said = capsys.readouterr().out
    assert exercises.passed_exercises() == set() and said.count("passed ✓") == 3
    assert said.count("could not be written") == 2 == said.count("name another folder in AIGC_PROGRESS")
    assert "(no space left)" in said and "学习进度无法写入（no space left）" in said
