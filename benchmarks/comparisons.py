"""What fewer comparisons save and change: random tables of verdicts, and those of stored searches.

    python -m benchmarks.comparisons --embedded runs/demo/search-1/search --chat FOLDER

Stores the parts `needed` and `replayed` of benchmarks/results/judging.json. The folders hold
searches made with `judge.comparisons: all`: their tables are complete, so that another schedule can be
replayed on them, verdict by verdict. Candidates, counts and verdicts are the models' own.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import facts, update
from psr_ray.inference.search_rows import verdicts_of
from psr_ray.measures.verdict_counts import letters
from psr_ray.method.standings import SCHEDULES, Rules, Standings, leaders
from psr_ray.method.steps import Candidate
from psr_ray.method.verdicts import Comparison, Verdict, Verdicts, first_wins
from psr_ray.storage.shards import read_rows, shards

# Values that a verdict of a random table can have, by kind of table.
KINDS: dict[str, tuple[float | None, ...]] = {
    "hard": (0.0, 1.0, None),
    "coarse": (0.0, 0.1, 0.5, 0.9, 1.0, None),
}
LEADS = (0.0, 0.5, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Table:
    """All verdicts of a step; ``is_right`` of its candidates, where it is known."""

    candidates: list[Candidate]
    verdicts: Verdicts
    is_right: list[bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a search takes from a step: best and worst, which is None where there is no preference."""

    best: int
    worst: int | None


def replay(
    table: Table, schedule: str, rules: Rules, most: int | None = None
) -> tuple[Outcome, int]:
    """The outcome by a schedule, and the comparisons that it asked; ``most`` ends it between rounds."""
    standings = Standings(table.candidates, {}, rules)
    while asked := SCHEDULES[schedule](standings):
        if most is not None and len(standings.known) >= most:
            best, _ = standings.leaders()
            return Outcome(best, None), len(standings.known)
        for comparison in asked:
            standings.set(comparison, first_wins(table.verdicts[comparison]))
    best, worst = leaders(schedule, standings)
    return Outcome(best, worst if standings.has_lead(best, worst) else None), len(standings.known)


def random_tables(num: int, seed: int) -> Iterator[tuple[Table, Rules]]:
    """Tables of 2 to 8 candidates: hard, coarse and soft verdicts, unparsable ones, merged counts; of a
    judge that knows an order but for its errors, or of none."""
    rng = random.Random(seed)
    for number in range(num):
        size = 2 + number % 7
        counts = sorted((rng.randint(1, 4) for _ in range(size)), reverse=True)
        kind = rng.choice(["hard", "coarse", "soft", "weak"])
        low, high = (0.45, 0.6) if kind == "weak" else (0.0, 1.0)
        knows, quality = rng.random() < 0.5, [rng.random() for _ in range(size)]
        verdicts = {}
        for i, j in permutations(range(size), 2):
            value = rng.choice(KINDS[kind]) if kind in KINDS else rng.uniform(low, high)
            if knows and rng.random() < 0.85:
                value = float(quality[i] > quality[j])
            verdicts[Comparison(i, j)] = Verdict(value)
        candidates = [Candidate((n,), str(n), count, False) for n, count in enumerate(counts)]
        tie_break = rng.choice(["most_sampled", "first"])
        yield Table(candidates, verdicts), Rules(tie_break, rng.choice([0.0, 1.0, 2.0]))


def stored_tables(folder: Path) -> Iterator[tuple[str, Table]]:
    """The complete tables of stored searches, with the problem's id."""
    for row in read_rows(shards(folder)):
        for step in row["steps"] or ():
            num = len(step["candidates"])
            if num < 2 or len(step["verdicts"]) < num * (num - 1):
                continue
            candidates = [Candidate((0,), c["text"], c["count"], False) for c in step["candidates"]]
            truth = [c["is_right"] for c in step["candidates"]]
            yield row["id"], Table(candidates, verdicts_of(step), None if None in truth else truth)


def saved(
    tables: Iterable[Table], schedule: str, rules: Rules, most: int | None = None
) -> dict[str, Any]:
    """Share of requests that a schedule saves on some tables, and how often it ends otherwise."""
    asked, possible = defaultdict[int, int](int), defaultdict[int, int](int)
    num = differ = other_pair = 0
    for table in tables:
        size = len(table.candidates)
        whole, _ = replay(table, "all", rules)
        part, num_asked = replay(table, schedule, rules, most)
        num += 1
        differ += part != whole
        other_pair += part.worst is not None and whole.worst is not None and part != whole
        asked[size] += num_asked
        possible[size] += size * (size - 1)
    return {
        "steps": num,
        "requests_saved": round(1 - sum(asked.values()) / max(sum(possible.values()), 1), 4),
        "outcomes_differ": differ,
        "agreement": round(1 - differ / max(num, 1), 4),
        "other_pairs": other_pair,
        "saved_by_candidates": {
            size: round(1 - asked[size] / possible[size], 4) for size in sorted(asked)
        },
    }


def proof(table: Table, rules: Rules, rng: random.Random, tries: int = 12) -> int:
    """Comparisons of the smallest proof of the outcome that was found by leaving verdicts out in random
    orders: what a schedule that knew all verdicts beforehand would ask."""
    smallest = len(table.verdicts)
    for _ in range(tries):
        standings = Standings(table.candidates, table.verdicts, rules)
        for comparison in rng.sample(list(table.verdicts), len(table.verdicts)):
            standings.take_back(comparison)
            if not standings.is_decided():
                standings.set(comparison, first_wins(table.verdicts[comparison]))
        smallest = min(smallest, len(standings.known))
    return smallest


def simulated(num: int = 200) -> dict[str, dict[str, float]]:
    """Mean shares of the comparisons of six different candidates that `needed` asks, and that are in the
    smallest proof, for judges that know which steps are right (and call equal ones a draw), err in a
    tenth of verdicts, or rank by noisy quality."""
    rng, found = random.Random(0), defaultdict[str, list[int]](lambda: [0, 0])
    candidates = [Candidate((n,), str(n), 1, False) for n in range(6)]
    for _ in range(num):
        right, quality = [rng.random() < 0.5 for _ in range(6)], [rng.gauss(0, 1) for _ in range(6)]
        judges: dict[str, dict[Comparison, float]] = {"knows": {}, "errs": {}, "ranks": {}}
        for i, j in permutations(range(6), 2):
            pair = Comparison(i, j)
            knows = float(right[i]) if right[i] != right[j] else float(not right[j])
            judges["knows"][pair] = knows
            judges["errs"][pair] = 1 - knows if rng.random() < 0.1 else knows
            judges["ranks"][pair] = float(quality[i] - quality[j] + rng.gauss(0.2, 0.5) > 0)
        for name, values in judges.items():
            table = Table(candidates, {pair: Verdict(value) for pair, value in values.items()})
            rules = Rules("most_sampled", 0.0)
            found[name][0] += replay(table, "needed", rules)[1]
            found[name][1] += proof(table, rules, rng)
    return {
        name: {
            "needed": round(asked / (30 * num), 3),
            "smallest_proof": round(least / (30 * num), 3),
        }
        for name, (asked, least) in found.items()
    }


def leads_of(tables: Iterable[Table], tie_break: str) -> list[dict[str, Any]]:
    """Pairs by hard verdicts, and by soft ones with several bounds on the lead: how many steps give one,
    and where the truth is known how many are right, wrong, or of two equal steps."""
    everything = list(tables)
    found = []
    for kind, lead in (("hard", 0.0), *(("soft", lead) for lead in LEADS)):
        line: dict[str, Any] = {"verdicts": kind, "min_lead": lead, "steps": len(everything)}
        counts = {"pairs": 0, "right": 0, "wrong": 0, "equal": 0}
        for table in everything:
            verdicts = letters(table.verdicts) if kind == "hard" else table.verdicts
            known = Table(table.candidates, verdicts, table.is_right)
            outcome, _ = replay(known, "all", Rules(tie_break, lead))
            if outcome.worst is None:
                continue
            counts["pairs"] += 1
            if table.is_right is not None:
                best, worst = table.is_right[outcome.best], table.is_right[outcome.worst]
                counts[
                    "right" if best and not worst else "wrong" if worst and not best else "equal"
                ] += 1
        found.append(line | counts)
    return found


def budgets(problems: Mapping[str, list[Table]], rules: Rules) -> list[dict[str, Any]]:
    """Agreement with the full round robin where a problem's judge may write a share of what that takes:
    counted in comparisons, looked at between rounds, then no more pairs."""
    found = []
    for share in (0.75, 0.5, 0.25):
        num = same = 0
        for tables in problems.values():
            left = share * sum(len(table.verdicts) for table in tables)
            for table in tables:
                whole, _ = replay(table, "all", rules)
                part, asked = replay(table, "needed", rules, max(math.ceil(left), 0))
                left -= asked
                num += 1
                same += part == whole
        found.append({"share": share, "agreement": round(same / max(num, 1), 4)})
    return found


def main(
    embedded: Annotated[list[Path], typer.Option(help="folders of the embedded model's searches")],
    chat: Annotated[list[Path] | None, typer.Option(help="of a real chat model's")] = None,
    num: Annotated[int, typer.Option(help="random tables")] = 20_000,
) -> None:
    """Replay and store."""
    differ = 0
    for table, rules in random_tables(num, seed=0):
        differ += replay(table, "needed", rules)[0] != replay(table, "all", rules)[0]
    sources: Mapping[str, list[Path]] = {"embedded": embedded, "chat": chat or []}
    found: dict[str, dict[str, Any]] = {}
    for name, folders in sources.items():
        problems: dict[str, list[Table]] = defaultdict(list)
        for folder in folders:
            for name_of_problem, table in stored_tables(folder):
                problems[f"{folder}/{name_of_problem}"].append(table)
        tables = [table for some in problems.values() for table in some]
        if not tables:
            continue
        rules = Rules("most_sampled", 1.0)
        found[name] = {
            "needed": saved(tables, "needed", rules),
            "knockout": saved(tables, "knockout", rules),
            "budget": budgets(problems, rules),
            "lead": leads_of(tables, rules.tie_break),
            "distinct": round(sum(len(t.candidates) for t in tables) / len(tables), 3),
        }
    needed = {
        "tables_tried": num,
        "outcomes_differ": differ
        + sum(part["needed"]["outcomes_differ"] for part in found.values()),
        "requests_saved": {name: part["needed"]["requests_saved"] for name, part in found.items()},
        "simulated": simulated(),
    }
    print(
        f"stored: {update('judging', {'needed': needed, 'replayed': found, 'replayed_by': facts()})}"
    )


if __name__ == "__main__":
    typer.run(main)
