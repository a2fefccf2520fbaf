"""The findings of `ich check` as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.imaging.checks.registry import CHECKS
from components.imaging.nifti import Volume
from components.imaging.preview import preview
from pipeline.check import MAX_THUMBNAILS, CheckReport

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(report: CheckReport) -> str:
    """The page, as HTML with its style and pictures inside; what comes from files is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    pictures = {
        case.case_id: base64.b64encode(case.thumbnail).decode()
        for case in [case for case in report.quarantined if case.thumbnail][:MAX_THUMBNAILS]
    }
    listed = {item.code for item in report.codes() if item.trait}
    return environment.get_template("check.html").render(
        report=report,
        codes=report.codes(),
        checks=CHECKS,
        pictures=pictures,
        left_out=max(0, sum(1 for case in report.quarantined if case.thumbnail) - MAX_THUMBNAILS),
        listed=[
            (case, findings)
            for case in report.cases
            if not case.quarantined and (findings := [item for item in case.findings if item.code not in listed])
        ],
    )


def thumbnail_png(volume: Volume) -> bytes:
    """Three axial slices side by side, as PNG."""
    target = io.BytesIO()
    Image.fromarray(preview(volume)).save(target, "PNG", optimize=True)
    return target.getvalue()
