"""A stand-in of the Hugging Face hub: the part of its HTTP interface that huggingface_hub uses for models and datasets.

It keeps repositories in memory. `python tests/hub_stand_in.py PORT` serves one until it is interrupted; then use
HF_ENDPOINT=http://127.0.0.1:PORT. Whoever has the token "hf_someone" is "someone".
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_LFS = (".safetensors", ".png")
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?(?:/(.*))?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files

    def add(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append(Commit(sha, message, files))
        return sha

    def at(self, revision: str) -> Commit | None:
        sha = self.commits[-1].sha if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.sha == sha), None)


class HubStandIn:
    """The server. repositories: by kind ("models" or "datasets") and id. requests: "GET /path" of each, in order.

    is_down: whether it answers everything with an error.
    """

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.is_down = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False) -> Repository:
        """Make a repository with these files, as if somebody had uploaded them."""
        repository = self.repositories[kind, name] = Repository(private)
        repository.add(dict(files), "initial commit")
        return repository


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", body: dict | None = None) -> None:
        self.status, self.code, self.message, self.body = status, code, message, body


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, act) -> None:
        self.path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {self.path}")
        self.body = self._read_body()
        try:
            if self.hub.is_down:
                raise _Refusal(503, message="Service unavailable")
            act()
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(json.dumps(refusal.body or {"error": refusal.message}).encode(), refusal.status, **headers)

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode())

    @property
    def _user(self) -> str:
        """The user of the request's token; "" without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and not token.startswith("hf_"):
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        return token.removeprefix("hf_")

    def _repository(self, kind: str, name: str, write: bool = False) -> Repository:
        repository, owner = self.hub.repositories.get((kind, name)), name.split("/")[0]
        if repository is None or (repository.private and self._user != owner):
            raise _Refusal(404 if self._user else 401, "RepoNotFound", "Repository not found")
        if write and self._user != owner:
            raise _Refusal(403 if self._user else 401, message="You don't have the rights to write here")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(unquote(revision))
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _get(self) -> None:
        if match := _RESOLVE.fullmatch(self.path):
            kind, name, revision, file = match.groups()
            commit = self._commit(self._repository("datasets" if kind else "models", name), revision)
            if file not in commit.files:
                raise _Refusal(404, "EntryNotFound", "Entry not found")
            content = commit.files[file]
            headers = {"X_Repo_Commit": commit.sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            self._send(content, **headers)
        elif match := _API.fullmatch(self.path):
            kind, name, what, revision, _ = match.groups()
            repository = self._repository(kind, name)
            commit = self._commit(repository, revision or "main")
            if what == "tree":
                self._send_json([{"type": "file", **_described(*each)} for each in commit.files.items()])
            else:
                siblings = [{**_described(*each), "rfilename": each[0]} for each in commit.files.items()]
                about = {"id": name, "sha": commit.sha, "private": repository.private, "siblings": siblings}
                self._send_json({**about, "tags": [], "downloads": 0, "likes": 0})
        else:
            raise _Refusal(404, message="Not found")

    def _post(self) -> None:
        if self.path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif self.path == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        elif match := _BATCH.fullmatch(self.path):
            self._repository("datasets" if match[1] else "models", match[2], write=True)
            self._send_json({"transfer": "basic", "objects": [self._slot(o) for o in json.loads(self.body)["objects"]]})
        elif match := _API.fullmatch(self.path):
            kind, name, what, revision, _ = match.groups()
            repository = self._repository(kind, name, write=True)
            (self._preupload if what == "preupload" else self._add_commit)(name, repository)
        else:
            raise _Refusal(404, message="Not found")

    def _put(self) -> None:
        oid = self.path.removeprefix("/lfs/")
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._send(b"")

    def _create(self, asked: dict) -> None:
        owner = asked.get("organization") or self._user
        name, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        if not self._user:
            raise _Refusal(401, message="Invalid username or password.")
        if owner != self._user:
            raise _Refusal(403, message=f"You don't have the rights to create a {kind[:-1]} under this namespace")
        if (kind, name) in self.hub.repositories:
            raise _Refusal(409, message="You already created this repo", body={"url": f"{self.hub.url}/{name}"})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, kind, private)
        self._send_json({"url": f"{self.hub.url}/{name}", "name": name})

    def _validate(self, content: str) -> None:
        licence = re.search(r"^license: (.+)$", content, re.MULTILINE)
        if licence and licence[1].strip('"') not in ("mit", "apache-2.0", "creativeml-openrail-m", "other"):
            problem = {"message": '"license" must be one of [mit, apache-2.0, …]'}
            raise _Refusal(400, body={"errors": [problem], "warnings": []})
        self._send_json({"errors": [], "warnings": []})

    def _slot(self, asked: dict) -> dict:
        known = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.objects:
            return known
        return {**known, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}}

    def _preupload(self, name: str, repository: Repository) -> None:
        files = [each["path"] for each in json.loads(self.body)["files"]]
        modes = [
            {"path": p, "uploadMode": "lfs" if p.endswith(_LFS) else "regular", "shouldIgnore": False} for p in files
        ]
        self._send_json({"files": modes})

    def _add_commit(self, name: str, repository: Repository) -> None:
        header, *lines = (json.loads(line) for line in self.body.splitlines())
        parent = header["value"].get("parentCommit")
        if parent and parent != repository.commits[-1].sha:
            raise _Refusal(412, message="A commit has happened since")
        files = dict(repository.files)
        for line in lines:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.hub.objects[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del files[path]
        sha = repository.add(files, header["value"]["summary"])
        self._send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})


def _described(path: str, content: bytes) -> dict:
    sha = hashlib.sha256(content).hexdigest()
    lfs = {"lfs": {"oid": sha, "sha256": sha, "size": len(content), "pointerSize": 130}} if path.endswith(_LFS) else {}
    return {"path": path, "size": len(content), "oid": sha[:40], "blobId": sha[:40], **lfs}


if __name__ == "__main__":
    with HubStandIn(int(sys.argv[1])) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()
