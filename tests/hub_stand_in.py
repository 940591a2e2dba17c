"""A stand-in for the Hub on loopback, as far as publishing and loading need one: the real client talks to it.

`HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1`, set before huggingface_hub is imported, point the client here; `environment`
gives both. Repositories live in memory as a row of commits; every request and every upload is kept for the tests.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import RepoCard

TOKEN = "hf_of_the_tests"
LARGE = (
    ".safetensors",
    ".parquet",
    ".onnx",
    ".gz",
)  # what the Hub's own .gitattributes sends through LFS, of what we publish
REPOSITORY = r"(?P<kind>model|dataset|space)s/(?P<repo>[^/]+/[^/]+)"
RESOLVED = r"/(?P<prefix>datasets/|spaces/|)(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
LFS_BATCH = r"/(?P<prefix>datasets/|spaces/|)(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"


class RefusedError(Exception):
    """An answer other than success: status, the Hub's code of the error, and its text."""


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def object_id(path, content):
    """Return what the client compares its file with: git's hash, or SHA-256 of a large file."""
    return sha256(content) if path.endswith(LARGE) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    """A state of all files, and what the push that made it sent."""

    oid: str
    files: dict[str, bytes]
    changed: list[str] = field(default_factory=list)
    message: str = ""


@dataclass
class Repository:
    """Commits from the oldest to the newest, and the names that point at them."""

    private: bool
    sdk: str | None
    commits: list[Commit]
    branches: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision):
        """Return the commit of a branch, a tag or an id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise RefusedError(404, "RevisionNotFound", f"no revision {revision}")


class Hub(ThreadingHTTPServer):
    """The server's state: repositories by kind and name, large files, and the requests so far."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.large, self.requests, self.uploads = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, home, *, token=TOKEN):
        """Return the variables that point a fresh process here, with caches of its own."""
        names = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return names | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})

    def head(self, kind, name):
        """Return the newest commit of a repository's main branch."""
        return self.repositories[kind, name].find("main")


class Handler(BaseHTTPRequestHandler):
    """One request: find the endpoint by its path, and answer in JSON or with a file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep quiet."""

    def handle_request(self):
        """Answer any method."""
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, unquote(url.path)))
        try:
            for method, pattern, answer in ENDPOINTS:
                # The parts of a path are matched before they are unquoted: a revision may hold an escaped slash.
                if self.command in method.split() and (found := re.fullmatch(pattern, url.path)):
                    parts = {name: unquote(part or "") for name, part in found.groupdict().items()}
                    return answer(self, **parts)
            raise RefusedError(404, "", f"no endpoint {self.command} {url.path}")
        except RefusedError as refusal:
            status, code, text = refusal.args
            self.respond(status, json.dumps({"error": text}).encode(), {"X-Error-Code": code, "X-Error-Message": text})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815, names of the base class

    def respond(self, status, content=b"", headers=()):
        """Send an answer; HEAD leaves the content out."""
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def respond_json(self, content, status=200):
        """Send JSON."""
        self.respond(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def require_token(self, code=""):
        """Refuse a request without the token."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, code, "Invalid username or password.")

    def open(self, kind, name, *, write=False):
        """Return a repository; private ones look absent without the token."""
        found = self.server.repositories.get((kind, name))
        if write or (found and found.private):
            self.require_token("RepoNotFound")
        if found is None:
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        return found

    def create(self):
        """Make a repository with the one file that the Hub puts there."""
        self.require_token()
        asked = json.loads(self.body)
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"}
        if (kind, name) in self.server.repositories:
            return self.respond_json(url | {"error": "You already created this repo"}, 409)
        first = Commit("0" * 40, {".gitattributes": b"*.safetensors filter=lfs\n"})
        is_private = asked.get("visibility") == "private"
        made = Repository(is_private, asked.get("sdk"), [first], {"main": first.oid})
        self.server.repositories[kind, name] = made
        return self.respond_json(url)

    def validate_yaml(self):
        """Check that the metadata of a card parse, and say what the Hub would."""
        has_metadata = len(RepoCard(json.loads(self.body)["content"]).data.to_dict()) > 0
        self.respond_json({"errors": [] if has_metadata else [{"message": "no metadata"}], "warnings": []})

    def preupload(self, kind, repo, revision):
        """Say of each file how to send it, and which content is there."""
        files = self.open(kind, repo, write=True).find(revision).files
        answers = []
        for path in (each["path"] for each in json.loads(self.body)["files"]):
            oid = object_id(path, files[path]) if path in files else None
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.respond_json({"files": answers})

    def lfs_batch(self, prefix, repo):
        """Say where to send the large files that are new."""
        self.require_token()
        objects = [{"oid": one["oid"], "size": one["size"]} for one in json.loads(self.body)["objects"]]
        for one in objects:
            if one["oid"] not in self.server.large:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        self.respond_json({"transfer": "basic", "objects": objects})

    def put_large(self, oid):
        """Take a large file."""
        if sha256(self.body) != oid:
            raise RefusedError(422, "", "checksum differs")
        self.server.large[oid] = self.body
        self.server.uploads.append(oid)
        self.respond(200)

    def commit(self, kind, repo, revision):
        """Apply a push, given as lines of JSON."""
        repository = self.open(kind, repo, write=True)
        files, changed, message = dict(repository.find(revision).files), [], ""
        for key, value in ((each["key"], each["value"]) for each in map(json.loads, self.body.splitlines())):
            if key == "header":
                message = value["summary"]
                continue
            changed.append(value["path"])
            if key == "deletedFile":
                del files[value["path"]]
            else:
                large = key == "lfsFile"
                content = self.server.large[value["oid"]] if large else base64.b64decode(value["content"])
                files[value["path"]] = content
        oid = hashlib.sha1(self.body + str(len(repository.commits)).encode()).hexdigest()
        repository.commits.append(Commit(oid, files, sorted(changed), message))
        repository.branches[revision] = oid
        self.respond_json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def info(self, kind, repo, revision=""):
        """Describe a repository."""
        repository = self.open(kind, repo)
        commit = repository.find(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        facts = {"id": repo, "sha": commit.oid, "private": repository.private, "tags": [], "siblings": siblings}
        self.respond_json(facts | ({"sdk": repository.sdk} if repository.sdk else {}))

    def refs(self, kind, repo):
        """List branches and tags."""
        repository = self.open(kind, repo)
        lists = {"branches": (repository.branches, "heads"), "tags": (repository.tags, "tags"), "converts": ({}, "")}
        self.respond_json({
            title: [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid} for name, oid in names.items()]
            for title, (names, place) in lists.items()
        })  # fmt: skip

    def name_commit(self, kind, repo, place, name):
        """Make a branch of that name, or tag that revision."""
        repository, asked = self.open(kind, repo, write=True), json.loads(self.body)
        names, new = (repository.branches, name) if place == "branch" else (repository.tags, asked["tag"])
        start = asked.get("startingPoint", "main") if place == "branch" else name
        if new in names:
            raise RefusedError(409, "", f"{place} {new} exists")
        names[new] = repository.find(start).oid
        self.respond_json({})

    def describe(self, path, files):
        """Return the entry of a file or of a folder in a listing; None if it is neither."""
        if path in files:
            content = files[path]
            entry = {"type": "file", "path": path, "size": len(content), "oid": object_id(path, content)}
            large = {"oid": sha256(content), "size": len(content), "pointerSize": 100}
            return entry | ({"lfs": large} if path.endswith(LARGE) else {})
        below = any(each.startswith(f"{path}/") for each in files)
        return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} if below else None

    def tree(self, kind, repo, revision, path=""):
        """List a folder, or all that is below it."""
        files = self.open(kind, repo).find(revision).files
        start, is_deep = f"{path}/" if path else "", self.query.get("recursive") in (["true"], ["True"])
        names = {each[len(start):] for each in files if each.startswith(start)}  # fmt: skip
        if path and not names:
            raise RefusedError(404, "EntryNotFound", f"no folder {path}")
        if is_deep:
            names |= {"/".join(parts[:end]) for parts in map(str.split, names, "/" * len(names)) for end in
                      range(1, len(parts))}  # fmt: skip
        else:
            names = {name.partition("/")[0] for name in names}
        self.respond_json([self.describe(start + name, files) for name in sorted(names)])

    def paths_info(self, kind, repo, revision):
        """Describe the paths asked for, as far as they exist."""
        files = self.open(kind, repo).find(revision).files
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.respond_json([found for path in paths if (found := self.describe(path, files))])

    def resolve(self, prefix, repo, revision, path):
        """Give a file, or the asked part of it."""
        commit = self.open(prefix.rstrip("/").removesuffix("s") or "model", repo).find(revision)
        if path not in commit.files:
            raise RefusedError(404, "EntryNotFound", f"no file {path}")
        content = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{object_id(path, content)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self.respond(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.respond(206, content[first : last + 1], headers)


ENDPOINTS = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"/api/{REPOSITORY}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", LFS_BATCH, Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.put_large),
    ("POST", f"/api/{REPOSITORY}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("GET", f"/api/{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    ("GET", f"/api/{REPOSITORY}/refs", Handler.refs),
    ("POST", f"/api/{REPOSITORY}/(?P<place>branch|tag)/(?P<name>[^/]+)", Handler.name_commit),
    ("GET", f"/api/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", Handler.tree),
    ("POST", f"/api/{REPOSITORY}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("GET HEAD", RESOLVED, Handler.resolve),
)


@contextmanager
def serving():
    """Serve an empty Hub on a free port of this machine."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
