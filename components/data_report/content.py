"""All that a data report says, as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.data_report.distributions import PREVIOUS, distributions, summary
from schema.features import SPLITS

FORMAT = 1
"""Version of the content's layout; another one has other keys."""

SEVERITIES = ("stop", "hold", "note")
_ALSO = {"error": "stop", "warning": "note"}
STATUS = {"stop": "stopped", "hold": "held", "note": "notes"}


def collect(
    listing: Mapping[str, Any],
    findings: Iterable[Mapping[str, Any]],
    *,
    name: str,
    created: str = "",
    previous: Mapping[str, Any] | None = None,
    comparison: Mapping[str, Any] | None = None,
    explanations: Mapping[str, tuple[str, str]] | None = None,
    thumbnails: Mapping[str, str] | None = None,
    pictured: int = 120,
    tiles: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Gathers the content of a report.

    Args:
        listing: `cases.json` of the ingestion.
        findings: `findings.json`: `split`, `feature`, `severity` (stop, hold or note; error and warning are read as
            stop and note), `rule`, `description`, and where there are any `value` and `bound`.
        name: The configuration's name.
        created: When the report was made, as text.
        previous: The listing of the data before, to show beside today's.
        comparison: `comparison.json`: the `references` that the data was compared with, and all `measurements`.
        explanations: Explanation and remedy by code of a scan's finding.
        thumbnails: Data URIs of pictures by quarantined case.
        pictured: How many of the quarantined cases, from the first, pictures were made of where files show something.
        tiles: The contact sheet, as `contact_sheet.choose_tiles` returns it.

    Returns:
        A JSON-serialisable mapping; `page.render` makes the page of it.
    """
    cases = sorted(listing["cases"], key=lambda record: record["case_id"])
    known = explanations or {}
    found = sorted((_finding(item) for item in findings), key=_urgency)
    quarantine = [_quarantined(item, known, thumbnails or {}) for item in listing.get("quarantined", ())]
    remarks = _remarks(listing, known)
    groups = {split: [record for record in cases if record["split"] == split] for split in SPLITS}
    before = list(previous["cases"]) if previous else []
    cohort: dict[str, Any] = {split: at_a_glance(members) for split, members in groups.items()}
    cohort["all"] = at_a_glance(cases)
    cohort[PREVIOUS] = at_a_glance(before) if before else None
    return {
        "format": FORMAT,
        "name": name,
        "created": created,
        "fingerprint": listing.get("fingerprint", ""),
        "span": listing.get("span"),
        "previous_span": previous.get("span") if previous else None,
        "verdict": verdict(len(cases), found, quarantine, remarks),
        "cohort": cohort,
        "findings": found,
        "references": list((comparison or {}).get("references", ())),
        "measurements": sorted((comparison or {}).get("measurements", ()), key=_nearness),
        "quarantine": quarantine,
        "pictured": pictured,
        "remarks": remarks,
        "distributions": distributions({**groups, PREVIOUS: before} if before else groups),
        "contact_sheet": list(tiles),
        "cases": cases,
    }


def _finding(item: Mapping[str, Any]) -> dict[str, Any]:
    severity = _ALSO.get(item["severity"], item["severity"])
    if severity not in SEVERITIES:
        raise ValueError(f"severity {item['severity']!r} of a finding, wanted {', '.join(SEVERITIES)}")
    texts = {key: item.get(key) or "" for key in ("split", "feature", "kind", "rule", "description")}
    return texts | {"severity": severity, "value": item.get("value"), "bound": item.get("bound")}


def _nearness(measurement: Mapping[str, Any]) -> tuple[float, str, str]:
    """How near a distance is to its bound, the nearest first."""
    return -measurement["value"] / max(measurement["bound"], 1e-9), measurement["feature"], measurement["split"]


def _urgency(finding: Mapping[str, Any]) -> tuple[int, str, str]:
    return SEVERITIES.index(finding["severity"]), finding["feature"], finding["split"]


def _quarantined(
    item: Mapping[str, Any], known: Mapping[str, tuple[str, str]], thumbnails: Mapping[str, str]
) -> dict[str, Any]:
    """The remedy stands in the registry of codes, else after the last semicolon of the reason."""
    what, mark, advice = item["reason"].rpartition("; ")
    explanation, remedy = known.get(item["code"], ("", ""))
    remedy = item.get("remedy") or remedy
    return {
        "case_id": item["case_id"],
        "code": item["code"],
        "explanation": explanation,
        "reason": what if mark and not remedy else item["reason"],
        "remedy": remedy or advice if mark or remedy else "",
        "thumbnail": thumbnails.get(item["case_id"]),
    }


def _remarks(listing: Mapping[str, Any], known: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Warnings and repairs of scans in use, one entry a code."""
    by_code: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for item in listing.get("findings", ()):
        if item["severity"] != "error":
            entry = {"case_id": item["case_id"], "message": item.get("message") or item.get("reason") or ""}
            by_code[item["severity"], item["code"]].append(entry)
    return [
        {
            "severity": severity,
            "code": code,
            "explanation": known.get(code, ("", ""))[0],
            "remedy": known.get(code, ("", ""))[1],
            "cases": sorted(members, key=lambda entry: entry["case_id"]),
        }
        for (severity, code), members in sorted(by_code.items(), key=lambda item: (item[0][0] != "warning", item[0]))
    ]


def at_a_glance(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of some scans, and the volumes (ml) of those with blood."""
    volumes = [float(record["lesion_ml"]) for record in cases if record["lesion_ml"] > 0]
    return {
        "patients": len({record["patient_id"] for record in cases}),
        "scans": len(cases),
        "scans_with_blood": len(volumes),
        "slices": sum(record["slices"] for record in cases),
        "slices_with_blood": sum(record["lesion_slices"] for record in cases),
        "blood_ml": summary(volumes) if volumes else None,
        "blood_ml_total": round(sum(volumes), 3),
    }


def verdict(
    used: int,
    findings: Sequence[Mapping[str, Any]],
    quarantine: Sequence[Mapping[str, Any]],
    remarks: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the data means for the run.

    Returns:
        `status` (clean, notes, held or stopped), `headline`, and `reasons`: the descriptions of what decided.
    """
    worst = next((severity for severity in SEVERITIES if any(f["severity"] == severity for f in findings)), "")
    total = used + len(quarantine)
    scans = f"{used} of {total} scans are in use" if quarantine else f"All {_count(used, 'scan')} are in use"
    if worst in ("stop", "hold"):
        deciding = [item for item in findings if item["severity"] == worst]
        reasons = [
            ": ".join(item[key] for key in ("split", "feature", "description") if item[key]) for item in deciding
        ]
        consequence = {
            "stop": f"Nothing was trained, for {_count(len(deciding), 'reason')}.",
            "hold": f"A model trained on this data is not released, for {_count(len(deciding), 'reason')}.",
        }[worst]
        return {"status": STATUS[worst], "headline": f"{consequence} {scans}.", "reasons": reasons}
    warned = sum(len(item["cases"]) for item in remarks if item["severity"] == "warning")
    repaired = sum(len(item["cases"]) for item in remarks if item["severity"] == "fixed")
    notes = [
        text
        for number, text in (
            (len(quarantine), f"{len(quarantine)} quarantined"),
            (len(findings), _count(len(findings), "note")),
            (warned, _count(warned, "warning")),
            (repaired, _count(repaired, "repair")),
        )
        if number
    ]
    if not notes:
        return {"status": "clean", "headline": f"{scans}, and nothing was found against them.", "reasons": []}
    return {"status": "notes", "headline": f"{scans}: {', '.join(notes)}.", "reasons": []}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
