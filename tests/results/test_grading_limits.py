"""Answers made to hurt: what each may cost, that nothing in one is run, and a worker that is killed at any moment."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from run_folders import record, run_folder

from sgl_specreason.errors import SpecReasonError
from sgl_specreason.plan.catalog import Grader
from sgl_specreason.results import answers, grading, math_worker, numerals
from sgl_specreason.results.answers import final
from sgl_specreason.results.grading import LONGEST_MATH, grade
from sgl_specreason.results.math_worker import LIMIT_S, WALL_S, Worker
from sgl_specreason.results.mathematics import (
    characters,
    choices,
    digits,
    equality,
    quantities,
    reading,
    regions,
    spelling,
    structure,
    words,
)

START_S = 20.0  # a new worker imports sympy, on a shared machine
HERE_S = 5.0
MEMORY_BYTES = 500_000_000
MB = 1_000_000
PACKAGE = Path(grading.__file__).parents[1]


class Peak:
    """The most memory that the grader's worker had resident, read from the kernel while it works."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            process = math_worker._worker._process
            try:
                status = Path(f"/proc/{process.pid}/status").read_text() if process else ""
            except OSError:
                continue
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                self.bytes = max(self.bytes, 1024 * int(found[1]))


def costs_little(answer: str, gold: str, grader: Grader) -> grading.Verdict:
    """Grades it within the worker's limits and few seconds here, after which an ordinary comparison is right again."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Peak() as peak:
        begin, begin_here = time.monotonic(), time.process_time()
        verdict = grade(answer, gold, grader)
        assert time.monotonic() - begin < WALL_S + START_S
        assert time.process_time() - begin_here < HERE_S
    assert peak.bytes < MEMORY_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB, here
    assert grade("\\boxed{\\frac{2}{4}}", "0.5", "math").correct
    assert not grade("\\boxed{\\frac{2}{5}}", "0.5", "math").correct
    return verdict


ENDLESS = {  # these take all the time that they get, or much of it
    "a tower of powers": "9^{9^{9^9}}",
    "a power of a power": "10^{10^8}",
    "a factorial of factorials": "9!!!!",
    "a factorial of a power": "(10^{10})!",
    "a binomial": "\\binom{10^9}{10^8}",
    "a long sum": "\\sum_{k=1}^{10^9} \\frac{1}{k^2}",
    "an integral": "\\int_0^1 e^{x^{x^x}} dx",
    "a polynomial's power": "(x+y+z+1)^{200}",
    "nested parentheses": "(" * 900 + "x" + ")" * 900,
    "nested braces": "{" * 900 + "x" + "}" * 900,
    "a set of 400": "\\{" + ",".join(map(str, range(400))) + "\\}",
}
HARD = {
    "a factorial": "100000!",
    "a binomial's large power": "(x+1)^{10^6}-1",
    "exponentials of exponentials": "e^{e^{e^{e^{10}}}}",
    "a power of plain text": "9**9**9**9",
    "nested fractions": "\\frac{1}{" * 190 + "2" + "}" * 190,
    "nested roots": "\\sqrt{" * 180 + "2" + "}" * 180,
    "nested powers": "2^{" * 300 + "2" + "}" * 300,
    "2,000 digits": "9" * 1990 + "x",
    "many digits after the point": "0." + "3" * 1900,
    "a matrix": "\\begin{pmatrix}" + "\\\\".join(["1&2&3"] * 150) + "\\end{pmatrix}",
    "a union of intervals": "\\cup".join(f"[{k},{k + 1}]" for k in range(0, 240, 2)),
    "many equations": "=".join(["x"] * 900),
    "a sum of roots": "+".join(f"\\sqrt{{{k}}}" for k in range(2, 150)),
    "signs": "+-" * 900 + "1",
    "bars": "|" * 500 + "x" + "|" * 500,
    "NUL": "1\0+\0" + "2",
    "unicode digits": "١٢٣+٠",
    "a lone surrogate": "\ud800+1",
}


@pytest.mark.parametrize(
    "answer",
    [
        *(pytest.param(answer, id=name) for name, answer in HARD.items()),
        *(pytest.param(answer, id=name, marks=pytest.mark.slow) for name, answer in ENDLESS.items()),
    ],
)
def test_mathematics_made_to_hurt_costs_at_most_the_limit(answer: str) -> None:
    verdict = costs_little(f"\\boxed{{{answer}}}", "5x+\\frac{1}{2}", "math")
    assert not verdict.correct
    assert grade(f"\\boxed{{{answer}}}", answer, "math").correct


LONG = {
    "digits": "9" * MB,
    "digits in groups": "123" + ",456" * (MB // 4),
    "open braces": "{" * 300_000,
    "closed braces": "}" * 300_000,
    "balanced braces": "{" * 300_000 + "}" * 300_000,
    "backslashes": "\\" * (MB - 1),
    "commas": "," * MB,
    "blanks": "1" + " " * MB + "x",
    "a set of 100,000": "\\{" + ",".join(map(str, range(100_000))) + "\\}",
    "a matrix of 30,000": "\\begin{pmatrix}" + "\\\\".join(["1&2&3"] * 30_000) + "\\end{pmatrix}",
    "10,000 fractions deep": "\\frac{1}{" * 10_000 + "2" + "}" * 10_000,
    "10,000 roots deep": "\\sqrt{" * 10_000 + "2" + "}" * 10_000,
    "10,000 parentheses deep": "(" * 10_000 + "x" + ")" * 10_000,
    "10,000 braces deep": "{" * 10_000 + "x" + "}" * 10_000,
    "text after text": "\\text{a}" * 100_000,
    "text never closed": "\\text{" + "a " * 300_000,
    "unicode digits": "١" * MB,
    "NULs": "\0" * MB,
    "emoji": "🦆" * 300_000,
    "lines": "x\n" * 300_000,
    "a box in a box": "\\boxed{" * 100_000 + "1" + "}" * 100_000,
}


@pytest.mark.parametrize("answer", LONG.values(), ids=LONG)
def test_long_answers_cost_next_to_nothing_with_every_grader(answer: str) -> None:
    for grader in get_args(Grader):
        for text, gold in ((f"\\boxed{{{answer}}}", "7"), (f"\\boxed{{{answer}", "7"), ("\\boxed{7 cm}", answer)):
            assert not costs_little(text, gold, grader).correct, grader


def test_an_output_of_10_mb_costs_little_more() -> None:
    for text in ("\\boxed{" * 1_400_000, "\\boxed{" + "a" * 10 * MB, "</think>" * 1_200_000, "#### 1" * 1_600_000):
        for grader in get_args(Grader):
            costs_little(text, "7", grader)


def test_an_integer_of_any_length_is_compared_and_never_an_exception() -> None:
    """Python refuses to read more than 4,300 digits at once: that ended a run."""
    long = "123" + ",456" * 3000
    assert grade(f"\\boxed{{{long}}}", "7", "integer").correct is False
    assert grade(f"\\boxed{{{long}}}", long, "math").correct is True
    assert grade("\\boxed{1" + ",000" * 300 + "}", "1" + "000" * 300, "integer").correct is True


def test_a_number_is_not_looked_for_in_a_novel() -> None:
    """Only its beginning was read, and what stood there was the answer."""
    assert grade("\\boxed{18" + " " * 3000 + "19}", "#### 18", "number").correct is False


MODULES = (
    answers,
    numerals,
    characters,
    choices,
    digits,
    equality,
    quantities,
    reading,
    regions,
    spelling,
    structure,
    words,
)
PATTERNS = {
    f"{module.__name__.rpartition('.')[2]} {name}": pattern
    for module in MODULES
    for name, pattern in vars(module).items()
    if isinstance(pattern, re.Pattern)
}
# Only ever matched with a whole text, or from a place in it; all others are looked for everywhere.
FROM_A_PLACE = re.compile(
    r"answers _(BOX|UNBRACED|BETWEEN)|numerals _(INTEGER|NUMBER|FRACTION)|choices _(LETTER|AFTER|BEFORE)"
    r"|equality _(LETTERED|LETTERED_TEXT|PLAIN_NUMBER)|quantities _(TIME|BASE|BASE_SAID)"
    r"|regions _(VARIABLE|MEMBER|BUILDER|INTERVAL|HALF_OPEN)|words _(SAID|SO|ONLY_WORDS)"
    r"|structure _(CASES|IN|MEMBER|LABEL|FRACTION_LABEL|TUPLE_LABEL|OPERATION|CALLED)"
)
BAIT = [
    "1", "1,", ",1", "1,234", "1.", ".", ",", "-", "+", " ", "\n", "1 ", "1 1/1 ", "1/", "a", "a ", "A:", "(", ")", "(a)", "f_",
    "1e", "e1", "_", "a_1", "a_{", "a(", "=", "a=", "{", "}", "{}", "{a}", "\\", "\\\\", "$", "\\$", "~", "\\text{", "\\text ",
    "\\text{a", "\\text{a}", "\\text{a }", "\\text{a}^", "\\text{a}^{1", "\\frac", "\\frac ", "\\frac1", "\\frac{", "\\frac{1}",
    "\\left", "\\quad", "\\quad ", "\\!", "\\{", "٣", "\0", "\\boxed", "\\boxed{", "#### ",
]  # fmt: skip
EDGES = [
    ("", ""),
    ("\\text{ a", ""),
    ("1", "x"),
    ("\\text", "{"),
    ("a_{", "("),
    ("\\frac", "x"),
    ("", "/x"),
    ("-", "\\text{m"),
]


def seconds(pattern: re.Pattern[str], text: str, *, everywhere: bool) -> float:
    begin = time.process_time()
    _ = deque(pattern.finditer(text), maxlen=0) if everywhere else (pattern.fullmatch(text), pattern.match(text))
    return time.process_time() - begin


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_takes_more_than_linear_time(name: str) -> None:
    """Outputs are megabytes, and made to hurt. Where the answer stands is looked for in all of one; what it means only where it
    has 2,000 characters at most, at which a quadratic pattern takes many times as long as a linear one."""
    far = name.startswith("answers") or name == "numerals _INTEGER"
    length, most = (20_000, 0.2) if far else (LONGEST_MATH, 0.05)
    for bait in BAIT:
        for before, after in EDGES:
            text = before + bait * (length // len(bait)) + after
            for _ in range(3):  # the machine has other work
                took = seconds(PATTERNS[name], text, everywhere=not FROM_A_PLACE.fullmatch(name))
                if took < most:
                    break
            assert took < most, (before, bait, after)


def test_spelling_an_answer_costs_milliseconds_whatever_it_is() -> None:
    for bait in BAIT:
        for before, after in EDGES:
            text = before + bait * (LONGEST_MATH // len(bait) - 10) + after
            begin = time.process_time()
            for read in (
                numerals.integer,
                numerals.decimal,
                choices.choice,
                lambda text: words.worded(spelling.spelled(text)),
            ):
                read(text)
            assert time.process_time() - begin < 1.0, (before, bait, after)


def test_the_last_box_is_found_as_before_among_escapes() -> None:
    for text, box in [
        ("\\boxed{a\\}b}", "a\\}b"),
        ("\\boxed{a\\\\}b}", "a\\\\"),
        ("\\boxed{\\{a}", "\\{a"),
        ("\\boxed{a\\", None),
        ("\\boxed{{a}{b}}", "{a}{b}"),
    ]:
        found = final(text)
        assert (found.boxes[0] if found else None) == box


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker._end()


def killed(worker: Worker) -> None:
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGKILL)


def test_a_worker_killed_between_two_comparisons_is_replaced(worker: Worker) -> None:
    for _ in range(3):
        assert worker.equal("x+1", "1+x") == (True, "math-verify")
        killed(worker)


def test_a_worker_killed_in_the_moment_of_writing_is_replaced(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is broken then, which ended the run."""
    running, kills = worker._running, iter([True, False])

    def dying() -> subprocess.Popen[bytes]:
        process = running()
        if next(kills, False):
            process.kill()
            process.wait()
        return process

    monkeypatch.setattr(worker, "_running", dying)
    assert worker.equal("x+1", "1+x") == (True, "math-verify")


@pytest.mark.slow
def test_a_worker_killed_while_it_works_is_asked_again(worker: Worker) -> None:
    """By somebody else, as the kernel does when memory is short: that is not its time limit."""
    assert worker.equal("x+1", "1+x")[0]
    timer = threading.Timer(0.2, killed, [worker])
    timer.start()
    begin = time.monotonic()
    assert worker.equal("9^{9^{9^9}}", "5x") == (False, "timeout")
    assert time.monotonic() - begin > LIMIT_S
    assert worker.equal("x+1", "1+x")[0]


@pytest.mark.slow
def test_the_limit_is_of_processor_time(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has to wait for its turn, as on a machine with much else to do, gives the verdict all the same."""
    assert worker.equal("x+1", "1+x")[0]
    assert worker._process is not None
    pid = worker._process.pid
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(LIMIT_S + 1, os.kill, [pid, signal.SIGCONT])
    timer.start()
    assert worker.equal("x+2", "2+x") == (True, "math-verify")
    monkeypatch.setattr(math_worker, "WALL_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    assert worker.equal("x+3", "3+x") == (False, "timeout")


def test_workers_that_are_always_killed_fail_the_comparison_and_not_the_run(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = worker._running

    def dying() -> subprocess.Popen[bytes]:
        process = running()
        process.kill()
        return process

    monkeypatch.setattr(worker, "_running", dying)
    assert worker.equal("x+1", "1+x") == (False, "failed")


def test_a_worker_that_never_starts_is_said_in_one_line(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SpecReasonError, match="does not start; is math-verify installed"):
        worker.equal("x+1", "1+x")


def test_a_worker_is_heard_where_many_files_are_open(worker: Worker) -> None:
    """select() takes no descriptor above 1023: a run of 256 trajectories side by side has more connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    try:
        copies = [os.dup(0) for _ in range(1100)]
        try:
            assert worker.equal("x+1", "1+x") == (True, "math-verify")
        finally:
            for copy in copies:
                os.close(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def payloads(canary: Path) -> list[str]:
    """Texts that would make the file `canary` if anything ran them."""
    touch = f"__import__('os').system('touch {canary}')"
    return [
        touch,
        f"lambda: {touch}",
        f"(lambda: {touch})()",
        f'exec("{touch}")',
        f"eval({touch!r})",
        f"1 + {touch}",
        f"x = {touch}",
        f"[{touch} for _ in range(1)]",
        f"Symbol('x').__class__.__mro__[-1].__subclasses__() or {touch}",
        f"\\text{{{touch}}}",
        f"\\operatorname{{{touch}}}",
        f"\\frac{{{touch}}}{{2}}",
        f"2, {touch}",
        f"\\input{{|touch {canary}}}",
        f"\\immediate\\write18{{touch {canary}}}",
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"; touch {canary} #",
        f"{{{{ {touch} }}}}",
        f"{{% set x = {touch} %}}",
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"cos\nsystem\n(S'touch {canary}'\ntR.",
        f"%(x)s {{0.__class__}} ${{{touch}}}",
        f"2**{touch}",
        f"1/2 + ({touch})",
    ]


WORKER_UNDER_AUDIT = """
import os, re, sys
from sgl_specreason.results import math_worker

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
ONE_NUMBER = re.compile(r"(Integer|Float|Symbol) \\('?[\\w.]+'? \\)")

def look(event, args):
    if event in FORBIDDEN:
        print(event, args, file=sys.stderr)
    if event == "compile" and args[0] is not None and not os.path.exists(str(args[1])):
        source = args[0] if isinstance(args[0], str) else bytes(args[0]).decode()
        if re.search("Integer|Float|__import__|touch|system", source) and not ONE_NUMBER.fullmatch(source):
            print("compiled", source, file=sys.stderr)

sys.addaudithook(look)
math_worker.LIMIT_S = 60.0
math_worker.serve()
"""


def test_nothing_in_an_answer_is_compiled_or_run_by_the_worker(tmp_path: Path) -> None:
    """Under an audit hook. sympy evaluates the text of single numbers, "Integer (7 )", and nothing else of an answer; a plain
    sum, which math-verify would have evaluated whole, is read as LaTeX."""
    canary = tmp_path / "canary"
    answers = [*payloads(canary), "9*9", "2**3", "1 + 2 * 3", "1/2 + 1/3", "(1+2)/3"]
    pairs = [["x+1", "1+x"], ["\\frac{1}{2}", "0.5"], *([answer, "7"] for answer in answers)]
    pairs += [["7", answer] for answer in answers]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORKER_UNDER_AUDIT],
        input="".join(json.dumps(pair) + "\n" for pair in pairs),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    replies = done.stdout.split()
    assert replies[:3] == ["ready", "yes", "yes"]
    assert len(replies) == 1 + len(pairs)
    assert done.stderr == ""
    assert not canary.exists()


@pytest.mark.parametrize("grader", get_args(Grader))
def test_code_in_an_answer_or_in_the_gold_is_text(tmp_path: Path, grader: Grader) -> None:
    canary = tmp_path / "canary"
    for text in payloads(canary):
        assert not grade(f"\\boxed{{{text}}}", "7", grader).correct
        assert not grade("\\boxed{7}", text, grader).correct
    assert not canary.exists()


REPORT_UNDER_AUDIT = """
import runpy, sys, sysconfig
canary, module, *words = sys.argv[1:]
problems = []

def look(event, args):
    if event == "compile" and args[0] is not None:
        source = args[0] if isinstance(args[0], str) else bytes(args[0]).decode("utf-8", "replace")
        if canary in source:
            problems.append(("compiled", source))
    elif event == "subprocess.Popen" and list(args[1])[1:] != ["-P", "-m", "sgl_specreason.results.math_worker"]:
        problems.append((event, args[1]))
    elif event in ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"):
        problems.append((event, args))

sys.addaudithook(look)
sys.argv = [module, *words]
try:
    if module.endswith(".py"):
        sys.path.insert(0, PLOTS)
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as ended:
    if ended.code:
        raise
allowed = [*sysconfig.get_paths().values(), PACKAGE, PLOTS]
allowed = [path.rstrip("/") + "/" for path in allowed]
for name, found in list(sys.modules.items()):
    file = getattr(found, "__file__", None)
    if file and not file.startswith(tuple(allowed)):
        problems.append(("imported", name, file))
sys.exit(f"{problems}" if problems else 0)
"""


def hostile_run(folder: Path, canary: Path, **changes: str) -> Path:
    """A run folder that is well formed, and in which every text is code."""
    texts = payloads(canary)
    records = [
        record(
            number,
            correct=False,
            answer_text=f"\\boxed{{{text}}}",
            answer=text,
            gold=text if number % 2 else "7",
            grader="math",
            stop_reason=text,
            steps=[
                {"by": "small", "text": text, "tokens": 3, "ending": text, "score": 9.0, "accepted": True},
                {"by": "base", "text": text, "tokens": 3, "draft": {"text": text, "tokens": 2}, "score": 1.0},
            ],
            requests=[{"engine": "base", "purpose": text, "start_s": 0.0, "seconds": 1.0, "prompt_tokens": 1}],
        )
        | {"problem_id": f"{number} {text}"}
        for number, text in enumerate(texts)
    ]
    words = {"bench": texts[0], "pair": texts[15], "preset": texts[18], "prompts": {"judge": texts[3]}}
    return run_folder(folder, records, **(words | changes))


NAMES = [
    "json", "sitecustomize", "usercustomize", "click", "math_verify", "sympy", "numpy", "matplotlib", "decimal", "statistics",
    "select", "resource", "orjson", "html", "tomllib", "hashlib", "logging", "dataclasses", "fcntl", "drawing", "pareto",
    "base64", "records", "report", "grading", "math_worker", "latex2sympy2_extended", "plots/pareto", "plots/drawing",
    "plots/__init__", "page/__init__", "eval/__init__", "prompts/__init__",
]  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """A working directory full of modules that others are named like, each of which makes the file `canary` when it is run."""
    here, canary = tmp_path / "here", tmp_path / "canary"
    for name in NAMES:
        file = here / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(canary)!r}, 'a').write({name!r})\nraise SystemExit('run: ' + {name!r})\n")
    return here, canary


COMMANDS = {
    "table": ["sgl_specreason.report", "RUN", "BASE"],
    "rescore": ["sgl_specreason.report", "--rescore", "RUN", "BASE"],
    "json": ["sgl_specreason.report", "--json", "RUN"],
    "show": ["sgl_specreason.report", "--show", "RUN", "0 PAYLOAD"],
    "page": ["sgl_specreason.report", "--html", "-o", "OUT.html", "RUN", "BASE"],
    "calibration": ["sgl_specreason.report", "--calibrate", "RUN", "BASE"],
    "plot": ["plots/pareto.py", "-o", "OUT.svg", "RUN", "BASE"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_report_runs_or_imports_anything_of_a_run_folder_or_of_the_working_directory(
    words: list[str], trap: tuple[Path, Path], tmp_path: Path
) -> None:
    """Twice: under an audit hook, and as a user calls it, with python -m in a folder of traps."""
    here, canary = trap
    run = hostile_run(tmp_path / "run", canary)
    base = hostile_run(tmp_path / "base", canary, method="base")
    (run / "json.py").write_text((here / "json.py").read_text())
    plots = PACKAGE.parent / "plots"
    real = {"RUN": str(run), "BASE": str(base), "0 PAYLOAD": f"0 {payloads(canary)[0]}"}
    words = [real.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in words]
    words[0] = words[0].replace("plots/", f"{plots}/")
    audit = REPORT_UNDER_AUDIT.replace("PACKAGE", repr(str(PACKAGE))).replace("PLOTS", repr(str(plots)))
    audited = [sys.executable, "-P", "-c", audit, str(canary), *words]
    module = [] if words[0].endswith(".py") else ["-m"]
    for command in (audited, [sys.executable, *module, *words]):
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert not canary.exists(), canary.read_text()
