"""A copy of some objects of the API server, kept by list-then-watch.

    list ──► watch from its version ──► the server ends it: watch again from the last version seen
      ▲               │ cut, silent, refused, 429: again after a pause that grows, with jitter
      └───────────────┴─ 410, an event that cannot be read, a server that is behind us: list again

A watch that says nothing is not trusted for ever: bookmarks come every minute, and where not even they do, the
connection is taken for half open and made anew. A store that was restored is behind what was seen, and a watch from
there would wait in silence for its return: after each trouble the server is asked how far it is. Nothing is ever
forgotten because the server is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

from linkseal.tunnels.directory.kubeapi import JSON, METADATA, METADATA_LIST, ApiError, KubeApi
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.wait import wait_base

_LOG: Final = logging.getLogger(__name__)

T = TypeVar("T")

PAGE: Final = 1000
"""Objects asked for at once."""

WATCH_SECONDS: Final = (240, 300)
"""Seconds after which the server is to end a watch: by chance between these, lest all agents ask at once."""

SILENCE: Final = 150.0
"""Seconds without a byte after which a watch is given up: a server sends a bookmark about every 60 (KEP-956)."""

STEADY: Final = 10.0
"""Seconds a watch must have stood for its end to be no failure: what is cut at once is not asked again at once."""

FIRST_PAUSE: Final = 0.5
LAST_PAUSE: Final = 15.0
"""Seconds before another try: at random up to a bound that grows from the first to the last."""

AFTER_OUTAGE: Final = (STEADY, 120.0)
"""Seconds after an outage, at random between these, until all is listed once: a store that was restored meanwhile may
have gone on beyond what was seen, and a watch from there misses what it lost. Spread, lest it be a storm."""

RELIST_PAUSE: Final = 3.0
"""Seconds up to which a list is put off at random where everybody's watch is gone at once (410)."""


class _CutError(ApiError):
    """A watch that ended too soon."""


class Mirror(Generic[T]):
    """Objects of one collection by name; `namespaced`: those in namespaces by `namespace/name`.

    `parse` makes what is kept of an object: None leaves it out; returning what it was given as `before` says that
    nothing of interest changed. It must not raise. `changed` is called after each change, and when `trouble` comes or
    goes.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        parse: Callable[[Mapping[str, Any], T | None], T | None],
        *,
        changed: Callable[[], None],
        metadata: bool = False,
        query: Mapping[str, str] | None = None,
        namespaced: bool = False,
    ) -> None:
        self.objects: dict[str, T] = {}
        self.trouble: str | None = f"{path} has not been read yet"
        """Why the copy may be old; None: a watch stands, or has just ended as it should."""
        self.status = 0
        """Of HTTP, where the server answered with what is the trouble."""
        self.vanished: set[str] = set()
        """Names that went with an older state of the server's store, which was put back, and are not there again."""
        self.lists = 0
        """How often everything was listed."""
        self._api, self._path, self._parse, self._changed = api, path, parse, changed
        self._list_type, self._watch_type = (METADATA_LIST, METADATA) if metadata else (JSON, JSON)
        self._query, self._namespaced = dict(query or {}), namespaced
        self._version = ""
        """Up to which everything has been seen."""
        self._versions: dict[str, int] = {}
        """By name, of the objects as last seen."""
        self._listed = False
        """A watch may go on from the version."""
        self._behind = False
        """The server was found to be behind what was seen."""
        self._away = False
        """The server did not answer at all, or broke off."""
        self._check: float | None = None
        """When everything is to be listed to be sure, by the loop's clock."""
        self._tried = asyncio.Event()
        self._doubted = False
        """The last watch did not end as it should."""

    @property
    def tried(self) -> bool:
        """Whether the first try has come to an end."""
        return self._tried.is_set()

    async def first(self, seconds: float) -> None:
        """Wait until the first try has succeeded or failed, at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tried.wait()

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        while True:
            trying = AsyncRetrying(
                retry=retry_if_exception_type(ApiError), wait=_Pause(), before_sleep=self._failed, reraise=True
            )
            await trying(self._follow)

    async def _follow(self) -> None:
        """List if need be, and watch until the server ends that. Raises ApiError."""
        clock = asyncio.get_running_loop().time
        if self._check is not None and clock() >= self._check:
            self._listed = False
        try:
            if self._doubted and self._listed:
                await self._compare()
            if not self._listed:
                await self._list()
                self._away, self._check = False, None
            if self._away:
                self._away, self._check = False, clock() + random.uniform(*AFTER_OUTAGE)  # noqa: S311 - no secret
            self._doubted = True
            began = clock()
            await self._watch()
        except ApiError as error:
            self._away |= not error.status
            raise
        if clock() - began < STEADY:
            raise _CutError(f"the watch of {self._path} is cut again and again")
        self._doubted = False

    async def _compare(self) -> None:
        """List anew if the server is behind what was seen. Versions are numbers that grow (KEP-5504)."""
        page = await self._api.get(self._path, {**self._query, "limit": "1"}, accept=self._list_type)
        now, seen = str((page.get("metadata") or {}).get("resourceVersion", "")), self._version
        if not (now.isdecimal() and seen.isdecimal() and int(now) >= int(seen)):
            _LOG.warning("the API server is at version %s of %s, before %s that was seen", now, self._path, seen)
            self._listed, self._behind = False, True

    async def _list(self) -> None:
        """Take in everything. What is not there any more is gone: this answer was whole."""
        found: dict[str, T] = {}
        versions: dict[str, int] = {}
        query = {**self._query, "limit": str(PAGE)}
        while True:
            page = await self._api.get(self._path, query, accept=self._list_type)
            for item in page.get("items") or ():
                self._take(item, found, versions)
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                break
            query["continue"] = str(meta["continue"])
        self.lists += 1
        version = str(meta.get("resourceVersion", ""))
        if await self._put_back(version, versions, self.objects.keys() - found.keys()):
            self.vanished |= self.objects.keys()
        self.vanished -= found.keys()
        self._behind = False
        differs = found != self.objects
        self.objects, self._versions = found, versions
        self._version, self._listed = version, True
        if differs:
            self._changed()

    async def _put_back(self, listed: str, now: Mapping[str, int], gone: AbstractSet[str]) -> bool:
        """Whether the server's store is an older state of itself, by the version of what was just listed, and of each.

        It may have grown beyond what was seen since it was put back, or count on from above (etcd's
        `--bump-revision`): then objects are older than they were, or the history that it tells is another one.
        """
        before = self._versions
        behind = listed.isdecimal() and self._version.isdecimal() and int(listed) < int(self._version)
        if self._behind or behind or any(version < before.get(name, 0) for name, version in now.items()):
            return True
        newest = max(gone & before.keys(), key=before.__getitem__, default=None)
        return newest is not None and not await self._remembers(newest, before[newest])

    async def _remembers(self, name: str, version: int) -> bool:
        """Whether, by the server, this object was of this version when everything had last been seen.

        True also where the server cannot tell: it keeps versions for five to ten minutes.
        """
        space, _, bare = name.rpartition("/")
        fields = {f"metadata.name={bare}"} | ({f"metadata.namespace={space}"} if space else set())
        fields |= set(filter(None, self._query.get("fieldSelector", "").split(",")))
        query = {"resourceVersion": self._version, "resourceVersionMatch": "Exact"}
        try:
            page = await self._api.get(
                self._path, {**self._query, **query, "fieldSelector": ",".join(sorted(fields))}, accept=self._list_type
            )
        except ApiError as error:
            if error.status in (0, HTTPStatus.TOO_MANY_REQUESTS) or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise  # asked again, with the whole list
            return True
        items = page.get("items") or ()
        return any((item.get("metadata") or {}).get("resourceVersion") == str(version) for item in items)

    def _take(self, item: Mapping[str, Any], into: dict[str, T], versions: dict[str, int]) -> bool:
        """Take in one object; whether anything changed."""
        meta = item.get("metadata") or {}
        name, version = self._key(meta), str(meta.get("resourceVersion", ""))
        if version.isdecimal():
            versions[name] = int(version)
        before = self.objects.get(name)
        after = self._parse(item, before)
        if after is None:
            return into.pop(name, None) is not None
        changed = into.get(name) is not after
        into[name] = after
        return changed

    def _key(self, meta: Mapping[str, Any]) -> str:
        name, space = str(meta.get("name", "")), meta.get("namespace")
        return f"{space}/{name}" if self._namespaced and space else name

    async def _watch(self) -> None:
        lasts = random.randint(*WATCH_SECONDS)  # noqa: S311 - no secret
        if self._check is not None:
            lasts = min(lasts, 1 + int(max(STEADY, self._check - asyncio.get_running_loop().time())))
        query = {
            **self._query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(lasts),
        }
        try:
            async for event in self._api.watch(self._path, query, accept=self._watch_type, silence=SILENCE):
                self._see(event)
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                await self._relist()
            raise

    def _see(self, event: Mapping[str, Any]) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if self.trouble is not None:  # the first, empty event: the watch stands
            self.trouble = None
            self._tried.set()
            self._changed()
        if kind == "ERROR":
            raise ApiError(f"the watch of {self._path}: {item.get('message', '')}", int(item.get("code", 0)))
        meta = item.get("metadata") or {}
        if kind == "DELETED":
            self._versions.pop(self._key(meta), None)
            if self.objects.pop(self._key(meta), None) is not None:
                self._changed()
        elif kind in {"ADDED", "MODIFIED"}:
            self.vanished.discard(self._key(meta))
            if self._take(item, self.objects, self._versions):
                self._changed()
        if version := meta.get("resourceVersion"):
            self._version = str(version)

    async def _relist(self) -> None:
        self._listed = False
        await asyncio.sleep(random.uniform(0.0, RELIST_PAUSE))  # noqa: S311 - no secret

    def _failed(self, state: RetryCallState) -> None:
        self._tried.set()
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, _CutError):
            _LOG.debug("%s", error)  # each time it stood for a moment, and what it said was taken in
        elif self.trouble != str(error):
            self.trouble = str(error)
            self.status = error.status if isinstance(error, ApiError) else 0
            _LOG.info("API server: %s", error)
            self._changed()


class _Pause(wait_base):
    """A growing pause with jitter, and no less than what the server asked for (429, 503: Retry-After)."""

    def __init__(self) -> None:
        self._growing = wait_random_exponential(multiplier=FIRST_PAUSE, max=LAST_PAUSE)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = error.after if isinstance(error, ApiError) else 0.0
        return max(asked + random.uniform(0.0, FIRST_PAUSE), self._growing(retry_state))  # noqa: S311 - no secret
