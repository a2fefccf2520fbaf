"""Times as cron and systemd read them, and jobs that replace their own kind alone."""

from __future__ import annotations

import datetime
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from components.imaging.errors import IchError, UsageError
from pipeline.schedule import CRON, SYSTEMD, Job, Times, install, job
from tests.command import ich

CALENDARS = {
    "0 3 * * 1": ["Mon *-*-* 03:00:00"],
    "*/15 * * * *": ["*-*-* *:00,15,30,45:00"],
    "30 4 1,15 * *": ["*-*-01,15 04:30:00"],
    "0 22 * * mon-fri": ["Mon,Tue,Wed,Thu,Fri *-*-* 22:00:00"],
    "5 0 * 8 *": ["*-08-* 00:05:00"],
    "0 0 13 * 5": ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"],  # cron takes either, systemd wants both on one line
    "0 0 * * 7": ["Sun *-*-* 00:00:00"],
    "0 0 * * 0-7": ["Sun,Mon,Tue,Wed,Thu,Fri,Sat *-*-* 00:00:00"],
    "10-40/10 6 * jan,DEC *": ["*-01,12-* 06:10,20,30,40:00"],
    "7/20 1 * * *": ["*-*-* 01:07,27,47:00"],
    "@daily": ["*-*-* 00:00:00"],
    "@weekly": ["Sun *-*-* 00:00:00"],
}


@pytest.mark.parametrize("expression", CALENDARS)
def test_what_cron_reads_as_systemd_reads_it(expression: str) -> None:
    assert Times.parse(expression).on_calendar() == CALENDARS[expression]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_every_calendar() -> None:
    lines = [line for calendar in CALENDARS.values() for line in calendar]
    done = subprocess.run(["systemd-analyze", "calendar", *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next elapse:") == len(lines)


SIX_FIELDS = {
    "0 3 * * 1": "0 0 3 * * 1",
    "*/15 * * * *": "0 0,15,30,45 * * * *",
    "0 22 * * mon-fri": "0 0 22 * * 1-5",
    "0 0 * * 7": "0 0 0 * * 0",  # 7 is beyond what its reader knows
    "0 0 13 * 5": "0 0 0 13 * 5",
    "0 0 */2 * 5": "0 0 0 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * 5",  # a star would have both days fit
    "0 0 1-31 * 1": "0 0 0 1-31 * 1",
    "10-40/10 6 * jan,DEC *": "0 10,20,30,40 6 * 1,12 *",
    "@weekly": "0 0 0 * * 0",
}


@pytest.mark.parametrize("expression", SIX_FIELDS)
def test_what_cron_reads_as_kubeflow_reads_it(expression: str) -> None:
    assert Times.parse(expression).six_fields() == SIX_FIELDS[expression]


def robfig(fields: str, start: datetime.datetime, days: int) -> list[datetime.datetime]:
    """When six fields are due, as the reader that Kubeflow has (robfig/cron) goes about it."""
    limits = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
    sets, stars = [], []
    for field, (low, high) in zip(fields.split(), limits, strict=True):
        stars.append(field == "*")
        values: set[int] = set()
        for part in field.split(","):
            first, _, last = (f"{low}-{high}" if part == "*" else part).partition("-")
            assert low <= int(first) <= int(last or first) <= high
            values.update(range(int(first), int(last or first) + 1))
        sets.append(values)
    _, minutes, hours, of_month, months, of_week = sets
    found = []
    for day in (start.date() + datetime.timedelta(days=ahead) for ahead in range(days)):
        month_fits, week_fits = day.day in of_month, day.isoweekday() % 7 in of_week
        fits = month_fits and week_fits if stars[3] or stars[5] else month_fits or week_fits
        if fits and day.month in months:
            times = (datetime.time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes))
            found += [datetime.datetime.combine(day, time, datetime.UTC) for time in times]
    return [moment for moment in found if moment > start]


@pytest.mark.parametrize("expression", sorted({*CALENDARS, *SIX_FIELDS}))
def test_when_it_is_due_next(expression: str) -> None:
    times = Times.parse(expression)
    moment = datetime.datetime(2028, 1, 30, 23, 59, 30, tzinfo=datetime.UTC)  # before a leap day
    due = robfig(times.six_fields(), moment, 400)[:60]
    assert due
    for wanted in due:
        found = times.next_after(moment)
        assert found == wanted
        moment = found


def test_what_is_never_due() -> None:
    now = datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC)
    assert Times.parse("0 0 30 2 *").next_after(now) is None
    assert Times.parse("0 0 29 2 *").next_after(now) == datetime.datetime(2028, 2, 29, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0 3 * *", "found 4 fields, wanted five"), ("", "found 0 fields"), ("60 3 * * *", "'60' for the minute"),
        ("0 24 * * *", "wanted 0 to 23"), ("0 0 0 * *", "'0' for the day of the month, wanted 1 to 31"),
        ("0 0 * 13 *", "month"), ("0 0 * * 8", "day of the week"), ("*/0 * * * *", "for the minute"),
        ("5-3 * * * *", "'5-3'"), ("*-3 * * * *", "for the minute"), ("a * * * *", "'a'"), ("1, * * * *", "''"),
        ("0 0 * foo *", "'foo' for the month"), ("@reboot", "found 1 fields"), ("-1 * * * *", "'-1'"),
    ],
)  # fmt: skip
def test_what_is_no_time(expression: str, text: str) -> None:
    with pytest.raises(UsageError, match="--cron") as caught:
        Times.parse(expression)
    assert text in str(caught.value)


def made(tmp_path: Path, name: str = "mine", cron: str = "0 3 * * 1") -> Job:
    return job(name, cron, ["run", "-c", "a b", "--set", "x=50%"], tmp_path / "o'ut")


def test_the_line_in_the_crontab_runs_the_command(tmp_path: Path) -> None:
    """As cron does it: an escaped % is a %, what is left goes to a shell."""
    line = Job("n", Times.parse("0 3 * * 1"), ("printf", "%s|", "a b", "5%"), tmp_path / "o'ut" / "log").crontab_line()
    fields = line.split(" ", 5)
    assert fields[:5] == ["0", "3", "*", "*", "1"]
    assert "%" not in fields[5].replace("\\%", "")
    subprocess.run(["sh", "-c", fields[5].replace("\\%", "%")], check=True)
    assert (tmp_path / "o'ut" / "log").read_text() == "a b|5%|"


def test_a_crontab_keeps_all_other_lines(tmp_path: Path) -> None:
    before = "MAILTO=x\n# ich schedule mine too\n1 2 * * * true # ich schedule mine2\n"
    first = made(tmp_path).in_crontab(before)
    assert first == before + made(tmp_path).crontab_line() + "\n"
    again = made(tmp_path, cron="0 4 * * 1").in_crontab(first)
    assert again == before + made(tmp_path, cron="0 4 * * 1").crontab_line() + "\n"
    assert made(tmp_path).in_crontab(again, remove=True) == before


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = made(tmp_path).units()
    assert set(units) == {"ich-mine.service", "ich-mine.timer"}
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(tmp_path / name for name in units)],
        capture_output=True, text=True, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "ich-mine" in line], done.stderr


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for crontab and systemctl, which keep what they are given; the folder for their files."""
    kept = tmp_path / "kept"
    kept.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "crontab").write_text(
        f"#!/bin/sh\ncd {kept}\n"
        'if [ "$1" = -l ]; then [ -e broken ] && { echo "cannot read" >&2; exit 1; }\n'
        '[ -e tab ] && exec cat tab; echo "no crontab for me" >&2; exit 1; fi\nexec cat > tab\n'
    )
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {kept}/calls\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return kept


def test_cron_gets_the_line_once(commands: Path, tmp_path: Path) -> None:
    for cron in ("0 3 * * 1", "0 4 * * 1"):
        install(made(tmp_path, cron=cron), CRON)
    assert (commands / "tab").read_text() == made(tmp_path, cron="0 4 * * 1").crontab_line() + "\n"
    install(made(tmp_path), CRON, remove=True)
    assert (commands / "tab").read_text() == ""


def test_a_crontab_that_cannot_be_read_is_not_written(commands: Path, tmp_path: Path) -> None:
    (commands / "tab").write_text("1 2 3 4 5 precious\n")
    (commands / "broken").touch()
    with pytest.raises(IchError, match="crontab -l: exit code 1: cannot read"):
        install(made(tmp_path), CRON)
    assert (commands / "tab").read_text() == "1 2 3 4 5 precious\n"


def test_systemd_gets_units_and_is_told(commands: Path, tmp_path: Path) -> None:
    install(made(tmp_path), SYSTEMD)
    folder = tmp_path / "config" / "systemd" / "user"
    assert {path.name: path.read_text() for path in folder.iterdir()} == made(tmp_path).units()
    calls = ["--user daemon-reload", "--user enable --now ich-mine.timer"]
    assert (commands / "calls").read_text().splitlines() == calls
    install(made(tmp_path), SYSTEMD, remove=True)
    assert list(folder.iterdir()) == []


def test_without_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"crontab: no such command here; install it, or use the other kind"):
        install(made(tmp_path), CRON)


def test_the_command(commands: Path, tmp_path: Path) -> None:
    options: list[str | Path] = [
        "schedule",
        "--cron",
        "0 3 * * 1",
        "-c",
        "demo",
        "-d",
        tmp_path,
        "-o",
        tmp_path / "out",
    ]
    dry = ich(*options, "--with", "cron", "--dry-run", "--set", "training.epochs=3")
    assert dry.returncode == 0, dry.stderr
    assert not (commands / "tab").exists()
    words = shlex.split(dry.stdout)
    assert words[:5] == ["0", "3", "*", "*", "1"]
    wanted = ["run", "--if-new-data", "-c", "demo", "-d", str(tmp_path), "-o", str(tmp_path / "out")]
    start = words.index("run")
    assert words[start : start + 10] == [*wanted, "--set", "training.epochs=3"]
    done = ich(*options, "--with", "cron")
    assert done.stdout.splitlines()[-1] == "installed: demo, with cron"
    assert "ich schedule demo" in (commands / "tab").read_text()
    gone = ich("schedule", "-c", "demo", "--with", "cron", "--remove")
    assert gone.stdout == "taken away: demo, with cron\n" and (commands / "tab").read_text() == ""
    wrong = ich(*options[:2], "0 3 * *", *options[3:])
    assert wrong.returncode == 2 and "found 4 fields, wanted five" in wrong.stderr
    assert ich(*options, "--with", "cron", "--name", "a b").returncode == 2
    assert ich("schedule", *options[3:], "--with", "cron").returncode == 2
    assert (commands / "tab").read_text() == ""
