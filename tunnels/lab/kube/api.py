"""JSON requests to an API server, in the admin's name or another, and a recorder that takes back what it made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
from linkseal.keys.errors import LinksealError

TIMEOUT_SECONDS = 30.0

CONTENT = {
    "POST": "application/json",
    "PUT": "application/json",
    "DELETE": "application/json",
    "PATCH": "application/merge-patch+json",
}

APPLY = "application/apply-patch+yaml"

Object = dict[str, Any]
"""A Kubernetes object, or a Status, as decoded JSON."""


class ApiError(LinksealError):
    """The API server refused: HTTP status, its reason (`Forbidden`, `Conflict`, …) and message."""

    def __init__(self, status: int, body: Object) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', '')}")
        self.status = status
        self.reason: str = body.get("reason", "")
        self.body = body


class Api:
    """Requests with one bearer token. A context manager: its connections are closed on exit.

    Every request raises ApiError for a status of 400 or more and urllib3's HTTPError where there is no answer; it is
    never sent twice.
    """

    def __init__(self, server: str, ca_file: Path, token: str, *, user: str = "", groups: Sequence[str] = ()) -> None:
        self.server, self._ca_file, self._token = server, ca_file, token
        self._headers = [("Authorization", f"Bearer {token}"), ("Accept", "application/json")]
        if user:
            self._headers.append(("Impersonate-User", user))
        self._headers += [("Impersonate-Group", group) for group in groups]
        self._pool = urllib3.PoolManager(ca_certs=str(ca_file), retries=False)

    def impersonating(self, user: str, *groups: str) -> Api:
        """The same server in this user's name, for instance `system:node:a` of the group `system:nodes`."""
        return Api(self.server, self._ca_file, self._token, user=user, groups=groups)

    def with_token(self, token: str) -> Api:
        """The same server with another token."""
        return Api(self.server, self._ca_file, token)

    def request(
        self, method: str, path: str, body: Object | None = None, *,
        content: str = "", query: Mapping[str, str] | None = None, timeout: float = TIMEOUT_SECONDS,
    ) -> Object:  # fmt: skip
        """One request (`timeout` in seconds); the decoded answer."""
        headers = urllib3.HTTPHeaderDict(self._headers)
        if body is not None:
            headers["Content-Type"] = content or CONTENT[method]
        response = self._pool.request(
            method, f"{self.server}{path}", headers=headers, timeout=timeout,
            body=None if body is None else json.dumps(body), fields=dict(query) if body is None and query else None,
        )  # fmt: skip
        answer = _decoded(response)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise ApiError(response.status, answer)
        if response.status == HTTPStatus.CREATED:
            self._created(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **query: str) -> Object:
        """Return an object or a list."""
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Object) -> Object:
        """Create; the object as it is there."""
        return self.request("POST", path, body)

    def put(self, path: str, body: Object) -> Object:
        """Replace; ApiError 409 where it has changed since it was read."""
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Object) -> Object:
        """A JSON merge patch: what it names is replaced, null removes."""
        return self.request("PATCH", path, body)

    def apply(self, path: str, body: Object, *, manager: str, force: bool = False) -> Object:
        """Server-side apply by this field manager; ApiError 409 where another owns a field, unless `force` is set."""
        query = f"?fieldManager={manager}" + ("&force=true" if force else "")
        return self.request("PATCH", path + query, body, content=APPLY)

    def delete(self, path: str, *, missing_ok: bool = False) -> None:
        """Delete at once: nothing here ends a grace period."""
        try:
            self.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        except ApiError as error:
            if not (missing_ok and error.status == HTTPStatus.NOT_FOUND):
                raise

    def close(self) -> None:
        """Close its connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _created(self, method: str, path: str, answer: Object) -> None:
        """A request has made something."""


class Recorder(Api):
    """An Api that remembers what was created through it; `remove` deletes all of it, the newest first."""

    def __init__(self, server: str, ca_file: Path, token: str) -> None:
        super().__init__(server, ca_file, token)
        self._made: list[str] = []

    def remove(self) -> None:
        """Delete what was made; what is gone already is no error. Namespaces end without their controller."""
        for path in reversed(self._made):
            self.delete(path, missing_ok=True)
            if is_namespace(path):
                self._finalize(path)
        self._made.clear()

    def _created(self, method: str, path: str, answer: Object) -> None:
        name = answer.get("metadata", {}).get("name")
        if method == "PATCH":  # server-side apply
            self._made.append(path)
        elif name and is_collection(path):  # a review has no name, and a token belongs to what is there
            self._made.append(f"{path}/{name}")

    def _finalize(self, path: str) -> None:
        try:
            found = self.get(path)
            found["spec"]["finalizers"] = []
            self.put(f"{path}/finalize", found)
        except ApiError as error:
            if error.status not in {404, 409}:  # its controller, where that runs, was faster
                raise


def _decoded(response: urllib3.BaseHTTPResponse) -> Object:
    text = response.data.decode()
    try:
        found: Object = json.loads(text)
    except ValueError:  # health endpoints, watches and some errors
        return {"message": text}
    return found


def is_collection(path: str) -> bool:
    """Whether a POST there creates an object, and not a token or a binding of one.

    >>> is_collection("/api/v1/namespaces/a/pods"), is_collection("/api/v1/namespaces")
    (True, True)
    >>> is_collection("/apis/apps/v1/namespaces/a/daemonsets"), is_collection("/api/v1/nodes")
    (True, True)
    >>> is_collection("/api/v1/namespaces/a/serviceaccounts/b/token"), is_collection("/api/v1/nodes/a/status")
    (False, False)
    """
    return len(_inside_version(path)) == 1


def is_namespace(path: str) -> bool:
    """Whether a path is that of a namespace itself."""
    return re.fullmatch(r"/api/v1/namespaces/[^/]+", path) is not None


def _inside_version(path: str) -> list[str]:
    """Parts of a path below its API version and namespace."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    inside = parts[0] == "namespaces" and parts[2:]
    return parts[2:] if inside else parts
