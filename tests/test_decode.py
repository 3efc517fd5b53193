import io
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ocr_onnx import decode
from ocr_onnx.decode import array_to_bgr, picture_pages, sniff
from ocr_onnx.errors import InputError, OcrError
from ocr_onnx.inputs import Readable, pages
from ocr_onnx.options import InputOptions

HEIGHT_PX, WIDTH_PX = 5, 9
_RANDOM = np.random.default_rng(7)
GRAY = _RANDOM.integers(0, 256, (HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
RGB = _RANDOM.integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
ALPHA = _RANDOM.integers(0, 256, (HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
DEEP_GRAY = _RANDOM.integers(0, 65536, (HEIGHT_PX, WIDTH_PX), dtype=np.uint16)
DEEP_RGB = _RANDOM.integers(0, 65536, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint16)

Pixels = NDArray[np.uint8]


def _bgr(rgb: NDArray[Any]) -> Pixels:
    return np.ascontiguousarray(rgb[..., ::-1]).astype(np.uint8)


def _gray_bgr(gray: NDArray[Any]) -> Pixels:
    return np.stack([gray] * 3, axis=-1).astype(np.uint8)


def _on_white(rgb: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    opacity = alpha[..., np.newaxis] / 255.0
    return np.asarray(np.rint(rgb * opacity + 255 * (1 - opacity)))


def _palette_image() -> Image.Image:
    image = Image.fromarray(GRAY % 4)
    image.putpalette([250, 10, 20, 0, 0, 200, 9, 99, 199, 1, 2, 3])
    return image


def _palette_rgb() -> NDArray[Any]:
    return np.array([[250, 10, 20], [0, 0, 200], [9, 99, 199], [1, 2, 3]])[GRAY % 4]


def _keyed_palette_image() -> Image.Image:
    image = _palette_image()
    image.info["transparency"] = 1
    return image


class Case(NamedTuple):
    """A picture in one Pillow mode, the pixels it must give and the containers that can hold it."""

    image: Image.Image
    bgr: Pixels
    containers: tuple[str, ...]


_INK = (GRAY % 2).astype(bool)  # of C, M and Y, all or nothing, so that the naive formula is exact
_CMYK = np.stack([_INK * 255, ~_INK * 255, _INK * 255, ALPHA], axis=-1).astype(np.uint8)
_CMYK_RGB = np.where(_CMYK[..., :3] == 255, 0, 255 - ALPHA[..., np.newaxis])
CASES = {
    "1": Case(
        Image.fromarray(GRAY > 99), _gray_bgr((GRAY > 99) * 255), ("PNG", "TIFF", "GIF", "BMP", "PPM", "WEBP")
    ),
    "L": Case(
        Image.fromarray(GRAY), _gray_bgr(GRAY), ("PNG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "JPEG2000")
    ),
    "P": Case(_palette_image(), _bgr(_palette_rgb()), ("PNG", "TIFF", "GIF", "BMP")),
    "P keyed": Case(
        _keyed_palette_image(),
        _bgr(np.where((GRAY % 4 == 1)[..., np.newaxis], 255, _palette_rgb())),
        ("PNG", "GIF"),
    ),
    "LA": Case(
        Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(ALPHA))),
        _bgr(_on_white(_gray_bgr(GRAY), ALPHA)),
        ("PNG", "TIFF", "WEBP"),
    ),
    "RGB": Case(Image.fromarray(RGB), _bgr(RGB), ("PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000")),
    "RGBA": Case(
        Image.fromarray(np.dstack([RGB, ALPHA])), _bgr(_on_white(RGB, ALPHA)), ("PNG", "TIFF", "WEBP")
    ),
    "CMYK": Case(Image.fromarray(_CMYK, "CMYK"), _bgr(_CMYK_RGB), ("TIFF",)),
    "I;16": Case(Image.fromarray(DEEP_GRAY), _gray_bgr(DEEP_GRAY >> 8), ("PNG", "TIFF", "PPM")),
    "I": Case(Image.fromarray(DEEP_GRAY.astype(np.int32)), _gray_bgr(DEEP_GRAY >> 8), ("TIFF",)),
    "I of L": Case(Image.fromarray(GRAY.astype(np.int32)), _gray_bgr(GRAY), ("TIFF",)),
    "F to 1": Case(Image.fromarray(GRAY.astype(np.float32) / np.float32(255)), _gray_bgr(GRAY), ("TIFF",)),
    "F to 255": Case(Image.fromarray(GRAY.astype(np.float32)), _gray_bgr(GRAY), ("TIFF",)),
    "F to 65535": Case(Image.fromarray(DEEP_GRAY.astype(np.float32)), _gray_bgr(DEEP_GRAY >> 8), ("TIFF",)),
}


def _packed(image: Image.Image, container: str, **how: Any) -> bytes:
    if container == "WEBP":
        how |= {"lossless": True, "exact": True}
    file = io.BytesIO()
    image.save(file, container, **how)
    return file.getvalue()


def _written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


DOORS: dict[str, Callable[[bytes, Path], Readable]] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(data),
    "file object": lambda data, _: io.BytesIO(data),
    "path": lambda data, path: str(_written(data, path)),
    "Path": lambda data, path: _written(data, path),
    "PIL image": lambda data, _: Image.open(io.BytesIO(data)),
}


def _only(source: Readable, options: InputOptions | None = None) -> Pixels:
    (page,) = pages(source, options or InputOptions())
    assert page.image.dtype == np.uint8
    assert page.image.flags.c_contiguous
    assert page.image.flags.writeable
    assert page.index is None
    assert page.scale_xy == (1.0, 1.0)
    return page.image


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "container"),
    [(name, container) for name, case in CASES.items() for container in case.containers],
)
def test_same_pixels_through_every_door(name: str, container: str, door: str, tmp_path: Path) -> None:
    data = _packed(CASES[name].image, container)
    source = DOORS[door](data, tmp_path / "a picture, 图.dat")
    np.testing.assert_array_equal(_only(source), CASES[name].bgr)


@pytest.mark.parametrize("name", CASES)
def test_same_pixels_from_an_image_in_memory(name: str) -> None:
    np.testing.assert_array_equal(_only(CASES[name].image), CASES[name].bgr)


@pytest.mark.parametrize("band_pixels", [1, 2 * WIDTH_PX, 3 * WIDTH_PX + 1])
@pytest.mark.parametrize("name", CASES)
def test_same_pixels_band_by_band(name: str, band_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_BAND_PIXELS", band_pixels)
    case = CASES[name]
    np.testing.assert_array_equal(_only(case.image), case.bgr)
    np.testing.assert_array_equal(_only(_packed(case.image, case.containers[0])), case.bgr)


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("door", DOORS)
def test_sixteen_bit_colour_is_scaled(extension: str, door: str, tmp_path: Path) -> None:
    encoded = cv2.imencode(extension, np.ascontiguousarray(DEEP_RGB[..., ::-1]))[1].tobytes()
    np.testing.assert_array_equal(_only(DOORS[door](encoded, tmp_path / "x")), _bgr(DEEP_RGB >> 8))


@pytest.mark.parametrize("door", DOORS)
def test_cmyk_jpeg_of_adobe_is_not_inverted(door: str, tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))  # and no ink at all
    data = _packed(image, "JPEG", quality=100)
    assert b"Adobe" in data
    pixels = _only(DOORS[door](data, tmp_path / "x"))
    np.testing.assert_allclose(pixels[8, 2], (0, 0, 255), atol=4)
    np.testing.assert_allclose(pixels[8, 14], (255, 255, 255), atol=4)


TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda upright: upright,
    2: lambda upright: np.fliplr(upright),
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: np.flipud(upright),
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),  # stored a quarter turn to the left, shown to the right
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("container", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("door", DOORS)
def test_exif_orientation(orientation: int, container: str, door: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](RGB)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _packed(stored, container, exif=exif)
    np.testing.assert_array_equal(_only(DOORS[door](data, tmp_path / "x")), _bgr(RGB))


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_of_jpeg_and_of_deep_gray(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = np.kron(np.array([[0, 80], [160, 240], [40, 255]], np.uint8), np.ones((16, 16), np.uint8))
    jpeg = _packed(
        Image.fromarray(np.ascontiguousarray(TURNS[orientation](block))), "JPEG", quality=100, exif=exif
    )
    np.testing.assert_allclose(_only(jpeg).astype(int), _gray_bgr(block), atol=2)
    deep = _packed(Image.fromarray(np.ascontiguousarray(TURNS[orientation](DEEP_GRAY))), "PNG", exif=exif)
    np.testing.assert_array_equal(_only(deep), _gray_bgr(DEEP_GRAY >> 8))


@pytest.mark.parametrize("orientation", [0, 9])
def test_exif_orientation_out_of_range_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(_only(_packed(Image.fromarray(RGB), "PNG", exif=exif)), _bgr(RGB))


def test_broken_exif_costs_no_picture() -> None:
    data = _packed(Image.fromarray(RGB), "PNG", exif=b"no exif at all")
    np.testing.assert_array_equal(_only(data), _bgr(RGB))


def _png(bits: int, colour_type: int, row: bytes, width_px: int, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width_px, 1, bits, colour_type, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + body + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_gray_level_is_white(bits: int) -> None:
    row = np.array([0, 77, 200], ">u2" if bits == 16 else "u1")
    data = _png(bits, 0, row.tobytes(), 3, _chunk(b"tRNS", struct.pack(">H", 77)))
    expected = [0, 255, 0] if bits == 16 else [0, 255, 200]
    assert _only(data)[0, :, 0].tolist() == expected


def _tiff(tags: dict[int, tuple[int, int]], strip: bytes) -> bytes:
    """A little-endian TIFF of one strip; `tags` maps tag to (type, value), 3 is a short and 4 a long."""
    tags = {273: (4, 8), 279: (4, len(strip)), **tags}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


def _gray_tiff(bits: int, photometric: int, strip: bytes, width_px: int) -> bytes:
    shorts = {256: width_px, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1}
    return _tiff({tag: (3, value) for tag, value in shorts.items()}, strip)


@pytest.mark.parametrize(("photometric", "expected"), [(0, [255, 254, 0]), (1, [0, 1, 255])])
def test_white_is_zero_in_a_deep_tiff(photometric: int, expected: list[int]) -> None:
    strip = np.array([0, 256, 65535], "<u2").tobytes()
    assert _only(_gray_tiff(16, photometric, strip, 3))[0, :, 0].tolist() == expected


def test_twelve_bit_tiff_is_scaled() -> None:
    strip = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])  # 0x000, 0xFFF, 0x800, 0x010
    assert _only(_gray_tiff(12, 1, strip, 4))[0, :, 0].tolist() == [0, 255, 128, 1]


@pytest.mark.parametrize(
    "levels",
    [
        np.array([[-1, 7]], np.int32),
        np.array([[0, 70000]], np.int32),
        np.array([[0.0, np.nan]], np.float32),
        np.array([[0.0, np.inf]], np.float32),
        np.array([[-0.5, 1.0]], np.float32),
        np.array([[0.0, 1e6]], np.float32),
    ],
)
def test_levels_without_a_scale_are_refused(levels: NDArray[Any]) -> None:
    for source in (Image.fromarray(levels), _packed(Image.fromarray(levels), "TIFF")):
        with pytest.raises(InputError, match=r"^<(image|bytes)>: has levels from .*; scale them"):
            list(pages(source))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GRAY, _gray_bgr(GRAY)),
        (GRAY[..., np.newaxis], _gray_bgr(GRAY)),
        (RGB, RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (np.dstack([RGB, ALPHA]), _on_white(RGB, ALPHA)),
        (np.dstack([RGB, np.full_like(GRAY, 255)]), RGB),
        (np.dstack([RGB, np.full_like(GRAY, 255)])[::-1, ::2], RGB[::-1, ::2]),
        (np.dstack([RGB, np.full_like(GRAY, 255)])[:1, :1], RGB[:1, :1]),
        (DEEP_GRAY, _gray_bgr(DEEP_GRAY >> 8)),
        (DEEP_GRAY.astype(">u2"), _gray_bgr(DEEP_GRAY >> 8)),
        (DEEP_RGB, DEEP_RGB >> 8),
        (GRAY > 99, _gray_bgr((GRAY > 99) * 255)),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float16), RGB),
        (np.dstack([RGB, ALPHA]) / 255, _on_white(RGB, ALPHA)),
    ],
)
def test_arrays(array: NDArray[Any], expected: NDArray[Any]) -> None:
    before = array.copy()
    pixels = _only(array)
    np.testing.assert_array_equal(pixels, expected)
    pixels[:] = 0
    np.testing.assert_array_equal(array, before)  # a copy: the caller may reuse the buffer


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"shape \(1, 2, 2, 3\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (np.zeros((0, 5), np.uint8), r"shape \(0, 5\)"),
        (np.zeros((5, 0, 3), np.float32), r"shape \(5, 0, 3\)"),
        (np.zeros((2, 2), np.int64), "dtype int64"),
        (np.zeros((2, 2), np.uint32), "dtype uint32"),
        (np.zeros((2, 2), np.complex64), "dtype complex64"),
        (np.zeros((2, 2), object), "dtype object"),
        (np.array([[0.0, np.nan]]), "floats from nan to nan"),
        (np.array([[0.0, np.inf]]), "floats from 0.0 to inf"),
        (np.array([[0.0, 1.01]]), "floats from 0.0 to 1.01"),
        (np.array([[-0.01, 1.0]]), "floats from -0.01 to 1.0"),
        (np.full((2, 2), 200.0), "floats from 200.0"),
    ],
)
def test_bad_arrays(array: NDArray[Any], problem: str) -> None:
    with pytest.raises(InputError, match=rf"^<array>: has .*{problem}.*; (give|scale)"):
        list(pages(array))


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("container", ["PNG", "JPEG", "TIFF"])
def test_extreme_shapes_load(size_wh: tuple[int, int], container: str) -> None:
    pixels = _only(_packed(Image.new("RGB", size_wh, (0, 0, 0)), container))
    assert pixels.shape == (size_wh[1], size_wh[0], 3)
    assert not pixels.any()


def _animation(container: str, count: int = 3) -> bytes:
    frames = [Image.new("RGB", (8, 6), (80 * number, 0, 0)) for number in range(count)]
    return _packed(frames[0], container, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("container", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("door", DOORS)
def test_animations(container: str, door: str, tmp_path: Path) -> None:
    data = _animation(container)

    def reds(options: InputOptions) -> list[tuple[int | None, int]]:
        source = DOORS[door](data, tmp_path / "x")
        return [(page.index, int(page.image[0, 0, 2])) for page in pages(source, options)]

    assert reds(InputOptions()) == [(0, 0)]
    assert reds(InputOptions(all_frames=True)) == [(0, 0), (1, 80), (2, 160)]
    assert reds(InputOptions(all_frames=True, pages="3,1")) == [(0, 0), (2, 160)]
    with pytest.raises(InputError, match=r"has 1 page, so there is no page 3; set input\.all_frames"):
        reds(InputOptions(pages="3"))


@pytest.mark.parametrize("door", DOORS)
def test_multi_page_tiff_is_read_whole(door: str, tmp_path: Path) -> None:
    source = DOORS[door](_animation("TIFF"), tmp_path / "x")
    assert [(page.index, int(page.image[0, 0, 2])) for page in pages(source)] == [(0, 0), (1, 80), (2, 160)]


def test_pages_of_a_tiff_may_differ_in_size_and_mode() -> None:
    first = Image.fromarray(GRAY)
    data = _packed(first, "TIFF", save_all=True, append_images=[Image.new("RGB", (3, 2), "red")])
    assert [page.image.shape for page in pages(data)] == [(HEIGHT_PX, WIDTH_PX, 3), (2, 3, 3)]


@pytest.mark.parametrize(("pages_text", "count"), [("4", 3), ("2-4", 3)])
def test_pages_beyond_the_end(pages_text: str, count: int) -> None:
    with pytest.raises(InputError, match=f"<bytes>: has {count} pages"):
        list(pages(_animation("TIFF"), InputOptions(pages=pages_text)))


def test_max_pages_bounds_the_frames() -> None:
    with pytest.raises(InputError, match="3 pages are more than the limit of 2"):
        list(pages(_animation("TIFF"), InputOptions(max_pages=2)))


def test_an_image_of_several_frames_keeps_its_place() -> None:
    image = Image.open(io.BytesIO(_animation("GIF")))
    image.seek(1)
    (page,) = pages(image)
    assert (page.index, int(page.image[0, 0, 2])) == (1, 80)
    assert len(list(pages(image, InputOptions(all_frames=True)))) == 3
    assert image.tell() == 1
    next(pages(image, InputOptions(all_frames=True, pages="3")))
    assert image.tell() == 1
    assert len(list(ImageSequence.Iterator(image))) == 3  # and still open


def test_one_bad_frame_does_not_stop_the_rest() -> None:
    sizes = [(4, 4), (40, 40), (5, 5)]
    first, *rest = [Image.new("L", size_wh) for size_wh in sizes]
    data = _packed(first, "TIFF", save_all=True, append_images=rest)
    options = InputOptions(max_pixels=100)
    errors: list[OcrError] = []
    assert [page.index for page in pages(data, options, errors.append)] == [0, 2]
    assert [str(error) for error in errors] == [
        "<bytes>, page 2: is 40 x 40 pixels, more than the limit of 100; shrink it or raise input.max_pixels"
    ]
    with pytest.raises(InputError, match="page 2"):
        list(pages(data, options))


def _noise(container: str) -> bytes:
    return _packed(Image.fromarray(_RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)), container)


@pytest.mark.parametrize("container", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "JPEG2000", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_files(container: str, share: float) -> None:
    data = _noise(container)
    cut = data[: max(20, int(len(data) * share))]
    with pytest.raises(
        InputError, match=rf"^<bytes>: can't be decoded as {container} \(.+\); .*replace it$"
    ) as caught:
        list(pages(cut))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"plain text, renamed", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"BM"])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^<bytes>: (is no picture and no PDF; give|can't be decoded as BMP)"
    ):
        list(pages(data))


@pytest.mark.parametrize("container", ["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP"])
def test_pixels_are_bounded_by_the_header(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _packed(Image.new("L", (40, 30)), container)
    assert _only(data, InputOptions(max_pixels=1200)).shape == (30, 40, 3)

    def no_decoding(_: Image.Image) -> None:
        raise AssertionError

    monkeypatch.setattr(Image.Image, "load", no_decoding)
    with pytest.raises(InputError, match="40 x 30 pixels, more than the limit of 1199"):
        list(pages(data, InputOptions(max_pixels=1199)))


def test_decompression_bomb() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(10**6)))
    with pytest.raises(InputError, match=r"60000 x 60000 pixels, more than the limit of .*input\.max_pixels"):
        list(pages(bomb))


def test_the_bound_is_ours_and_pillows_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = _packed(Image.new("L", (40, 30)), "PNG")
    assert _only(data).shape == (30, 40, 3)  # and no DecompressionBombWarning
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pixels_of_images_and_arrays_are_bounded_too() -> None:
    options = InputOptions(max_pixels=10)
    with pytest.raises(InputError, match=r"^<array>: is 4 x 3 pixels"):
        list(pages(np.zeros((3, 4), np.uint8), options))
    with pytest.raises(InputError, match=r"^<image>: is 4 x 3 pixels"):
        list(pages(Image.new("L", (4, 3)), options))
    with pytest.raises(InputError, match=r"^<image>: is 0 x 3 pixels"):
        list(pages(Image.new("L", (0, 3))))


def test_a_closed_image_is_refused() -> None:
    image = Image.open(io.BytesIO(_noise("PNG")))
    image.close()
    with pytest.raises(InputError, match=r"^<image>: can't be decoded as PNG \(.+\)"):
        list(pages(image))


def test_frames_that_cannot_be_counted() -> None:
    class Broken(Image.Image):
        format = "TIFF"

        @property
        def is_animated(self) -> bool:
            raise OSError("no directory")

    with pytest.raises(InputError, match=r"<image>: can't be decoded as TIFF \(no directory\)"):
        list(pages(Broken()))


def test_ycbcr() -> None:
    image = Image.fromarray(_gray_bgr(GRAY)).convert("YCbCr")
    np.testing.assert_allclose(_only(image).astype(int), _gray_bgr(GRAY), atol=1)


def test_premultiplied_gray_and_alpha() -> None:
    image = Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(ALPHA))).convert("La")
    np.testing.assert_allclose(_only(image).astype(int), _on_white(_gray_bgr(GRAY), ALPHA), atol=1)


@pytest.mark.parametrize("door", DOORS)
def test_lab_is_converted(door: str, tmp_path: Path) -> None:
    lightness = Image.fromarray(np.full((HEIGHT_PX, WIDTH_PX), 128, np.uint8))
    neutral = Image.new("L", (WIDTH_PX, HEIGHT_PX), 128)
    data = _packed(Image.merge("LAB", (lightness, neutral, neutral)), "TIFF")
    pixels = _only(DOORS[door](data, tmp_path / "x")).astype(int)
    np.testing.assert_allclose(pixels, 119, atol=3)  # sRGB of L* 50


def test_a_kind_of_tiff_that_is_not_supported_need_not_be_broken() -> None:
    data = _packed(Image.fromarray(RGB), "TIFF")
    photometric = struct.pack("<HHIH", 262, 3, 1, 2)
    assert data.count(photometric) == 1
    with pytest.raises(
        InputError, match=r"unknown pixel mode\); it is broken, .* not supported: save it as RGB"
    ):
        list(pages(data.replace(photometric, struct.pack("<HHIH", 262, 3, 1, 32803))))


def test_pixels_that_can_not_be_converted_are_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _palette_image()
    image.info["transparency"] = (1, 2, 3)
    lab = Image.new("LAB", (2, 2))
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)  # as in a Pillow without colour management
    monkeypatch.delattr("PIL.ImageCms", raising=False)
    for odd in (image, lab):
        with pytest.raises(InputError) as caught:
            list(pages(odd))
        assert caught.value.problem.startswith(
            f"has pixels of Pillow's mode {odd.mode} that can't be converted"
        )
        assert caught.value.remedy == "save it as RGB or gray"


@pytest.mark.parametrize("container", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM"])
def test_sniff(container: str) -> None:
    assert sniff(_noise(container)) == container


def test_a_format_pillow_was_built_without_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _noise("WEBP")
    assert sniff(data) == "WEBP"
    monkeypatch.setitem(Image.OPEN, "WEBP", (Image.OPEN["WEBP"][0], lambda _: "support not installed"))
    assert sniff(data) is None
    monkeypatch.delitem(Image.OPEN, "WEBP")
    assert sniff(data) is None


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(_DAMAGEABLE)))
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, min(len(data), 200) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


_DAMAGEABLE = [
    _packed(Image.fromarray(RGB), container)
    for container in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
]


@pytest.mark.filterwarnings("ignore")  # Pillow warns about metadata it skips
@settings(max_examples=150, deadline=None)
@given(_damaged())
def test_damaged_files_decode_or_raise_input_errors(data: bytes) -> None:
    options = InputOptions(max_pixels=100_000)
    with suppress(InputError):
        for outcome in picture_pages(data, "x", options):
            assert isinstance(outcome, InputError) or outcome.image.ndim == 3


def test_array_to_bgr_names_its_subject() -> None:
    with pytest.raises(InputError, match=r"^frame 7: has the dtype"):
        array_to_bgr(np.zeros((2, 2), np.int8), "frame 7")
