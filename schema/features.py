"""The names and meaning of the features of one example, defined once: an example is one axial slice of one scan.

Arrays are in the canonical orientation of `components.imaging.geometry`: rows run from anterior to posterior,
columns from the patient's right to left, slices from inferior to superior.
"""

# --- pixels -------------------------------------------------------------------------------------------------
IMAGE = "image"
"""HU on the model grid, little-endian int16 bytes of shape (2k+1, size, size): the slice and k neighbours a side."""

MASK = "mask"
"""Lesion coverage on the model grid, uint8 bytes of shape (size, size): 255 times the covered share of a pixel."""

NATIVE_MASK = "native_mask"
"""The true mask on the scan's own grid: zlib-compressed packed bits of shape (rows, columns)."""

# --- identity and geometry ----------------------------------------------------------------------------------
CASE_ID = "case_id"
PATIENT_ID = "patient_id"
SLICE_INDEX = "slice_index"
SLICE_COUNT = "slice_count"
SPACING_MM = "spacing_mm"
"""Native spacing in mm along slices, rows and columns (3 floats)."""
NATIVE_SHAPE = "native_shape"
"""Native shape in canonical order: slices, rows, columns (3 ints)."""
GRID_CENTER = "grid_center"
"""Where the centre of the model grid lies, in native row and column coordinates (2 floats)."""
AFFINE = "affine"
"""The file's own affine, voxel index to RAS mm, row-major (16 floats)."""
ORIENTATION = "orientation"
"""Axis codes of the file as stored, for example `LPS`."""

# --- scalars, of which the statistics are taken ---------------------------------------------------------------
BRAIN_HU_MEAN = "brain_hu_mean"
BRAIN_HU_SD = "brain_hu_sd"
HEAD_HU_P01 = "head_hu_p01"
HEAD_HU_P05 = "head_hu_p05"
HEAD_HU_P50 = "head_hu_p50"
HEAD_HU_P95 = "head_hu_p95"
HEAD_HU_P99 = "head_hu_p99"
HEAD_AREA_CM2 = "head_area_cm2"
LESION_PIXELS = "lesion_pixels"
"""Lesion pixels of the slice on the native grid."""
LESION_AREA_CM2 = "lesion_area_cm2"
LESION_VOLUME_ML = "lesion_volume_ml"
"""The whole scan's lesion volume, repeated on each of its slices."""
SIZE_BIN = "size_bin"
SLICE_SPACING_MM = "slice_spacing_mm"
PIXEL_SPACING_MM = "pixel_spacing_mm"

HEAD_HU_PERCENTILES = {
    HEAD_HU_P01: 1.0,
    HEAD_HU_P05: 5.0,
    HEAD_HU_P50: 50.0,
    HEAD_HU_P95: 95.0,
    HEAD_HU_P99: 99.0,
}

BYTES_FEATURES = (IMAGE, MASK, NATIVE_MASK)
STRING_FEATURES = (CASE_ID, PATIENT_ID, ORIENTATION, SIZE_BIN)
INT_FEATURES = (SLICE_INDEX, SLICE_COUNT, LESION_PIXELS)
FLOAT_FEATURES = (
    BRAIN_HU_MEAN,
    BRAIN_HU_SD,
    *HEAD_HU_PERCENTILES,
    HEAD_AREA_CM2,
    LESION_AREA_CM2,
    LESION_VOLUME_ML,
    SLICE_SPACING_MM,
    PIXEL_SPACING_MM,
)
INT_VECTORS = {NATIVE_SHAPE: 3}
FLOAT_VECTORS = {SPACING_MM: 3, GRID_CENTER: 2, AFFINE: 16}

SERVING_FEATURES = (IMAGE, BRAIN_HU_MEAN, BRAIN_HU_SD)
"""What a request to `serving_default` must carry; everything else is known only in training."""

STATISTICS_FEATURES = (ORIENTATION, SIZE_BIN, *INT_FEATURES, *FLOAT_FEATURES)
"""The scalars that StatisticsGen describes; pixels and identities are left out."""

# --- what Transform returns -----------------------------------------------------------------------------------
IMAGE_XF = "image_xf"
"""Windowed channels in [0, 1], float32 of shape (size, size, (2k+1) * windows)."""
MASK_XF = "mask_xf"
"""Lesion coverage in [0, 1], float32 of shape (size, size, 1)."""

SIZE_BINS_ML = {"none": 0.0, "small": 5.0, "medium": 25.0, "large": float("inf")}
"""Upper bounds in ml of the size bins by a scan's lesion volume: no blood, below 5, below 25, above."""

SPLITS = ("train", "val", "test")


def size_bin(volume_ml: float) -> str:
    """The bin of a scan's lesion volume.

    Args:
        volume_ml: Lesion volume in ml, not negative.

    Returns:
        A key of `SIZE_BINS_ML`.
    """
    if volume_ml <= 0:
        return "none"
    return next(name for name, upper in SIZE_BINS_ML.items() if volume_ml < upper)
