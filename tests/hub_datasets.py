"""A server on loopback from which `datasets` and `huggingface_hub` read as from the Hub."""

import hashlib

from flask import Flask, Response, request
from flask_server import FlaskServer

COMMIT = "a" * 40
CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*.jsonl}
  - {split: test, path: main/test-*.jsonl}
---
"""


def gsm8k_files(train, test):
    """The files of a dataset that is laid out as GSM8K is."""
    return {"README.md": CARD, "main/train-0.jsonl": train, "main/test-0.jsonl": test}


def missing(code):
    return Response("", 404, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})


class HubDatasets(FlaskServer):
    """``files``: contents by path, by repository. ``requests`` are the paths asked for."""

    def __init__(self, files, gated=()):
        self.files, self.gated, self.requests = files, set(gated), []
        app = Flask("hub")
        app.before_request(lambda: self.requests.append(request.path))
        app.get("/api/datasets/<owner>/<name>/revision/<revision>")(self.about)
        app.get("/api/datasets/<owner>/<name>/tree/<revision>")(self.tree)
        app.get("/api/datasets/<owner>/<name>/tree/<revision>/<path:folder>")(self.tree)
        app.get("/datasets/<owner>/<name>/resolve/<revision>/<path:path>")(self.resolve)
        app.get("/<owner>/<name>/resolve/<revision>/<path:path>")(self.resolve)
        super().__init__(app)

    def about(self, owner, name, revision):
        found = self.files.get(f"{owner}/{name}")
        if found is None:
            return missing("RepoNotFound")
        siblings = [{"rfilename": path} for path in found]
        return {"id": f"{owner}/{name}", "sha": COMMIT, "private": False, "siblings": siblings}

    def tree(self, owner, name, revision, folder=""):
        start, entries = f"{folder}/" if folder else "", {}
        for path, content in self.files[f"{owner}/{name}"].items():
            if path.startswith(start):
                first, *below = path[len(start) :].split("/")
                kind = "directory" if below else "file"
                oid = hashlib.sha1(content).hexdigest()
                entries[first] = {
                    "type": kind, "path": start + first, "oid": oid,
                    "size": 0 if below else len(content),
                }  # fmt: skip
        return list(entries.values()) if entries else missing("EntryNotFound")

    def resolve(self, owner, name, revision, path):
        found = self.files.get(f"{owner}/{name}")
        if f"{owner}/{name}" in self.gated and not request.headers.get("authorization"):
            return Response("", 401, headers={"X-Error-Code": "GatedRepo"})
        if found is None:
            return missing("RepoNotFound")
        if path not in found:
            return missing("EntryNotFound")
        content = found[path]
        tag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        return Response(content, headers=headers)
