"""Retraining on this machine by the clock: a systemd timer of the user, or a line in his crontab."""

from __future__ import annotations

import datetime
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.imaging.errors import IchError, UsageError
from components.imaging.nifti import write_bytes

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ALIASES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
_FIELDS = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of the month", 1, 31, ()), ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)  # fmt: skip
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


@dataclass(frozen=True)
class Times:
    """When something is due, as cron reads five fields.

    Attributes:
        expression: The fields.
        minutes: Of an hour.
        hours: Of a day.
        days: Of a month; None where any will do.
        months: Of a year.
        weekdays: 0 is Sunday; None where any will do. With `days`, either is enough, as cron has it.
    """

    expression: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...] | None
    months: tuple[int, ...]
    weekdays: tuple[int, ...] | None

    @staticmethod
    def parse(text: str) -> Times:
        """Reads an expression.

        Raises:
            UsageError: It is none.
        """
        fields = _ALIASES.get(text.strip().lower(), text).split()
        if len(fields) != len(_FIELDS):
            raise UsageError(
                f"--cron {text!r}: found {len(fields)} fields, wanted five (minute, hour, day, month, weekday), "
                "for example '0 3 * * 1' for Mondays at 3:00, or @daily"
            )
        minutes, hours, days, months, weekdays = (
            _values(field, *limits, text) for field, limits in zip(fields, _FIELDS, strict=True)
        )
        return Times(
            " ".join(fields),
            minutes,
            hours,
            None if fields[2].startswith("*") and len(days) == 31 else days,
            months,
            None if fields[4].startswith("*") and len(weekdays) == 8 else tuple(sorted({day % 7 for day in weekdays})),
        )

    def on_calendar(self) -> list[str]:
        """The same for systemd's `OnCalendar`: due when any of these is."""
        clock = f"{_listed(self.hours, 24)}:{_listed(self.minutes, 60)}:00"
        months = _listed(self.months, 12)
        named = ",".join(_DAYS[day].title() for day in self.weekdays or ())
        by_date = f"*-{months}-{_listed(self.days, 31) if self.days else '*'} {clock}"
        if self.weekdays is None:
            return [by_date]
        by_weekday = f"{named} *-{months}-* {clock}"
        return [by_weekday] if self.days is None else [by_date, by_weekday]

    def six_fields(self) -> str:
        """The same for Kubeflow: seconds first, Sunday is 0 alone, and a star is only where any day will do.

        Its reader (robfig/cron) takes five fields for six without the weekday. To it a star, also one with steps,
        means that both the day of the month and that of the week must fit; else either does.
        """
        parts = [_ranges(self.minutes, 60), _ranges(self.hours, 24), _ranges(self.days or (), 0) or "*"]
        return " ".join(["0", *parts, _ranges(self.months, 12), _ranges(self.weekdays or (), 0) or "*"])

    def next_after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """When it is due next; None where it is not within the five years that Kubeflow looks ahead."""
        start = moment.replace(second=0, microsecond=0) + datetime.timedelta(minutes=1)
        for ahead in range(5 * 366):
            day = start.date() + datetime.timedelta(days=ahead)
            by_date = self.days is not None and day.day in self.days
            by_weekday = self.weekdays is not None and day.isoweekday() % 7 in self.weekdays
            any_day = self.days is None and self.weekdays is None
            if day.month not in self.months or not (by_date or by_weekday or any_day):
                continue
            for hour, minute in itertools.product(self.hours, self.minutes):
                due = datetime.datetime.combine(day, datetime.time(hour, minute), moment.tzinfo)
                if due >= start:
                    return due
        return None


def _values(field: str, name: str, low: int, high: int, names: Sequence[str], text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        problem = UsageError(
            f"--cron {text!r}: found {part!r} for the {name}, wanted {low} to {high}, a range as {low}-{high}, "
            f"steps as */{min(5, high)}, or several of these with commas between"
        )
        if match is None:
            raise problem
        first, last, step = match["first"], match["last"], match["step"]
        if first == "*":
            start, end = low, high
            if last is not None:
                raise problem
        else:
            offset = 1 if names is _MONTHS else 0
            numbers = [
                names.index(word.lower()[:3]) + offset if word.lower()[:3] in names else int(word) if word.isdecimal()
                else -1
                for word in (first, last or first)
            ]  # fmt: skip
            start, end = numbers[0], numbers[1] if last is not None or step is None else high
        if not low <= start <= end <= high or step == "0":
            raise problem
        found.update(range(start, end + 1, int(step or 1)))
    return tuple(sorted(found))


def _ranges(values: Sequence[int], of: int) -> str:
    """Numbers as cron has them, three or more in a row as a range; a star where there are `of`."""
    if len(values) == of:
        return "*"
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(values), lambda item: item[1] - item[0]):
        row = [value for _, value in group]
        parts += [f"{row[0]}-{row[-1]}"] if len(row) > 2 else [str(value) for value in row]
    return ",".join(parts)


def _listed(values: Sequence[int], of: int) -> str:
    return "*" if len(values) == of else ",".join(f"{value:02}" for value in values)


@dataclass(frozen=True)
class Job:
    """A command and when it is due.

    Attributes:
        name: Of the job; another one of the same name takes its place.
        times: When.
        command: Program and arguments, all paths absolute.
        log: What it prints is added to this file.
    """

    name: str
    times: Times
    command: tuple[str, ...]
    log: Path

    @property
    def _mark(self) -> str:
        return f"# ich schedule {self.name}"

    def crontab_line(self) -> str:
        """The line for the crontab; its end says whose it is."""
        shell = f"mkdir -p {shlex.quote(str(self.log.parent))} && {shlex.join(self.command)}"
        shell += f" >> {shlex.quote(str(self.log))} 2>&1"
        return f"{self.times.expression} {shell.replace('%', chr(92) + '%')} {self._mark}"

    def in_crontab(self, crontab: str, *, remove: bool = False) -> str:
        """A crontab with this job in place of the one of its name, or without."""
        kept = [line for line in crontab.splitlines() if not line.rstrip().endswith(f" {self._mark}")]
        lines = kept if remove else [*kept, self.crontab_line()]
        return "".join(f"{line}\n" for line in lines)

    def units(self) -> dict[str, str]:
        """systemd's units by file name."""
        quoted = " ".join(f'"{_escaped(part)}"' for part in self.command)
        calendar = "\n".join(f"OnCalendar={line}" for line in self.times.on_calendar())
        log = str(self.log).replace("%", "%%")
        return {
            f"ich-{self.name}.service": (
                f"[Unit]\nDescription=ich: retraining {self.name}\n\n[Service]\nType=oneshot\nNice=10\n"
                f"ExecStart={quoted}\nStandardOutput=append:{log}\nStandardError=append:{log}\n"
            ),
            f"ich-{self.name}.timer": (
                f"[Unit]\nDescription=ich: when {self.name} is due\n\n[Timer]\n{calendar}\nPersistent=true\n\n"
                "[Install]\nWantedBy=timers.target\n"
            ),
        }


def _escaped(text: str) -> str:
    """As systemd reads an argument back: `%` and `$` mean something there."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def job(name: str, cron: str, arguments: Sequence[str], output: Path) -> Job:
    """A job that runs this program.

    Args:
        name: Of the job, letters, digits, `_` and `-`.
        cron: Five fields as cron has them, or `@daily` and the like.
        arguments: Of `ich`.
        output: The output folder of the runs, which gets the log.

    Raises:
        UsageError: Name or times cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UsageError(f"--name {name!r}: wanted letters, digits, _ and - alone")
    program = Path(sys.executable).with_name("ich")
    command = [str(program)] if program.exists() else [sys.executable, "-m", "pipeline"]
    return Job(name, Times.parse(cron), (*command, *arguments), output.resolve() / "logs" / "schedule.log")


SYSTEMD, CRON = "systemd", "cron"


def default_kind() -> str:
    """systemd where a user's manager answers, else cron."""
    asked = ["systemctl", "--user", "is-system-running"]
    if shutil.which(asked[0]) is None:
        return CRON
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return SYSTEMD if answer in ("running", "degraded", "starting", "initializing") else CRON


def install(made: Job, kind: str, *, remove: bool = False) -> None:
    """Puts the job in place of the one of its name, or takes that away.

    Raises:
        UsageError: The scheduler's command is not there.
        IchError: It refused.
    """
    if kind == CRON:
        listed = _call(["crontab", "-l"], may_fail="no crontab")  # else the user's other lines would be lost
        _call(["crontab", "-"], made.in_crontab(listed, remove=remove))
        return
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    units = made.units()
    timer = next(name for name in units if name.endswith(".timer"))
    if remove:
        _call(["systemctl", "--user", "disable", "--now", timer], may_fail="")
        for name in units:
            (folder / name).unlink(missing_ok=True)
        _call(["systemctl", "--user", "daemon-reload"])
        return
    try:
        made.log.parent.mkdir(parents=True, exist_ok=True)  # systemd makes the file and not its folder
        for name, text in units.items():
            write_bytes(folder / name, text.encode())
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot write there ({error.strerror}); try --with cron") from None
    _call(["systemctl", "--user", "daemon-reload"])
    _call(["systemctl", "--user", "enable", "--now", timer])


def _call(command: list[str], text: str | None = None, *, may_fail: str | None = None) -> str:
    """What a command prints; nothing where it fails with words that hold `may_fail`."""
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"{command[0]}: no such command here; install it, or use the other kind (--with {SYSTEMD} or {CRON})"
        )
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode and (may_fail is None or may_fail not in done.stderr.lower()):
        raise IchError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout
