"""TF Serving's REST API."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import requests
from isal import igzip
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from serving.client.channel import Busy, Failure, Gone, Inputs, Late, Refused, Unavailable, checked
from serving.client.url import ServerUrl
from serving.contract import Contract
from serving.signatures import DESCRIBE_SIGNATURE, QUERY, SLICES_SIGNATURE

_CONNECT_S = 10.0
"""Longest time to wait for a connection."""

_PACKED_BYTES = 100 * 2**20
"""TF Serving unpacks no body larger than this."""

_FAILURES: dict[int, type[Failure]] = {404: Gone, 429: Busy, 502: Unavailable, 503: Unavailable, 504: Unavailable}

_AVAILABLE = "AVAILABLE"


class RestChannel:
    """Connections to a model, see `serving.client.channel.Channel`."""

    def __init__(self, url: ServerUrl, connections: int = 4) -> None:
        """Prepares connections, which are made when needed.

        Args:
            url: The model.
            connections: So many stay open.
        """
        self._base = f"{url.scheme}://{url.address}/v1/models/{quote(url.model)}"
        self._session = requests.Session()
        self._session.mount(f"{url.scheme}://", HTTPAdapter(pool_maxsize=connections))

    def describe(self, version: str | None, deadline_s: float) -> tuple[Contract, str]:
        """The contract of a version, and that version."""
        until = time.monotonic() + deadline_s
        if version is not None:
            return self._described(version, until)
        try:
            return self._described(self._newest(until), until)
        except Gone:  # since it was looked for: another one has come
            return self._described(self._newest(until), until)

    def predict(self, inputs: Inputs, version: str, deadline_s: float) -> np.ndarray:
        """Probabilities of one request by that very version."""
        outputs = self._predict(SLICES_SIGNATURE, inputs, version, time.monotonic() + deadline_s)
        try:
            values = np.asarray(outputs)
        except ValueError:
            raise Refused("the answer is no array: its rows differ in length") from None
        if values.dtype.kind in "fi":  # JSON does not tell them apart; text and the like stay what they are
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
        return checked(values, inputs)

    def close(self) -> None:
        """Ends the connections that are not in use."""
        self._session.close()

    def _described(self, version: str, until: float) -> tuple[Contract, str]:
        outputs = self._predict(DESCRIBE_SIGNATURE, {QUERY: [""]}, version, until)
        if not (isinstance(outputs, list) and outputs and isinstance(outputs[0], str)):
            raise Refused(f"{DESCRIBE_SIGNATURE} answers without a contract")
        return Contract.from_json(outputs[0]), version

    def _newest(self, until: float) -> str:
        """The newest version in service: TF Serving's answers do not say which version gave them."""
        tree = self._ask("GET", "", None, until)
        try:
            states = {int(item["version"]): str(item["state"]) for item in tree["model_version_status"]}
        except (KeyError, TypeError, ValueError):
            raise Refused("the status of the model lacks model_version_status") from None
        ready = [number for number, state in states.items() if state == _AVAILABLE]
        if not ready:
            found = ", ".join(f"{number} is {state}" for number, state in sorted(states.items())) or "there is none"
            raise Unavailable(f"no version is {_AVAILABLE}: {found}")
        return str(max(ready))

    def _predict(self, signature: str, inputs: dict[str, Any], version: str, until: float) -> Any:
        body = orjson.dumps({"signature_name": signature, "inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)
        tree = self._ask("POST", f"/versions/{version}:predict", body, until)
        if "outputs" not in tree:
            raise Refused(f"the answer holds {', '.join(sorted(tree)) or 'nothing'}, wanted outputs")
        return tree["outputs"]

    def _ask(self, method: str, path: str, body: bytes | None, until: float) -> dict[str, Any]:
        """One request; its answer, a JSON object."""
        headers = {"Content-Type": "application/json"}
        if body and len(body) <= _PACKED_BYTES:
            headers["Content-Encoding"] = "gzip"
            body = igzip.compress(body, 1)
        try:
            # A redirection would turn the request into another one.
            with self._session.request(
                method,
                self._base + path,
                data=body,
                headers=headers,
                timeout=(min(_CONNECT_S, _left(until)), _left(until)),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _read(response, until)
        except requests.ConnectTimeout as error:
            raise Unavailable(_reason(error)) from None
        except (requests.Timeout, ReadTimeoutError):
            raise Late from None
        except requests.exceptions.SSLError as error:
            raise Refused(_reason(error)) from None
        except (requests.ConnectionError, ProtocolError) as error:
            raise Unavailable(_reason(error)) from None
        except (requests.RequestException, HTTPError) as error:
            raise Refused(_reason(error)) from None
        return _object(response, content)


def _left(until: float) -> float:
    """Seconds until then."""
    left = until - time.monotonic()
    if left <= 0:
        raise Late
    return left


def _read(response: requests.Response, until: float) -> bytes:
    """The whole body, also of a server that sends it slowly."""
    parts = []
    # `requests` itself waits for a full part, however long its bytes take to trickle in.
    while part := response.raw.read1(2**20, decode_content=True):
        _left(until)
        parts.append(part)
    return b"".join(parts)


def _object(response: requests.Response, content: bytes) -> dict[str, Any]:
    """The JSON object of a good answer.

    Raises:
        Failure: The answer is an error, or is not TF Serving's.
    """
    kind = _FAILURES.get(response.status_code, Refused)
    try:
        tree = _parsed(content)
        if not isinstance(tree, dict):
            raise ValueError
    except (ValueError, RecursionError):
        found = response.headers.get("Content-Type", "no type").split(";")[0]
        text = f"HTTP {response.status_code} with {found}, wanted TF Serving's JSON"
        raise (Refused if kind is Gone else kind)(text) from None
    if response.status_code != requests.codes.ok:
        raise kind(f"HTTP {response.status_code}: {tree.get('error', '')}")
    return tree


def _parsed(content: bytes) -> Any:
    """JSON, also with NaN, which TF Serving writes and the faster library does not take."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)


def _reason(error: BaseException) -> str:
    """What the network says, without what the libraries in between add."""
    inner: Any = error
    while True:
        reason = getattr(inner, "reason", None)
        below = (
            reason
            if isinstance(reason, BaseException)
            else next((item for item in inner.args if isinstance(item, BaseException)), None)
        )
        if below is None or isinstance(inner, ssl.SSLError):
            return str(getattr(inner, "strerror", None) or inner)
        inner = below
