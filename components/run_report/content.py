"""All that a run report says, as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.evaluator.figures import MEASURES, by_patient, figures
from components.imaging.agreement import DEFINITION as AGREEMENT
from components.imaging.metrics import DEFINITIONS
from components.pusher.card import INTENDED_USE, LIMITS, weaknesses
from components.run_report.curves import curves

FORMAT = 2
"""Version of the content's layout; another one has other keys."""

LONGEST_RUN = 20
"""False-positive components of a scan that are counted one by one; more are one class."""


def collect(
    verdict: Mapping[str, Any],
    listing: Mapping[str, Any],
    contract: Mapping[str, Any],
    *,
    name: str,
    config: Mapping[str, Any],
    history: Mapping[str, Any] | None = None,
    findings: Iterable[Mapping[str, Any]] = (),
    strips: Iterable[Mapping[str, Any]] = (),
    created: str = "",
    code: str = "",
) -> dict[str, Any]:
    """Gathers the content of a report, as far as it is known before the run ends; `complete` adds the rest.

    Args:
        verdict: `verdict.json` of the evaluation.
        listing: `cases.json` of the ingestion.
        contract: The candidate's contract.
        name: The configuration's name.
        config: All its sections.
        history: `history.json` of the training, if there is one.
        findings: `findings.json` of the data validator.
        strips: The scans to look at: `case_id`, `roles`, and what `strips.draw` returned.
        created: When the report was made, as text.
        code: Hash of the program.

    Returns:
        A JSON-serialisable mapping; `page.render` makes the page of it.

    Raises:
        KeyError: A measured scan is not in the listing.
    """
    cases = {case["case_id"]: case for case in listing["cases"]}
    measures = verdict["by_case"]
    served = verdict.get("baseline") or {}
    against = [dict(item) for item in findings]
    held = [item for item in against if item["severity"] != "note"]
    found = figures(measures, cases)
    patients = by_patient(measures, cases)
    return {
        "format": FORMAT,
        "name": name,
        "created": created,
        "verdict": conclusion(verdict, held),
        "rules": _rules(verdict),
        "notes": list(verdict.get("notes", ())),
        "held": held,
        "overall": found["overall"],
        "slices": _bounded(found["slices"], verdict),
        "sources": _sources(measures, cases),
        "definitions": {measure: DEFINITIONS[measure] for measure in MEASURES},
        "patients": _patients(patients, measures, cases),
        "scans": _scans(measures, cases),
        "strips": [
            {
                **strip,
                "patient_id": cases[strip["case_id"]]["patient_id"],
                "measures": {name: value(measures[strip["case_id"]]) for name, value in MEASURES.items()},
            }
            for strip in strips
        ],
        "false_positives": _counted([int(scan["false_positive_components"]) for scan in measures.values()]),
        "volumes": {**found["volumes"], "definition": AGREEMENT},
        "calibration": verdict.get("calibration"),
        "served": {
            "version": served.get("version"),
            "reason": served.get("reason", ""),
            "difference": served.get("difference"),
            "overall": figures(served["by_case"], cases)["overall"] if served.get("by_case") else None,
            "calibration": served.get("calibration"),
        },
        "tuning": {**contract["tuning"], "curves": curves(contract["tuning"])} if contract.get("tuning") else None,
        "postprocess": contract["postprocess"],
        "training": _training(history),
        "model": {key: value for key, value in contract.items() if key not in ("tuning", "postprocess", "metrics")},
        "validation": contract.get("metrics", {}),
        "data": {
            **{key: listing.get(key) for key in ("fingerprint", "span", "spans", "splits")},
            "findings": against,
            "quarantined": _by_code(listing.get("quarantined", ())),
            "remarks": _by_code(item for item in listing.get("findings", ()) if item["severity"] != "error"),
        },
        "card": {
            "intended_use": INTENDED_USE,
            "limits": list(LIMITS),
            "weaknesses": weaknesses(found),
        },
        "config": dict(config),
        "code": code,
        "run": None,
    }


def complete(
    content: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    *,
    version: str | None = None,
    servability: Mapping[str, Any] | None = None,
    error: str = "",
) -> dict[str, Any]:
    """The content once the run has ended.

    Args:
        content: What `collect` returned.
        stages: Of each stage `name`, `seconds`, `peak_mib`, and where they are known `state` and `cached`.
        version: The version in service, where the model was pushed.
        servability: `servability.json`, where the model was asked.
        error: What the run failed with, if it did.

    Returns:
        The content with `run`: `stages`, `seconds` in all, `peak_mib` and what was measured in serving; and with the
        final `verdict`, whose status may now be pushed or failed, too.
    """
    measured = dict(servability or {})
    verdict = dict(content["verdict"])
    if error:
        verdict |= {"status": "failed", "headline": "The run failed after the gate.", "reasons": [error]}
    elif verdict["status"] == "passed" and measured.get("failures"):
        verdict |= {
            "status": "refused",
            "headline": "The model passed the gate, but it cannot be served as it must and does not go into service.",
            "reasons": [failure["message"] for failure in measured["failures"]],
        }
    elif verdict["status"] == "passed" and version:
        verdict |= {"status": "pushed", "headline": f"{verdict['headline']} It is in service as version {version}."}
    shown = ("name", "state", "cached", "seconds", "peak_mib")
    return {
        **content,
        "verdict": verdict,
        "run": {
            "stages": [{key: stage.get(key) for key in shown} for stage in stages],
            "seconds": round(sum(stage["seconds"] for stage in stages), 2),
            "peak_mib": max((stage["peak_mib"] for stage in stages), default=None),
            "servability": dict(measured.get("measures") or {}),
            "version": version,
        },
    }


def conclusion(verdict: Mapping[str, Any], held: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What becomes of the model.

    Args:
        verdict: `verdict.json`.
        held: The findings against the data that forbid a push.

    Returns:
        `status` (passed, held or refused), `headline`, and `reasons`: what decided, in words.
    """
    if not verdict["blessed"]:
        broken = len(verdict["failures"])
        rules = "one rule" if broken == 1 else f"{broken} rules"
        return {
            "status": "refused",
            "headline": f"The model breaks {rules} of the gate and does not go into service.",
            "reasons": [failure["message"] for failure in verdict["failures"]],
        }
    if held:
        return {
            "status": "held",
            "headline": "The model passed the gate, but what was found against the data holds it.",
            "reasons": [
                ": ".join(item[key] for key in ("split", "feature", "description") if item.get(key)) for item in held
            ],
        }
    return {
        "status": "passed",
        "headline": f"The model keeps all {len(verdict.get('rules', ()))} rules of the gate.",
        "reasons": [],
    }


def _rules(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every rule, the broken ones first, with message and worst scans."""
    failures = {(failure["rule"], failure["slice"]): failure for failure in verdict["failures"]}
    rules = []
    for rule in verdict.get("rules", ()):
        failure = failures.get((rule["rule"], rule["slice"]), {})
        rules.append({**rule, "message": failure.get("message", ""), "worst": list(failure.get("worst", ()))})
    return sorted(rules, key=lambda rule: rule["passed"])


def _bounded(slices: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Each slice with the gate's bound on its Dice, where there is one."""
    bounds = {rule["slice"]: rule["bound"] for rule in verdict.get("rules", ()) if rule["rule"] == "slices"}
    return {name: {**values, "bound": bounds.get(name)} for name, values in slices.items()}


def _sources(measures: Mapping[str, Any], cases: Mapping[str, Any]) -> dict[str, Any]:
    """Of each source its patients, scans and measures; empty where the data has but one layout."""
    found = {}
    for source in sorted({cases[case].get("source") or "" for case in measures}):
        members = {case: scan for case, scan in measures.items() if (cases[case].get("source") or "") == source}
        if source:
            found[source] = {
                "patients": len({cases[case]["patient_id"] for case in members}),
                "scans": len(members),
                "measures": figures(members, cases)["overall"],
            }
    return found


def _by_code(items: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many scans there are of each code, the most frequent first."""
    return dict(Counter(item["code"] for item in items).most_common())


def _patients(
    patients: Mapping[str, Mapping[str, Any]], measures: Mapping[str, Any], cases: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Patients with their measures, the best Dice first."""
    scans: dict[str, int] = {}
    for case in measures:
        patient = str(cases[case]["patient_id"])
        scans[patient] = scans.get(patient, 0) + 1
    rows = [{"patient_id": patient, "scans": scans[patient], **values} for patient, values in patients.items()]
    return sorted(rows, key=lambda row: (-row["dice"], row["patient_id"]))


def _scans(measures: Mapping[str, Any], cases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scans with their measures, the worst Dice first."""
    rows = [
        {
            "case_id": case,
            "patient_id": cases[case]["patient_id"],
            "size_bin": cases[case]["size_bin"],
            "spacing_mm": cases[case]["spacing_mm"],
            **{name: value(scan) for name, value in MEASURES.items()},
        }
        for case, scan in measures.items()
    ]
    return sorted(rows, key=lambda row: (row["dice"], row["case_id"]))


def _counted(numbers: Sequence[int]) -> dict[str, Any]:
    """How many scans have how many of something: from none to the most, those of `LONGEST_RUN` and more together."""
    most = min(max(numbers, default=0), LONGEST_RUN)
    scans = [sum(min(number, LONGEST_RUN) == value for number in numbers) for value in range(most + 1)]
    return {"scans": scans, "open": max(numbers, default=0) > LONGEST_RUN}


def _training(history: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures of each epoch by fold and why training ended; None where none were kept."""
    epochs = history.get("epochs") if history else None
    if not history or not isinstance(epochs, list) or not epochs:
        return None
    names = ("epoch", "loss", "val_dice", "learning_rate", "minutes")
    return {
        "finished": history.get("finished", ""),
        "epochs": [{"fold": row.get("fold", 0), **{name: row.get(name) for name in names}} for row in epochs],
        "folds": list(history.get("folds", ())),
        "best_epoch": (history.get("metrics") or {}).get("best_epoch"),
    }
