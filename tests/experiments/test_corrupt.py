"""Corruptions do what their names say, each a little more at each severity."""

import io

import numpy as np
import pytest
from PIL import Image

from bench.experiments.corrupt import GROUPS, KINDS, SEVERITIES, Array, corrupt


def grey(value: int, count: int = 40, channels: int = 1) -> Array:
    return np.full((count, channels, 28, 28), value, np.uint8)


def pictures(channels: int) -> Array:
    """A bright disk, off the centre, on a dark ramp."""
    rows, columns = np.mgrid[:28, :28]
    disk = np.where(np.hypot(rows - 11, columns - 15) < 7, 200, 20 + 2 * rows)
    return np.broadcast_to(disk, (30, channels, 28, 28)).astype(np.uint8)


def test_there_are_twelve_kinds_at_five_severities() -> None:
    assert len(KINDS) == 12 and SEVERITIES == (1, 2, 3, 4, 5)
    assert sorted(kind for group in GROUPS.values() for kind in group) == sorted(KINDS)
    assert all(len(strengths) == 5 for _, strengths in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_severity_is_further_from_the_image(kind: str, channels: int) -> None:
    x = pictures(channels)
    before = x.copy()
    found = [corrupt(x, kind, severity) for severity in SEVERITIES]
    assert np.array_equal(x, before)
    distances = [float(((y.astype(float) - x) ** 2).mean()) for y in found]
    assert 0 < distances[0] and distances == sorted(distances)
    assert all(y.shape == x.shape and y.dtype == np.uint8 for y in found)
    assert np.array_equal(corrupt(x, kind, 3), found[2])


@pytest.mark.parametrize("kind", ["gaussian noise", "shot noise", "impulse noise", "motion blur",
                                  "fog", "elastic"])  # fmt: skip
def test_what_is_random_differs_between_images_and_seeds(kind: str) -> None:
    y = corrupt(pictures(1), kind, 3)
    assert len(np.unique(y.reshape(len(y), -1), axis=0)) > 5
    assert not np.array_equal(y, corrupt(pictures(1), kind, 3, seed=1))


def test_noise_has_the_moments_of_its_distribution() -> None:
    flat = corrupt(grey(128), "gaussian noise", 2) / 255.0
    assert flat.mean() == pytest.approx(128 / 255, abs=3e-3)
    assert flat.std() == pytest.approx(0.12, rel=0.02)
    shot = corrupt(grey(51), "shot noise", 1) / 255.0  # variance of a Poisson: mean / photons
    assert shot.mean() == pytest.approx(0.2, abs=3e-3)
    assert shot.var() == pytest.approx(0.2 / 60, rel=0.05)
    salt = corrupt(grey(128), "impulse noise", 4)
    assert (salt == 255).mean() == pytest.approx(0.085, abs=5e-3)
    assert (salt == 0).mean() == pytest.approx(0.085, abs=5e-3)
    assert set(np.unique(salt)) == {0, 128, 255}


def test_brightness_and_contrast_are_affine() -> None:
    x = pictures(3)
    assert np.array_equal(corrupt(x, "brightness", 2), np.minimum(x + 51.0, 255))
    mean = x.astype(float).mean((2, 3), keepdims=True)
    expected = mean + 0.4 * (x - mean)
    assert np.abs(corrupt(x, "contrast", 2) - expected).max() <= 0.51


@pytest.mark.parametrize(
    "kind", ["defocus blur", "motion blur", "zoom blur", "elastic", "pixelate"]
)
def test_what_moves_light_leaves_a_flat_image(kind: str) -> None:
    assert np.array_equal(corrupt(grey(90), kind, 5), grey(90))


def test_a_point_spreads_as_far_as_the_blur_is_wide() -> None:
    x = grey(0)
    x[:, :, 14, 14] = 255
    disk = corrupt(x, "defocus blur", 5).astype(float)
    rows, columns = np.mgrid[-14:14, -14:14]
    assert disk[0, 0][np.hypot(rows, columns) > 3.1].max() == 0
    assert disk[0].sum() == pytest.approx(255, rel=0.1)  # rounded to integers
    # of a disk of radius R the mean square distance is R² / 2; here R is between 2.5 and 3
    spread = float((disk[0, 0] * (rows**2 + columns**2)).sum() / disk[0].sum())
    assert 2.5**2 / 2 < spread < 3**2 / 2 + 0.3
    line = corrupt(x, "motion blur", 5)[:, 0] > 0
    reach = np.where(line, np.hypot(rows, columns), 0).max((1, 2))
    assert (reach >= 4).all() and (reach <= 5.7).all()
    assert len(np.unique(line.reshape(len(line), -1), axis=0)) == 8  # directions


def test_elastic_moves_by_the_pixels_that_it_says() -> None:
    ramp = np.broadcast_to(9.0 * np.arange(28), (40, 1, 28, 28)).astype(np.uint8)
    moved = (corrupt(ramp, "elastic", 3).astype(float) - ramp)[..., 6:-6] / 9
    assert np.sqrt((moved**2).mean()) == pytest.approx(1.1, rel=0.15)


def test_a_zoomed_image_keeps_its_centre() -> None:
    x = pictures(1)
    radius = np.hypot(*(np.mgrid[:28, :28] - 13.5))
    y = corrupt(x, "zoom blur", 5).astype(float)
    change = np.abs(y - x)[:, 0].mean(0)
    assert change[radius < 2].mean() < change.mean()


def test_jpeg_is_pillows() -> None:
    file = io.BytesIO()
    Image.fromarray(pictures(1)[0, 0]).save(file, "jpeg", quality=15)
    assert np.array_equal(corrupt(pictures(1), "jpeg", 3)[0, 0], np.asarray(Image.open(file)))


def test_pixels_become_blocks() -> None:
    y = corrupt(pictures(1), "pixelate", 3)[0, 0]  # 14 × 14 of them
    assert np.array_equal(y, y[::2, ::2].repeat(2, 0).repeat(2, 1))
    assert np.abs(y[::2, ::2] - pictures(1)[0, 0].reshape(14, 2, 14, 2).mean((1, 3))).max() <= 1


@pytest.mark.parametrize(
    ("kind", "severity", "says"), [("snow", 1, "kind must be one of"), ("fog", 0, "severity must")]
)
def test_what_is_unknown_is_named(kind: str, severity: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        corrupt(grey(0), kind, severity)
