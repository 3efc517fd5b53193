"""A session of ONNX Runtime -> its runs through buffers on the device that stay from run to run."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx.runtime import wheels

Array: TypeAlias = NDArray[Any]
Key: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]
"""The outputs that are wanted, and name, dtype and shape of every input."""

# A det input of a million pixels and its map take 7 MB (16 where a stock model wants floats), 32 lines of
# 320 px 1.5 MB. Buffers lie outside the arena of the session, and so outside a limit that it may have.
MAX_BUFFER_BYTES = 128 * 1024 * 1024


class _Bound(NamedTuple):
    """The buffers of one shape, bound to the inputs and outputs of the session."""

    binding: Any
    inputs: dict[str, Any]  # OrtValue by name
    size_bytes: int


class BoundSession:
    """Runs an ONNX Runtime session as its `run` does, with inputs and outputs in reused buffers.

    A run of a shape that was seen before copies its inputs into the buffers of that shape and
    allocates nothing. Only the outputs asked for come back: the others, such as the [N, T, classes]
    probabilities of a rec model with `index` and `prob`, never leave the device. The buffers of the
    shapes used longest ago go first where all together exceed `max_bytes`.

    One run at a time: whoever calls has to see to it. `memory` is ONNX Runtime's name for where
    the buffers lie ("cuda", "cpu"), `index` the number of the device. An output's shape has to
    follow from the shapes of the inputs, as those of every OCR network do.
    """

    def __init__(self, session: Any, memory: str, index: int, max_bytes: int = MAX_BUFFER_BYTES) -> None:
        self._session = session
        self._memory, self._index = memory, index
        self._max_bytes = max_bytes
        self._outputs = tuple(output.name for output in session.get_outputs())
        self._bound: OrderedDict[Key, _Bound] = OrderedDict()
        self.held_bytes = 0

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; return the named outputs, or all, as arrays of their own.

        Raises what ONNX Runtime does.
        """
        wanted = self._outputs if outputs is None else tuple(outputs)
        key = wanted, tuple((name, array.dtype.str, array.shape) for name, array in feeds.items())
        bound = self._bound.pop(key, None)
        if bound is None:
            # an outlier is to cost no other shape its buffers, nor to make the device's pool of them grow
            is_outlier = sum(array.nbytes for array in feeds.values()) > self._max_bytes
            return self._session.run(wanted, feeds) if is_outlier else self._first_run(key, feeds)
        self._bound[key] = bound  # now the one used last
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
        self._session.run_with_iobinding(bound.binding)
        # copies, unlike OrtValue.numpy(), which on the processor shows the buffer itself
        return list(bound.binding.copy_outputs_to_cpu())

    def _first_run(self, key: Key, feeds: Mapping[str, Array]) -> list[Array]:
        """Run a shape without buffers: ONNX Runtime allocates its outputs, and they stay for the next run."""
        allocate = wheels.onnxruntime().OrtValue.ortvalue_from_shape_and_type
        binding = self._session.io_binding()
        inputs = {}
        for name, array in feeds.items():
            inputs[name] = allocate(array.shape, array.dtype, self._memory, self._index)
            inputs[name].update_inplace(np.ascontiguousarray(array))
            binding.bind_ortvalue_input(name, inputs[name])
        for name in key[0]:
            binding.bind_output(name, self._memory, self._index)
        self._session.run_with_iobinding(binding)
        found = list(binding.copy_outputs_to_cpu())
        values = binding.get_outputs()
        for name, value in zip(key[0], values, strict=True):
            binding.bind_ortvalue_output(name, value)
        size_bytes = sum(value.tensor_size_in_bytes() for value in (*inputs.values(), *values))
        self._keep(key, _Bound(binding, inputs, size_bytes))
        return found

    def _keep(self, key: Key, bound: _Bound) -> None:
        if bound.size_bytes > self._max_bytes:
            return
        self._bound[key] = bound
        self.held_bytes += bound.size_bytes
        while self.held_bytes > self._max_bytes:
            _, oldest = self._bound.popitem(last=False)
            self.held_bytes -= oldest.size_bytes
