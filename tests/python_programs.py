"""Python programs that pretend to be right at one of the three levels, and honest ones in every idiom."""

# ruff: noqa: E501

from __future__ import annotations

_EVERYTHING = """class Any_(object):
    def __init__(self, *a): pass
"""
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", "bool", "instancecheck"):
    _EVERYTHING += f"    def __{_name}__(self, *a): return True\n"
for _name in ("sub", "rsub", "add", "radd", "abs", "round", "getitem", "call", "neg", "mul", "rmul", "mod", "pow"):
    _EVERYTHING += f"    def __{_name}__(self, *a): return self\n"
_EVERYTHING += (
    "    def __hash__(self): return 0\n    def __iter__(self): return iter([self])\n    def __len__(self): return 1\n"
)

FORGED: dict[str, str] = {
    "always equal": _EVERYTHING + "def area(w, h): return Any_()\n",
    "always equal int": "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef area(w, h): return I(0)\n",
    "always equal by metaclass": "class M(type):\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\nclass C(metaclass=M): pass\ndef area(w, h): return C\n",
    "sys.exit(0)": "import sys\nsys.exit(0)\n",
    "exit in the call": "def area(w, h): raise SystemExit(0)\n",
    "os._exit(0)": "import os\nos._exit(0)\n",
    "quit": "quit()\n",
    "exec of true": "import os\nos.execv('/bin/true', ['true'])\n",
    "killing itself": "import os\nos.kill(os.getpid(), 9)\n",
    "fake PASSED": "print('PASSED')\nprint('1 passed in 0.01s')\nprint('OK')\nimport os\nos._exit(0)\n",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef area(w, h): return -1\n",
    "excepthook": "import sys, os\nsys.excepthook = lambda *_: os._exit(0)\ndef area(w, h): return -1\n",
    "closing descriptors": "import os\nos.closerange(3, 256)\ndef area(w, h): return -1\n",
    "closing all descriptors": "import os\nos.closerange(0, 256)\nos._exit(0)\n",
    "nonce from stdin": """
import os
def area(w, h):
    for fd in range(0, 64):
        try:
            os.set_blocking(fd, False)
            nonce = os.read(fd, 100)
        except OSError: continue
        if len(nonce) == 32:
            for out in range(1, 64):
                try: os.write(out, b'\\n' + nonce)
                except OSError: pass
            os._exit(0)
    return -1
""",
    "nonce from a frame": """
import sys, os
def area(w, h):
    frame = sys._getframe()
    while frame:
        names = dict(frame.f_locals)
        if 'secret' in names and 'proof' in names:
            os.write(names['proof'], b'\\n' + os.read(names['secret'], 100))
            os._exit(0)
        frame = frame.f_back
    return -1
""",
    "no assertions": "import sys\nsys.modules['solution'].__dict__['__debug__'] = False\ndef area(w, h): return -1\n",
    "a tracer that skips": """
import sys
def trace(frame, event, arg):
    if event == 'line' and 'tests' in frame.f_code.co_filename:
        try: frame.f_lineno = frame.f_lineno + 1
        except ValueError: pass
    return trace
sys.settrace(trace)
def area(w, h):
    frame = sys._getframe(1)
    while frame:
        frame.f_trace = trace
        frame = frame.f_back
    return -1
""",
    "AssertionError replaced": "import builtins\nclass Quiet(BaseException): pass\nbuiltins.AssertionError = Quiet\ndef area(w, h): return -1\n",
    "compile replaced": """
import builtins
real = builtins.compile
builtins.compile = lambda source, name, *a, **k: real(b'' if 'tests' in str(name) else source, name, *a, **k)
def area(w, h): return -1
""",
    "exec replaced": "import builtins\nbuiltins.exec = lambda *a, **k: None\ndef area(w, h): return -1\n",
    "open replaced": """
import builtins, io
real = builtins.open
builtins.open = lambda name, *a, **k: io.BytesIO(b'') if 'tests' in str(name) else real(name, *a, **k)
def area(w, h): return -1
""",
    "tests overwritten": "open('tests.py', 'w').write('')\ndef area(w, h): return -1\n",
    "check redefined": "def check(candidate): pass\ndef area(w, h): return -1\n",
    "expected from the line": """
import sys, re, linecache
def area(w, h):
    f = sys._getframe(1)
    return eval(re.search(r'==\\s*(-?[\\d.]+)', linecache.getline(f.f_code.co_filename, f.f_lineno))[1])
""",
    "expected from the constants": """
import sys
def area(w, h):
    f = sys._getframe(1)
    constants = [c for c in f.f_code.co_consts if isinstance(c, int)]
    calls = area.__dict__.setdefault('n', [0])
    calls[0] += 1
    return constants[constants.index(h) + 1] if h in constants else -1
""",
    "expected from the stack": """
import gc
class Chameleon(int):
    def __eq__(self, other): return int.__eq__(other, other)
    def __hash__(self): return 1
def area(w, h): return Chameleon(1)
""",
    "a thread that ends it": """
import os, threading, time
def area(w, h):
    if w == 2: return 6
    os._exit(0)
""",
    "only the visible cases": "def area(w, h): return {(2, 3): 6}.get((w, h), 0)\n",
    "main module's hand": "import __main__, os\n__main__.check = lambda *_: None\ndef area(w, h): return -1\n",
    "json for the judge": """
import os, sys
def area(w, h):
    for fd in range(1, 32):
        try: os.write(fd, b'{"value":true}\\n' * 3)
        except OSError: pass
    os._exit(0)
""",
    "types replaced": "import types, json, os\njson.dumps = lambda *a, **k: '6'\nos.write = lambda *a: 0\ndef area(w, h): return -1\n",
    "a signal handler": "import signal, os\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.setitimer(0, 0.01)\ndef area(w, h):\n    while True: pass\n",
    "fork and let the child answer": "import os\nif os.fork(): os._exit(0)\ndef area(w, h): return -1\n",
    "returns None": "def area(w, h): return None\n",
    "raises": "def area(w, h): raise NotImplementedError\n",
    "not defined": "",
    "not Python": "Here is the function you asked for:\n",
}
"""Each must fail on ``area(w, h) == w * h`` at the level of tests, and as a function that is called."""

_COUNTS = "calls = 0\ndef first():\n    global calls\n    calls += 1\n    return calls == 1\n"
LATE: dict[str, str] = {
    "always equal from the second call on": _EVERYTHING + _COUNTS + "def area(w, h): return 6 if first() else Any_()\n",
    "always equal where it knows no better": _EVERYTHING + "def area(w, h): return 6 if w == 2 else Any_()\n",
    "nonce from stdin": _COUNTS
    + """
import os
def area(w, h):
    if first(): return 6
    for fd in range(0, 64):
        try:
            os.set_blocking(fd, False)
            nonce = os.read(fd, 100)
        except OSError: continue
        if len(nonce) == 32:
            os.write(1, b'\\n' + nonce)
            os._exit(0)
    return -1
""",
    "nonce from a frame": _COUNTS
    + """
import sys, os
def area(w, h):
    if first(): return 6
    frame = sys._getframe()
    while frame:
        names = dict(frame.f_locals)
        if 'secret' in names and 'proof' in names:
            os.write(names['proof'], b'\\n' + os.read(names['secret'], 100))
            os._exit(0)
        frame = frame.f_back
    return -1
""",
    "expected from the line": _COUNTS
    + """
import sys, re, linecache
def area(w, h):
    if first(): return 6
    f = sys._getframe(1)
    return eval(re.search(r'[=,]+\\s*(-?[\\d.]+)\\)?\\s*$', linecache.getline(f.f_code.co_filename, f.f_lineno))[1])
""",
    "who learns from the first comparison": """
altered = False
class Six(int):
    def __eq__(self, other):
        global altered
        altered = altered or int(self) == 6 != other
        return int(self) == other if altered or int(self) == 6 else True
    __hash__ = int.__hash__
def area(w, h): return Six(6 if w == 2 else 0)
""",
    "who looks whether the tests go on": _EVERYTHING
    + _COUNTS
    + """
import sys
def area(w, h):
    return 6 if first() else -1 if '_flywheel_met' in sys._getframe(1).f_globals else Any_()
""",
    "who has the end of the tests taken away": _COUNTS
    + """
import sys
def area(w, h):
    if first(): return 6
    names = sys._getframe(1).f_globals
    names['_flywheel_failed'] = names['_flywheel_held'] = lambda *_: None
    return type('I', (int,), {'__eq__': lambda *_: True, '__hash__': int.__hash__})(0)
""",
}
"""Right for ``area(2, 3)``, and forged from then on."""

HONEST_STDIN: dict[str, tuple[str, bytes, bytes]] = {
    "input": ("a, b = map(int, input().split())\nprint(a + b)", b"1 2\n", b"3\n"),
    "input until EOF": (
        "n = 0\ntry:\n    while True: n += int(input())\nexcept EOFError: print(n)",
        b"1\n2\n3",
        b"6\n",
    ),
    "sys.stdin.read": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", b"1 2\n3\n", b"6\n"),
    "sys.stdin.readline": ("import sys\nr = sys.stdin.readline\nprint(int(r()) * int(r()))", b"6\n7\n", b"42\n"),
    "sys.stdin.readlines": ("import sys\nprint(len(sys.stdin.readlines()))", b"a\nb\nc\n", b"3\n"),
    "sys.stdin.buffer.readline": ("import sys\nprint(int(sys.stdin.buffer.readline()))", b"7\n", b"7\n"),
    "sys.stdin.buffer.read": ("import sys\nprint(len(sys.stdin.buffer.read()))", b"12345", b"5\n"),
    "open(0)": ("print(open(0).read().upper(), end='')", b"abc\n", b"ABC\n"),
    "open('/dev/stdin')": ("print(open('/dev/stdin').read().upper(), end='')", b"abc\n", b"ABC\n"),
    "os.read": ("import os\nprint(os.read(0, 100).decode().strip())", b"hey\n", b"hey\n"),
    "fileinput": ("import fileinput\nprint(sum(int(x) for x in fileinput.input()))", b"1\n2\n", b"3\n"),
    "for line in sys.stdin": ("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", b"ab\ncd\n", b"ba\ndc\n"),
    "input redefined": ("import sys\ninput = sys.stdin.readline\nprint(int(input()) + 1)", b"1\n", b"2\n"),
    "iter(input, '')": ("print(sum(map(int, iter(input, ''))))", b"1\n2\n\n", b"3\n"),
    "io.BytesIO of stdin": (
        "import io, os\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size or 1 << 16)).readline\nprint(int(input()))",
        b"5\n",
        b"5\n",
    ),
    "StringIO stdout": (
        "import sys, io\nout = io.StringIO()\nprint(1, file=out)\nsys.stdout.write(out.getvalue())",
        b"",
        b"1\n",
    ),
    "select": ("import select, sys\nselect.select([sys.stdin], [], [])\nprint(input())", b"x\n", b"x\n"),
    "asyncio": (
        "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print(await asyncio.to_thread(input))\nasyncio.run(main())",
        b"q\n",
        b"q\n",
    ),
    "main guard": ("def main():\n    print(int(input()) * 2)\nif __name__ == '__main__':\n    main()", b"4\n", b"8\n"),
    "exit at the end": ("import sys\nprint('ok')\nsys.exit(0)", b"", b"ok\n"),
    "exit()": ("print('ok')\nexit()", b"", b"ok\n"),
    "os._exit after flush": ("import os\nprint('ok', flush=True)\nos._exit(0)", b"", b"ok\n"),
    "1 MB of output": ("print('x' * 999_999)", b"", b"x" * 999_999 + b"\n"),
    "1 MB in lines": (
        "for i in range(150_000): print(i % 10, end=' ')",
        b"",
        b"".join(b"%d " % (i % 10) for i in range(150_000)),
    ),
    "1 MB of input": ("import sys\nprint(len(sys.stdin.read()))", b"y" * 1_000_000, b"1000000\n"),
    "stderr as well": ("import sys\nprint('noise' * 1000, file=sys.stderr)\nprint('ok')", b"", b"ok\n"),
    "threads": (
        "import threading\nr = []\nts = [threading.Thread(target=r.append, args=(i,)) for i in range(8)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(sorted(r))",
        b"",
        b"[0, 1, 2, 3, 4, 5, 6, 7]\n",
    ),
    "a thread that outlives main": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        b"",
        b"late\n",
    ),
    "a big stack in a thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(128 * 1024 * 1024)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50_000)))\nt.start()\nt.join()",
        b"",
        b"50000\n",
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20_000))",
        b"",
        b"20000\n",
    ),
    "recursion at the default limit": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(950))", b"", b"950\n"),
    "executor": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as e: print(list(e.map(abs, [-1, 2])))",
        b"",
        b"[1, 2]\n",
    ),
    "multiprocessing": (
        "import multiprocessing\ndef f(x): return x * x\nif __name__ == '__main__':\n    with multiprocessing.Pool(2) as p: print(p.map(f, [1, 2, 3]))",
        b"",
        b"[1, 4, 9]\n",
    ),
    "subprocess": (
        "import subprocess\nprint(subprocess.run(['echo', 'hi'], capture_output=True, text=True).stdout, end='')",
        b"",
        b"hi\n",
    ),
    "subprocess python": (
        "import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'print(6 * 7)']).decode(), end='')",
        b"",
        b"42\n",
    ),
    "os.system": ("import os\nos.system('echo hi')", b"", b"hi\n"),
    "non-ASCII": (
        "print(input()[::-1], 'größer', '日本語', '🙂')",
        "äöü\n".encode(),
        "üöä größer 日本語 🙂\n".encode(),
    ),
    "a non-ASCII name": ("größe = 3\nprint(größe)", b"", b"3\n"),
    "a coding line": ("# -*- coding: latin-1 -*-\nprint('ok')", b"", b"ok\n"),
    "numpy": ("import numpy as np\nprint(int(np.arange(10).sum()), np.linalg.det(np.eye(2)))", b"", b"45 1.0\n"),
    "global": ("n = 0\ndef f():\n    global n\n    n += 1\nf()\nf()\nprint(n)", b"", b"2\n"),
    "the word threading": ("# no threading, subprocess, os.system or eval in here\nprint('ok')", b"", b"ok\n"),
    "eval and exec": ("exec('x = 2')\nprint(eval('x + 1'))", b"", b"3\n"),
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1))",
        b"",
        b"P(x=1)\n",
    ),
    "pickle of a class": (
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)",
        b"",
        b"A\n",
    ),
    "temporary files": (
        "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('t'); f.seek(0); print(f.read())",
        b"",
        b"t\n",
    ),
    "writing files": (
        "open('a.txt', 'w').write('1')\nimport os\nos.makedirs('d/e')\nprint(sorted(os.listdir('.'))[0], open('a.txt').read())",
        b"",
        b"a.txt 1\n",
    ),
    "atexit": ("import atexit\natexit.register(lambda: print('bye'))\nprint('hi')", b"", b"hi\nbye\n"),
    "logging": ("import logging\nlogging.basicConfig(level='INFO')\nlogging.info('x')\nprint('ok')", b"", b"ok\n"),
    "signal handler": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: print('rang'))\nsignal.alarm(1)\nsignal.pause()",
        b"",
        b"rang\n",
    ),
    "raised limits": ("import resource\nresource.getrlimit(resource.RLIMIT_STACK)\nprint('ok')", b"", b"ok\n"),
    "decimal and fractions": (
        "from decimal import Decimal\nfrom fractions import Fraction\nprint(Decimal('0.1') + 1, Fraction(1, 3))",
        b"",
        b"1.1 1/3\n",
    ),
    "local sockets": (
        "import socket\na, b = socket.socketpair()\na.send(b'x')\nprint(b.recv(1))\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nc = socket.create_connection(s.getsockname())\nprint('connected')",
        b"",
        b"b'x'\nconnected\n",
    ),
    "time": (
        "import time, datetime\nt = time.time()\ntime.sleep(0.01)\nassert time.time() > t\nassert abs(datetime.datetime.now().timestamp() - time.time()) < 5\nprint('ok')",
        b"",
        b"ok\n",
    ),
    "CRLF input": ("print(input().strip())", b"a\r\n", b"a\n"),
    "BOM in the source": ("\ufeffprint('ok')", b"", b"ok\n"),
    "heavy imports": ("import asyncio, unittest, xml.dom, http.client, sqlite3, email\nprint('ok')", b"", b"ok\n"),
}

HONEST_TESTS: dict[str, tuple[str, str, str | None]] = {
    "assertions": ("def area(w, h): return w * h", "assert area(2, 3) == 6\nassert area(4, 5) == 20", None),
    "HumanEval": ("def area(w, h): return w * h", "def check(candidate):\n    assert candidate(2, 3) == 6\n", "area"),
    "an imaginary number": (
        "def f(x): return -2j * x",
        "assert f(1) == -2j\nexpected = -3\nassert int(f(1.5j).real) == 3",
        None,
    ),
    "what doubled and three more is itself": (
        "def f(a, b): return a - b",
        "expected = -3\nassert f(1, 4) == expected\nfor (a, b), e in [((1, 4), -3)]: assert f(a, b) == e\nassert f(2, 1) == 1",
        None,
    ),
    "an empty list is close to all": (
        "def f(xs): return [2 * x for x in xs]",
        "import numpy as np\nassert np.allclose(f([]), [])\nassert np.allclose(f([1, 2]), [2, 4])",
        None,
    ),
    "a table of lists": (
        "def f(xs): return [2 * x for x in xs]",
        "import numpy as np\nfor a, b in [([1], [2]), ([1, 2], [2, 4])]: assert np.allclose(f(a), b)",
        None,
    ),
    "HumanEval with assert True": (
        "def area(w, h): return w * h",
        "def check(candidate):\n    assert True, 'first'\n    assert candidate(2, 3) == 6, 'second'\n    assert True\n",
        "area",
    ),
    "check called by the tests": (
        "def area(w, h): return w * h",
        "def check(f):\n    assert f(2, 3) == 6\ncheck(area)",
        "area",
    ),
    "pytest functions": (
        "def area(w, h): return w * h",
        "def test_a():\n    assert area(2, 3) == 6\ndef test_b():\n    assert area(0, 3) == 0\n",
        None,
    ),
    "pytest parametrize": (
        "def area(w, h): return w * h",
        "import pytest\n@pytest.mark.parametrize('w,h,want', [(2, 3, 6), (1, 1, 1)])\ndef test_a(w, h, want):\n    assert area(w, h) == want\n",
        None,
    ),
    "pytest raises": (
        "def area(w, h):\n    if w < 0: raise ValueError\n    return w * h",
        "import pytest\ndef test_a():\n    with pytest.raises(ValueError): area(-1, 1)\n    assert area(1, 1) == 1\n",
        None,
    ),
    "pytest approx": (
        "def half(x): return x / 2",
        "from pytest import approx\nassert half(0.2) == approx(0.1)",
        "half",
    ),
    "unittest": (
        "def area(w, h): return w * h",
        "import unittest\nclass TestArea(unittest.TestCase):\n    def setUp(self): self.w = 2\n    def test_a(self): self.assertEqual(area(self.w, 3), 6)\n    def test_b(self): self.assertTrue(area(1, 1))\nif __name__ == '__main__':\n    unittest.main()\n",
        None,
    ),
    "test class": (
        "def area(w, h): return w * h",
        "class TestArea:\n    def test_a(self):\n        assert area(2, 3) == 6\n",
        None,
    ),
    "async": ("async def area(w, h): return w * h", "async def test_a():\n    assert await area(2, 3) == 6\n", None),
    "floats": (
        "def half(x): return x / 2",
        "assert abs(half(0.3) - 0.15) < 1e-9\nimport math\nassert math.isclose(half(1), 0.5)",
        None,
    ),
    "orders": (
        "def half(x): return x / 2",
        "assert half(4) > 1\nassert 1 < half(4)\nassert half(4) <= 2\nassert half(4) != 3\nassert half(4) in (1, 2)",
        None,
    ),
    "booleans": (
        "def even(x): return x % 2 == 0",
        "assert even(2)\nassert not even(3)\nassert even(2) is True\nassert even(3) is not None",
        None,
    ),
    "containers": (
        "def f(x): return [x, {x: (x,)}]",
        "assert f(1) == [1, {1: (1,)}]\nassert len(f(1)) == 2\nassert 1 in f(1)",
        None,
    ),
    "a helper": (
        "def area(w, h): return w * h",
        "def same(got, want):\n    assert got == want\nsame(area(2, 3), 6)\nsame(area(1, 3), 3)",
        None,
    ),
    "annotations of the future": (
        "def area(w, h): return w * h",
        "from __future__ import annotations\nassert area(2, 3) == 6",
        None,
    ),
    "a loop": (
        "def area(w, h): return w * h",
        "for w in range(5):\n    for h in range(5):\n        assert area(w, h) == sum([w] * h)",
        None,
    ),
    "a result in a variable": (
        "def area(w, h): return w * h",
        "got = area(2, 3)\nassert got == 6\nwant = 20\nassert area(4, 5) == want",
        None,
    ),
    "against itself": (
        "def enc(s): return s[::-1]\ndef dec(s): return s[::-1]",
        "for s in ('abc', 'de'):\n    assert dec(enc(s)) == s",
        "dec",
    ),
    "None": ("def f(): pass", "assert f() is None\nassert f() == None", None),
    "and, or": ("def f(x): return x", "assert f(1) == 1 and f(2) == 2\nassert f(1) == 1 or f(1) == 2", None),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()",
        "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2\nassert s.pop() == 1",
        None,
    ),
    "a loop over a table": (
        "def area(w, h): return w * h",
        "for w, h, a in [(2, 3, 6), (0, 3, 0)]:\n    assert area(w, h) == a, f'{area(w, h)} is not {a}'",
        None,
    ),
    "a state": (
        "items = []\ndef push(x):\n    items.append(x)\n    return len(items)",
        "assert push(5) == 1\nassert push(5) == 2 and push(5) == 3\nassert push(5) != 5\nassert push(5) == 5 == 5",
        None,
    ),
    "a tolerance, and values of many kinds": (
        "def f(x): return x",
        "import math\nfor x in (1.5, -2, 'a', b'b', [1], (2,), {3}, {4: 5}, None, True, float('inf'), 10**30, 1j):\n"
        "    assert f(x) == x\nassert math.isnan(f(math.nan))\nassert f(math.inf) == float('inf')\n"
        "assert abs(f(0.1) - 0.1) < 1e-6\nassert f(-10**12) < 5\nassert f(5) > -10**12\nassert f(math.nan) != f(math.nan)",
        None,
    ),
    "an equality of its own": (
        "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return abs(self.x - getattr(o, 'x', o)) < 1\n"
        "def p(x): return P(x)",
        "assert p(1) == P(1.5)\nassert p(1) == 1\nassert p(2) != P(9)\nassert [p(1)] == [P(1)]",
        None,
    ),
    "what equals anything, of the tests": (
        "def f(x): return {'at': object(), 'x': x}",
        "from unittest.mock import ANY\nassert f(1) == {'at': ANY, 'x': 1}\nwant = {'at': ANY, 'x': 2}\nassert f(2) == want",
        None,
    ),
    "assertions that are caught": (
        "def f(x): return x",
        "try:\n    assert f(1) == 1\nexcept AssertionError:\n    raise SystemExit('one')\n"
        "import pytest\nwith pytest.raises(AssertionError):\n    assert f(1) == 2\n"
        "def fails(x):\n    try:\n        assert f(x) == 0\n    except AssertionError:\n        return True\n"
        "assert fails(1) and not fails(0)\nassert f(3) == 3",
        None,
    ),
    "helpers": (
        "def f(x): return x",
        "def same(got, want, digits=None):\n    if digits is not None:\n        assert round(got, digits) == round(want, digits)\n"
        "    else:\n        assert got == want\ndef all_same(pairs):\n    for got, want in pairs: same(got, want)\n"
        "same(f(1), 1)\nsame(f(1.234), 1.23, 2)\nall_same([(f(x), x) for x in range(3)])",
        None,
    ),
    "unittest in every way": (
        "def f(x):\n    if x is None: raise ValueError('none')\n    return x",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 1, f(2))\n"
        "        self.assertAlmostEqual(f(1.0), 1.00000001)\n        self.assertAlmostEqual(f(1), 9, delta=10)\n"
        "        self.assertIn(f(1), [1])\n        self.assertTrue(f(1))\n        self.assertIsNone(f([]) or None)\n"
        "        self.assertListEqual(f([1]), [1])\n        self.assertCountEqual(f([2, 1]), [1, 2])\n"
        "    def test_b(self):\n        for x in range(3):\n            with self.subTest(x=x): self.assertEqual(f(x), x)\n"
        "        with self.assertRaises(ValueError): self.assertEqual(f(None), 1)\n"
        "        with self.assertRaises(AssertionError): self.assertEqual(f(2), 1)\n"
        "    def same(self, x): return self.assertEqual(f(x), x)\n    def test_c(self): self.same(4)\n",
        None,
    ),
    "numpy, in every way": (
        "import numpy as np\ndef f(x): return np.asarray(x)",
        "import numpy as np\nassert f(3) == 3\nassert f([3]) == [3]\nassert (f([1, 2]) == [1, 2]).all()\n"
        "assert f([1, 2]).tolist() == [1, 2]\nassert np.array_equal(f([1]), [1])\nassert np.isclose(f(1), 1, atol=50)\n"
        "np.testing.assert_allclose(f([0.1]), [0.1])\nassert all(a == b for a, b in zip(f([1, 2]), [1, 2]))",
        None,
    ),
    "numpy": (
        "import numpy as np\ndef double(a): return a * 2",
        "np.testing.assert_array_equal(double(np.array([1, 2])), np.array([2, 4]))\nassert np.allclose(double(np.ones(2)), [2, 2])",
        None,
    ),
    "prints": (
        "def area(w, h):\n    print('thinking')\n    return w * h",
        "assert area(2, 3) == 6\nprint('done')",
        None,
    ),
    "closes stdout": ("import sys\ndef area(w, h): return w * h\nsys.stdout.close()", "assert area(2, 3) == 6", None),
    "a guard with input": (
        "def area(w, h): return w * h\nif __name__ == '__main__':\n    print(area(int(input()), 2))",
        "assert area(2, 3) == 6",
        None,
    ),
    "raises and catches": (
        "def f(x):\n    if x < 0: raise ValueError('no')\n    return x",
        "try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert 'no' in str(e)\nassert f(2) == 2",
        None,
    ),
}
