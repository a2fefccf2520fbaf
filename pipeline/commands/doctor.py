"""`ich doctor`: looks at the machine and the environment."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.commands.common import json_option, output_option, print_json, reported


@click.command(epilog="Example: ich doctor -o OUT")
@output_option("Output folder of runs; it need not be there yet.")
@click.option("--deep", is_flag=True, help="Also import TensorFlow and TFX and let them compute: half a minute.")
@json_option("Print all findings as JSON.")
@reported
def doctor(output: Path, deep: bool, as_json: bool) -> int:
    """Look at environment, versions, processors, GPU, memory, disk and known traps.

    Exit code 1 says that there is a problem with which runs fail or mislead; notes alone leave it at 0.
    """
    from pipeline.console import captured
    from pipeline.doctor.finding import NOTE, PROBLEM
    from pipeline.doctor.machine import machine_findings
    from pipeline.doctor.packages import python_findings
    from pipeline.doctor.places import place_findings
    from pipeline.doctor.surroundings import surrounding_findings

    found = [*python_findings(), *machine_findings(), *place_findings(output), *surrounding_findings()]
    if deep:
        from pipeline.doctor.deep import deep_findings

        with captured(Path(os.devnull)):
            found += deep_findings()
    counts = {state: sum(finding.state == state for finding in found) for state in (PROBLEM, NOTE)}
    if as_json:
        totals = {f"{state}s": count for state, count in counts.items()}
        print_json({**totals, "findings": [asdict(one) for one in found]})
        return int(counts[PROBLEM] > 0)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    colours = {PROBLEM: "red", NOTE: "yellow"}
    for one in found:
        line = Text(f"{one.state:<8}", colours.get(one.state, "green")).append(f"{one.name:<18}{one.text}", "default")
        console.print(line)
        if one.remedy:
            console.print(Text(f"{'':<26}{one.remedy}", "dim"))
    console.print(", ".join(f"{count or 'no'} {state}{'' if count == 1 else 's'}" for state, count in counts.items()))
    return int(counts[PROBLEM] > 0)
