# Executes tests, which are trusted, against code that is not and runs elsewhere: what the tests call is called
# there, and only plain values come back. What the code is cannot reach this process, so it cannot say what
# is right: an object whose `==` is always true arrives as something equal to nothing.
import ast, builtins, json, math, os

PLAIN = """
import bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator, os, random, re, string
import sys, time
from typing import *
"""
INPUT = os.fdopen(os.dup(0), "rb")
OUTPUT = os.dup(1)
NULL = os.open("/dev/null", os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(NULL, number)


def say(message):
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(OUTPUT, data) :]


def hear():
    line = INPUT.readline()
    if not line:
        os._exit(0)
    return json.loads(line)


class Failed(Exception):
    """What the code raised, of a kind that is not built in."""


def ask(request):
    say(request)
    answer = hear()
    if "raised" in answer:
        kind = getattr(builtins, str(answer["raised"]), Failed)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = Failed
        raise Failed(answer.get("text")) if kind is AssertionError else kind(answer.get("text"))
    return received(answer["value"])


class Remote:
    """Something of the code that is no plain value."""

    def __init__(self, number):
        object.__setattr__(self, "number", number)

    def __call__(self, *args, **named):
        named = {key: sent(value) for key, value in named.items()}
        return ask({"do": "call", "on": self.number, "args": [sent(value) for value in args], "named": named})

    def __getattr__(self, name):
        if name[:2] == "__":
            raise AttributeError(name)
        return ask({"do": "get", "on": self.number, "name": name})

    def __setattr__(self, name, value):
        ask({"do": "set", "on": self.number, "name": name, "args": [sent(value)]})

    def __len__(self):
        return ask({"do": "len", "on": self.number})

    def __getitem__(self, key):
        return ask({"do": "item", "on": self.number, "args": [sent(key)]})

    def __iter__(self):
        return iter(ask({"do": "list", "on": self.number}))

    def __bool__(self):
        return ask({"do": "bool", "on": self.number})

    def __str__(self):
        return ask({"do": "str", "on": self.number})


def sent(value):
    """A value as JSON; what can be gone through goes as a list."""
    return pack(value, lambda other: {"r": other.number} if type(other) is Remote else sent(list(other)))


def received(value):
    return unpack(value, Remote)


def meant(tests, names, known):
    """The names of the code that tests mean. `abs` is Python's own unless the code's `abs` is all they test."""
    used = {node.id for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    used &= set(names)
    own = {name for name in used if name not in known and not hasattr(builtins, name)}
    return own or used


def check(tests, names):
    space = {"__name__": "__main__"}
    exec(PLAIN, space)
    for name in meant(tests, names, set(space)):
        space[name] = received(names[name])
    for index, test in enumerate(tests):
        try:
            exec(compile(test, "tests.py", "exec", dont_inherit=True), space)
        except BaseException as error:
            return {"failed": index, "kind": type(error).__name__, "text": str(error)[:300]}
    return {"passed": len(tests)}


say({"ready": True})
while True:
    request = hear()
    try:
        verdict = check(request["tests"], request["names"])
    except BaseException as error:
        verdict = {"failed": 0, "kind": type(error).__name__, "text": str(error)[:300]}
    say({"verdict": verdict})
