"""A hub of Hugging Face on this machine: as much of its protocol as uploading a folder and reading it again takes.

Large files go inline as small ones do (`uploadMode: regular`); nothing is checked but what the tests ask for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Repositories by kind and name, `{"datasets/me/foxes": {path: bytes}}`, and what was made private."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, b"")

            def do_POST(self) -> None:
                hub.answer(self, self.body())

            do_HEAD = do_GET  # noqa: N815

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def log_message(self, format: str, *words: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """One request."""
        self.tokens.add(request.headers.get("Authorization", ""))
        path = unquote(urlsplit(request.path).path).strip("/")
        status, content, headers = self._found(path, body)
        request.send_response(status)
        given = request.headers.get("Range")
        if given and status == 200:
            low, _, high = given.removeprefix("bytes=").partition("-")
            content = content[int(low) : int(high) + 1 if high else None]
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def _found(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if path == "api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            if asked.get("organization") == "nobody":
                return 403, b'{"error": "no rights"}', {"X-Error-Message": "no rights"}
            self.files.setdefault(repository, {})
            self.private[repository] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return _json({"url": f"{self.url}/{repository}"})
        if path == "api/validate-yaml":  # the head of a card
            return _json({"errors": [], "warnings": []})
        if "/resolve/" in path:
            repository, _, rest = path.partition("/resolve/")
            repository = repository if repository.startswith("datasets/") else f"models/{repository}"
            content = self.files.get(repository, {}).get(rest.partition("/")[2])
            if content is None:
                return 404, b"", {"X-Error-Code": "EntryNotFound"}
            return 200, content, {"ETag": f'"{_oid(content)}"'}
        parts = path.removeprefix("api/").split("/")
        repository, action = "/".join(parts[:3]), parts[3] if len(parts) > 3 else ""
        files = self.files.get(repository)
        if files is None:
            return 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
        if action == "preupload":
            named = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return _json({"files": named})
        if action == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            where = f"{self.url}/{repository}/commit/{COMMIT}"
            return _json({"commitUrl": where, "commitOid": COMMIT, "pullRequestUrl": None, "success": True})
        if action == "tree":
            return _json(_entries(files, "/".join(parts[5:])))
        if action == "paths-info":
            wanted = body.decode()
            return _json([_entry(name, content) for name, content in files.items() if name in wanted])
        siblings = [{"rfilename": name} for name in files]
        facts = {"id": "/".join(parts[1:3]), "sha": COMMIT, "private": True, "siblings": siblings, "tags": []}
        return _json(facts)


def _entries(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    """Files below a folder, and the folders above them."""
    inside = {name: content for name, content in files.items() if name.startswith(f"{folder}/" if folder else "")}
    folders = {name.rpartition("/")[0] for name in inside} - {"", folder}
    found = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
    return found + [_entry(name, content) for name, content in sorted(inside.items())]


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": _oid(content), "size": len(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _json(content: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub while it is needed."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()
