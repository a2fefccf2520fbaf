"""The generated patient: truth, intensities, geometry and determinism."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from components.imaging.errors import UsageError
from components.imaging.phantom import Phantom, generate_patient
from components.imaging.phantom import acquisition as scanner
from components.imaging.phantom.blood import CASE_MIX, KINDS, VOLUMES_ML, Kind, draw_clots, kinds_of

COHORT = 20


@pytest.fixture(scope="module")
def cohort() -> list[Phantom]:
    """Twenty tiny patients of one seed: each case of the mix twice."""
    return [generate_patient(11, index, size="tiny") for index in range(COHORT)]


@pytest.fixture(scope="module")
def small() -> Phantom:
    """One patient at the demo's size with a deep bleed."""
    return generate_patient(4, 1, kinds=("intraparenchymal",), volume_ml=(30, 31))


def canonical(phantom: Phantom) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], tuple[float, ...]]:
    """Image, mask and spacing with axes to the right, front and top."""
    image = nib.as_closest_canonical(nib.Nifti1Image(phantom.hu, phantom.affine))
    mask = nib.as_closest_canonical(nib.Nifti1Image(phantom.mask, phantom.affine))
    return np.asarray(image.dataobj), np.asarray(mask.dataobj), image.header.get_zooms()


def same(first: Phantom, second: Phantom) -> bool:
    return (
        np.array_equal(first.hu, second.hu)
        and np.array_equal(first.mask, second.mask)
        and np.array_equal(first.affine, second.affine)
        and first.volumes_ml == second.volumes_ml
    )


def test_the_same_seed_and_index_give_the_same_voxels_and_others_do_not() -> None:
    first = generate_patient(5, 3, size="tiny")
    assert same(first, generate_patient(5, 3, size="tiny"))
    assert not same(first, generate_patient(5, 4, size="tiny"))
    assert not same(first, generate_patient(6, 3, size="tiny"))


def test_ten_patients_in_a_row_hold_every_case_of_the_mix() -> None:
    for seed in range(5):
        for start in (0, 10, 20):
            drawn = [kinds_of(seed, start + i) for i in range(10)]
            assert sorted(drawn) == sorted(CASE_MIX)
    assert [kinds_of(0, i) for i in range(10)] != [kinds_of(1, i) for i in range(10)]


def test_the_mask_is_binary_and_empty_exactly_without_blood(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        assert phantom.hu.dtype == np.int16
        assert phantom.mask.dtype == np.uint8
        assert phantom.mask.shape == phantom.hu.shape
        assert set(np.unique(phantom.mask)) <= {0, 1}
        assert phantom.mask.any() == bool(kinds_of(11, phantom.index))
        assert set(phantom.kinds) <= set(kinds_of(11, phantom.index))
    assert sum(not phantom.kinds for phantom in cohort) == COHORT // 5


def test_volumes_are_those_of_the_mask(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        voxel_ml = abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
        assert sum(phantom.volumes_ml) == pytest.approx(phantom.mask.sum() * voxel_ml)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_volumes_stay_in_the_stated_range_and_reach_both_ends(kind: Kind) -> None:
    volumes = [draw_clots(np.random.default_rng(i), (kind,))[0].volume_ml for i in range(2000)]
    _, _, low, high = VOLUMES_ML[kind]
    assert low <= min(volumes) and max(volumes) <= high
    assert max(volumes) > 0.6 * high
    assert min(volumes) < low + 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [4.0, 15.0])
def test_each_kind_has_the_volume_asked_for(kind: Kind, wanted: float) -> None:
    # Thin sulci lose blood to the half-voxel rule, most of all in thick slices.
    least = 0.35 if kind == "subarachnoid" else 0.75
    phantom = generate_patient(2, 7, size="tiny", kinds=(kind,), volume_ml=(wanted, wanted))
    assert phantom.kinds == (kind,)
    assert least * wanted < phantom.volumes_ml[0] < 1.25 * wanted


@pytest.mark.parametrize("kind", KINDS)
def test_blood_is_as_bright_as_blood(kind: Kind) -> None:
    for index in range(4):
        phantom = generate_patient(8, index, size="tiny", kinds=(kind,), volume_ml=(10, 30))
        inside = phantom.hu[phantom.mask > 0]
        assert 38 < np.median(inside) < 82
        assert np.percentile(inside, 5) > 10
        # The brain around it is darker.
        image, mask, _ = canonical(phantom)
        near = ndimage.binary_dilation(mask > 0, iterations=3) & (mask == 0) & (image > 0) & (image < 100)
        assert np.median(image[near]) < np.median(inside) - 6


def test_subacute_blood_occurs_but_not_often() -> None:
    hu = [draw_clots(np.random.default_rng(i), ("intraparenchymal",))[0].hu for i in range(600)]
    subacute = np.mean([value < 52 for value in hu])
    assert 0.1 < subacute < 0.28
    assert min(hu) >= 40 and max(hu) <= 80


def test_tissues_have_their_hounsfield_values(small: Phantom) -> None:
    image, mask, spacing = canonical(small)
    assert image.min() >= -1024 and image.max() <= 3071
    assert -1010 < np.median(image[:4, -4:]) < -990
    skull = image > 300
    assert np.percentile(image[skull], 95) > 1000
    # Diploe: spongy bone between dense tables spreads the skull's values.
    assert np.percentile(image[skull], 25) < 800
    middle = image.shape[2] // 2
    plane = image[:, :, middle]
    bone = ndimage.binary_dilation(plane > 150, iterations=2)
    brain = ndimage.binary_fill_holes(bone) & ~bone & (mask[:, :, middle] == 0)
    assert 22 < np.median(plane[brain]) < 38
    assert (plane[brain] < 14).mean() > 0.02
    scalp = (image < -50) & (image > -130)
    assert scalp.sum() * np.prod(spacing) / 1000 > 30


def test_calcifications_are_there_as_bait_and_not_in_the_mask() -> None:
    found = 0
    for index in range(6):
        image, mask, _ = canonical(generate_patient(21, index, size="small", kinds=()))
        assert not mask.any()
        dense = 0
        for k in range(image.shape[2] // 3, image.shape[2] * 3 // 4):
            plane = image[:, :, k]
            labels, _ = ndimage.label(plane > 300)
            skull = labels == np.bincount(labels[labels > 0]).argmax()
            deep = ndimage.binary_erosion(ndimage.binary_fill_holes(skull) & ~skull, iterations=8)
            dense += int((deep & (plane > 85)).sum())
        found += dense >= 3
    assert found >= 3


def test_noise_is_correlated_as_in_filtered_back_projection() -> None:
    noise = scanner.ct_noise((256, 256, 4), (0.49, 0.49), 0.35, np.random.default_rng(0))
    assert noise.std() == pytest.approx(1, abs=0.05)
    flat = noise.astype(np.float64)
    lag = [float((flat[:-d] * flat[d:]).mean()) for d in (1, 2, 3)]
    # Positive at half a millimetre, around zero or below from one and a half on, as in real scans.
    assert 0.4 < lag[0] < 0.8
    assert abs(lag[1]) < 0.2
    assert -0.3 < lag[2] < 0.02
    assert abs(float((flat[..., 0] * flat[..., 1]).mean())) < 0.02
    power = np.abs(np.fft.rfft2(flat[..., 0])) ** 2
    # 0.03, 0.2 and 0.85 cycles per mm: the ramp rises, the kernel takes it down.
    low, middle, high = power[1:4, 1:4].mean(), power[16:24, 16:24].mean(), power[70:80, 70:80].mean()
    assert middle > 1.8 * low
    assert high < 0.05 * middle


def test_noise_in_the_brain_is_three_to_seven_hu(small: Phantom) -> None:
    image, _, _ = canonical(small)
    plane = image[:, :, image.shape[2] // 2].astype(np.float64)
    spread = np.sqrt(ndimage.uniform_filter(plane**2, 5) - ndimage.uniform_filter(plane, 5) ** 2)
    brain = (plane > 15) & (plane < 50) & (spread < 15)
    assert 2.5 < np.median(spread[brain]) < 7.5


def test_geometry_varies_over_a_cohort(cohort: list[Phantom]) -> None:
    many = [scanner.draw_acquisition(np.random.default_rng((3, i)), "full") for i in range(200)]
    assert len({settings.codes for settings in many}) == 9
    assert len({settings.storage for settings in many}) == 6
    assert any(settings.shape[0] != settings.shape[1] for settings in many)
    assert 0.3 < np.mean([settings.tilt_deg != 0 for settings in many]) < 0.7
    for settings in many:
        assert 0.39 < settings.spacing[0] < 0.6
        assert 2.5 <= settings.spacing[2] <= 5
        assert 24 <= settings.shape[2] <= 40 or settings.spacing[2] == 3
    assert len({phantom.acquisition.codes for phantom in cohort}) >= 4


def test_codes_spacing_and_tilt_are_those_of_the_affine(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        settings = phantom.acquisition
        assert "".join(nib.aff2axcodes(phantom.affine)) == settings.codes
        image = nib.as_closest_canonical(nib.Nifti1Image(phantom.hu, phantom.affine))
        assert image.shape == settings.shape
        np.testing.assert_allclose(image.affine, settings.affine, atol=1e-9)
        np.testing.assert_allclose(image.header.get_zooms(), settings.spacing, rtol=1e-5)
        normal = image.affine[:3, 2] / np.linalg.norm(image.affine[:3, 2])
        assert np.degrees(np.arctan2(-normal[1], normal[2])) == pytest.approx(settings.tilt_deg, abs=1e-6)


def test_a_tilted_gantry_moves_the_planes_and_not_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same head scanned straight and tilted: the clot's centre in world mm must agree."""
    draw = scanner.draw_acquisition
    centres = {}
    for tilt, sheared in ((0.0, False), (14.0, False), (14.0, True), (-14.0, False)):

        def fixed(
            rng: np.random.Generator, size: scanner.Size, tilt: float = tilt, sheared: bool = sheared
        ) -> scanner.Acquisition:
            return replace(
                draw(rng, size),
                tilt_deg=tilt,
                sheared=sheared,
                spacing=(1.6, 1.6, 5.0),
                shape=(128, 140, 30),
                codes="LPS",
                pose_deg=(0.0, 0.0, 0.0),
            )

        monkeypatch.setattr(scanner, "draw_acquisition", fixed)
        phantom = generate_patient(9, 0, size="tiny", kinds=("intraparenchymal",), volume_ml=(20, 20))
        voxel = np.argwhere(phantom.mask).mean(axis=0)
        centres[tilt, sheared] = phantom.affine[:3, :3] @ voxel + phantom.affine[:3, 3]
        assert sum(phantom.volumes_ml) == pytest.approx(20, rel=0.1)
    for centre in centres.values():
        np.testing.assert_allclose(centre, centres[0.0, False], atol=1.2)


def test_a_sheared_affine_is_what_a_table_feed_under_a_tilted_gantry_gives() -> None:
    phantom = generate_patient(9, 0, size="tiny", sheared=True)
    settings = phantom.acquisition
    columns = settings.affine[:3, :3]
    assert abs(settings.tilt_deg) > 5
    np.testing.assert_allclose(columns[:2, 2], 0, atol=1e-12)
    normal = np.cross(columns[:, 0], columns[:, 1])
    normal /= np.linalg.norm(normal)
    assert columns[:, 2] @ normal == pytest.approx(settings.spacing[2])
    angle = np.degrees(np.arccos(columns[2, 2] / np.linalg.norm(columns[:, 2]) * normal[2]))
    assert angle == pytest.approx(abs(settings.tilt_deg))


def test_sub_positions_cover_each_axis_evenly_around_the_centre() -> None:
    for samples in (3, 5):
        offsets = scanner.sub_positions(samples)
        np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=1e-12)
        for axis in range(3):
            np.testing.assert_allclose(np.diff(np.sort(offsets[:, axis])), 1 / samples)


def test_stored_numbers_give_back_the_hu_exactly(cohort: list[Phantom]) -> None:
    assert len({phantom.storage for phantom in cohort}) >= 3
    for phantom in cohort:
        stored = phantom.stored()
        assert stored.dtype == phantom.storage.dtype
        back = stored.astype(np.float64) * phantom.storage.slope + phantom.storage.inter
        np.testing.assert_array_equal(back, phantom.hu)


def test_a_large_deep_bleed_pushes_the_ventricles_away() -> None:
    """Mass effect: the mirror-image asymmetry of the fluid grows with the clot."""

    def midline_shift(volume_ml: float) -> float:
        phantom = generate_patient(30, 2, size="small", kinds=("intraparenchymal",), volume_ml=(volume_ml, volume_ml))
        image, mask, _ = canonical(phantom)
        world = nib.as_closest_canonical(nib.Nifti1Image(phantom.hu, phantom.affine)).affine
        settings = phantom.acquisition
        to_head = settings.to_head @ world
        fluid = ndimage.gaussian_filter(image.astype(np.float32), 0.7) < 16
        voxels = np.argwhere(fluid & (image > -20))
        x, y, z = (to_head[:3, :3] @ voxels.T) + to_head[:3, 3:]
        central = (np.abs(x) < 30) & (np.abs(y + 5) < 25) & (np.abs(z - 12) < 14)
        blood = np.argwhere(mask)
        side = np.sign(((to_head[:3, :3] @ blood.T) + to_head[:3, 3:])[0].mean())
        return float(-side * np.mean(x[central]))

    assert midline_shift(60.0) > midline_shift(1.0) + 1.0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1, "index": 0}, "negative"),
        ({"seed": 0, "index": -2}, "negative"),
        ({"seed": 0, "index": 0, "size": "huge"}, "huge"),
        ({"seed": 0, "index": 0, "kinds": ("bruise",)}, "bruise"),
        ({"seed": 0, "index": 0, "volume_ml": (5.0, 1.0)}, "volume"),
        ({"seed": 0, "index": 0, "volume_ml": (0.0, 1.0)}, "volume"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        generate_patient(**arguments)  # type: ignore[arg-type]
