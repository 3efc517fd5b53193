import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ocr_onnx.errors import DeviceError
from ocr_onnx.runtime import libraries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the names of libraries are those of Linux")


def fake_ort(cuda_version: str = "13.0", preload: Callable[[], None] | None = lambda: None) -> ModuleType:
    ort = ModuleType("onnxruntime")
    vars(ort)["cuda_version"] = cuda_version
    if preload is not None:
        vars(ort)["preload_dlls"] = preload
    return ort


def only(monkeypatch: pytest.MonkeyPatch, *files: str) -> list[tuple[str, int]]:
    """Let the loader find these files alone; return what is loaded, and how."""
    loaded: list[tuple[str, int]] = []

    def load(name: str, mode: int = ctypes.DEFAULT_MODE) -> object:
        if name not in files:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        loaded.append((name, mode))
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    return loaded


def files(major: int) -> list[str]:
    return [library.file for library in libraries.cuda_libraries(major)]


@pytest.mark.parametrize(("version", "major"), [("13.0", 13), ("12.8", 12), ("", 0), (None, 0), ("x", 0)])
def test_the_build_tells_its_cuda(version: str | None, major: int) -> None:
    ort = ModuleType("onnxruntime")
    assert libraries.cuda_major(ort) == 0
    vars(ort)["cuda_version"] = version
    assert libraries.cuda_major(ort) == major


def test_every_cuda_has_libraries_and_wheels_of_its_own() -> None:
    assert files(12)[:4] == ["libcublasLt.so.12", "libcublas.so.12", "libcurand.so.10", "libcudart.so.12"]
    assert files(13)[4:] == ["libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13"]
    wheels = {library.wheel for library in libraries.cuda_libraries(12)}
    assert all(wheel.endswith("-cu12") for wheel in wheels)
    assert {library.wheel for library in libraries.cuda_libraries(13)} >= {
        "nvidia-cublas",
        "nvidia-cudnn-cu13",
    }
    needed = {library.file for library in libraries.cuda_libraries(12) if library.needed}
    assert "libcufft.so.11" in needed
    assert libraries.cuda_libraries(0) == ()


def test_libraries_that_are_there_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *files(13))
    libraries.require_cuda(fake_ort())
    assert [found.problem for found in libraries.find_cuda(fake_ort())] == [""] * 7


def test_missing_libraries_are_named_with_their_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *files(13)[:4])
    missing = r"^libcudnn.so.9 \(wheel nvidia-cudnn-cu13\): can't be loaded: .*install 'ocr-onnx\[gpu\]'$"
    with pytest.raises(DeviceError, match=missing):
        libraries.require_cuda(fake_ort())
    only(monkeypatch, *files(12)[2:])
    with pytest.raises(DeviceError, match=r"libcublasLt.so.12 .*, libcublas.so.12 .*\[gpu-cuda12\]'$"):
        libraries.require_cuda(fake_ort("12.8"))


def test_libraries_that_our_models_do_not_need_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *files(13)[:5])
    libraries.require_cuda(fake_ort())
    assert [bool(found.problem) for found in libraries.find_cuda(fake_ort())] == [False] * 5 + [True] * 2


def test_what_onnxruntime_prints_is_the_cause_and_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[None] = []

    def preload() -> None:
        calls.append(None)
        sys.stdout.write("Failed to load /site/libcublas.so.13: /site/libcublas.so.13: file too short\n")
        sys.stdout.write("Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file\n")

    only(monkeypatch)
    ort = fake_ort(preload=preload)
    for _ in range(2):
        found = {one.wanted.file: one.problem for one in libraries.find_cuda(ort)}
        assert found["libcublas.so.13"] == "/site/libcublas.so.13: file too short"
        assert "cannot open" in found["libcublasLt.so.13"]
    assert len(calls) == 1
    assert capsys.readouterr() == ("", "")


def test_an_onnxruntime_without_cuda_needs_nothing() -> None:
    assert libraries.find_cuda(fake_ort("", preload=None)) == ()


def test_tensorrt_is_loaded_for_its_provider_to_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _tensorrt_wheel(monkeypatch, tmp_path, "libnvinfer.so.10", "libnvonnxparser.so.10")
    paths = [str(tmp_path / "tensorrt_libs" / file) for file in libraries.TENSORRT]
    loaded = only(monkeypatch, *paths)
    libraries.require_tensorrt()
    assert loaded == [(path, ctypes.RTLD_GLOBAL) for path in paths]


def test_tensorrt_of_the_system_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *libraries.TENSORRT)
    libraries.require_tensorrt()


def test_missing_tensorrt_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    cause = r"^TensorRT 10: can't be loaded: libnvinfer.so.10: cannot open.*; install 'ocr-onnx\[tensorrt\]'"
    with pytest.raises(DeviceError, match=cause):
        libraries.require_tensorrt()


def test_another_tensorrt_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _tensorrt_wheel(monkeypatch, tmp_path, "libnvinfer.so.11", "libnvonnxparser.so.11")
    only(monkeypatch)
    with pytest.raises(DeviceError, match=r"libnvinfer.so.10: cannot open.*the wheel has libnvinfer.so.11;"):
        libraries.require_tensorrt()


def _tensorrt_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path, *files: str) -> None:
    package = folder / "tensorrt_libs"
    package.mkdir()
    for file in ("__init__.py", *files):
        (package / file).touch()
    monkeypatch.syspath_prepend(folder)
