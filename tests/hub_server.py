"""A Hugging Face Hub on loopback: standard library, in memory, for the unmodified `huggingface_hub` client.

It speaks the requests that pushing and loading a model make, keeps the history of each branch, and misbehaves when
told to. In the process of the tests, `hub` (a fixture; import it or put it into a `conftest.py`) points the client to
it; for a subprocess, `HubServer.environment(home)` are the variables to start it with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_owner"
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class File:
    """A file of a commit; `lfs` as the server decided when it was uploaded."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        held = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    message: str
    files: dict[str, File]


@dataclass
class Repo:
    """A repository of a model or a Space: commits, and what branches and pull requests (`refs/pr/<n>`) point to."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, message: str, files: dict[str, File], parent: str | None = None) -> Commit:
        """Adds a commit with exactly `files` and moves `ref` to it."""
        parent = parent or self.refs.get(ref)
        oid = hashlib.sha1(f"{self.name} {len(self.commits)} {parent} {message}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, message, files)
        self.refs[ref] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits that lead to a revision, newest first."""
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        commit = self.at(revision)
        assert commit is not None, f"no revision {revision}"
        return {path: file.data for path, file in sorted(commit.files.items())}


@dataclass
class Fault:
    pattern: str
    kind: str
    times: int
    method: str | None = None
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


class HubServer:
    """A Hub that runs while the `with` block does.

    Attributes:
        repos (`dict`): Repositories by `namespace/name`; Spaces by `spaces/namespace/name`.
        users (`dict`): User of each token; a user writes into the namespace of that name only.
        requests (`list`): `(method, path)` of every request, in the order of arrival.
        waits (`list`): Seconds that the client of this process would have waited before trying again.
        regular (`bool`): Take every file as a regular one, none as LFS (what a client with hf-xet needs).
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users = {TOKEN: "me", "hf_other": "other"}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.waits: list[float] = []
        self.regular = False
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def create(self, name: str, private: bool = False) -> Repo:
        repo = self.repos[name] = Repo(name, private)
        repo.commit("main", "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n")})
        return repo

    def write(self, name: str, files: dict[str, bytes | str], message: str = "by hand", ref: str = "main") -> Commit:
        """A commit that somebody else makes; creates the repository where there is none."""
        with self.lock:
            repo = self.repos.get(name) or self.create(name)
            before = repo.at(ref)
            new = {path: File(data.encode() if isinstance(data, str) else data) for path, data in files.items()}
            return repo.commit(ref, message, {**(before.files if before else {}), **new})

    def write_folder(self, name: str, folder: str | Path) -> Commit:
        """Puts the files of a folder into a repository."""
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        return self.write(name, found)

    def fail(
        self,
        path_pattern: str,
        status: int,
        times: int = 1,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> None:
        """Answers the next `times` requests whose path matches with an error, and does nothing else about them."""
        self._faults.append(Fault(path_pattern, "status", times, method, status, headers or {}))

    def die(self, path_pattern: str, times: int = 1, method: str | None = None, done: bool = False) -> None:
        """Closes the connection of matching requests: half-way through the upload, or with `done` after all was
        carried out, before the answer."""
        self._faults.append(Fault(path_pattern, "lost" if done else "die", times, method))

    def cut(self, path_pattern: str, times: int = 1) -> None:
        """Sends the first half of matching downloads, then closes the connection."""
        self._faults.append(Fault(path_pattern, "cut", times, "GET"))

    def heal(self) -> None:
        """Ends all misbehaviour."""
        self._faults.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method in (None, method) and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def environment(self, home: str | Path, token: str = TOKEN) -> dict[str, str]:
        """Variables that make a new process use this server; the caller adds its own, such as `PATH`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1",
        }


class _Reply(Exception):
    """Ends a request with an answer that is an error."""

    def __init__(self, status: int, error: str, code: str | None = None, **headers: str) -> None:
        self.status, self.error = status, error
        self.headers = {"X-Error-Message": error, **({"X-Error-Code": code} if code else {}), **headers}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    def log_message(self, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):  # the client went away, or the fault closed the connection
            self.close_connection = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, url.path))
        self.fault = self.hub.take_fault(self.command, url.path)
        kind = self.fault.kind if self.fault else None
        if kind == "die":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self.drop()
        self.body = self.read_body()
        try:
            if self.fault is not None and kind == "status":
                raise _Reply(self.fault.status, f"told to fail with {self.fault.status}", None, **self.fault.headers)
            for method, pattern, name in ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found and self.command in method.split():
                    with self.hub.lock:
                        return getattr(self, name)(*(unquote(part) for part in found.groups() if part))
            raise _Reply(404, f"no such address: {self.command} {url.path}")
        except _Reply as reply:
            self.send({"error": reply.error}, reply.status, reply.headers)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = self.fault.kind if self.fault else None
        if kind == "lost":
            return self.drop()
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream" if data is content else "application/json")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if kind == "cut" else content)
        if kind == "cut":
            self.wfile.flush()
            self.drop()

    # Who asks, and for what

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise _Reply(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def repo(self, name: str, write: bool = False) -> Repo:
        user, repo = self.user(), self.hub.repos.get(name)
        owns = user == name.split("/")[-2]
        if repo is None or (repo.private and not owns):
            raise _Reply(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not owns:
            raise _Reply(403 if user else 401, "You have no right to write here")
        return repo

    def commit_at(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise _Reply(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # One method for each row of ROUTES

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise _Reply(401, "Invalid username or password.")
        self.send({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {"type": "access_token"}})

    def create_repo(self) -> None:
        asked, user = json.loads(self.body), self.user()
        owner, place = asked.get("organization") or user, "spaces/" if asked.get("type") == "space" else ""
        name = f"{place}{owner}/{asked['name']}"
        if user is None:
            raise _Reply(401, "Invalid username or password.")
        bare = name.removeprefix("spaces/")
        answer = {"url": f"{self.hub.endpoint}/{name}", "name": bare, "id": bare}
        if owner != user:
            raise _Reply(403, f"You don't have the rights to create a model under the namespace {owner}")
        if place and not asked.get("sdk"):
            raise _Reply(400, "a Space needs an SDK")
        if name in self.hub.repos:
            return self.send({**answer, "error": "You already created this model repo"}, 409)
        self.hub.create(name, asked.get("visibility") == "private")
        self.send(answer)

    def validate_yaml(self) -> None:
        self.send({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        commit = self.commit_at(self.repo(name), revision)
        if self.user() is None:
            raise _Reply(401, "Invalid username or password.")
        answer = []
        for file in json.loads(self.body)["files"]:
            known = commit.files.get(file["path"])
            binary = file["path"].endswith(".safetensors") or b"\0" in base64.b64decode(file["sample"])
            mode = "lfs" if binary and not self.hub.regular else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            answer[-1]["oid"] = known.etag if known else None
        self.send({"files": answer})

    def lfs_batch(self, name: str) -> None:
        self.repo(name)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid = asked["oid"]
            links = {"upload": f"{self.hub.endpoint}/_lfs/{oid}", "verify": f"{self.hub.endpoint}/_lfs/verify"}
            actions = {} if oid in self.hub.objects else {"actions": {k: {"href": v} for k, v in links.items()}}
            objects.append({"oid": oid, "size": asked["size"], **actions})
        self.send({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Reply(400, "the content is not what was announced")
        self.hub.objects[oid] = self.body
        self.send({})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise _Reply(404, "no such object")
        self.send({})

    def post_commit(self, name: str, revision: str) -> None:
        as_request = self.query.get("create_pr") == "1"
        repo = self.repo(name, write=not as_request)
        if self.user() is None:
            raise _Reply(401, "Invalid username or password.")
        if revision not in repo.refs:
            raise _Reply(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        head, parent = repo.refs[revision], header.get("parentCommit")
        if as_request:
            revision, head = f"refs/pr/{sum(r.startswith('refs/pr/') for r in repo.refs) + 1}", parent or head
        elif parent and not head.startswith(parent):
            raise _Reply(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head].files)
        for line in lines[1:]:
            self.change(files, line["key"], line["value"])
        commit = repo.commit(revision, header["summary"], files, head)
        answer: dict[str, Any] = {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit.oid}"}
        if as_request:
            number = revision.rsplit("/", 1)[-1]
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{name}/discussions/{number}"
        self.send({"success": True, "commitOid": commit.oid, **answer})

    def change(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        """One line of a commit."""
        path = value["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.hub.objects:
                raise _Reply(400, f"LFS object of {path} was not uploaded")
            files[path] = File(self.hub.objects[value["oid"]], lfs=True)
        else:
            for gone in [f for f in files if f == path or (key == "deletedFolder" and f.startswith(path))]:
                del files[gone]

    def info(self, name: str, revision: str = "main") -> None:
        repo = self.repo(name)
        commit = self.commit_at(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if self.query.get("blobs"):
            siblings = [{"rfilename": path, "size": len(file.data)} for path, file in sorted(commit.files.items())]
        about = {"tags": [], "downloads": 0, "likes": 0, "lastModified": DATE, "createdAt": DATE, "gated": False}
        config = commit.files.get("config.json")
        about["config"] = json.loads(config.data) if config else {}
        bare = name.removeprefix("spaces/")
        self.send({"id": bare, "sha": commit.oid, "private": repo.private, "siblings": siblings, **about})

    def entry(self, path: str, file: File) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "oid": file.blob, "size": len(file.data)}
        if file.lfs:
            found["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 130}
        return found

    def tree(self, name: str, revision: str, folder: str = "") -> None:
        commit = self.commit_at(self.repo(name), revision)
        folder = f"{folder.strip('/')}/" if folder else ""
        below = {path: file for path, file in sorted(commit.files.items()) if path.startswith(folder)}
        deep = self.query.get("recursive", "").lower() in ("1", "true")
        entries = [self.entry(p, f) for p, f in below.items() if deep or "/" not in p[len(folder) :]]
        folders = {folder + p[len(folder) :].split("/")[0] for p in below if "/" in p[len(folder) :]}
        entries += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)]
        self.send(entries)

    def paths_info(self, name: str, revision: str) -> None:
        commit = self.commit_at(self.repo(name), revision)
        asked = parse_qs(self.body.decode()).get("paths", [])
        self.send([self.entry(path, commit.files[path]) for path in asked if path in commit.files])

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.commit_at(self.repo(name), revision)
        file = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if file is None:
            raise _Reply(404, "Entry not found", "EntryNotFound", **headers)
        headers["ETag"] = f'"{file.etag}"'
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.send(file.data, 200, headers)
        start, stop = int(asked[1]), int(asked[2] or len(file.data) - 1) + 1
        if start >= len(file.data):
            raise _Reply(416, "range not satisfiable", None, **{"Content-Range": f"bytes */{len(file.data)}"})
        part = file.data[start:stop]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(file.data)}"
        self.send(part, 206, headers)

    def create_branch(self, name: str, branch: str) -> None:
        repo = self.repo(name, write=True)
        if branch.startswith("refs/"):
            raise _Reply(400, f"Invalid reference for a branch: {branch}")
        if branch in repo.refs:
            raise _Reply(409, f"Reference already exists: {branch}")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.refs[branch] = self.commit_at(repo, start).oid
        self.send({})

    def refs(self, name: str) -> None:
        repo = self.repo(name)
        found: dict[str, list] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for ref, oid in repo.refs.items():
            full = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
            kind = "pullRequests" if full.startswith("refs/pr/") else "branches"
            found[kind].append({"name": ref, "ref": full, "targetCommit": oid})
        self.send(found)

    def commits(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        self.commit_at(repo, revision)
        history = repo.history(revision) if self.query.get("p", "0") == "0" else []
        self.send([{"id": c.oid, "title": c.message, "message": "", "authors": [], "date": DATE} for c in history])


REPO, PART = r"((?:spaces/)?[^/]+/[^/]+)", r"([^/]+)"
MODEL = r"/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", f"{MODEL}/preupload/{PART}", "preupload"),
    ("POST", f"{MODEL}/commit/{PART}", "post_commit"),
    ("POST", f"{MODEL}/paths-info/{PART}", "paths_info"),
    ("POST", f"{MODEL}/branch/{PART}", "create_branch"),
    ("GET", f"{MODEL}/revision/{PART}", "info"),
    ("GET", f"{MODEL}/tree/{PART}(?:/(.*))?", "tree"),
    ("GET", f"{MODEL}/refs", "refs"),
    ("GET", f"{MODEL}/commits/{PART}", "commits"),
    ("GET", MODEL, "info"),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/_lfs/([0-9a-f]{64})", "lfs_put"),
    ("POST", r"/_lfs/verify", "lfs_verify"),
    ("GET HEAD", f"/{REPO}/resolve/{PART}/(.*)", "resolve"),
)


def use(server: HubServer, home: Path, patch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    """Points the `huggingface_hub` of this process to a server, with an own cache, until `patch` is undone.

    The client reads its environment when it is imported, so this sets what it read: the endpoint in its three places
    (a constant, a template, and the shared `HfApi`s, of which transformers has its own), cache, token and switches.
    """
    import huggingface_hub.hf_api
    import transformers.utils.hub
    from huggingface_hub import close_session, constants

    patch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
    patch.setattr(transformers.utils.hub, "_hf_api", None)  # private; no public call makes it read the endpoint again
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setenv("HF_TOKEN", token)
    patch.setenv("no_proxy", "127.0.0.1")
    close_session()


class _NoWaiting:
    """The `time` module, but `sleep` only writes down for how long."""

    def __init__(self, waits: list[float]) -> None:
        self.sleep = waits.append

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running server that the client of this process uses as user `me`; tries again without waiting."""
    import huggingface_hub.file_download
    import huggingface_hub.utils._http
    from huggingface_hub import close_session

    with HubServer() as server:
        use(server, tmp_path / "hf_home", monkeypatch)
        # The modules that wait, of which one is private; the client has no setting for how long.
        for module in (huggingface_hub.utils._http, huggingface_hub.file_download):
            monkeypatch.setattr(module, "time", _NoWaiting(server.waits))
        yield server
        close_session()
