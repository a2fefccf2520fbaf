"""Language, clock, proxies and the programs that some commands call."""

from __future__ import annotations

import codecs
import datetime
import locale
import os
import shutil
import sys
from collections.abc import Iterator

from pipeline.doctor.finding import NOTE, OK, Finding

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EARLIEST = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
_PROGRAMS = {
    "docker": "`ich serve --docker`",
    "systemctl": "`ich schedule --with systemd`",
    "crontab": "`ich schedule --with cron`",
    "dcm2niix": "converting DICOM to train with",
}


def surrounding_findings() -> Iterator[Finding]:
    """Looks at what surrounds the process."""
    yield _language()
    yield _clock()
    yield from _proxies()
    yield _programs()


def _language() -> Finding:
    used = {"locale": locale.getpreferredencoding(False), "file names": sys.getfilesystemencoding()}
    other = [f"{name} {value}" for name, value in used.items() if codecs.lookup(value).name != "utf-8"]
    if other:
        return Finding("language", NOTE, f"not UTF-8: {', '.join(other)}", "set LC_ALL=C.UTF-8")
    return Finding("language", OK, "UTF-8")


def _clock() -> Finding:
    now = datetime.datetime.now(datetime.UTC).astimezone()
    text = f"{now:%Y-%m-%d %H:%M} {now.tzname()}, which `ich schedule` goes by"
    if now < _EARLIEST:
        return Finding("clock", NOTE, text, "set the clock: what is new is told by times of change")
    return Finding("clock", OK, text)


def _proxies() -> Iterator[Finding]:
    names = sorted({name for name in os.environ if name.lower() in _PROXIES and os.environ[name]})
    if not names:
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if "localhost" in spared or "127.0.0.1" in spared or spared == "*":
        yield Finding("proxy", OK, f"{', '.join(names)}, not for this machine")
    else:
        yield Finding(
            "proxy", NOTE, f"{', '.join(names)} also stand before servers on this machine",
            "set no_proxy=localhost,127.0.0.1 and add the hosts of your model servers",
        )  # fmt: skip


def _programs() -> Finding:
    absent = [f"{name} ({why})" for name, why in _PROGRAMS.items() if shutil.which(name) is None]
    return Finding("programs", OK, f"absent: {', '.join(absent)}" if absent else "all here")
