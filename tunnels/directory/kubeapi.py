"""The few requests we make of a Kubernetes API server: raw JSON, no typed models (an agent has no room for them).

Credentials are those of the package `kubernetes`: a kubeconfig, or the service account of the pod, whose token is read
again as it rotates. Nothing is tried twice here: who asks knows whether and when it is worth it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from linkseal.keys.errors import ConfigError, DirectoryError

JSON: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Content types by which an object comes without spec and status (a Node is a fifth of itself then)."""

APPLY: Final = "application/apply-patch+yaml; charset=utf-8"
"""Content type of a server-side apply. By its bare name the client would write the body, in JSON that is no YAML."""

PATCH: Final = "application/json-patch+json"

_NOT_IN_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""What JSON may have as it is, and YAML reads as a line break or not at all."""

REQUEST_SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 10.0
"""Seconds a request may take, and its connection."""

CLOSING: Final = 5.0
"""Seconds that connections may take to end once they are shut down; it takes milliseconds of an idle machine."""

MAX_MESSAGE: Final = 300
"""Characters of an answer's own words in an error."""


class ApiError(DirectoryError):
    """The API server said no, or nothing.

    `status`: of HTTP; 0 where there was no answer. `after`: seconds the server wants to be left alone.
    """

    def __init__(self, message: str, status: int = 0, after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.after = status, after


Body = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | None


@dataclass(frozen=True, slots=True)
class Access:
    """How the API server is reached. Neither: the default kubeconfig where there is one, else the pod's own account."""

    kubeconfig: Path | None = None
    context: str | None = None


class KubeApi:
    """A connection pool to one API server. Use it within one event loop, and close it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client: ApiClient | None = None
        self._connector: aiohttp.TCPConnector | None = None
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def opened(self) -> ApiClient:
        """Read the credentials, once; the server is not asked. Raises ConfigError."""
        if self._client is None:
            configuration = Configuration()
            try:
                await _credentials(self._access, configuration)
            except (config.ConfigException, OSError) as error:
                raise ConfigError(
                    f"no access to a Kubernetes cluster: {error}; name a kubeconfig (`kubernetes.kubeconfig`, "
                    "--kubeconfig, KUBECONFIG), or run in a pod with a service account"
                ) from error
            client = ApiClient(configuration)
            self._connector = aiohttp.TCPConnector(
                limit=configuration.connection_pool_maxsize, ssl=client.rest_client.ssl_context,
                socket_factory=self._socket,
            )  # fmt: skip
            configuration.client_session_kwargs = {"connector": self._connector}
            self._client = client
        return self._client

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets.add(made)
        return made

    async def close(self) -> None:
        """Close every connection, also those that wait for the server's goodbye: it may be gone or frozen."""
        if self._client is None or self._connector is None:
            return
        await self._client.close()
        await self._connector.close()
        for one in self._open():
            with contextlib.suppress(OSError):  # not connected any more
                one.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                while self._open():  # noqa: ASYNC110 - a socket tells nobody that it is closed
                    await asyncio.sleep(CLOSING / 1000)

    def _open(self) -> list[socket.socket]:
        return [one for one in self._sockets if one.fileno() >= 0]

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, accept: str = JSON) -> dict[str, Any]:
        """Return an object or a list. Raises ApiError."""
        return await self._object("GET", path, query, accept)

    async def find(self, path: str, *, accept: str = JSON) -> dict[str, Any] | None:
        """Return an object, None if there is none. Raises ApiError."""
        try:
            return await self.get(path, accept=accept)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object in the collection `path`. Raises ApiError (409: there is one of that name)."""
        return await self._object("POST", path, None, JSON, body)

    async def apply(self, path: str, body: Mapping[str, Any], *, manager: str, accept: str = JSON) -> dict[str, Any]:
        """Apply these fields and no others on the server; what `manager` applied before and is missing goes.

        Fields that another manager holds are taken over. Raises ApiError.
        """
        query = {"fieldManager": manager, "force": "true"}
        return await self._object("PATCH", path, query, accept, _yaml(body), APPLY)

    async def patch(self, path: str, patch: Sequence[Mapping[str, Any]]) -> None:
        """Carry out a JSON patch (RFC 6902), all of it or nothing. Raises ApiError (422: a `test` in it failed)."""
        await self._object("PATCH", path, None, METADATA, patch, PATCH)

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object. Raises ApiError (409: it has changed since its resourceVersion)."""
        return await self._object("PUT", path, None, JSON, body)

    async def delete(self, path: str) -> bool:
        """Delete an object, and in the background what it owns; return False if there is none. Raises ApiError."""
        try:
            await self._object("DELETE", path, None, JSON)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    async def watch(
        self, path: str, query: Mapping[str, str], *, accept: str, silence: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield events until the server ends the watch. Raises ApiError, also after `silence` seconds without a byte.

        The first thing that is yielded is an empty object: the server has answered, the watch stands.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        response = await self._send("GET", path, {**query, "watch": "true"}, accept, limits=limits)
        try:
            yield {}
            async for line in response.content:
                yield _parsed(line, path)
        except ValueError as error:  # longer than any object may be; asked for again it would be as long
            raise ApiError(f"the watch of {path}: {_words(error)}", HTTPStatus.GONE) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"the watch of {path} broke: {_words(error)}") from error
        finally:
            response.close()

    async def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        accept: str,
        body: Body = None,
        kind: str = JSON,
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._send(method, path, query or {}, accept, body, kind)
                async with response:
                    return _parsed(await response.read(), path)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"{method} {path}: {_words(error)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        accept: str,
        body: Body = None,
        kind: str = JSON,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer's beginning; an answer that is no success is an ApiError."""
        client = await self.opened()
        headers, host = {"Accept": accept, "Content-Type": kind}, client.configuration.host
        try:
            request = await client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            answer = await client.rest_client.request(
                request[0], request[1], headers=request[2], body=request[3],
                _request_timeout=limits or aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
            )  # fmt: skip
        except ssl.SSLError as error:
            raise ApiError(f"{host} is not the API server that the credentials are for: {_words(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException, ApiException) as error:
            raise ApiError(f"the API server {host} does not answer: {_words(error)}") from error
        response: aiohttp.ClientResponse = answer.response
        if response.status >= HTTPStatus.BAD_REQUEST:
            async with response:
                raise await _refusal(response, method, path)
        return response


async def _refusal(response: aiohttp.ClientResponse, method: str, path: str) -> ApiError:
    text = ""
    try:
        said = json.loads(await response.read())
        text = str(said.get("message", ""))[:MAX_MESSAGE]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError):
        pass
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isascii() and after.isdecimal() else 0.0
    return ApiError(f"{method} {path}: {response.status} {text or response.reason}", response.status, seconds)


def _parsed(raw: bytes, path: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(f"{path}: the answer is no JSON object")
    return found


def _yaml(body: Mapping[str, Any]) -> str:
    """Return JSON that is YAML too: a character beyond U+FFFF as itself, since YAML knows no surrogate pairs."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return (str(error) or type(error).__name__)[:MAX_MESSAGE]


async def _credentials(access: Access, configuration: Configuration) -> None:
    if access == Access() and not _has_kubeconfig():
        config.load_incluster_config(client_configuration=configuration)
        return
    await config.load_kube_config(_file(access), access.context, client_configuration=configuration)


def _file(access: Access) -> str | None:
    if access.kubeconfig is not None and not access.kubeconfig.exists():  # the library takes it for an empty one
        raise config.ConfigException(f"there is no {access.kubeconfig}")
    return None if access.kubeconfig is None else str(access.kubeconfig)


def _has_kubeconfig() -> bool:
    return "KUBECONFIG" in os.environ or Path("~/.kube/config").expanduser().exists()
