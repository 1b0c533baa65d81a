"""One org: logged in when first needed, asked again when it could not answer.

simple-salesforce logs in, describes and queries; it has no Collections, and
its Bulk 2.0 client aborts jobs while polling, so rows go through `call`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
import simplejson
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce.budget import Budget
from seqsync_dagster.destinations.salesforce.errors import UNPROCESSED_STATUSES, reply_error
from seqsync_dagster.destinations.salesforce.login import log_in, not_an_org
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.steps import step_of
from seqsync_dagster.destinations.salesforce.transport import (
    ForeignReplyError,
    OrgSession,
    TransientReplyError,
    bearer,
)
from seqsync_dagster.destinations.salesforce.trouble import Hope, trouble_of
from seqsync_dagster.errors import DestinationRefused, DestinationUnreachable

if TYPE_CHECKING:
    from simple_salesforce.api import Salesforce

T = TypeVar("T")

TRIES = 5
#: Tries while nobody at the org's address has answered anything yet: some seconds are a proxy that
#: restarts, more are a wrong address, and a person waits for the message.
FIRST_TRIES: dict[Hope, int] = {"passing": TRIES, "silent": 2, "unconnected": 3, "final": 1}
_LONGEST_WAIT_S = 30.0
_LIMIT_CODES = ("REQUEST_LIMIT_EXCEEDED", "TXN_SECURITY_METERING_ERROR")


class CallRefused(DestinationRefused):
    """The org refused a whole call; `status` and `code` say how."""

    def __init__(self, message: str, status: int, code: str, words: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.words = words


class ReplyLost(DestinationUnreachable):
    """A write that must not be repeated was sent, and whether it was carried out is not known."""


@dataclass(frozen=True)
class Reply:
    """What the org answered."""

    content: bytes
    repeated: bool
    """An earlier try of the same call may have been carried out already."""
    called: str = "salesforce"
    """What opens the message of an error."""

    def json(self, *wanted: str) -> Any:
        """The body, decimals exact. Raises `DestinationUnreachable` when it is no JSON, or has not got the keys."""
        try:
            read = simplejson.loads(self.content, use_decimal=True)
        except ValueError:
            read = None
        if read is None or not (isinstance(read, dict) or not wanted) or any(key not in read for key in wanted):
            raise DestinationUnreachable(
                f"{self.called}: an answer that Salesforce does not give. Nothing is lost: the next run goes on from "
                "here. If it lasts, check that no proxy stands in between."
            )
        return read


class _TryAgainError(Exception):
    def __init__(self, reason: str, processed: bool, step: str, hope: Hope = "passing") -> None:
        super().__init__(reason)
        self.processed = processed
        self.step = step
        self.hope = hope


class _SessionExpiredError(Exception):
    pass


class Connection:
    """Calls to one org, each with a time limit, retried while the trouble is a passing one."""

    def __init__(self, settings: SalesforceSettings, name: str, calls: CallCount) -> None:
        self._settings = settings
        self._name = name
        self._login_url = settings.read_url()
        self.url = self._login_url
        """Where the org is; a login may tell another place than the one it happened at."""
        self._budget = budget = Budget(settings.api_budget, calls)
        self._session = OrgSession(self._login_url, settings.timeout_s, calls, budget)
        self._client: Salesforce | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Connection({self._name!r}, {self.url!r})"

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: object = None,
        body: IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Reply:
        """Call `path` below ``/services/data/vXX.X/`` with a JSON or a CSV body.

        With ``repeatable=False`` a call that may have been carried out is not
        sent again: `ReplyLost`. Otherwise `DestinationUnreachable` after the
        last try; a refusal is `CallRefused`.
        """
        payload = None if json is None else simplejson.dumps(json, use_decimal=True).encode()
        content_type = "application/json" if body is None else "text/csv"
        step = step_of(method, path)

        def send(client: Salesforce) -> bytes:
            if body is not None:
                body.seek(0)
            reply = self._session.request(
                method,
                self._address(path),
                params=params,
                data=payload if body is None else body,
                headers={**(headers or {}), **bearer(client.session_id), "Content-Type": content_type},
            )
            if reply.status_code >= 300:
                raise self._refusal(step, reply.status_code, reply.content)
            return reply.content

        content, repeated = self._retried(step, send, repeatable)
        return Reply(content, repeated, self._called(step))

    def download(self, path: str, file: IO[bytes]) -> None:
        """Write the reply of ``GET path`` to `file`, streamed; started over when it breaks off."""

        step = step_of("GET", path)

        def fetch(client: Salesforce) -> None:
            file.seek(0)
            file.truncate()
            with self._session.request(
                "GET", self._address(path), headers=bearer(client.session_id), stream=True
            ) as reply:
                if reply.status_code >= 300:
                    raise self._refusal(step, reply.status_code, reply.content)
                for block in reply.iter_content(1 << 18):
                    file.write(block)

        self._retried(step, fetch)

    def read(self, path: str) -> Any:
        """The JSON at `path`, e.g. ``sobjects/Account/describe``."""
        return self._retried(step_of("GET", path), lambda client: client.restful(path))[0]

    def query(self, soql: str, step: str) -> Iterator[Mapping[str, Any]]:
        """The records a SOQL query finds, page after page. `step` says in errors what they are wanted for."""
        step = f"{step} (query)"
        page: Any = self._retried(step, lambda client: client.query(soql))[0]
        yield from page["records"]
        while not page["done"]:
            more = page["nextRecordsUrl"]
            page = self._retried(step, lambda client, at=more: client.query_more(at, True))[0]  # type: ignore[misc]
            yield from page["records"]

    def count(self, soql: str) -> int:
        """How many records a ``SELECT COUNT()`` finds."""
        return int(self._retried("query", lambda client: client.query(soql))[0]["totalSize"])

    def afford(self, calls: int) -> None:
        """Take `calls` out of `api_budget` before rows go. Raises `BudgetSpent` when there are not as many left."""
        if self._budget.must_ask:
            daily = self.read("limits")["DailyApiRequests"]
            self._budget.told(int(daily["Max"]) - int(daily["Remaining"]), int(daily["Max"]))
        self._budget.afford(calls, self._called("send"))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()
        self._budget.give_back()

    def _address(self, path: str) -> str:
        return f"{self.url}/services/data/v{self._settings.api_version}/{path}"

    def _retried(self, what: str, send: Callable[[Salesforce], T], repeatable: bool = True) -> tuple[T, bool]:
        """`send`'s result, and whether an earlier try of it may have been carried out."""
        maybe_done = False
        retries = Retrying(
            stop=self._tried_enough,
            wait=wait_exponential(multiplier=self._settings.retry_wait_s, max=_LONGEST_WAIT_S)
            + wait_random(0, self._settings.retry_wait_s),
            retry=retry_if_exception_type(_TryAgainError),
            reraise=True,
        )
        try:
            for attempt in retries:
                with attempt:
                    try:
                        return self._logged_in(what, send), maybe_done
                    except _TryAgainError as trouble:
                        maybe_done = maybe_done or trouble.processed
                        if maybe_done and not repeatable:
                            raise ReplyLost(
                                f"{self._called(trouble.step)}: the reply was lost ({trouble}). "
                                "Whether the rows were written is not known."
                            ) from None
                        raise
        except ForeignReplyError as page:
            if not repeatable:
                raise ReplyLost(
                    f"{self._called(what)}: somebody on the way answered with a page in the org's place. "
                    "Whether the rows were written is not known."
                ) from None
            raise not_an_org(self._called(what), self.url, page.status) from None
        except _TryAgainError as trouble:
            raise self._unanswered(trouble, retries.statistics["attempt_number"]) from None
        raise AssertionError("unreachable: the last try returns or raises")

    def _tried_enough(self, state: RetryCallState) -> bool:
        trouble = state.outcome.exception() if state.outcome else None
        hope = trouble.hope if isinstance(trouble, _TryAgainError) else "passing"
        return state.attempt_number >= (TRIES if self._session.answered else FIRST_TRIES[hope])

    def _unanswered(self, trouble: _TryAgainError, tries: int) -> DestinationUnreachable | DestinationRefused:
        if self._session.answered or trouble.hope in ("passing", "silent"):
            return DestinationUnreachable(
                f"{self._called(trouble.step)}: no answer after {tries} tries, last {trouble}. "
                "Nothing is lost: the next run goes on from here. If it lasts, look at status.salesforce.com."
            )
        if trouble.hope == "unconnected":
            return DestinationUnreachable(
                f"{self._called(trouble.step)}: no connection in {tries} tries, {trouble}. Nothing was sent. Check "
                "that url is the org's, and that a proxy or firewall on the way lets this machine through."
            )
        return DestinationRefused(
            f"{self._called(trouble.step)}: no connection, {trouble}. Nothing was sent. Check that url is the org's "
            "My Domain (Setup > My Domain), and this machine's DNS, proxy and certificates."
        )

    def _logged_in(self, what: str, send: Callable[[Salesforce], T]) -> T:
        client = self._log_in(stale=None)
        try:
            return self._once(what, client, send)
        except _SessionExpiredError:
            if self._settings.session_id is not None:
                raise DestinationRefused(
                    f"{self._called(what)}: session_id has expired or is not valid. It cannot be "
                    "renewed: give a new one, or client_id and client_secret, with which a run logs in by itself."
                ) from None
        try:
            return self._once(what, self._log_in(stale=client), send)
        except _SessionExpiredError:
            raise DestinationRefused(
                f"{self._called(what)}: the org refused a token it had just issued. "
                "Check the app's session policies and IP ranges (Setup > App Manager)."
            ) from None

    def _once(self, what: str, client: Salesforce, send: Callable[[Salesforce], T]) -> T:
        from simple_salesforce.exceptions import SalesforceError

        try:
            return send(client)
        except TransientReplyError as reply:
            # Only the org itself can say that it did nothing; a gateway's page says nothing.
            refused = reply.status in UNPROCESSED_STATUSES and reply_error(reply.content) is not None
            raise _TryAgainError(f"HTTP {reply.status}", not refused, what) from None
        except requests.exceptions.JSONDecodeError:
            raise not_an_org(self._called(what), self.url) from None
        except requests.RequestException as error:
            trouble = trouble_of(error)
            raise _TryAgainError(trouble.words, trouble.sent, what, trouble.hope) from None
        except SalesforceError as error:
            raise self._refusal(what, error.status, error.content) from None

    def _log_in(self, stale: Salesforce | None) -> Salesforce:
        with self._lock:
            if self._client is None or self._client is stale:
                try:
                    called = self._called("login", self._login_url)
                    client, self.url = log_in(self._settings, self._session, called, self._login_url)
                    self._session.move_to(self.url)
                    self._client = client
                except TransientReplyError as reply:
                    raise _TryAgainError(f"HTTP {reply.status}", False, "login") from None
                except ForeignReplyError as page:
                    raise not_an_org(self._called("login", self._login_url), self._login_url, page.status) from None
                except requests.RequestException as error:
                    trouble = trouble_of(error)
                    raise _TryAgainError(trouble.words, False, "login", trouble.hope) from None
            return self._client

    def _refusal(self, what: str, status: int, content: object) -> Exception:
        said = reply_error(content)
        if status == 401 or (said is not None and said[0] == "INVALID_SESSION_ID"):
            return _SessionExpiredError()
        if said is None:
            return not_an_org(self._called(what), self.url, status)
        code, words = said
        if code in _LIMIT_CODES:
            return DestinationUnreachable(
                f"{self._called(what)}: {code}: {words} The org's API requests of the last 24 hours are spent; "
                "the next run goes on from here (Setup > Company Information shows the limit)."
            )
        text = f"{self._called(what)}: HTTP {status} {code}: {words}"
        if status == 403:
            text += ". Give the run-as user 'API Enabled' and access to the object and its fields."
        return CallRefused(text, status, code, words)

    def _called(self, what: str, url: str = "") -> str:
        return f"salesforce connection '{self._name}' at {urlsplit(url or self.url).netloc}: {what.split('?')[0]}"
