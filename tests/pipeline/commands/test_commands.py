"""What holds for all commands: options of one meaning have one name, examples, JSON, completion, suggestions, time."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.config import shipped_configs
from tests.command import environment
from tests.models import unloadable

SHORT = {"-c": "--config", "-o": "--output", "-d": "--data", "-m": "--model", "-v": "--verbose", "-n": "--patients", "-s": "--seed"}  # noqa: E501 # fmt: skip
"""What a short option means, in whichever command it is."""

NO_JSON = {"serve": "runs until it is stopped", "view": "likewise", "completion": "prints a script"}
COMMANDS = sorted(name for name, command in main.commands.items() if not isinstance(command, click.Group))


def ich(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(item) for item in arguments], prog_name="ich")


def options(name: str) -> dict[str, click.Option]:
    """A command's options by each of their names."""
    parameters = [item for item in main.commands[name].params if isinstance(item, click.Option)]
    return {spelt: item for item in parameters for spelt in item.opts}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_a_short_option_means_the_same_everywhere(name: str) -> None:
    for spelt, option in options(name).items():
        if len(spelt) == 2 and (name, spelt) != ("manifests", "-o"):  # whose --output is that of the run
            assert SHORT[spelt] in option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_the_command_line_takes(name: str) -> None:
    text = ich(name, "--help").output
    example = text.strip().splitlines()[-1].strip()
    assert example.startswith(("Example: ich ", "Example: source"))
    command = main.commands[name]
    words = [word.strip("'") for word in re.findall(r"'[^']*'|[^\s()]+", example.partition(f"ich {name}")[2])]
    command.make_context(name, words)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(NO_JSON)))
def test_a_machine_may_read_every_command(name: str) -> None:
    assert "--json" in options(name)


def test_what_machines_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        unloadable(tmp_path / "output/serving/ich" / str(number), data_fingerprint=str(number))
    assert json.loads(ich("config", "--json").stdout) == {"shipped": shipped_configs()}
    assert json.loads(ich("config", "demo", "--json").stdout) == yaml.safe_load(ich("config", "demo").stdout)
    made = json.loads(ich("phantom", "cohort", "-n", 3, "--workers", 1, "--json").stdout)
    assert made == {"folder": "cohort", "cases": ["001", "002", "003"], "written": 3}
    assert "constant" in json.loads(ich("phantom", "x", "--defects", "list", "--json").stdout)
    found = json.loads(ich("manifests", "-o", "k8s", "--json").stdout)
    assert found["files"] and all(Path(path).is_file() for path in found["files"])
    back = json.loads(ich("rollback", "--json").stdout)
    assert (back["copy_of"], back["replaced"]) == ("1", "2") and Path(back["in_service"]).is_dir()
    job = ich("schedule", "-c", "demo", "-d", "cohort", "-o", "out", "--cron", "@daily", "--with", "cron", "--dry-run", "--json")  # noqa: E501 # fmt: skip
    planned = json.loads(job.stdout)
    assert (planned["name"], planned["with"], planned["done"]) == ("demo", "cron", "nothing")
    assert planned["text"][0].startswith("0 0 * * *")


def test_json_alone_prints_and_with_a_file_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ich("phantom", "cohort", "-n", 3, "--workers", 1).exit_code == 0
    printed = json.loads(ich("check", "cohort", "--json").stdout)
    assert json.loads(ich("check", "cohort", "--json", "-").stdout) == printed
    ich("check", "cohort", "--json", "found.json")
    assert json.loads(Path("found.json").read_text()) == printed
    scores = json.loads(ich("evaluate", "cohort/masks", "cohort/masks", "--json").stdout)
    assert scores["summary"]["dice"]["mean"] == 1


def test_init_then_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ich init` writes finds every case, and says so in both ways."""
    monkeypatch.chdir(tmp_path)
    assert ich("phantom", "scans", "-n", 6, "--workers", 1).exit_code == 0
    shown = ich("init", "scans")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("scans: 6 scans with masks of 6 patients")
    assert shown.stdout.splitlines()[-1] == "written: scans.yaml"
    assert "  ich check scans -c scans.yaml" in shown.stdout.splitlines()
    text = Path("scans.yaml").read_text()
    assert ich("init", "scans").exit_code == 2 and Path("scans.yaml").read_text() == text
    assert ich("init", "scans", "-o", "-").stdout == text
    found = json.loads(ich("init", "scans", "--overwrite", "--json").stdout)
    assert (found["cases"], found["config"], found["not_understood"]) == (6, "scans.yaml", [])
    assert found["proposed"] == yaml.safe_load(text)
    assert set(yaml.safe_load(text)["grid"]) <= {"size", "spacing_mm", "context_slices"}  # only what differs
    checked = json.loads(ich("check", "scans", "-c", "scans.yaml", "--json").stdout)
    assert (checked["case_count"], checked["quarantined_count"], checked["config"]) == (6, 0, "scans")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["pridict"], "predict"),
        (["instal"], None),
        (["run", "--ouput", "x"], "--output"),
        (["status", "--jsn"], "--json"),
        (["phantom", "x", "--size", "smal"], "small"),
        (["completion", "bsh"], "bash"),
    ],
)
def test_what_was_meant(typed: list[str], meant: str | None) -> None:
    result = ich(*typed)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert meant is None or f"'{meant}'" in result.stderr


# --- the shell


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "complete "), ("zsh", "#compdef ich"), ("fish", "complete --no-files --command ich")]
)
def test_the_script_of_each_shell(shell: str, line: str) -> None:
    result = ich("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert any(found.startswith(line) or found.strip().startswith(line) for found in result.stdout.splitlines())
    assert "_ICH_COMPLETE" in result.stdout


def completed(*words: str, cwd: Path) -> list[str]:
    """What bash would be told for a line of these words, the last of which is being typed."""
    line = environment(_ICH_COMPLETE="bash_complete", COMP_WORDS=" ".join(("ich", *words)), COMP_CWORD=str(len(words)))
    program = "from pipeline.cli import main; main(prog_name='ich')"
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, env=line, capture_output=True, text=True)
    return done.stdout.split()


def test_what_the_shell_completes(tmp_path: Path) -> None:
    assert completed("pre", cwd=tmp_path) == ["plain,predict"]
    assert "plain,--overwrite" in completed("init", "--o", cwd=tmp_path)
    names = completed("run", "-c", "p", cwd=tmp_path)
    assert [name for name in names if name.startswith("plain")] == ["plain,phe_sich", "plain,production_gpu"]
    assert names[0] == "file,p"  # what makes bash offer files, too
    assert completed("config", "de", cwd=tmp_path)[-1] == "plain,demo"
    assert completed("run", "-c", "folder/p", cwd=tmp_path) == ["file,folder/p"]


# --- terminals and time


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {}])
def test_no_colours_in_a_log(tmp_path: Path, variables: dict[str, str]) -> None:
    terminal = environment(TERM="xterm-256color", **variables)
    for arguments in (["doctor"], ["--help"], ["config"]):
        command = [sys.executable, "-m", "pipeline", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=terminal, capture_output=True, check=False)
        assert b"\x1b[" not in done.stdout


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_on_a_terminal_unless_they_are_not_wanted(tmp_path: Path, no_color: str, coloured: bool) -> None:
    """A pseudo-terminal, as a user has one."""
    terminal = environment(TERM="xterm-256color", NO_COLOR=no_color)
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "pipeline", "doctor"]
    with subprocess.Popen(command, cwd=tmp_path, env=terminal, stdout=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            shown += part
        running.wait(timeout=60)
    os.close(ours)
    assert (re.search(rb"\x1b\[[0-9;]*3[0-7]m", shown) is not None) == coloured
    assert b"processors" in shown


@pytest.mark.parametrize(("arguments", "seconds"), [("--help", 0.5), ("status -o out", 1.0), ("doctor --json", 5.0)])
def test_quick_commands_are_quick(tmp_path: Path, arguments: str, seconds: float) -> None:
    """Of processor time, thrice over: a machine may be busy, and others slower than the one that was measured on."""
    (tmp_path / "out/runs").mkdir(parents=True)
    command = [sys.executable, "-m", "pipeline", *arguments.split()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3 * seconds
