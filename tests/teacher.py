"""A teacher behind an endpoint, and labelled steps for it to judge."""

import json

from conftest import ROOT, SECRET
from json_server import JsonHandler

GSM8K = ROOT / "tests" / "data" / "gsm8k_train_1000.jsonl"
WRONG = "so the answer is minus one"


class Teacher(JsonHandler):
    """An OpenAI-compatible server: divides solutions by lines, finds plain mistakes the worse steps."""

    def do_GET(self):
        self.say({"object": "list", "data": []})

    def do_POST(self):
        assert self.headers["authorization"] == f"Bearer {SECRET}"
        prompt = self.asked()["messages"][0]["content"]
        if "[The Start of Solution Provided]" in prompt:
            solution = prompt.split("[The Start of Solution Provided]\n")[1].split("\n[The End")[0]
            lines = enumerate(solution.splitlines(), start=1)
            text = "\n".join(f"Step {number}: {line}" for number, line in lines)
        else:
            second = prompt.rsplit("B: " if "\nB: " in prompt else "[Start of Assistant B", 1)[1]
            text = f"One of the steps is wrong. [[{'A' if WRONG in second else 'B'}]]"
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "teacher"}
        self.say(answer | {"choices": [choice], "usage": usage})


def prm800k(path, first, last):
    """The same as labelled steps: at each one the file's line, and one with a plain mistake."""
    lines = []
    for record in map(json.loads, GSM8K.read_text().splitlines()[first:last]):
        *steps, answer = record["answer"].splitlines()
        labelled = [
            {
                "completions": [{"text": s, "rating": 1}, {"text": WRONG, "rating": -1}],
                "chosen_completion": 0,
                "human_completion": None,
            }
            for s in steps
        ]
        question = {"problem": record["question"], "ground_truth_answer": answer[5:]}
        lines.append(json.dumps({"question": question, "label": {"steps": labelled}}))
    path.write_text("\n".join(lines) + "\n")
    return path
