"""Profiles: the same colours as LittleCMS gives, back again at full depth, wide colours not lost."""

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from arrays import assert_close, uniform
from icc_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, SRGB, gamma, grey_profile, icc_profile, rgb_profile, xyz
from patchscaler.imaging import icc
from patchscaler.imaging.files import Picture, read_picture, write_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.sixteen_bit import read_samples

WIDE = {name: rgb_profile(*values) for name, values in [("p3", DISPLAY_P3), ("a98", ADOBE_RGB), ("rimm", PROPHOTO)]}
GREYS = {1.0: grey_profile(1.0), 1.8: grey_profile(1.8), 2.2: grey_profile(2.2)}


def values_of(seed: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    samples = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return samples, (samples.astype(np.float32) / 255).transpose(2, 0, 1)[None]


def by_littlecms(samples: np.ndarray, profile: bytes, back: bool = False) -> np.ndarray:
    pair = [ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (profile, SRGB)]
    source, target = reversed(pair) if back else pair
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    image = ImageCms.profileToProfile(Image.fromarray(samples), source, target, renderingIntent=intent)
    return np.asarray(image).astype(np.float64)


@pytest.mark.parametrize("profile", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("back", [False, True])
def test_colours_are_littlecms_colours(profile, back):
    samples, values = values_of(1)
    ours = icc.from_srgb(values, profile) if back else icc.to_srgb(values, profile)[0]
    difference = ours[0].transpose(1, 2, 0) * 255 - by_littlecms(samples, profile, back)
    assert np.abs(difference).max() < 1.1
    assert np.abs(difference).mean() < 0.35  # it rounds to 8 bits, which alone is 0.25


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(sorted(WIDE)), seed=st.integers(0, 999))
def test_there_and_back_is_where_one_was(name, seed):
    """What sRGB cannot hold is carried beside it; where it can hold all, nothing is."""
    values = uniform(1, 3, 9, 7, seed=seed).clip(1e-3)  # at black itself curves are too steep for float32
    pixels, beyond = icc.to_srgb(values, WIDE[name])
    assert 0 <= pixels.min() <= pixels.max() <= 1
    back = icc.from_srgb(pixels, WIDE[name])
    rest = np.zeros_like(values) if beyond is None else beyond
    assert_close(back + rest, values, atol=1e-6, rtol=0)
    inside = icc.from_srgb(values, WIDE[name])  # a colour of sRGB, in the wider profile
    assert icc.to_srgb(inside, WIDE[name])[1] is None
    assert_close(icc.to_srgb(inside, WIDE[name])[0], values, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("exponent", "profile"), GREYS.items())
def test_grey_profiles(exponent, profile):
    values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (1, 3, 1, 1))
    pixels, beyond = icc.to_srgb(values, profile)
    light = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    assert_close(light, values**exponent, atol=2e-4, rtol=0)
    assert beyond is None or np.abs(beyond).max() < 2e-3  # near black, where curves are steep


def test_srgb_by_any_name_is_left_alone():
    assert icc.is_srgb(SRGB)
    _, values = values_of(2)
    assert icc.to_srgb(values, SRGB)[0] is values
    assert icc.from_srgb(values, SRGB) is values
    assert not any(map(icc.is_srgb, [*WIDE.values(), *GREYS.values()]))


@pytest.mark.parametrize("name", ["p3", "a98"])
def test_profiles_of_tables_go_through_littlecms(name, monkeypatch):
    """With the matrix unknown, LittleCMS does it in 8 bits, and what it loses is carried beside."""
    _, values = values_of(3)
    exact = icc.to_srgb(values, WIDE[name])[0]
    light = icc._light
    monkeypatch.setattr(icc, "_light", lambda profile: light(profile) if profile == SRGB else None)
    icc.is_srgb.cache_clear()
    assert icc.is_usable(WIDE[name])
    pixels, beyond = icc.to_srgb(values, WIDE[name])
    assert_close(pixels, exact, atol=1.6 / 255, rtol=0)
    assert_close(icc.from_srgb(pixels, WIDE[name]) + beyond, values, atol=1e-6, rtol=0)
    icc.is_srgb.cache_clear()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"short", b"\xff" * 400, SRGB[:140], WIDE["p3"][:300], WIDE["p3"].replace(b"curv", b"cruv")],
    ids=["empty", "short", "noise", "header", "cut", "curves"],
)
def test_damaged_profiles_are_not_used(damaged):
    assert not icc.is_usable(damaged)
    assert not icc.is_srgb(damaged)


def test_odd_profiles_are_not_used():
    flat = icc_profile(b"RGB ", dict.fromkeys((b"rXYZ", b"gXYZ", b"bXYZ"), xyz([0.3, 0.3, 0.3])))
    assert icc._light(flat) is None
    falling = icc_profile(b"GRAY", {b"kTRC": b"curv\0\0\0\0" + bytes([0, 0, 0, 2, 255, 255, 0, 0])})
    assert not icc.is_usable(falling)
    assert icc.is_usable(icc_profile(b"GRAY", {b"kTRC": gamma(2.0)}))
    assert not icc.is_usable(icc_profile(b"CMYK", {}))


@pytest.mark.parametrize("curve", range(5))
def test_parametric_curves(curve):
    """ICC.1:2022, table 68, written out again."""
    g, a, b, c, d, e, f = 2.4, 0.9, 0.1, 0.08, 0.05, 0.0, 0.0
    parameters = [(g,), (g, a, b), (g, a, b, 0.0), (g, a, b, c, d), (g, a, b, c, d, e, f)][curve]
    tag = b"para\0\0\0\0" + curve.to_bytes(2, "big") + b"\0\0"
    tag += b"".join(round(value * 65536).to_bytes(4, "big") for value in parameters)
    for x in (0.0, 0.02, 0.3, 0.7, 1.0):
        straight = {0: 0.0, 1: 0.0, 2: 0.0, 3: c * x, 4: c * x + f}[curve]
        power = x**g if curve == 0 else (a * x + b) ** g
        expected = straight if curve >= 3 and x < d else power
        assert np.interp(x, np.linspace(0, 1, icc.KNOTS), icc._curve(tag)) == pytest.approx(expected, abs=1e-4)


# --- through files


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("profile", [*WIDE.values(), SRGB], ids=[*WIDE, "srgb"])
def test_a_deep_picture_in_a_wide_profile_survives(tmp_path, suffix, profile):
    samples = np.random.default_rng(4).integers(0, 65536, (9, 8, 3), dtype=np.uint16)
    values = (samples / 65535).astype(np.float32).transpose(2, 0, 1)[None]
    raw = Picture(values, bits=16)
    write_picture(tmp_path / f"raw{suffix}", values, like=raw)
    pixels, beyond = icc.to_srgb(values, profile)
    write_picture(tmp_path / f"in{suffix}", pixels, like=Picture(pixels, bits=16, icc_profile=profile, beyond=beyond))
    read = read_picture(tmp_path / f"in{suffix}")
    assert read.icc_profile == profile
    assert_close(read.pixels, pixels, atol=2e-4, rtol=0)
    write_picture(tmp_path / f"again{suffix}", read.pixels, like=read)
    with Image.open(tmp_path / f"again{suffix}") as image:
        assert image.info["icc_profile"] == profile
    assert np.abs(stored(tmp_path / f"raw{suffix}") - stored(tmp_path / f"again{suffix}")).max() <= 1.01 / 65535


def stored(path) -> np.ndarray:
    """The (H,W,3) values of a file in [0, 1] as they are, whatever its profile."""
    if path.suffix == ".tif":
        read = tifffile.imread(path)
    else:
        with Image.open(path) as image:
            read = read_samples(image, lambda: Image.open(path))
    return read.astype(np.float64) / 65535


def test_colours_outside_srgb_are_enlarged_with_the_picture(tmp_path):
    """Pure green of Display P3 comes out as pure green of Display P3, whatever enlarges the sRGB part."""
    Image.new("RGB", (6, 5), (0, 255, 0)).save(tmp_path / "in.png", icc_profile=WIDE["p3"])
    read = read_picture(tmp_path / "in.png")
    assert read.beyond is not None
    large = resize_bicubic(read.pixels, Size(20, 24), clamp=True)
    write_picture(tmp_path / "out.png", large, like=read)
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"] == WIDE["p3"]
        assert image.getextrema() == ((0, 0), (255, 255), (0, 0))


def test_a_grey_profile_is_left_where_the_file_has_colours(tmp_path):
    """WebP stores no grey: the picture is written as sRGB, and looks the same."""
    Image.new("L", (6, 5), 100).save(tmp_path / "in.png", icc_profile=GREYS[1.0])
    read = read_picture(tmp_path / "in.png")
    write_picture(tmp_path / "out.webp", read.pixels, like=read, lossless=True)
    with Image.open(tmp_path / "out.webp") as image:
        assert "icc_profile" not in image.info
        srgb = round(255 * (1.055 * (100 / 255) ** (1 / 2.4) - 0.055))
        assert image.convert("RGB").getpixel((2, 2)) == (srgb,) * 3
