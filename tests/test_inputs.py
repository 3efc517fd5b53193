import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ocr_onnx import inputs
from ocr_onnx.data import Page
from ocr_onnx.errors import InputError, OcrError, OptionError
from ocr_onnx.inputs import Readable, pages
from ocr_onnx.options import InputOptions


def _png(shade: int = 0, size_wh: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size_wh, shade).save(file, "PNG")
    return file.getvalue()


def _shades(source: Readable, options: InputOptions | None = None) -> list[int]:
    return [int(page.image[0, 0, 0]) for page in pages(source, options or InputOptions())]


def _names(source: Readable, options: InputOptions | None = None) -> list[str]:
    return [Path(page.source).name for page in pages(source, options or InputOptions())]


class _NamedFile(io.BytesIO):
    name: Any = "scan.bin"


class _Endless:
    """A file that never ends and counts what is read from it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        self.taken += size
        return bytes(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = [
        "page10.png",
        "page2.PNG",
        "Page1.png",
        "sub/a3.tiff",
        "sub/deep/a.jpeg",
        ".hidden.png",
        ".cache/b.png",
    ]
    for name in files:
        path = tmp_path / "扫描 scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png())
    (tmp_path / "扫描 scans" / "notes.txt").write_text("no picture")
    return tmp_path / "扫描 scans"


def test_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "图 1.png"
    path.write_bytes(_png())
    numbered = _NamedFile(_png())
    numbered.name = 3  # what open(3) has as its name
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(_png())))
    sources: list[Readable] = [
        *(str(path), path, _png(), io.BytesIO(_png()), _NamedFile(_png()), numbered),
        *(np.zeros((2, 2), np.uint8), Image.new("L", (2, 2)), "-"),
    ]
    assert [page.source for page in pages(sources)] == [
        *(str(path), str(path), "<bytes>", "<file>", "scan.bin", "<file>", "<array>", "<image>", "<stdin>")
    ]


def test_open_files_are_read_from_where_they_stand_and_stay_open(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"skip" + _png(9))
    with path.open("rb") as file:
        file.seek(4)
        (page,) = pages(file)
        assert page.source == str(path)
        assert page.image[0, 0, 0] == 9
        assert not file.closed


def test_url(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, float]] = []

    def fake(url: str, max_bytes: int, timeout_s: float) -> bytes:
        calls.append((url, max_bytes, timeout_s))
        return _png(7)

    monkeypatch.setattr("ocr_onnx.fetch.fetch", fake)
    (page,) = pages("HTTPS://example.org/a?b=*", InputOptions(max_bytes=999, timeout_s=2))
    assert (page.source, int(page.image[0, 0, 0])) == ("HTTPS://example.org/a?b=*", 7)
    assert calls == [("HTTPS://example.org/a?b=*", 999, 2)]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a.png", "s3://bucket/a.png"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=rf"^{url}: .*:// is not supported; give an http\(s\) URL or a path"):
        list(pages(url))


def test_folder_is_sorted_naturally_and_flat(folder: Path) -> None:
    assert _names(folder) == ["Page1.png", "page2.PNG", "page10.png"]
    assert _names(str(folder)) == ["Page1.png", "page2.PNG", "page10.png"]


def test_folder_recursive(folder: Path) -> None:
    recursive = InputOptions(recursive=True)
    assert sorted(_names(folder, recursive)) == ["Page1.png", "a.jpeg", "a3.tiff", "page10.png", "page2.PNG"]
    assert _names(folder, recursive) == _names(folder, recursive)


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"is a folder without pictures and PDFs; .*set input\.recursive"):
        list(pages(tmp_path))
    with pytest.raises(InputError, match=r"is a folder without pictures and PDFs; give another$"):
        list(pages(tmp_path, InputOptions(recursive=True)))


def test_subfolder_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    errors: list[OcrError] = []
    assert len(list(pages(folder, InputOptions(recursive=True), errors.append))) == 4
    assert [(Path(error.subject).name, error.problem) for error in errors] == [("deep", "may not be read")]


def test_glob(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _names(f"{folder}/*.png") == ["Page1.png", "page10.png"]
    assert _names(f"{folder}/**/a*") == ["a3.tiff", "a.jpeg"]
    assert _names(f"{folder}/s*/*") == ["a3.tiff"]  # folders are skipped
    assert _names(folder / "page1?.png") == ["page10.png"]
    monkeypatch.chdir(folder)
    assert [page.source for page in pages("page*.png")] == ["page10.png"]


def test_glob_reports_bad_files_and_goes_on(folder: Path) -> None:
    errors: list[OcrError] = []
    assert len(list(pages(f"{folder}/[np]*", on_error=errors.append))) == 2
    assert [Path(error.subject).name for error in errors] == ["notes.txt"]


def test_glob_without_a_match(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.png: matches no file; check the pattern"):
        list(pages(f"{tmp_path}/*.png"))


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "scan[1].png").write_bytes(_png(5))
    assert _shades(str(tmp_path / "scan[1].png")) == [5]


def test_nested_lists_dicts_and_generators(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(1))

    def generated() -> Iterator[Readable]:
        yield _png(4)
        yield {"img": np.full((2, 2), 5, np.uint8)}

    source: list[Readable] = [
        str(path),
        ({"img": path, "more": [_png(2)]}, {"img": {"img": Image.new("L", (2, 2), 3)}}),
        generated(),
        [],
    ]
    assert _shades(source) == [1, 1, 2, 3, 4, 5]
    assert _shades({"img": str(tmp_path)}) == [1]


def test_nothing_is_read_before_it_is_needed() -> None:
    taken: list[int] = []

    def generated() -> Iterator[Readable]:
        for shade in range(10):
            taken.append(shade)
            yield _png(shade)

    stream = pages(generated())
    assert taken == []
    next(stream)
    next(stream)
    assert taken == [0, 1]


def test_nesting_is_bounded() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InputError, match=r"^<list>: is nested deeper than 32; flatten it"):
        list(pages(endless))


@pytest.mark.parametrize("source", [None, 7, object(), [[0, 255]], {"img": None}])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(
        InputError, match=r"^<(NoneType|int|object)>: is nothing that can be read; give a path"
    ):
        list(pages(source))


def test_on_error_takes_the_bad_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(_png(1))
    (tmp_path / "2.png").write_bytes(b"text, renamed")
    (tmp_path / "3.png").write_bytes(_png(3)[:50])
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(_png(5))
    errors: list[OcrError] = []
    found = pages([tmp_path, "missing.png", np.zeros(3), None, _png(9)], on_error=errors.append)  # type: ignore[list-item]
    assert [int(page.image[0, 0, 0]) for page in found] == [1, 5, 9]
    assert [Path(error.subject).name for error in errors] == [
        *("2.png", "3.png", "4.png", "missing.png", "<array>", "<NoneType>")
    ]
    assert all("\n" not in str(error) for error in errors)
    with pytest.raises(InputError, match=r"2\.png"):
        list(pages(tmp_path))


def test_errors_of_the_caller_are_the_callers() -> None:
    def generated() -> Iterator[Readable]:
        yield _png(1)
        raise OptionError("mine", "is mine", "look")

    def refuse(error: OcrError) -> None:
        calls.append(error)
        raise error

    calls: list[OcrError] = []
    with pytest.raises(OptionError):
        list(pages(generated(), on_error=calls.append))
    assert calls == []
    with pytest.raises(InputError):
        list(pages([["missing.png"]], on_error=refuse))
    assert len(calls) == 1


def test_a_bad_page_range_is_told_at_once() -> None:
    with pytest.raises(OptionError, match=r"input\.pages"):
        pages([], InputOptions(pages="3-1"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is an empty path"),
        ("missing.png", "does not exist"),
        ("a\0b.png", "can't be opened"),
        ("x" * 5000, "can't be opened"),
    ],
)
def test_bad_paths(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        list(pages(text))
    assert caught.value.problem.startswith(problem)
    assert len(str(caught.value)) < 400


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png())

    def denied(*_: Any) -> Any:  # the superuser can't be refused otherwise
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"a\.png: may not be read; give this user the permission"):
        list(pages(path))


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for source in (b"", io.BytesIO(), tmp_path / "a.png"):
        with pytest.raises(InputError, match=r"(<bytes>|<file>|a\.png): is empty \(0 bytes\); give"):
            list(pages(source))


def test_bytes_are_bounded(tmp_path: Path) -> None:
    data = _png()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), path):
        assert len(_shades(source if not isinstance(source, io.BytesIO) else io.BytesIO(data))) == 1
        options = InputOptions(max_bytes=len(data) - 1)
        with pytest.raises(InputError, match=rf"larger than the limit of {len(data) - 1} bytes; raise"):
            list(pages(source, options))
    assert _shades(io.BytesIO(data), InputOptions(max_bytes=len(data))) == [0]


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bytes(100))
    monkeypatch.setattr(inputs, "_read", None)  # would be a TypeError
    with pytest.raises(InputError, match="limit of 99 bytes"):
        list(pages(path, InputOptions(max_bytes=99)))


def test_an_endless_file_is_read_to_the_bound() -> None:
    endless = _Endless()
    with pytest.raises(InputError, match=r"<file>: is larger than the limit of 3000000 bytes"):
        list(pages(endless, InputOptions(max_bytes=3_000_000)))  # type: ignore[arg-type]
    assert endless.taken <= 4 << 20


def test_text_and_closed_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"<file>: reads as str, not bytes; open it as binary"):
        list(pages(io.StringIO("text")))
    closed = io.BytesIO(_png())
    closed.close()
    with pytest.raises(InputError, match=r"<file>: can't be read \(I/O operation on closed file"):
        list(pages(closed))


def test_importing_starts_nothing() -> None:
    code = (
        "import sys; from PIL import Image; before = Image.MAX_IMAGE_PIXELS; import ocr_onnx.inputs;"
        "assert Image.MAX_IMAGE_PIXELS == before; assert 'pypdfium2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_only_urls_and_pdfs_need_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    code = (
        "import sys; from ocr_onnx.inputs import pages; assert len(list(pages(sys.argv[1]))) == 1;"
        "assert not {'httpx', 'pypdfium2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)


def test_a_page_is_passed_on_as_it_is() -> None:
    page = Page(np.zeros((2, 3, 3), np.uint8), "scan.pdf", 4, (2.0, 2.0))
    found = list(pages([page, _png(), {"again": page}]))
    assert found[0] is page
    assert found[2] is page
    with pytest.raises(InputError, match=r"^scan\.pdf: is 3 x 2 pixels, more than the limit of 5; "):
        list(pages(page, InputOptions(max_pixels=5)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 3), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((2, 3, 3), np.float32),
        np.zeros((2, 3, 6), np.uint8)[..., ::2],
    ],
)
def test_a_page_that_breaks_its_promise_is_refused(image: Any) -> None:
    errors: list[OcrError] = []
    assert list(pages(Page(image, "scan.pdf"), on_error=errors.append)) == []
    assert "scan.pdf: is a page whose image is (2, 3" in str(errors[0])


def test_a_page_range_and_pictures_among_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(1))
    document = io.BytesIO()
    frames = [Image.new("L", (4, 3), shade) for shade in (5, 6, 7)]
    frames[0].save(document, "TIFF", save_all=True, append_images=frames[1:])
    errors: list[OcrError] = []
    sources: list[Readable] = [tmp_path / "a.png", document.getvalue(), np.zeros((2, 2), np.uint8)]
    found = pages(sources, InputOptions(pages="2-"), errors.append)
    assert [int(page.image[0, 0, 0]) for page in found] == [6, 7, 0]
    (error,) = errors
    assert error.subject == str(tmp_path / "a.png")
    assert error.problem == "has 1 page, so there is no page 2"
    assert error.remedy == "input.pages holds for every input: read this one apart, without it"


def test_pages_that_are_missing_cost_none_that_is_there() -> None:
    document = io.BytesIO()
    frames = [Image.new("L", (4, 3), shade) for shade in range(6)]
    frames[0].save(document, "TIFF", save_all=True, append_images=frames[1:])
    errors: list[OcrError] = []
    options = InputOptions(pages="1-3,7")
    found = pages([document.getvalue(), _png(9)], options, errors.append)
    assert [int(page.image[0, 0, 0]) for page in found] == [0, 1, 2, 9]
    assert [error.problem for error in errors][:1] == ["has 6 pages, so there is no page 7"]
    alone = pages(document.getvalue(), options)
    assert [next(alone).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="no page 7; pick pages from 1 to 6"):
        next(alone)
