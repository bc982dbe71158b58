# Runs code that nobody trusts, in a sandbox: one request a line comes in, one answer a line goes out.
# Nothing that decides whether an answer is right ever reaches this process: expected outputs and tests
# stay outside. What is wrong in here can only fail to be right.
import builtins, io, json, operator, os, resource, signal, sys, time

# What the harness of APPS imports before the code, and more; all but numpy, which is not of the standard library.
HEADER = """
import bisect, collections, copy, datetime, fractions, functools, heapq, io, itertools, json, math, operator, os, queue
import random, re, string, sys, time
from bisect import *
from collections import *
from copy import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from random import *
from typing import *
"""
builtins.exit = builtins.quit = sys.exit
OUTPUT = os.dup(1)
MOST = LIMITS["output"]
refs = []


def sent(value):
    """A value as JSON; what is no plain value becomes a reference to it."""

    def reference(thing):
        refs.append(thing)
        return {"r": len(refs) - 1}

    return pack(value, reference)


def given(value):
    return unpack(value, refs.__getitem__)


def say(answer):
    text = json.dumps(answer)
    if len(text) >= MOST:
        text = json.dumps({"raised": "ValueError", "text": "the value is too large"})
    data = text.encode() + b"\n"
    while data:
        data = data[os.write(OUTPUT, data) :]


def raised(error):
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {"raised": names[0], "kind": type(error).__name__[:100], "text": text}


def compiled(code):
    try:
        return compile(code, "response.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        # The official harness puts programs into a function.
        if "outside function" not in str(error):
            raise
        lines = code.split("\n")
        future = [line for line in lines if line.startswith(("from ", "import "))]
        body = [line for line in lines if not line.startswith(("from ", "import "))]
        indented = "\n".join("    " + line for line in body)
        text = "\n".join(future) + f"\ndef code():\n    pass\n{indented}\ncode()\n"
        return compile(text, "response.py", "exec", dont_inherit=True)


def names():
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(HEADER, space)
    # The built-in takes a modulus.
    del space["pow"]
    return space


def limit(kind, most):
    resource.setrlimit(kind, (most, most))


def budget(seconds):
    # The hard limit cannot be caught.
    used = time.process_time()
    limit(resource.RLIMIT_CPU, int(used + seconds) + 1)


def quiet():
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


class Session:
    """The code was executed once; tests call what it defined."""

    def __init__(self, code, seconds):
        self.requests = os.fdopen(os.dup(0), "rb")
        quiet()
        budget(seconds)
        self.space = names()
        before = dict(self.space)
        sys.setrecursionlimit(10_000)
        try:
            exec(compiled(code), self.space)
        except SystemExit:
            pass
        new = [name for name in self.space if name[:2] != "__" and self.space[name] is not before.get(name, self)]
        say({"names": {name: sent(self.space[name]) for name in new}})

    def serve(self):
        for line in self.requests:
            try:
                say({"value": sent(self.carry_out(json.loads(line)))})
            except BaseException as error:
                say(raised(error))

    def carry_out(self, request):
        on = refs[request["on"]]
        args = [given(item) for item in request.get("args", [])]
        action = request["do"]
        if action == "call":
            return on(*args, **{key: given(item) for key, item in request["named"].items()})
        if action == "get":
            return getattr(on, request["name"])
        if action == "set":
            return setattr(on, request["name"], *args)
        return {"len": len, "item": operator.getitem, "list": list, "str": str, "bool": bool}[action](on, *args)


def call(space, name, args):
    if "class Solution" in space["__source__"] and "Solution" in space:
        return getattr(space["Solution"](), name)(*args)
    return space[name](*args)


def nameless():
    """A file without a name, which counts towards what `/tmp` may hold; outside of a sandbox, one in memory."""
    try:
        return os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return os.memfd_create("nameless")


def in_child(test, space, code, out):
    """One test, in a process of its own that never returns."""
    os.setsid()
    source = nameless()
    os.write(source, (test.get("input") or "").encode("utf-8", "surrogateescape"))
    os.lseek(source, 0, os.SEEK_SET)
    null = os.open("/dev/null", os.O_RDWR)
    printed = out if "input" in test else null
    for number, file in ((0, source), (1, printed), (2, null)):
        os.dup2(file, number)
    os.close(OUTPUT)
    budget(test["seconds"])
    # Buffered, as Python has them.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)))
    sys.stdout = stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")))
    sys.setrecursionlimit(10_000)
    status = 0
    try:
        exec(code, space)
        if "args" in test:
            answer = {"value": sent(call(space, test["name"], [given(item) for item in test["args"]]))}
            os.write(out, json.dumps(answer).encode())
    except SystemExit:
        pass
    except BaseException as error:
        status = 1
        if os.fstat(out).st_size < MOST // 2:
            os.ftruncate(out, 0)
            os.lseek(out, 0, os.SEEK_SET)
            os.write(out, json.dumps(raised(error)).encode())
    try:
        sys.stdout.flush()
    except BaseException:
        status = 1
    try:
        # Where the program has put something else in its place.
        stdout.flush()
    except BaseException:
        pass
    os._exit(status)


def run(test, space, code):
    out = nameless()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            in_child(test, space, code, out)
        finally:
            os._exit(1)
    status = None
    while status is None:
        left = test["wall"] - (time.monotonic() - started)
        done = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if done is not None:
            status = os.waitpid(child, 0)[1]
        elif left <= 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = "time"
        else:
            signal.sigtimedwait([signal.SIGCHLD], min(left, 1.0))
    sweep()
    if status == "time" or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)):
        return {"ended": "time"}
    size = os.fstat(out).st_size
    if size >= MOST // 2:
        return {"ended": "output"}
    text = os.pread(out, size, 0)
    os.close(out)
    if os.WIFSIGNALED(status):
        return {"ended": "signal", "number": os.WTERMSIG(status)}
    if os.WEXITSTATUS(status) != 0:
        return {"ended": "error", "text": text.decode("utf-8", "replace")[:500]}
    return {"output": text.decode("utf-8", "replace")}


def sweep():
    """Ends whatever a test left running."""
    if LIMITS["alone"]:
        try:
            os.kill(-1, signal.SIGKILL)
        except OSError:
            pass
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    first = json.loads(sys.stdin.buffer.readline())
    if first["mode"] == "session":
        try:
            session = Session(first["code"], first["seconds"])
        except BaseException as error:
            say(raised(error))
            return
        session.serve()
        return
    try:
        code = compiled(first["code"])
    except BaseException as error:
        say(raised(error))
        return
    space = names()
    space["__source__"] = first["code"]
    say({"names": {}})
    requests = os.fdopen(os.dup(0), "rb")
    for line in requests:
        say(run(json.loads(line), space, code))


main()
