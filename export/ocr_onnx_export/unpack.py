"""A tar archive from outside in, the files of the one Paddle model it holds out, flat in a folder."""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.sources import PARAMETERS_FILE, PROGRAM_FILES, SETTINGS_FILE, Source, read_source

MAX_MEMBERS = 1000
MAX_TOTAL_BYTES = 2 * 1024**3  # protobuf, and so an ONNX file, ends there anyway
REMEDY = "fetch the archive again from its publisher, or unpack it yourself and give the folder"
MODEL_FILES = frozenset({*(name for name, _ in PROGRAM_FILES), PARAMETERS_FILE, SETTINGS_FILE})


@contextmanager
def open_source(path: Path, dictionary: Path | None = None) -> Iterator[Source]:
    """Give the model in a folder or, unpacked for as long as the context lasts, in a tar archive.

    Raises
    ------
    SourceFormatError
        As `read_source` and `unpack` do.
    """
    if not path.is_file():
        yield read_source(path, dictionary)
        return
    with tempfile.TemporaryDirectory() as temporary:
        # the folder's name stands in for a name in the settings
        folder = Path(temporary) / path.name.partition(".tar")[0].removesuffix("_infer")
        folder.mkdir(exist_ok=True)
        unpack(path, folder)
        yield read_source(folder, dictionary)


def unpack(archive: Path, folder: Path) -> None:
    """Write the archive's model files into `folder`; their paths inside the archive don't matter.

    Raises
    ------
    SourceFormatError
        It is not a tar archive, is cut off, names a path outside itself, holds a link or a device in
        place of a model file, holds two models, or goes beyond the bounds.
    """
    try:
        with tarfile.open(archive) as tar:
            total_bytes = 0
            for count, member in enumerate(tar):
                total_bytes += member.size
                if count >= MAX_MEMBERS or total_bytes > MAX_TOTAL_BYTES:
                    problem = f"has more than {MAX_MEMBERS} entries or {MAX_TOTAL_BYTES} bytes"
                    raise SourceFormatError(str(archive), problem, REMEDY)
                _unpack_member(tar, member, archive, folder)
    except (tarfile.TarError, EOFError) as error:
        reason = str(error).splitlines()[0].removesuffix(":")  # the rest lists every compression tried
        raise SourceFormatError(str(archive), f"is not a whole tar archive ({reason})", REMEDY) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceFormatError(str(archive), f"can't be unpacked ({reason})", REMEDY) from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise SourceFormatError(str(archive), f"holds the path {member.name!r}, which leads outside", REMEDY)
    if path.name not in MODEL_FILES and path.suffix != ".txt":
        return
    target = folder / path.name
    if not member.isreg():
        raise SourceFormatError(str(archive), f"holds {member.name!r}, which is no plain file", REMEDY)
    if target.exists():
        raise SourceFormatError(str(archive), f"holds {path.name!r} twice", REMEDY)
    source = tar.extractfile(member)
    if source is not None:
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
