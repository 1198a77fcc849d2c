"""A server on loopback that takes what huggingface_hub pushes: repositories and commits, small files."""

import base64
import json

from flask import Flask, request
from flask_server import FlaskServer


class HubServer(FlaskServer):
    """``files`` has what each repository was given, ``private`` how it was made."""

    def __init__(self):
        self.files, self.private, self.tokens = {}, {}, set()
        app = Flask("hub")
        app.post("/api/repos/create")(self.create)
        app.get("/api/<kind>/<owner>/<name>")(self.about)
        app.get("/api/<kind>/<owner>/<name>/tree/<revision>")(self.tree)
        app.post("/api/<kind>/<owner>/<name>/preupload/<revision>")(self.preupload)
        app.post("/api/<kind>/<owner>/<name>/commit/<revision>")(self.commit)
        app.post("/api/validate-yaml")(self.validate)
        super().__init__(app)

    def create(self):
        self.tokens.add(request.headers.get("authorization"))
        asked = request.get_json()
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        self.private[name] = asked["visibility"] == "private"
        return {"url": f"{self.url}/{name}", "id": name}

    def about(self, kind, owner, name):
        return {"id": f"{owner}/{name}", "sha": "0" * 40, "private": True, "siblings": []}

    def tree(self, kind, owner, name, revision):
        files = self.files.get(f"{owner}/{name}", {})
        return [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()]

    def validate(self):
        return {"errors": [], "warnings": []}

    def preupload(self, kind, owner, name, revision):
        files = request.get_json()["files"]
        return {
            "files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
        }

    def commit(self, kind, owner, name, revision):
        kept = self.files.setdefault(f"{owner}/{name}", {})
        for line in request.get_data().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del kept[entry["value"]["path"]]
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.url}/c/{'0' * 40}"}
