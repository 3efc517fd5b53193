"""A model on TensorRT: an engine per group of shapes, built once and kept; outliers go to CUDA.

With a profile TensorRT takes every shape of a group without building again, and no other. What fits
no group goes to a session of the CUDA provider on the same GPU: that belongs to this device, and is
counted and logged.
"""

import ctypes
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ocr_onnx import model_store
from ocr_onnx.errors import DeviceError, ModelContractError
from ocr_onnx.files import file_sha256
from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import buckets, driver, engine_cache, opening, probe, wheels
from ocr_onnx.runtime.binding import Array
from ocr_onnx.runtime.buckets import GROUPS, Group, Shape
from ocr_onnx.runtime.cast_first import cast_first
from ocr_onnx.runtime.device import PROVIDERS, Device
from ocr_onnx.runtime.engine_cache import EngineKey, Say
from ocr_onnx.runtime.providers import MIB, GpuOptions, TensorRtOptions
from ocr_onnx.runtime.session import Session, Shapes

if TYPE_CHECKING:
    from ocr_onnx.runtime.model import Model

NVINFER = "nvinfer_10.dll" if os.name == "nt" else "libnvinfer.so.10"
OPTIMIZATION_LEVEL: Final = 3
# What ONNX Runtime (1.24.4 and 1.31.1) says of an engine file that TensorRT does not take.
UNREADABLE: Final = "could not deserialize engine"

_LOG = logging.getLogger(__name__)


class Machine(NamedTuple):
    """What an engine depends on beside the model: versions, and the GPU's architecture ("sm_90")."""

    onnxruntime: str
    tensorrt: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a model needs from the machine; tests give their own.

    `open` opens a file, on the engine that lies ready where one is given. `build` opens and drops
    it, which builds the engine.
    """

    honoured: Callable[[RuntimeOptions], Device]
    machine: Callable[[int], Machine]
    open: "Callable[[Path, RuntimeOptions, TensorRtOptions | None], Model]"
    build: Callable[[Path, RuntimeOptions, TensorRtOptions], None]


class Prepared(NamedTuple):
    """An engine that can be used: its group, the folder it lies in, and whether it was built just now."""

    group: str
    folder: Path
    built: bool


class _Source(NamedTuple):
    """The file that engines are built from."""

    path: Path
    sha256: str


class TensorRtModel:
    """A model on device tensorrt: a callable from named arrays to arrays, for any shape.

    An engine is opened when its first input comes, and built where there is none, which takes
    minutes: `prepare` does it ahead, and `say` hears of it. `outliers` counts the runs that had to go
    to CUDA. May be called from many threads at once; a pickled copy opens its engines anew.

    Raises what `Session` does, and DeviceError where TensorRT can't build an engine.
    """

    def __init__(
        self,
        path: Path,
        stage: Stage,
        options: RuntimeOptions,
        say: Say = _LOG.warning,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.path = path
        self.groups = GROUPS[stage]
        self.outliers = 0
        self._stage = stage
        self._options = options
        self._say = say
        self._around = surroundings or Surroundings(probe.honoured, machine_of, Session, build_engine)
        self.device = self._around.honoured(options)
        self.provider = PROVIDERS["tensorrt"]
        # Only to be read: what the file says of itself is wanted before the first shape is known.
        file = self._around.open(path, RuntimeOptions("cpu", threads=1), None)
        self.inputs, self.outputs, self.metadata = file.inputs, file.outputs, file.metadata
        self._opened: dict[str, Model] = {}
        self._built: set[str] = set()
        self._shapes: set[Shapes] = set()
        self._opening = threading.RLock()
        self._counting = threading.Lock()

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the model, as `Session` does; the batch is filled up with blank rows, or cut into runs."""
        shape = buckets.shape_of(feeds)
        group = buckets.group_of(self._stage, shape)
        if group is None:
            return self._run_outlier(shape, feeds, outputs)
        model = self._opened.get(group.name) or self._open(group)
        runs = list(buckets.in_runs(feeds, group.max.n))
        self._shapes.update(_shapes(run) for run, _ in runs)
        return buckets.joined([(model(run, outputs), rows) for run, rows in runs])

    def with_threads(self, threads: int) -> "TensorRtModel":
        """Return this model: threads of the processor are nothing to a GPU."""
        del threads
        return self

    def shapes_seen(self) -> frozenset[Shapes]:
        """Return the shapes of inputs that runs so far had, blank rows included."""
        return frozenset(self._shapes)

    def prepare(self, group: Group) -> Prepared:
        """Open the engine of a group, and build it where there is none."""
        self._open(group)
        return Prepared(group.name, self._cache / self._key(group).folder, group.name in self._built)

    def __reduce__(self) -> "tuple[type[TensorRtModel], tuple[Path, Stage, RuntimeOptions]]":
        return type(self), (self.path, self._stage, self._options)

    def _run_outlier(
        self, shape: Shape, feeds: Mapping[str, Array], outputs: Sequence[str] | None
    ) -> list[Array]:
        self._shapes.add(_shapes(feeds))
        with self._counting:
            self.outliers += 1
            is_first = self.outliers == 1
        if is_first:
            _LOG.warning(
                "%s: no engine takes %d x %d px (height x width); it runs on CUDA, as all such will",
                self.path,
                shape.h,
                shape.w,
            )
        with self._opening:
            if "cuda" not in self._opened:
                options = replace(self._options, device=f"cuda:{self.device.index}")
                self._opened["cuda"] = self._around.open(self.path, options, None)
        return self._opened["cuda"](feeds, outputs)

    def _open(self, group: Group) -> "Model":
        """Open a group's engine; one that TensorRT can't read is built anew, once."""
        with self._opening:
            if group.name not in self._opened:
                folder = self._ready(group, None)
                try:
                    self._opened[group.name] = self._load(group, folder)
                except (DeviceError, ModelContractError) as error:
                    # not for want of memory, say: building takes minutes, and would not help
                    if UNREADABLE not in error.problem or group.name in self._built:
                        raise
                    folder = self._ready(group, (folder / engine_cache.MARKER).read_bytes())
                    self._opened[group.name] = self._load(group, folder)
            return self._opened[group.name]

    def _ready(self, group: Group, unloadable: bytes | None) -> Path:
        build = partial(self._build, group)
        return engine_cache.ready(self._cache, self._key(group), build, self._say, unloadable)

    def _load(self, group: Group, folder: Path) -> "Model":
        return self._around.open(self._source.path, self._options, self._engine(group, folder))

    def _build(self, group: Group, folder: Path, timing: Path) -> None:
        self._say(f"building engine {group.name} of {self.path.name} for TensorRT, once; it takes minutes")
        engine = replace(self._engine(group, folder), timing_folder=str(timing))
        try:
            self._around.build(self._source.path, self._options, engine)
        except (DeviceError, ModelContractError) as error:
            problem = f"no engine could be built for {group.name} of {self.path}: {error.problem}"
            raise DeviceError(str(self.device), problem, "use --device cuda") from error
        if not any(folder.glob("*.engine")):
            problem = f"TensorRT took no part of {self.path}"
            raise DeviceError(str(self.device), problem, "use --device cuda")
        self._built.add(group.name)

    def _engine(self, group: Group, folder: Path) -> TensorRtOptions:
        profile = buckets.profile(group, self.inputs)
        return TensorRtOptions(
            min_shapes=profile.min,
            opt_shapes=profile.opt,
            max_shapes=profile.max,
            cache_folder=str(folder),
            prefix=group.name,
            device_id=self.device.index,
            workspace_bytes=self._options.gpu_memory_mib * MIB,
            half=self._options.precision == "fp16",
            optimization_level=OPTIMIZATION_LEVEL,
        )

    def _key(self, group: Group) -> EngineKey:
        profile = buckets.profile(group, self.inputs)
        settings = {
            "optimization_level": OPTIMIZATION_LEVEL,
            "workspace_mib": self._options.gpu_memory_mib,
            "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        }
        return EngineKey(
            self._source.sha256,
            self._stage,
            group.name,
            profile.min,
            profile.opt,
            profile.max,
            self._options.precision,
            *self._machine,
            settings=json.dumps(settings, sort_keys=True),
        )

    @property
    def _cache(self) -> Path:
        return model_store.cache_dir() / "tensorrt"

    @cached_property
    def _machine(self) -> Machine:
        return self._around.machine(self.device.index)

    @cached_property
    def _source(self) -> _Source:
        """The model's own file, or a copy in the cache of which TensorRT takes the beginning as well."""
        own = self.path.read_bytes()
        bytes_ = cast_first(own, str(self.path))
        sha256 = hashlib.sha256(bytes_).hexdigest()
        if bytes_ == own:
            return _Source(self.path, sha256)
        copy = self._cache / f"{self.path.stem}-{sha256[:24]}.onnx"
        if not copy.is_file() or file_sha256(copy) != sha256:
            engine_cache.write_whole(copy, bytes_)
        return _Source(copy, sha256)


def _shapes(feeds: Mapping[str, Array]) -> Shapes:
    return tuple(array.shape for array in feeds.values())


def machine_of(index: int) -> Machine:
    """Ask ONNX Runtime, TensorRT, which is loaded, and the driver about versions and a GPU."""
    version: int = ctypes.CDLL(NVINFER).getInferLibVersion()
    tensorrt = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    major, minor = driver.ask().gpus[index].capability
    return Machine(str(wheels.onnxruntime().__version__), tensorrt, f"sm_{major}{minor}")


def build_engine(path: Path, options: RuntimeOptions, engine: TensorRtOptions) -> None:
    """Build an engine: ONNX Runtime does when a session opens."""
    gpu = GpuOptions(options.gpu_memory_mib, options.tf32, engine)
    opening.open_session(
        str(path), str(path), Device("tensorrt", engine.device_id), 1, options.precision, gpu=gpu
    )
