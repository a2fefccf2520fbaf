"""The card that a model carries into service: what it is, what was measured, and what it must not be taken for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.evaluator.figures import TITLES, figures
from components.evaluator.rules import SLICES
from components.pages.html import sentence
from components.trainer.hyperparameters import PLACES, apply
from schema.features import SPLITS

FORMAT = 2
"""Version of the card's layout; another one has other keys."""

INTENDED_USE = (
    "Research on outlining intracranial hemorrhage on non-contrast head CT in Hounsfield units, by people who look at "
    "the scans themselves."
)
LIMITS = (
    "Not a medical device: no diagnosis and no treatment may rest on it.",
    "It was trained and measured on the data named here alone. How it does on other scanners, reconstructions, ages, "
    "kinds of blood, or on operated heads, was not measured.",
    "An empty outline does not mean that there is no blood, nor does a full one that there is.",
)
_RECIPE = ("grid", "windows", "normalisation", "network", "training", "inference", "postprocess")
_WEAK = 0.1
"""A kind of scan whose mean Dice is lower than overall by more than this is a known weakness."""


def model_card(
    verdict: Mapping[str, Any],
    listing: Mapping[str, Any],
    contract: Mapping[str, Any],
    servability: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    version: str,
    pushed: str,
) -> dict[str, Any]:
    """Gathers what is known of a model; what was not measured is None or empty, and `missing` names it.

    Args:
        verdict: `verdict.json` of the evaluation that blessed it.
        listing: `cases.json` of the data.
        contract: The model's contract.
        servability: `servability.json`: what was measured when a fresh process served it.
        config: The sections of the configuration, as far as they are known.
        version: Its version in service.
        pushed: When it was pushed, as text.

    Returns:
        A JSON-serialisable mapping; `to_markdown` makes a text of it.
    """
    cases = {case["case_id"]: case for case in listing["cases"]}
    searched = dict(contract.get("hyperparameters") or {})
    measured = figures(verdict["by_case"], cases)
    served = verdict.get("baseline") or {}
    card = {
        "format": FORMAT,
        "name": contract["model_name"],
        "version": version,
        "pushed": pushed,
        "data": {
            "fingerprint": listing.get("fingerprint"),
            "trained_on": contract["data_fingerprint"],
            "spans": listing.get("spans") or [],
            "splits": listing.get("splits") or {},
            "sources": sorted({case["source"] for case in listing["cases"] if case.get("source")}),
            "quarantined": len(listing.get("quarantined", ())),
        },
        "recipe": _recipe(config, searched),
        "searched": searched,
        "postprocess": dict(contract["postprocess"]),
        "validation": dict(contract.get("metrics") or {}),
        "tuned": bool(contract.get("tuning")),
        "measures": measured["overall"],
        "slices": measured["slices"],
        "volumes": measured["volumes"],
        "calibration": verdict.get("calibration"),
        "servability": dict(servability["measures"]),
        "gate": list(verdict.get("rules", ())),
        "notes": list(verdict.get("notes", ())),
        "previous": {
            "version": served.get("version"),
            "reason": served.get("reason", ""),
            "dice": (served.get("overall") or {}).get("patient_dice"),
            "difference": served.get("difference"),
        },
        "intended_use": INTENDED_USE,
        "limits": list(LIMITS),
        "weaknesses": weaknesses(measured),
        "config_fingerprint": contract["config_fingerprint"],
        "versions": dict(contract.get("versions") or {}),
    }
    return {**card, "missing": _missing(card)}


def _recipe(config: Mapping[str, Any], searched: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the model was trained with: as configured, save what a search chose."""
    known = {key: config[key] for key in _RECIPE if key in config}
    return apply(known, {name: value for name, value in searched.items() if PLACES[name] in known})


def weaknesses(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kinds of scan on which the model is clearly worse than overall, and those on which it was not measured.

    Args:
        measured: What `figures` returned.

    Returns:
        `slice`, `patients` and `dice`, None where there were no patients.
    """
    overall = measured["overall"]["dice"]["mean"]
    found = []
    for name, item in measured["slices"].items():
        dice = item["measures"]["dice"]["mean"]
        if dice is None or (overall is not None and dice < overall - _WEAK):
            found.append({"slice": name, "patients": item["patients"], "dice": dice})
    return found


def _missing(card: Mapping[str, Any]) -> list[str]:
    """What a reader might look for and will not find."""
    facts = {
        "the recipe of the training": bool(card["recipe"]),
        "the data's spans": bool(card["data"]["spans"]),
        "patients and scans of each split": bool(card["data"]["splits"]),
        "the calibration of the probabilities": bool(card["calibration"]) and card["calibration"]["brier"] is not None,
        "intervals, for there is a single test patient": card["measures"]["dice"]["ci95_low"] is not None,
        "a comparison with a model before": card["previous"]["dice"] is not None,
        "versions of the packages": bool(card["versions"]),
        "age, sex, scanner and hospital of the patients, which the data does not tell": False,
    }
    return [fact for fact, known in facts.items() if not known]


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card as a text to read.

    Args:
        card: What `model_card` returned, or the same read back from JSON.
    """
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # it is no HTML
    )  # fmt: skip
    filters: dict[str, Callable[..., str]] = {"fixed": _fixed, "short": _short, "cell": _cell, "sentence": sentence}
    made.filters |= filters
    return made.get_template("model_card.md.j2").render(card, titles=TITLES, slice_titles=SLICES, split_names=SPLITS)


def _fixed(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    """A value in a table, on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(_cell, value)) or "none"
    text = {None: "off", True: "yes", False: "no"}.get(value, value) if isinstance(value, bool | None) else value
    return " ".join(str(text).split()).replace("|", "\\|")
