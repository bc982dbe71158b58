"""A reward of one's own: judges responses for bstar, with nothing but the standard library.

bstar starts this program as a step (see pipeline.yaml) and says where things are in the environment:

    BSTAR_IN_QUERIES     the queries: JSON lines with id, prompt, answer
    BSTAR_IN_RESPONSES   the responses: a folder of JSON lines with query_id, sample_index, temperature, text
    BSTAR_OUT            the folder to write rewards.jsonl to: one row for each response, in any order
    BSTAR_SCRATCH        a folder that survives crashes until the step is done
    BSTAR_PARAMS         the step's `params` as a JSON file

To make it yours, change `judge`. A reward above the threshold that the search chooses is kept for training;
`correct` decides what counts as solved.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

EQUATION = re.compile(r"(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)")
ANSWER = re.compile(r"# Answer\s+(-?\d+)")


def holds(left, sign, right, result):
    """Whether an equation of whole numbers is true."""
    left, right, result = int(left), int(right), int(result)
    if sign == "/":
        return right != 0 and left == right * result
    return {"+": left + right, "-": left - right, "*": left * right}[sign] == result


def judge(query, response, params):
    """The judgement of one response.

    The reward is 1 for the right answer, plus up to `weight` for calculations that are true, minus up to
    `weight` for those that are not: a response that guesses well is worth less than one that reasons well.
    """
    found = ANSWER.search(response["text"])
    extracted = found.group(1) if found else None
    correct = extracted is not None and int(extracted) == int(query["answer"])
    equations = EQUATION.findall(response["text"])
    true = sum(holds(*equation) for equation in equations)
    reasoning = 2 * true / len(equations) - 1 if equations else -1
    return {
        "correct": correct,
        "extracted": extracted,
        "equations": sorted({" ".join(equation[:3]) + " = " + equation[3] for equation in equations}),
        "reward": float(correct) + params["weight"] * reasoning,
    }


def reward(query, response, params):
    """One row of the output: which response it is about, and the judgement."""
    return {
        "query_id": response["query_id"],
        "sample_index": response["sample_index"],
        "temperature": response["temperature"],
        # Equal texts have equal ids: responses that say the same count once.
        "text_id": hashlib.sha256(response["text"].encode()).hexdigest()[:16],
        **judge(query, response, params),
    }


def rows(path):
    """The rows of a file, or of all files below a folder, always in the same order."""
    path = Path(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def saved(path):
    """How many rows an earlier attempt has saved; one that was cut off while it was written is removed."""
    if not path.exists():
        return 0
    count = end = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
    os.truncate(path, end)
    return count


def main():
    stop = []
    # Asked to stop (Ctrl-C of the run, the end of a job's time): finish the row, then leave. What is saved
    # is found again by the next run.
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    params = {"weight": 0.5, **json.loads(Path(os.environ["BSTAR_PARAMS"]).read_text())}
    queries = {query["id"]: query for query in rows(os.environ["BSTAR_IN_QUERIES"])}
    progress = Path(os.environ["BSTAR_SCRATCH"]) / "rewards.jsonl"
    done = saved(progress)
    with progress.open("a", encoding="utf-8") as output:
        for index, response in enumerate(rows(os.environ["BSTAR_IN_RESPONSES"])):
            if index < done:
                continue
            if stop:
                sys.exit(f"stopped after {index} responses")
            row = reward(queries[response["query_id"]], response, params)
            output.write(json.dumps(row, allow_nan=False) + "\n")
            # A slow judge would flush every row; here a few lost rows cost nothing.
            if index % 256 == 0:
                output.flush()
    shutil.copyfile(progress, Path(os.environ["BSTAR_OUT"]) / "rewards.jsonl")
    print(f"judged {index + 1} responses, {done} of them in an earlier attempt")


if __name__ == "__main__":
    main()
