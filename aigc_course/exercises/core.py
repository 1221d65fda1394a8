"""What an exercise is, and how an answer to it is judged without harm to the learner's session.

The answer runs in a thread of its own, so that the notebook stays in charge: it can stop an endless loop, and
Interrupt works. Each call gets fresh random inputs; answer and solution are compared on several of them.
In three parts: judging, comparing, running.
"""

import ast
import contextlib
import ctypes
import dis
import inspect
import linecache
import random
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

TIME_LIMIT = 10.0  # seconds that one check may take
CASES = 8  # random inputs in one check
KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}  # of numbers; a lower one is accepted for a higher one
CONTAINERS = (np.ndarray, tuple, list, dict)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that a student would really write, and the hint that it draws in both languages."""

    function: Callable
    en: str
    zh: str


@dataclass(frozen=True)
class Result:
    """What a check found. `messages` is (English, Chinese), a line each."""

    passed: bool
    attempted: bool
    messages: tuple[str, str]
    interrupted: bool = False  # the answer itself raised KeyboardInterrupt


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    id: lesson and number, "21.2". solution: the reference, a function named as in the notebook.
    cases: torch.Generator -> tuple of arguments. It is called anew for every call of a function, draws
        everything from the generator, shapes included, and makes values with which every mistake shows.
    mistakes: at least two `Mistake`. hints: (English, Chinese) pairs, from vague to concrete.
    verify: (function, generator) -> None, or (English, Chinese) saying what is wrong. It takes the place of
        the comparison with the solution where an answer is not unique, as in sampling.
    rtol, atol: numbers agree if they differ by at most rtol * |expected| + atol * max(1, largest |expected|).
    same_dtype: not even float64 is accepted for float32.
    """

    id: str
    solution: Callable
    cases: Callable
    mistakes: tuple[Mistake, ...]
    hints: tuple[tuple[str, str], ...]
    verify: Callable | None = None
    rtol: float = 1e-4
    atol: float = 1e-5
    same_dtype: bool = False

    def check(self, function, *, seed=None, seconds=None):
        """The `Result` for an answer. Never raises, whatever the function does; only Interrupt gets through.

        seed: an integer, for the same inputs again. seconds: the limit, else TIME_LIMIT.
        """
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        seconds = TIME_LIMIT if seconds is None else seconds
        with session_kept():
            result, running = within(seconds, lambda: judge(self, function, seed))
        if result is None:
            en = " Restart the kernel to be rid of it." if running else ""
            zh = "请重启内核，才能把它彻底结束。" if running else ""
            result = not_yet(
                f"It was stopped after {seconds:g} s: is there a loop that never ends?{en}",
                f"运行 {seconds:g} 秒后被停止：是不是有停不下来的循环？{zh}",
            )
        en, zh = result.messages
        messages = f"Exercise {self.id} · {en}", f"练习 {self.id} · {zh}"
        return Result(result.passed, result.attempted, messages, result.interrupted)


# --- judging: is it an answer, does it agree with the solution, and if not, which mistake is it? ---


def judge(exercise, function, seed):
    """The Result for an answer, its messages still without the exercise's number."""
    if not callable(function):
        return not_yet(
            f'Give the function itself, without calling it: check("{exercise.id}", my_function).',
            f'请传入函数本身，不要先调用它：check("{exercise.id}", my_function)。',
        )
    if is_stub(function):
        return Result(False, False, ("not attempted yet.", "还没有作答。"))

    draw = random.Random(seed)
    seeds = [draw.getrandbits(32) for _ in range(CASES)]
    expected = [outcome(exercise.solution, exercise, s) for s in seeds]  # before the answer is run
    found = [outcome(function, exercise, s) for s in seeds]
    if exercise.verify is None:
        problems = [unusable(f) or difference(e, f, exercise) for e, f in zip(expected, found)]
    else:
        problems = [unusable(f) for f in found]
        problems = problems if any(problems) else [verified(exercise, function, seeds[0])]
    if not any(problems):
        return Result(True, True, ("passed ✓", "通过 ✓"))

    en, zh = next(filter(None, problems))
    right, total = problems.count(None), len(problems)
    if right:
        en = f"Right in {right} of {total} cases: is there a special case? {en}"
        zh = f"{total} 组输入中有 {right} 组正确：是不是漏了特殊情形？{zh}"
    for mistake in exercise.mistakes:
        if all(same(outcome(mistake.function, exercise, s), f, exercise) for s, f in zip(seeds, found)):
            raised = isinstance(found[0], Raised)  # then what Python said is worth reading too
            en = f"{en} Hint: {mistake.en}" if raised else f"Hint: {mistake.en}"
            zh = f"{zh}提示：{mistake.zh}" if raised else f"提示：{mistake.zh}"
            break
    return not_yet(en, zh, any(isinstance(f, Raised) and f.interrupt for f in found))


def not_yet(en, zh, interrupted=False):
    """The Result for a wrong answer."""
    return Result(False, True, (f"not yet. {en}", f"还不对。{zh}"), interrupted)


def outcome(function, exercise, seed):
    """What one call of the function gives on fresh inputs: its result in plain form, or `Raised`."""
    fresh_start(seed)
    arguments = exercise.cases(torch.Generator().manual_seed(seed))
    try:
        return plain(function(*arguments))
    except Stop:
        raise
    except BaseException as error:
        return Raised(error, function)


def verified(exercise, function, seed):
    """What the exercise's own `verify` says."""
    fresh_start(seed)
    try:
        return exercise.verify(function, torch.Generator().manual_seed(seed))
    except Stop:
        raise
    except BaseException as error:
        return Raised(error, function).messages


class Raised:
    """An exception, told in a line: type, message, and the line of the function where it happened."""

    def __init__(self, error, function=None):
        try:
            message = " ".join(str(error).split())[:200]
        except BaseException:
            message = ""
        self.text = type(error).__name__ + (f": {message}" if message else "")
        self.interrupt = isinstance(error, KeyboardInterrupt)
        code, where = code_of(function), ("", "")
        for frame, line in traceback.walk_tb(error.__traceback__):
            if frame.f_code is code:
                source = linecache.getline(code.co_filename, line).strip()
                where = f" (line {line}: `{source}`)", f"（第 {line} 行：`{source}`）"
        self.messages = f"It raised {self.text}{where[0]}.", f"运行时抛出了异常 {self.text}{where[1]}。"


def unusable(found):
    """What is wrong with an outcome that is no result at all, or None."""
    if isinstance(found, Raised):
        return found.messages
    if found is None:
        return "It returned None: did you forget `return`?", "函数返回了 None：是不是忘了写 `return`？"


def is_stub(function):
    """True if the body is nothing but `...` or `pass` after an optional docstring."""
    code = code_of(function)
    if code is None or code.co_name == "<lambda>":
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    for step in dis.get_instructions(code):
        if step.opname not in idle or ("CONST" in step.opname and step.argval is not None):
            return False
    try:  # `return None` makes the same bytecode as `...`: the source, where there is one, tells them apart
        definition = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
        body = definition.body[ast.get_docstring(definition) is not None :]
    except Exception:
        return True
    return all(ast.unparse(statement) in ("...", "pass") for statement in body)


def code_of(function):
    """The code object behind a function, method or decorated function; None for anything else."""
    with contextlib.suppress(Exception):
        function = inspect.unwrap(function)
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        return code if inspect.iscode(code) else None


# --- comparing: outcomes as NumPy arrays, so that no object of the answer's has a say in it ---


def plain(value):
    """A copy with tensors, arrays and numbers as NumPy arrays; what else there is stays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.to_dense() if value.layout is not torch.strided else value
        value = value.double() if value.dtype is torch.bfloat16 else value
        return np.array(value.resolve_conj().resolve_neg().numpy())
    if isinstance(value, (bool, int, float, complex, np.ndarray, np.generic)):
        array = np.array(value)
        return array if array.dtype.kind in KINDS else array.tolist()
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)(plain(item) for item in value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def same(one, other, exercise):
    """True if two outcomes are one and the same, exceptions included."""
    if isinstance(one, Raised) or isinstance(other, Raised):
        return type(one) is type(other) and one.text == other.text
    return difference(one, other, exercise) is None


def difference(expected, found, exercise):
    """None if two results agree, else (English, Chinese): the first thing that differs."""
    sequences = isinstance(expected, (tuple, list)) and isinstance(found, (tuple, list))
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray) and expected.shape == found.shape:
        return numbers_differ(expected, found, exercise)
    if sequences and len(expected) == len(found):
        parts = {i + 1: pair for i, pair in enumerate(zip(expected, found))}
    elif isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        parts = {key: (expected[key], found[key]) for key in expected}
    elif type(expected) is type(found) and not isinstance(found, CONTAINERS) and expected == found:
        return None
    else:
        (en, zh), (found_en, found_zh) = describe(expected), describe(found)
        return f"Expected {en}, found {found_en}.", f"应为{zh}，得到的是{found_zh}。"
    for name, (one, other) in parts.items():
        problem = difference(one, other, exercise)
        if problem:
            zh = f"第 {name} 项" if sequences else f" {name!r} 项"
            return f"In value {name!r} of the result: {problem[0]}", f"返回结果的{zh}：{problem[1]}"
    return None


def numbers_differ(expected, found, exercise):
    """`difference` for arrays of one shape. NaN agrees with NaN, infinity with itself, integers exactly."""
    kind = expected.dtype.kind
    if KINDS[found.dtype.kind] > KINDS[kind] or (exercise.same_dtype and found.dtype != expected.dtype):
        return (
            f"Expected numbers of type {expected.dtype}, found {found.dtype}.",
            f"数值类型应为 {expected.dtype}，得到的是 {found.dtype}。",
        )
    e, f = (array.astype(complex if kind == "c" else float) for array in (expected, found))
    with np.errstate(all="ignore"):
        finite = e - e == 0
        largest = abs(e[finite]).max(initial=1)
        limit = exercise.rtol * abs(e) + exercise.atol * largest if kind in "fc" else 0
        right = (e == f) | ((e != e) & (f != f)) | (finite & (abs(e - f) <= limit))
        gap = np.where(right, -1, np.nan_to_num(abs(e - f), nan=np.inf))
    if right.all():
        return None
    at = np.unravel_index(gap.argmax(), gap.shape)
    if gap.ndim == 0:
        en, zh = "The number is wrong:", "数值不对："
    else:
        wrong, index = gap.size - int(right.sum()), [int(i) for i in at]
        en = f"The shape is right, but {wrong} of {gap.size} numbers differ, most at index {index}:"
        zh = f"形状正确，但 {gap.size} 个数中有 {wrong} 个不对，差得最多的在下标 {index}："
    return f"{en} expected {e[at]:.6g}, found {f[at]:.6g}.", f"{zh}应为 {e[at]:.6g}，得到的是 {f[at]:.6g}。"


def describe(value):
    """What a result is, in a few words, in both languages."""
    if isinstance(value, np.ndarray):
        shape = value.shape
        return (f"a tensor of shape {shape}", f"形状为 {shape} 的张量") if shape else ("a number", "一个数")
    if isinstance(value, (tuple, list)):
        n, kind = len(value), type(value).__name__
        return f"a {kind} of {n} values", f"含 {n} 个值的 {kind}"
    if isinstance(value, dict):
        return f"a dict with the keys {list(value)}", f"键为 {list(value)} 的 dict"
    if type(value) in (str, bytes, set, frozenset):
        return f"{value!r:.80}", f" {value!r:.80}"
    return f"an object of type {type(value).__name__}", f"类型为 {type(value).__name__} 的对象"


# --- running: a thread that can be stopped, and a session that is left as it was ---


def fresh_start(seed):
    """The same state before every call; `session_kept` puts the learner's own back."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@contextlib.contextmanager
def session_kept():
    """Puts the global random generators and the default dtype back.

    Grad mode needs no care here: it belongs to a thread, and answers run in one of their own.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_default_dtype()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_default_dtype(states[3])
        torch.cuda.set_rng_state_all(cuda)


def within(seconds, job):
    """(job()'s Result, False), or for a job that takes longer and is stopped: (None, is it still running?).

    A loop in Python does stop; a call into C goes on until it returns. Interrupt stops the job as well.
    """
    run = SimpleNamespace(result=None, late=False, done=threading.Event())
    thread = threading.Thread(target=guard, args=(job, run), daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
    try:
        while time.monotonic() < end and not run.done.wait(0.05):  # on Windows no wait can be interrupted
            pass
    finally:
        run.late = not run.done.is_set()
        for _ in range(20 if run.late else 0):
            stop(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
            if run.done.wait(0.05):
                break
    return None if run.late else run.result, not run.done.is_set()


def guard(job, run):
    """Keeps job()'s Result and lets nothing out."""
    try:
        run.result = job()
    except Stop:
        sys.settrace(None)
    except BaseException as error:  # what the answer returned cannot even be looked at
        run.result = not_yet(*Raised(error).messages)
    finally:
        run.done.set()


class Stop(BaseException):
    """Ends an answer that takes too long. Swallowed by an `except:`, it comes back at the next line.

    A swallowed exception is deleted when its handler ends. At that moment we ask Python to trace the answer
    line by line, and the trace function raises the next Stop: after the handler, where that `except:` cannot
    catch it.
    """

    def __del__(self):
        frame, frames = sys._getframe().f_back, []
        while frame is not None and frame.f_code is not guard.__code__:
            frames.append(frame)
            frame = frame.f_back
        if frame is not None and frames and frame.f_locals["run"].late:  # it was swallowed inside the job
            sys.settrace(again)
            for frame in frames:
                frame.f_trace = again


def again(frame, event, argument):
    """Trace function that raises Stop wherever it is called."""
    if frame.f_code is not Stop.__del__.__code__:
        raise Stop
