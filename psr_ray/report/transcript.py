"""One search as a tree that a person can read."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from psr_ray.storage.files import Row


def one_line(text: str, width: int = 110) -> str:
    """The text on one line, cut to a width."""
    flat = " ⏎ ".join(line for line in text.splitlines() if line.strip())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def search_tree(search: Row) -> Tree:
    """Problem → steps → candidates with score, count, truth; verdicts that flipped are marked."""
    tree = Tree(Text(f"{search['id']}: {one_line(search['problem'], 160)}"))
    if search["error"] is not None:
        tree.add(Text(f"failed: {search['error']}", style="red"))
        return tree
    for step in search["steps"]:
        dropped = "" if step["kept"] or step["outcome"] == "rolled_back" else " [dropped later]"
        tied = " (no preference)" if step.get("tied") else ""
        node = tree.add(
            Text(f"step {step['number']}: {step['outcome']}{tied}{dropped}", style="bold")
        )
        for index, candidate in enumerate(step["candidates"]):
            role = {step["chosen"]: "best ", step["rejected"]: "worst"}.get(index, "     ")
            truth = {True: " right", False: " wrong", None: ""}[candidate["is_right"]]
            line = Text(f"{role} {candidate['score']:4.1f}  ×{candidate['count']}{truth}  ")
            line.append(one_line(candidate["text"]))
            line.stylize("green" if role == "best " else "red" if role == "worst" else "dim")
            node.add(line)
        if step["num_truncated"]:
            node.add(
                Text(
                    f"{step['num_truncated']} samples without a step (cut off, or ended without text)"
                )
            )
        if step.get("work"):
            node.add(Text(f"worked out: {one_line(step['work'])}", style="dim"))
        for verdict in step["verdicts"][:2]:
            wins = verdict["first_wins"]
            says = "no verdict" if wins is None else f"A wins {wins:.2f}"
            text = one_line(verdict["text"] or "", 90)
            node.add(
                Text(
                    f"judge {verdict['first']} vs {verdict['second']}: {says}  {text}", style="dim"
                )
            )
    answer = "" if search["answer"] is None else f", known answer {search['answer']}"
    tree.add(Text(f"end: {search['end']}, answer {search['predicted']}{answer}"))
    return tree
