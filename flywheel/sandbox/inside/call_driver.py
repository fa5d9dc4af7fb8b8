"""Calls a function of a program, once per line of stdin, and answers with what it returned, as tagged plain data.

Sent into the sandbox as the job's entry. What is expected is not there. What the program prints goes to stderr.
"""


def _drive() -> None:
    import os
    import sys

    folder = sys.path.pop(0)  # a program's own json.py is not for us
    import json

    namespace: dict = {"__name__": "_plain"}  # type: ignore[type-arg]
    with open("_plain.py", "rb") as file:  # noqa: PTH123
        exec(compile(file.read(), "_plain.py", "exec"), namespace)
    dumps, loads, not_plain = namespace["dumps"], namespace["loads"], namespace["NotPlain"]
    sys.path.insert(0, folder)
    import types

    exit_now, write, to_json = os._exit, os.write, json.dumps
    lines = sys.stdin.buffer.read().split(b"\n")
    answers = os.dup(1)
    os.dup2(2, 1)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module

    def answer(text: str) -> None:
        data = text.encode() + b"\n"
        while data:
            data = data[write(answers, data) :]

    with open("solution.py", "rb") as file:  # noqa: PTH123
        exec(compile(file.read(), "solution.py", "exec", dont_inherit=True, optimize=0), module.__dict__)
    owner, _, name = lines[0].decode().rpartition(".")
    for line in lines[1:]:
        positional, named = loads(line)
        function = getattr(getattr(module, owner)() if owner else module, name)
        try:
            value = dumps(function(*positional, **named))
        except not_plain as error:
            answer(to_json({"refused": str(error)}))
            continue
        answer('{"value":' + value + "}")
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        exit_now(0)


_drive()
