"""Writes expected.json: what the published selection and that of the paper come to on made-up responses.

An implementation of its own, step by step as the description of the algorithm has it (no prefix sums, no
shared code): `python3 make.py` needs nothing but Python. Scores are drawn so that no two different texts of
a query tie, because the published code resolves such ties by an unseeded shuffle.
"""

import json
import pathlib
import random

MARKER = "\n\n# Answer\n\n"
TAUS = [round(-1 + i * 0.01, 12) for i in range(200)]


def answer(text):
    return text.rsplit(MARKER, 1)[1] if MARKER in text else None


def make_world(seed, queries, samples, temperatures):
    rng = random.Random(seed)
    world = {"queries": [], "references": [], "responses": []}
    for q in range(queries):
        name, gold = f"q{q:02}", str(rng.randrange(100))
        world["queries"].append({"id": name, "prompt": f"prompt of {name}", "answer": gold})
        solution = f"worked solution of {name}{MARKER}{gold}"
        world["references"].append(
            {"prompt": f"prompt of {name}", "completion": solution, "query_id": name})
        skill = rng.random()
        for t in temperatures:
            known = {}
            for s in range(samples):
                # A hotter policy repeats itself less and errs more.
                way = rng.randrange(2 + int(12 * t))
                right = rng.random() < skill * (1.25 - t / 2)
                said = gold if right else str(100 + rng.randrange(5))
                text = f"way {way} to {said}{MARKER}{said}"
                if rng.random() < 0.08:
                    text = f"way {way} without an end"
                if rng.random() < 0.05:
                    text = solution
                if q == 3:
                    text = f"way {way} without an end"
                if text not in known:
                    # Two step logits over 5, not clamped: the sum may leave [-1, 1].
                    known[text] = [round(rng.gauss(0.2 if right else -0.3, 0.55), 9) for _ in range(2)]
                world["responses"].append({"query_id": name, "sample_index": s, "temperature": t,
                                           "text": text, "steps": known[text]})
    return world


def pool(world, temperature, official):
    """Query -> candidates (score, text, correct)."""
    gold = {q["id"]: q["answer"] for q in world["queries"]}
    found = {q["id"]: [] for q in world["queries"]}
    for row in world["responses"]:
        if row["temperature"] != temperature:
            continue
        said = answer(row["text"])
        if official and said is None:
            continue
        right = said == gold[row["query_id"]]
        found[row["query_id"]].append((min(row["steps"]) + right, row["text"], right))
    if official:
        for row in world["references"]:
            if found[row["query_id"]]:
                found[row["query_id"]].append((1.0, row["completion"], True))
        found = {name: rows for name, rows in found.items() if rows}
    return {name: sorted(rows, key=lambda row: -row[0]) for name, rows in found.items()}


def unique(rows):
    seen, kept = set(), []
    for row in rows:
        if row[1] not in seen:
            seen.add(row[1])
            kept.append(row)
    return kept


def take(pools, tau, k):
    return {name: [row for row in rows if row[0] > tau][:k] for name, rows in pools.items()}


def official_selection(pools, tau, target):
    for k in range(1, 65):
        chosen = {name: unique(rows) for name, rows in take(pools, tau, k).items()}
        if sum(map(len, chosen.values())) >= target:
            break
    return k, {name: rows for name, rows in chosen.items() if rows}


def score(rows, total, n_star):
    right = len({row[1] for row in rows if row[2]})
    return min(right / n_star, 1) * right / total


def official_search(world, temperature, target, n_star=8):
    pools, best = pool(world, temperature, True), None
    for tau in TAUS:
        k, chosen = official_selection(pools, tau, target)
        values = [score(rows, len(rows), n_star) for _, rows in sorted(chosen.items())]
        value = sum(values) / len(values) if values else 0.0
        if best is None or value > best["score"]:
            best = {"temperature": temperature, "tau": tau, "score": value, "k": k,
                    "kept": sorted([name, row[1]] for name, rows in chosen.items() for row in rows)}
    return best


def paper_search(world, temperatures, n_star):
    """Everything above tau; n_i counts duplicates; all queries count; tau in steps of 0.1."""
    surface = []
    for temperature in temperatures:
        pools = pool(world, temperature, False)
        for tau in [round(-1 + i * 0.1, 12) for i in range(21)]:
            chosen = take(pools, tau, 10**9)
            values = [score(rows, len(rows), n_star) if rows else 0.0 for _, rows in sorted(chosen.items())]
            kept = sum(len(unique(rows)) for rows in chosen.values())
            surface.append([temperature, tau, sum(values) / len(values), kept])
    return surface


def paper_filter(world, temperature, taus):
    """What is kept of the main pass: every different response above tau, however many."""
    pools = pool(world, temperature, False)
    return [[tau, sorted([name, row[1]] for name, rows in take(pools, tau, 10**9).items() for row in unique(rows))]
            for tau in taus]


def case(seed, queries, samples, temperatures, per_query, main_samples):
    world = make_world(seed, queries, samples, temperatures)
    found = [official_search(world, t, per_query * queries) for t in temperatures]
    best = max(range(len(found)), key=lambda i: (found[i]["score"], -i))
    # The published code then samples anew at that temperature and searches the threshold again.
    chosen = temperatures[best]
    full = make_world(seed + 1000, queries, main_samples, [chosen])
    return {"world": world, "temperatures": temperatures, "per_query": per_query,
            "official": {"by_temperature": found, "temperature": chosen, "full": full,
                         "again": official_search(full, chosen, per_query * queries)},
            "paper": {"n_star": per_query, "surface": paper_search(world, temperatures, per_query),
                      "kept": paper_filter(full, chosen, [-0.5, 0, 0.4, 1.1])}}


cases = [case(1, 9, 12, [0.5, 0.7, 1.1], 3, 16), case(2, 7, 20, [0.6, 1.0], 5, 12), case(3, 8, 6, [0.8], 40, 8)]
path = pathlib.Path(__file__).with_name("expected.json")
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
