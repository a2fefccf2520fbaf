"""Every check code, once: how severe it is, what it means, what to do. Ingestion, `ich check` and reports read this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "fixed"]
Policy = Literal["error", "warning", "off"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "fixed")


@dataclass(frozen=True)
class Check:
    """One code.

    Attributes:
        severity: `error`: the scan is quarantined; `warning`: used and listed; `fixed`: repaired and listed.
        explanation: What it means, in one line.
        remedy: What to do about it.
        fatal: Nothing can be used after it, so a policy cannot lower it.
    """

    severity: Severity
    explanation: str
    remedy: str
    fatal: bool = False


def _fatal(explanation: str, remedy: str) -> Check:
    return Check("error", explanation, remedy, fatal=True)


def _error(explanation: str, remedy: str) -> Check:
    return Check("error", explanation, remedy)


def _warning(explanation: str, remedy: str) -> Check:
    return Check("warning", explanation, remedy)


def _fixed(explanation: str, remedy: str) -> Check:
    return Check("fixed", explanation, remedy)


CHECKS: dict[str, Check] = {
    # --- files
    "missing-file": _fatal("The file does not exist.", "Restore it, or remove the case."),
    "missing-mask": _fatal("The scan has no mask.", "Add the mask, or remove the scan."),
    "missing-image": _fatal("The mask has no scan.", "Add the scan, or remove the mask."),
    "empty-file": _fatal("The file has no bytes.", "Copy it anew from its source."),
    "truncated": _fatal("The file ends before the voxels that its header claims.", "Copy it anew from its source."),
    "unreadable": _fatal("The file is corrupt: its bytes fail their checksum or structure.", "Copy it anew."),
    "not-nifti": _fatal("The file is no single-file NIfTI.", "Convert the series, for example with dcm2niix."),
    "too-large": _fatal(
        "The header claims more voxels than allowed, or more memory.",
        "Check the header; raise data.max_voxels or data.max_memory_gib if the scan is really that large.",
    ),
    "dimensions": _fatal("The file holds several frames, or a plane.", "Extract the one volume to use."),
    "single-frame": _fixed("A fourth axis with one frame was dropped.", "Nothing to do."),
    "dtype": _fatal("Voxels are colours or complex numbers.", "Convert the original series to numbers in HU."),
    "wide-dtype": _fixed("Voxels of 64 bits were read as 32-bit floats.", "Store int16: a quarter of the space."),
    "scale-unset": _fixed("The rescale slope or intercept is 0 or NaN; read as 1 and 0.", "Write 1 and 0."),
    # --- DICOM
    "not-dicom": _fatal("There is no DICOM image.", "Give the folder or zip of one study, or a NIfTI file."),
    "unsafe-archive": _fatal(
        "The zip has members that lead out of it, or that are encrypted.", "Unpack it where that is safe; zip it anew."
    ),
    "no-series": _fatal("No series is an axial head CT, or none is the one asked for.", "Name a series of the list."),
    "series-unclear": _fatal("Several series fit equally well.", "Name a series of the list."),
    "series-mixed": _fatal(
        "The series mixes matrix sizes, orientations, pixel sizes or positions.", "Export the one stack to use."
    ),
    "series-overlap": _fatal(
        "Different slices lie at the same place: several acquisitions in one series.", "Export one acquisition alone."
    ),
    "file-skipped": _warning("A DICOM file cannot be read; the rest was used.", "Copy the file anew from its source."),
    "slice-missing": _warning(
        "A step between slices is far larger than the others; masks and volumes are off around it.",
        "Look for lost slices, or use a series of even spacing.",
    ),
    "slice-spacing": _warning(
        "Steps between slices differ; positions and volumes are off by that.", "Use a series of even spacing."
    ),
    "slice-copies": _fixed("The same slice is there several times; one was kept.", "Nothing to do."),
    "localiser-dropped": _fixed("Scout views in the series were dropped.", "Nothing to do."),
    "thickness-assumed": _warning(
        "A single slice has no neighbour: its thickness was taken as the spacing.", "Use the whole series."
    ),
    # --- geometry
    "geometry": _fatal(
        "The grid is unusable: zero, huge or not finite spacing, or far too many voxels for it.",
        "Convert the original series anew.",
    ),
    "spacing": _error("No head CT has such a spacing.", "Convert the original series anew, or mend pixdim and affine."),
    "negative-spacing": _fixed("A spacing in pixdim is negative; its size was taken.", "Write positive spacings."),
    "codes-unset": _warning(
        "Both orientation codes are 0: left, right, front and back are guessed.",
        "Convert the original series anew, or set the sform after checking the sides.",
    ),
    "forms-disagree": _error(
        "sform and qform give different directions: readers differ about left and right.",
        "Find out which is right and copy it over the other.",
    ),
    "forms-offset": _warning("sform and qform give different positions; the sform is used.", "Make them equal."),
    "sheared": _fixed(
        "The gantry was tilted: slices are used as acquired, volumes with the distance across slices.", "Nothing to do."
    ),
    "sheared-plane": _error("Rows and columns are not at right angles.", "Resample or convert the series anew."),
    "non-axial": _error("Thick slices that are not axial.", "Use the axial series of the study."),
    "few-slices": _error("Fewer slices than data.min_slices.", "Use the whole series, or lower data.min_slices."),
    "slice-gap": _warning("Neighbouring slices differ as if some between them were missing.", "Look for lost slices."),
    "slice-duplicated": _warning("A slice is an exact copy of its neighbour.", "Convert the original series anew."),
    "slices-reversed": _warning(
        "The head narrows downwards: the slices run against the affine, or the scan is upside down.",
        "Convert the original series anew; sides may be exchanged too.",
    ),
    # --- intensities
    "not-finite": _fatal("Voxels are NaN or infinite.", "Repair or convert the scan anew."),
    "constant": _error("All voxels are equal.", "Convert the original series anew."),
    "hu-normalised": _error("Values are scaled to a small range, such as 0 to 1.", "Use the scan in HU."),
    "hu-8bit": _error("Values are grey levels from 0 to 255.", "Use the scan in HU, not an exported picture."),
    "hu-shifted": _error("Values are HU plus about 1024.", "Apply the rescale intercept, usually -1024."),
    "hu-wrapped": _error("Negative HU wrapped around to 65535 and below.", "Convert the series as signed integers."),
    "hu-windowed": _error("Values are cut to a display window: no air, no bone.", "Use the scan before windowing."),
    "hu-foreign": _error("The histogram is not that of CT; perhaps MR.", "Use the non-contrast CT of the study."),
    "hu-clipped": _warning(
        "Nothing lies between air and soft tissue, nor between soft tissue and bone: HU were cut to a window and "
        "its ends replaced.",
        "Use the scan before windowing where there is one; windows wider than the cut one show less than they could.",
    ),
    # --- anatomy
    "no-head": _fatal("There is no head in the field of view.", "Check that the file is a head CT in HU."),
    "body-size": _error(
        "What was scanned is larger than any head.", "Use the head scan of the study; check the spacing if it is one."
    ),
    "head-size": _warning("The head is too small or too large for its spacing.", "Check the spacing."),
    "no-skull": _warning("There is hardly any bone: the scan was stripped or defaced.", "Use the original scan."),
    "brain-hu": _warning("The brain's mean HU is unusual.", "Check slope and intercept, contrast, calibration."),
    "motion": _warning("The outline of the head is blurred or doubled, as by motion.", "Look at the scan."),
    "metal": _warning("Metal in the field of view; streaks may hide or mimic blood.", "Look at the scan."),
    # --- masks
    "mask-shape": _fatal("The mask has another shape than the scan.", "Draw or resample it on the scan's grid."),
    "mask-affine": _fatal("The mask lies elsewhere than the scan.", "Copy the scan's affine, or resample the mask."),
    "mask-affine-rounded": _fixed("The mask's affine differs by rounding; voxels were matched.", "Nothing to do."),
    "mask-resampled": _fixed("The mask's grid differs by rounding; it was resampled.", "Look at the mask."),
    "mask-values": _fatal("The mask holds values that are no labels.", "Export the mask as whole-numbered labels."),
    "mask-is-image": _fatal("The mask is a copy of the scan.", "Put the mask in its place."),
    "mask-255": _fixed("The mask's only label is 255; it was read as 1.", "Nothing to do."),
    "mask-float": _fixed("The mask stores whole numbers as floats.", "Store unsigned 8-bit: less space."),
    "mask-soft": _warning("The mask holds fractions; it was cut at 0.5.", "Export the mask before resampling it."),
    "mask-classes": _warning(
        "The mask has several labels and data.lesion_labels is not set: all count as blood.",
        "Say in data.lesion_labels which labels are blood.",
    ),
    "mask-empty": _error("The mask is empty although data.expect_lesions is set.", "Draw the mask, or unset it."),
    "mask-outside": _error("Most of the mask lies in air.", "Check the mask's orientation, grid and labels."),
    "mask-stray": _warning("Part of the mask lies in air.", "Look at the mask."),
    "mask-brain": _error(
        "The mask holds more than half of what a skull does: it outlines brain or head.",
        "Put the lesion's mask in its place; set data.lesion_labels where several things are labelled.",
    ),
    "mask-large": _warning("The lesion is larger than any bleed that is survived.", "Check the mask's labels."),
    # --- cohort
    "duplicate-image": _warning("The same image under two case ids, in one split.", "Remove one of them."),
    "duplicate-across-splits": _error(
        "The same image in two splits: the test would be on what was learnt.", "Remove one, or give both one patient."
    ),
    "patient-in-splits": _error("One patient in two splits: leakage.", "Put all scans of a patient into one split."),
}
"""Every code that a finding may have, in the order in which they are listed."""
