from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.inputs.photos import find_images, read_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def red_left_blue_right() -> Image.Image:
    """4×2 pixels: JPEG-proof enough when enlarged, and no symmetry hides a wrong turn."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return image


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


# --- paths -------------------------------------------------------------------------------------


def test_reads_a_file_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels)):
        assert np.array_equal(np.array(read_image(source)), pixels)
    assert np.array_equal(
        np.array(read_image(pixels, "L")), np.array(Image.fromarray(pixels).convert("L"))
    )


def write_bad_files(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("whole.png", "whole.jpg"):
        Image.fromarray(noise).save(folder / name)
        data = (folder / name).read_bytes()
        (folder / f"truncated{name[5:]}").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "stub.png").write_bytes(png_header(8, 8)[:20])
    (folder / "zero.png").write_bytes(png_header(0, 5))
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "does not exist"),
        ("folder.png", "is a folder"),
        ("empty.png", "is empty"),
        ("text.png", "is not an image"),
        ("truncated.png", "damaged or incomplete"),
        ("truncated.jpg", "damaged or incomplete"),
        ("bomb.png", "too large"),
        ("stub.png", "cannot be read"),
        ("zero.png", "not an image"),
        ("n" * 300, "File name too long|does not exist"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, message):
    write_bad_files(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["good.gif", "truncated.png"])
def test_files_are_closed(tmp_path, monkeypatch, name):
    write_bad_files(tmp_path)
    Image.new("RGB", (2, 2)).save(tmp_path / "good.gif")
    opened, streams = [], []
    real_open = Image.open

    def noted(file):
        streams.append(file)
        opened.append(real_open(file))
        return opened[-1]

    monkeypatch.setattr(Image, "open", noted)
    if name == "good.gif":
        read_image(tmp_path / name)
    else:
        with pytest.raises(InputError):
            read_image(tmp_path / name)
    assert len(opened) == 1
    assert opened[0].fp is None
    assert streams[0].closed


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """A camera stores the picture turned; whoever reads it sees it upright."""
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = red_left_blue_right()
    stored = upright.transpose(stored_by[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=100, subsampling=0)
    seen = read_image(tmp_path / "photo.jpg")
    assert seen.size == upright.size
    difference = np.array(seen).astype(int) - np.array(upright)
    assert np.abs(difference).max() <= 3
    # Reading the result again turns nothing.
    assert np.array_equal(np.array(read_image(seen)), np.array(seen))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == RED


# --- Pillow modes ------------------------------------------------------------------------------


def test_transparency_lies_over_white(tmp_path):
    half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert read_image(half_red).getpixel((0, 0)) == (255, 127, 127)
    hidden_black = Image.new("LA", (1, 1), (0, 0))
    assert read_image(hidden_black, "L").getpixel((0, 0)) == 255
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    seen = read_image(tmp_path / "p.png")
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), BLUE]


def test_palette_and_bilevel_and_cmyk():
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([*RED, *BLUE])
    assert read_image(palette).getpixel((0, 0)) == BLUE
    assert read_image(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(Image.new("1", (1, 1), 1), "L").getpixel((0, 0)) == 255
    assert read_image(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_every_mode_becomes_the_wanted_one(mode, wanted):
    assert read_image(Image.new(mode, (3, 2)), wanted).mode == wanted


def test_16_bit_files_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for source in (tmp_path / "deep.png", tmp_path / "deep.tif", values):
        assert np.array(read_image(source, "L")).tolist() == [[0, 10, 128, 255]]
    # A dark one stays dark: the range is the format's, not the image's.
    dark = Image.fromarray(np.array([[0, 200]], dtype=np.uint16))
    assert np.array(read_image(dark, "L")).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([0, 2570, 65535], np.int32, [0, 10, 255]),
        ([-100, 0, 100], np.int32, [0, 128, 255]),
        ([0, 500_000, 1_000_000], np.int32, [0, 128, 255]),
        ([-7, -7, -7], np.int32, [0, 0, 0]),
        ([0.0, 0.2, 1.0], np.float32, [0, 51, 255]),
        ([0.0, 100.0, 254.0], np.float32, [0, 100, 254]),
        ([0.0, 2570.0, 65535.0], np.float32, [0, 10, 255]),
        ([-1.0, 0.2, 1.0], np.float32, [0, 153, 255]),
    ],
)
def test_32_bit_images_find_their_range(values, dtype, expected):
    image = Image.fromarray(np.array([values], dtype=dtype))
    assert image.mode in ("I", "F")
    assert np.array(read_image(image, "L")).tolist() == [expected]


def test_infinite_pixels_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        read_image(Image.fromarray(np.array([[0, np.inf]], dtype=np.float32)))


def test_the_given_image_is_left_alone():
    image = red_left_blue_right()
    image.getexif()[0x0112] = 6
    seen = read_image(image)
    assert seen.size == (16, 32)
    seen.paste((0, 0, 0), (0, 0, 16, 32))
    assert image.size == (32, 16)
    assert image.getpixel((0, 0)) == RED


# --- arrays ------------------------------------------------------------------------------------


def test_float_arrays_are_rounded():
    values = np.array([[0.0, 0.5, 1.0]])
    assert np.array(read_image(values, "L")).tolist() == [[0, 128, 255]]
    assert np.array(read_image(values.astype(np.float16)[..., None], "L")).tolist() == [
        [0, 128, 255]
    ]


def test_arrays_with_alpha_and_odd_strides():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, :, 3] = 255
    assert np.array(read_image(rgba))[:, 0].tolist() == [[0, 0, 0], [255, 255, 255]]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    flipped = pixels[::-1, ::2]
    assert np.array_equal(np.array(read_image(flipped)), flipped)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"height×width×channels.*channels-first"),
        (np.zeros((2, 3, 20, 30), np.uint8), r"height×width×channels.*batch"),
        (np.zeros((20, 30, 7), np.uint8), r"height×width×channels.*1, 3 or 4"),
        (np.zeros(20, np.uint8), r"height×width×channels"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), np.int64), r"not int64.*astype"),
        (np.zeros((4, 4), bool), "not bool"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), np.inf), "0–1"),
        (np.full((4, 4), 1.01), "0–1"),
        (np.full((4, 4), -0.01), "0–1"),
    ],
)
def test_unusable_arrays(array, message):
    with pytest.raises(InputError, match=message):
        read_image(array)


def test_other_sources_and_modes():
    with pytest.raises(InputError, match="from int"):
        read_image(3)
    with pytest.raises(InputError, match="'CMYK'"):
        read_image(np.zeros((2, 2), np.uint8), "CMYK")
    with pytest.raises(InputError, match="no pixels"):
        read_image(Image.new("RGB", (0, 4)))


# --- folders -----------------------------------------------------------------------------------


def test_find_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "sub/.hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / "a.jpg", tmp_path / "b.PNG", tmp_path / "sub" / "c.webp"]
    assert find_images([tmp_path]) == expected
    # Files named by the user are kept whatever their ending, in the order given, once.
    given = [
        tmp_path / "notes.txt",
        tmp_path / "sub" / ".." / "b.PNG",
        tmp_path,
        tmp_path / "a.jpg",
    ]
    assert find_images(given) == [given[0], given[1], expected[0], expected[2]]


def test_find_images_refuses(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no images.*\.png"):
        find_images([tmp_path])
