"""The part of the Hugging Face Hub's API that lafp needs, on loopback; huggingface_hub is real."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_server import running

TOKEN = "hf_tokenfortests"


class Hub:
    """Repositories in memory: each push is a commit, and branches name commits."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.private: dict[str, bool] = {}
        self.sizes: dict[str, int] = {}
        """Name of a file -> the size that listings claim, instead of the true one."""
        self.fetched: list[str] = []
        """Names of the files whose content was sent."""
        self.requests: list[str] = []
        self.query = ""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            def do_POST(self):
                hub.answer(self)

            def do_HEAD(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Replaces the content of a branch. Returns the commit's hash."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = files
        self.branches[repo, branch] = digest
        return digest

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Returns name -> content of the files of a branch."""
        return self.commits[self.branches[repo, revision]]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        path = unquote(urlsplit(handler.path).path)
        # Repositories of datasets lie beside those of models under their own names.
        path = re.sub(r"^/api/datasets/([^/]+)/", r"/api/models/datasets:\1/", path)
        path = re.sub(r"^/datasets/([^/]+)/", r"/datasets:\1/", path)
        self.requests.append(f"{handler.command} {path}")
        self.query = urlsplit(handler.path).query
        if handler.headers["Authorization"] != f"Bearer {TOKEN}":
            return send(handler, 401, {"error": "Invalid credentials"})
        for pattern, method in (
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda *_: {"errors": [], "warnings": []}),
            (r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.push),
            (r"/api/models/([^/]+/[^/]+)/revision/(.+)", self.info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", self.tree),
            (r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", self.paths_info),
            (r"/api/models/([^/]+/[^/]+)", self.info),
        ):
            if match := re.fullmatch(pattern, path):
                try:
                    return send(handler, 200, method(body, *match.groups()))
                except KeyError as error:
                    codes = {"revision": "RevisionNotFound", "entry": "EntryNotFound"}
                    code = codes.get(error.args[0], "RepoNotFound")
                    return send(handler, 404, {"error": code}, {"X-Error-Code": code})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(handler, *match.groups())
        return send(handler, 404, {"error": f"not served: {path}"})

    def create(self, body):
        asked = json.loads(body)
        kind = "datasets:" if asked.get("type") == "dataset" else ""
        repo = f"{kind}{asked['organization']}/{asked['name']}"
        self.private.setdefault(repo, asked.get("visibility") == "private")
        if (repo, "main") not in self.branches:
            self.commit(repo, "main", {".gitattributes": b""})
        name = repo.removeprefix("datasets:")
        return {"url": f"{self.url}/{address(repo)}", "name": name, "id": name}

    def branch(self, _, repo, name):
        self.branches.setdefault((repo, name), self.branches[repo, "main"])
        return {}

    def preupload(self, body, _repo, _branch):
        files = json.loads(body)["files"]
        return {"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}

    def push(self, body, repo, branch):
        files = dict(self.files(repo, branch))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        digest = self.commit(repo, branch, files)
        url = f"{self.url}/{address(repo)}/commit/{digest}"
        return {"success": True, "commitUrl": url, "commitOid": digest, "hookOutput": ""}

    def found(self, repo, revision):
        if (repo, "main") not in self.branches:
            raise KeyError("repository")
        digest = self.branches.get((repo, revision), revision)
        if digest not in self.commits:
            raise KeyError("revision")
        return digest, self.commits[digest]

    def size(self, name, data):
        return self.sizes.get(name, len(data))

    def info(self, _, repo, revision="main"):
        digest, files = self.found(repo, revision)
        siblings = [
            {"rfilename": name, "size": self.size(name, data), "blobId": blob(data)}
            for name, data in files.items()
        ]
        return {"id": repo, "modelId": repo, "sha": digest, "siblings": siblings, "tags": []}

    def tree(self, _, repo, revision, folder=None):
        _, files = self.found(repo, revision)
        below = f"{folder}/" if folder else ""
        if not any(name.startswith(below) for name in files):
            raise KeyError("entry")
        found = [self.entry(name, files) for name in files if name.startswith(below)]
        is_deep = "recursive=true" in self.query.lower()
        if not is_deep:
            found = [f for f in found if "/" not in f["path"].removeprefix(below)]
        nested = [name.removeprefix(below) for name in files if name.startswith(below)]
        parents = {below + name.partition("/")[0] for name in nested if "/" in name}
        # The hub lists folders first.
        return [
            {"type": "directory", "path": p, "size": 0, "oid": blob(b"")} for p in parents
        ] + found

    def paths_info(self, body, repo, revision):
        _, files = self.found(repo, revision)
        wanted = parse_qs(body.decode())["paths"]
        return [self.entry(name, files) for name in wanted if name in files]

    def entry(self, name, files):
        data = files[name]
        return {"type": "file", "path": name, "size": self.size(name, data), "oid": blob(data)}

    def resolve(self, handler, repo, revision, name):
        try:
            digest, files = self.found(repo, revision)
        except KeyError:
            return send(handler, 404, {}, {"X-Error-Code": "RevisionNotFound"})
        if name not in files:
            return send(handler, 404, {}, {"X-Error-Code": "EntryNotFound"})
        data = files[name]
        headers = {"ETag": f'"{blob(data)}"', "X-Repo-Commit": digest}
        if handler.command == "GET":
            self.fetched.append(name)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers["Range"] or ""):
            begin, end = int(wanted[1]), int(wanted[2] or len(data)) + 1
            if begin >= len(data):
                return send(handler, 416, b"", headers)
            headers["Content-Range"] = f"bytes {begin}-{min(end, len(data)) - 1}/{len(data)}"
            return send(handler, 206, data[begin:end], headers)
        return send(handler, 200, data, headers)


def address(repo: str) -> str:
    """Returns the path of a repository's page."""
    return repo.replace("datasets:", "datasets/")


def blob(data: bytes) -> str:
    """Returns the hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def send(handler, status, body, headers=None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(raw)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that runs in the block."""
    hub = Hub()
    with running(hub.server):
        yield hub
