"""The findings of `ich check` as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.imaging.checks.registry import CHECKS
from components.imaging.geometry import Orientation
from components.imaging.nifti import Volume
from pipeline.check import MAX_THUMBNAILS, CheckReport

_TEMPLATES = Path(__file__).parent / "templates"
_TILE_PIXELS = 96
_HEIGHTS = (0.3, 0.5, 0.7)
_SOFT_HU = (-60.0, 140.0)
_AIR_HU = -300


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
    """Three axial slices side by side, grey, as PNG; in a soft-tissue window if there is air, else stretched."""
    orientation = Orientation.of(volume.affine)
    native = orientation.to_canonical(volume.data)
    planes = [native[int(height * (len(native) - 1))] for height in _HEIGHTS]
    stride = max(1, max(native.shape[1:]) // (4 * _TILE_PIXELS))
    thin = np.stack([plane[::stride, ::stride] for plane in planes]).astype(np.float32)
    low, high = _SOFT_HU if float(thin.min()) < _AIR_HU else (float(q) for q in np.percentile(thin, (1, 99)))
    grey = np.clip((thin - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    height_mm, width_mm = (n * mm for n, mm in zip(native.shape[1:], orientation.spacing_mm[1:], strict=True))
    scale = _TILE_PIXELS / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    sheet = Image.new("L", (_TILE_PIXELS * len(planes), _TILE_PIXELS))
    for index, plane in enumerate(grey):
        tile = Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)
        sheet.paste(tile, (index * _TILE_PIXELS + (_TILE_PIXELS - size[0]) // 2, (_TILE_PIXELS - size[1]) // 2))
    target = io.BytesIO()
    sheet.save(target, "PNG", optimize=True)
    return target.getvalue()
