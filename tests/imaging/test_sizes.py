"""Any size: exact sizes, proportions, passes, transparency, and what is written about it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arrays import assert_close, normal, uniform
from patchscaler import Upscaler
from patchscaler.errors import ConfigError
from patchscaler.imaging.alpha import bounded_alpha, extend_colours
from patchscaler.imaging.files import Picture, read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.stages.sizes import target_size

quick = settings(deadline=None, max_examples=60)
sides = st.integers(1, 3000)
plain = {"steps": (0, 0, 0)}


@pytest.fixture(scope="module")
def trained_upscaler():
    """The bundled model: where a thing lies and how sharp it is, random weights cannot tell."""
    return Upscaler(device="cpu")


# --- which size


@quick
@given(height=sides, width=sides, scale=st.one_of(st.integers(1, 8), st.floats(1, 8)))
def test_scale_multiplies_both_sides(height, width, scale):
    size = target_size(Size(height, width), scale=scale)
    assert abs(size.height - height * scale) <= 0.5 + 1e-6
    assert abs(size.width - width * scale) <= 0.5 + 1e-6


@quick
@given(height=sides, width=sides, data=st.data())
def test_a_given_side_is_met_and_the_other_one_follows(height, width, data):
    for name, side in (("height", height), ("width", width), ("max_side", max(height, width))):
        wanted = data.draw(st.integers(side, 8 * side))
        size = target_size(Size(height, width), **{name: wanted})
        got = {"height": size.height, "width": size.width, "max_side": max(size)}[name]
        assert got == wanted
        for after, before in zip(size, (height, width), strict=True):
            assert abs(after - before * wanted / side) <= 0.5 + 1e-6


@quick
@given(height=sides, width=sides, factors=st.tuples(st.floats(1, 8), st.floats(1, 8)))
def test_of_several_bounds_all_are_kept_and_one_is_met(height, width, factors):
    bounds = Size(round(height * factors[0]), round(width * factors[1]))
    size = target_size(Size(height, width), height=bounds.height, width=bounds.width)
    assert size.height <= bounds.height
    assert size.width <= bounds.width
    assert size.height == bounds.height or size.width == bounds.width


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"scale": 0.5}, r"scale 0.5 must lie between 1 \(restore only\) and 8"),
        ({"scale": 9}, "scale 9 must"),
        ({"scale": float("nan")}, "scale nan must"),
        ({"scale": 2, "width": 50}, "scale 2 and width contradict"),
        ({"max_side": 29}, "max_side 29 of a picture of 30x20 means x0.967.*larger already"),
        ({"width": 241}, "width 241 .* means x8.03.*twice"),
        ({"height": 0}, "height 0 .* larger already"),
    ],
)
def test_sizes_out_of_reach(wish, reason):
    with pytest.raises(ConfigError, match=reason):
        target_size(Size(20, 30), **wish)


# --- how it is made


@pytest.mark.parametrize(
    ("wish", "size", "passes"),
    [
        ({}, (28, 20), 1),
        ({"scale": 1}, (7, 5), 1),
        ({"scale": 1.5}, (11, 8), 1),
        ({"scale": 3}, (21, 15), 1),
        ({"scale": 4.2}, (29, 21), 2),
        ({"scale": 8}, (56, 40), 2),
        ({"max_side": 50}, (50, 36), 2),
        ({"width": 9}, (13, 9), 1),
    ],
)
def test_any_size_from_the_model(tiny_upscaler, wish, size, passes):
    image = np.random.default_rng(0).random((7, 5, 3), np.float32)
    seen = []
    result = tiny_upscaler(image, steps=(1, 1, 1), on_progress=seen.append, **wish)
    assert result.size == size == result.pixels.shape[-2:]
    assert len(result.passes) == passes
    assert 0 <= result.pixels.min() <= result.pixels.max() <= 1
    for stage in {progress.stage for progress in seen}:  # grows, and ends whole, over both passes
        parts = [progress.done / progress.total for progress in seen if progress.stage == stage]
        assert parts == sorted(parts)
        assert parts[-1] == 1


def test_four_times_is_the_pipelines_own_result(tiny_pipeline, tiny_upscaler, photo):
    own = tiny_pipeline(photo, seed=3, steps=(1, 1, 1), output_type="pt")
    result = tiny_upscaler(photo, seed=3, steps=(1, 1, 1))
    assert np.array_equal(result.pixels, own.images.numpy())
    assert result.image.tobytes() == tiny_pipeline(photo, seed=3, steps=(1, 1, 1)).images[0].tobytes()


@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_nothing_is_stretched_or_shifted(trained_upscaler, scale):
    """A blurred spot stays where it was: its centre of mass is at the same fraction of the picture."""
    y, x = np.mgrid[0:24, 0:36]
    spot = np.exp(-((y - 8) ** 2 + (x - 22) ** 2) / 18).astype(np.float32)
    result = trained_upscaler(spot, scale=scale, **plain)
    light = result.pixels.mean(axis=1)[0].astype(np.float64)
    light = light * (light > 0.2)
    for axis, centre, side in ((0, 8, 24), (1, 22, 36)):
        places = (np.arange(light.shape[axis]) + 0.5) / light.shape[axis]
        weights = light.sum(axis=1 - axis)
        assert float((places * weights).sum() / weights.sum()) == pytest.approx((centre + 0.5) / side, abs=0.5 / side)


# --- transparency


def cut_out(hidden: tuple[int, int, int]) -> Image.Image:
    """An orange disc on clear ground, whose invisible colour is `hidden`."""
    y, x = np.mgrid[0:24, 0:24]
    inside = (y - 12) ** 2 + (x - 12) ** 2 < 64
    pixels = np.where(inside[..., None], (230, 120, 40), hidden)
    return Image.fromarray(np.dstack([pixels, inside * 255]).astype(np.uint8))


def test_hidden_colours_do_not_show(tiny_upscaler):
    """Whatever lies under clear pixels: the result is the same, and nothing but the disc's colour is near its edge."""
    results = [tiny_upscaler(cut_out(hidden), **plain) for hidden in ((0, 0, 0), (255, 255, 255), (0, 255, 0))]
    for other in results[1:]:
        assert np.array_equal(results[0].pixels, other.pixels)
        assert np.array_equal(results[0].alpha, other.alpha)
    flat = tiny_upscaler(Image.new("RGB", (24, 24), (230, 120, 40)), **plain).pixels
    seen = np.repeat(results[0].alpha > 0, 3, axis=1)
    assert_close(results[0].pixels[seen], flat[seen], atol=2e-3, rtol=0)


@quick
@given(seed=st.integers(0, 999), height=st.integers(1, 20), width=st.integers(1, 20), share=st.floats(0, 1))
def test_visible_colours_are_kept_and_hidden_ones_lie_between_them(seed, height, width, share):
    pixels = uniform(1, 3, height, width, seed=seed)
    alpha = (uniform(1, 1, height, width, seed=seed + 1) - np.float32(share)).clip(0)
    extended = extend_colours(pixels, alpha)
    seen = np.repeat(alpha > 0, 3, axis=1)
    assert np.array_equal(extended[seen], pixels[seen])
    if seen.any():
        for channel in range(3):
            visible = pixels[:, channel][seen[:, channel]]
            assert visible.min() - 1e-5 <= extended[:, channel].min()
            assert extended[:, channel].max() <= visible.max() + 1e-5
    else:
        assert np.array_equal(extended, pixels)


@quick
@given(seed=st.integers(0, 999), scale=st.sampled_from([1, 1.5, 2, 4]))
def test_alpha_stays_within_what_is_near(seed, scale):
    alpha = uniform(1, 1, 9, 7, seed=seed)
    alpha[..., 4:] = 1.0
    large = bounded_alpha(normal(1, 1, round(9 * scale), round(7 * scale), seed=seed), alpha)
    assert alpha.min() <= large.min() <= large.max() <= 1
    untouched = resize_bicubic(alpha, Size(*large.shape[-2:]))
    assert np.array_equal(bounded_alpha(np.ones_like(untouched), np.ones_like(alpha)), np.ones_like(untouched))


def test_opaque_and_clear_stay_so_and_the_edge_stays_sharp(trained_upscaler):
    result = trained_upscaler(cut_out((0, 0, 0)), **plain)
    alpha = result.alpha[0, 0]
    assert (alpha[36:60, 36:60] == 1).all()
    assert (alpha[:12] == 0).all()
    assert ((alpha > 0.02) & (alpha < 0.98)).mean() < 0.25
    half = trained_upscaler(Image.new("RGBA", (6, 5), (200, 100, 50, 77)), **plain)
    assert half.image.getchannel("A").getextrema() == (77, 77)


# --- what is written


def test_saved_with_what_the_source_had_and_what_was_done(tiny_upscaler, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    Image.new("RGB", (6, 4), (90, 120, 30)).save(tmp_path / "in.jpg", exif=exif.tobytes(), dpi=(300, 300))
    result = tiny_upscaler(tmp_path / "in.jpg", scale=2, seed=11, steps=(0, 1, 1))
    result.save(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        tags = image.getexif()
        assert image.size == (8, 12)  # upright
        assert (tags[0x010F], tags[0x0112], tags[0x000B]) == ("Maker", 1, "PatchScaler")
        assert "4x6 to 8x12 pixels" in tags.get_ifd(0x8769)[0x9213]
        assert "steps 0,1,1, seed 11" in tags.get_ifd(0x8769)[0x9213]
    result.save(tmp_path / "bare.jpg", metadata=False)
    with Image.open(tmp_path / "bare.jpg") as image:
        assert dict(image.getexif()) == {0x000B: "PatchScaler"}  # the mark alone
        assert image.info["dpi"] == (300, 300)


def test_depth_and_grey_survive(tiny_upscaler, tmp_path):
    samples = np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)
    Image.fromarray(samples).save(tmp_path / "in.png")
    tiny_upscaler(tmp_path / "in.png", scale=1.5, **plain).save(tmp_path / "out.png")
    read: Picture = read_picture(tmp_path / "out.png")
    assert (read.bits, read.grey, read.size) == (16, True, (9, 12))
