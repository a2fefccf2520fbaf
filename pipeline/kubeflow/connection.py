"""The line to a Kubeflow Pipelines 2 API: address, token, certificates, patience, and errors that say what to do.

Built on kfp's generated API alone. `kfp.Client` reads settings of other tools from the home folder, asks for cloud
credentials, prints, waits without end and tries nothing twice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp_server_api
import urllib3
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_exponential
from urllib3 import exceptions as http

from components.imaging.errors import IchError, UsageError
from pipeline.config import KubeflowConfig, api_address

ATTEMPTS = 3
PAUSE_SECONDS = 0.5
"""Before the second attempt; doubled before each further one."""
CONNECT_SECONDS = 10.0
PASSING = frozenset({429, 500, 502, 503, 504})
"""Answers of a server that may be well again soon."""
ENDPOINT, TOKEN_FILE, TOKEN = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_TOKEN"
PAGE = 100


class ApiError(IchError):
    """A call that failed.

    Attributes:
        status: What the server answered; None where it gave no answer.
        passing: Whether it may go better soon.
        unknown: Whether the server may have done what it was asked for all the same.
    """

    def __init__(
        self, message: str, *, status: int | None = None, passing: bool = False, unknown: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.passing, self.unknown = status, passing, unknown


class Connection:
    """A Kubeflow Pipelines 2 API and its services, as kfp names them.

    Attributes:
        host: Its address.
    """

    def __init__(self, config: KubeflowConfig) -> None:
        """Prepares the line; nothing is asked yet.

        Raises:
            UsageError: No address, or a file with a token or certificates that cannot be used.
        """
        self.host = _host(config)
        self._timeout = (min(CONNECT_SECONDS, config.timeout_seconds), config.timeout_seconds)
        settings = kfp_server_api.Configuration(host=self.host)
        # Attempts are counted here. A redirect is not followed: it leads to a log-in, or takes the token elsewhere.
        settings.retries = urllib3.Retry(0, redirect=False)
        settings.verify_ssl = config.verify_tls
        settings.ssl_ca_cert = _certificates(config)
        if not config.verify_tls:
            urllib3.disable_warnings(http.InsecureRequestWarning)  # the user said so; once is enough
        self._token = _token(config)
        if self._token:
            settings.api_key = {"authorization": self._token}
            settings.api_key_prefix = {"authorization": "Bearer"}
        self._client = kfp_server_api.ApiClient(settings)
        self.health = kfp_server_api.HealthzServiceApi(self._client)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._client)
        self.runs = kfp_server_api.RunServiceApi(self._client)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(self._client)

    def greet(self) -> Any:
        """What the API says of itself: `multi_user`, for one.

        Raises:
            ApiError: There is none.
        """
        try:
            said = self.call("greet Kubeflow Pipelines", self.health.healthz_service_get_healthz)
        except ApiError as error:
            if error.status == 404:
                raise ApiError(f"{self.host}: {_FOREIGN} (404 Not Found); check kubeflow.host", status=404) from None
            raise
        if not isinstance(said.multi_user, bool):
            raise ApiError(f"{self.host}: {_FOREIGN} (it greets in other words); check kubeflow.host")
        return said

    def call(self, task: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Asks for something that may be asked for twice; tries again where that may help.

        Args:
            task: What for, as it is said after "cannot".
            method: Of one of the services.
            *args: Its arguments.
            **kwargs: Its arguments by name.

        Raises:
            ApiError: There was no answer, or not the one asked for.
        """
        return self._patiently(lambda: self._once(task, method, *args, **kwargs))

    def create(self, task: str, find: Callable[[], Any], method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Asks for something to be made once: where that may have been done without an answer, it is looked for.

        Args:
            task: What for, as it is said after "cannot".
            find: Looks for it; None where it is not there.
            method: Of one of the services.
            *args: Its arguments.
            **kwargs: Its arguments by name.

        Raises:
            ApiError: It was not made, or nobody knows.
        """

        def attempt() -> Any:
            try:
                return self._once(task, method, *args, **kwargs)
            except ApiError as error:
                if not error.unknown and error.status != 409:
                    raise
                try:
                    found = find()
                except ApiError:
                    raise error from None
                if found is not None:
                    return found
                if error.status in (None, 504):  # the server may still be at it: twice would be worse than an error
                    error.passing = False
                raise

        return self._patiently(attempt)

    def all(self, task: str, method: Callable[..., Any], field: str, **kwargs: Any) -> Iterator[Any]:
        """What a method lists in its field, page after page.

        Raises:
            ApiError: There was no answer, or not the one asked for.
        """
        token: str | None = ""
        while token is not None:
            page = self.call(task, method, page_size=PAGE, page_token=token, **kwargs)
            yield from getattr(page, field) or []
            token = page.next_page_token or None

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ApiError) and error.passing),
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(self._timeout[1]),
            wait=wait_exponential(PAUSE_SECONDS),
            reraise=True,
        )(attempt)

    def _once(self, task: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = f"{self.host}: cannot {task}"
        try:
            answer = method(*args, **kwargs, _request_timeout=self._timeout)
        except kfp_server_api.ApiException as error:
            raise self._refused(start, error) from None
        except http.HTTPError as error:
            raise self._unanswered(start, error) from None
        except kfp_server_api.OpenApiException:  # called with the wrong arguments: a mistake of ours
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # kfp's code takes any answer for one of the API's own, and an empty object for what is not in it.
            raise ApiError(f"{start}: {_FOREIGN} ({type(error).__name__})", unknown=True) from None
        got = self._client.last_response
        if not isinstance(_read(got.data), dict):
            kind = got.getheader("content-type") or "none"
            raise ApiError(f"{start}: {_FOREIGN} (content type {kind})", unknown=True)
        return answer

    def _refused(self, start: str, error: Any) -> ApiError:
        status, said = error.status, _said(error.body)
        text = f"{start}: {status} {error.reason}{f': {said}' if said else ''}"
        if 300 <= status < 400:
            target = urlsplit((error.headers or {}).get("location", ""))
            where = f"{target.scheme}://{target.netloc}" if target.netloc else "another place there"
            return ApiError(
                f"{text}: sent on to {where}, most likely to log in; {self._who()}, or give the address of the API "
                "itself in kubeflow.host",
                status=status,
            )
        remedy = {
            401: self._who(),
            403: "ask for the right to do so in the namespace (Kubeflow's role is kubeflow-edit), or name another "
            "one in kubeflow.namespace",
            409: "something of that name is there already and is not the one wanted; rename one of them",
            413: "the pipeline is too large for the server or the proxy before it",
        }.get(status, "")
        if status in PASSING:
            remedy = "the server is in trouble; look at its log (deployment ml-pipeline), and try again"
        return ApiError(
            f"{text}{f'; {remedy}' if remedy else ''}",
            status=status,
            passing=status in PASSING,
            unknown=status in PASSING - {429},
        )

    def _unanswered(self, start: str, error: http.HTTPError) -> ApiError:
        cause = error.reason if isinstance(error, http.MaxRetryError) else error
        if isinstance(cause, http.SSLError):
            return ApiError(
                f"{start}: no trust in its certificate ({_short(cause)}); give the authority's in kubeflow.ca_cert or "
                "SSL_CERT_FILE, or http:// in kubeflow.host where the server speaks no TLS"
            )
        if isinstance(cause, http.NameResolutionError):
            return ApiError(f"{start}: no machine of that name; check kubeflow.host", passing=True)
        if isinstance(cause, http.NewConnectionError | http.ConnectTimeoutError):
            return ApiError(
                f"{start}: nothing answers there; check kubeflow.host, and that the port-forward runs "
                "(kubectl port-forward -n kubeflow svc/ml-pipeline 8888)",
                passing=True,
            )
        if isinstance(cause, http.TimeoutError):
            return ApiError(
                f"{start}: no answer within {self._timeout[1]:g} s, so it may have been done or not; see `ich kubeflow "
                "list`, and raise kubeflow.timeout_seconds if the server is that slow",
                passing=True,
                unknown=True,
            )
        return ApiError(
            f"{start}: the connection broke ({_short(cause)}), so it may have been done or not; see `ich kubeflow "
            "list`, and try again",
            passing=True,
            unknown=True,
        )

    def _who(self) -> str:
        if self._token:
            return "the token is not accepted: renew it (kubeflow.token_file or the environment's, whichever is in use)"
        return f"give a token: a file in kubeflow.token_file or {TOKEN_FILE}, or the token itself in {TOKEN}"


_FOREIGN = "what answers there is no Kubeflow Pipelines 2 API"


def _host(config: KubeflowConfig) -> str:
    host = config.host or os.environ.get(ENDPOINT)
    if not host:
        raise UsageError(
            f"no address of Kubeflow Pipelines; give kubeflow.host or {ENDPOINT}, for example http://127.0.0.1:8888 "
            "after kubectl port-forward -n kubeflow svc/ml-pipeline 8888"
        )
    try:
        return api_address(host)
    except ValueError as error:  # of the environment: the configuration's has been checked
        raise UsageError(f"{ENDPOINT}: {error}") from None


def _certificates(config: KubeflowConfig) -> str | None:
    name, file = "kubeflow.ca_cert", config.ca_cert
    if file is None:
        name, file = "SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE") or None
    if file is not None and not Path(file).expanduser().is_file():
        raise UsageError(f"{name}: {file} is no file; name one with the certificates to trust")
    return str(Path(file).expanduser()) if file else None


def _token(config: KubeflowConfig) -> str | None:
    """The bearer token; no message repeats it."""
    name, file = "kubeflow.token_file", config.token_file
    if file is None:
        name, file = TOKEN_FILE, os.environ.get(TOKEN_FILE) or None
    if file is None:
        name, text = TOKEN, os.environ.get(TOKEN, "")
        if not text.strip():
            return None
    else:
        try:
            text = Path(file).expanduser().read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not plain text"
            raise UsageError(f"{name}: cannot read {file} ({why}); name a file that holds a token alone") from None
    if not re.fullmatch(r"[\x21-\x7e]+", text.strip()):
        raise UsageError(f"{name}: {file or 'its value'} holds no token; wanted one word and nothing else")
    return text.strip()


def _read(body: str | None) -> Any:
    """A body as JSON; None where it is none."""
    try:
        return json.loads(body or "")
    except ValueError:
        return None


def _said(body: str | None) -> str:
    """What the server gives as a reason: the API's own words, nothing of a proxy's page."""
    answer = _read(body)
    if not isinstance(answer, dict):
        return ""
    words = answer.get("message") or answer.get("error_message") or answer.get("error_details") or answer.get("error")
    return _short(words) if isinstance(words, str) else ""


def _short(words: object, most: int = 300) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= most else f"{text[:most]}..."
