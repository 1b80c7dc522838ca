"""Raw pixels to probabilities and class ids, numpy in, numpy out; torch is imported when it first computes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import receptive
from models.checkpoint import read_header
from models.configuration import Architecture
from models.foreign import ForeignPredictor, load_foreign
from models.header import Header
from models.starters import locate
from tilekit.average import Averaged
from tilekit.copies import fetched
from tilekit.errors import InputError
from tilekit.place import as_path, is_url
from tilekit.predictor import decide
from tilekit.tiling import Halo

if TYPE_CHECKING:
    from models.compute import Opened
    from models.network import Network

Precision = Literal["float32", "bfloat16"]

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}


def load(
    path: str | os.PathLike[str], device: str = "auto", precision: Precision = "float32"
) -> Predictor | ForeignPredictor | Averaged:
    """A predictor for a network; InputError (one line, names the file) where it is none.

    path: of a checkpoint, its URL (fetched once a process), or the name of a starter model (models.starters), read
    without importing torch. Or of a network from elsewhere on a disk (models.foreign): a TOML that names a torch module
    and its weights, an ONNX file, a BioImage.IO package; its halo and stride are measured when it is first loaded. Of
    several, with commas between, the average.

    device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ... precision: "bfloat16" is 1.8 to 2 times as
    fast and changes about one class in a thousand, so it is no longer exact.
    """
    if precision not in _ELEMENT_BYTES:
        raise InputError(f"precision {precision!r} is unknown; use {' or '.join(_ELEMENT_BYTES)}")
    if device.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if "," in str(path) and not os.path.exists(path):
        return Averaged.of([_load(part.strip(), device, precision) for part in str(path).split(",")])
    return _load(path, device, precision)


def _load(path: str | os.PathLike[str], device: str, precision: Precision) -> Predictor | ForeignPredictor:
    found = locate(path)
    foreign = None if is_url(found) else load_foreign(Path(os.path.abspath(found)), device, precision)
    return foreign or _load_own(path, device, precision)


def load_checkpoint(path: str | os.PathLike[str], device: str = "auto") -> Predictor:
    """As `load`, but of a checkpoint of tilekit alone, whose description can be read."""
    return _load_own(path, device, "float32")


def _load_own(path: str | os.PathLike[str], device: str, precision: Precision) -> Predictor:
    found = locate(path)
    path = str(found) if is_url(found) else os.path.abspath(found)
    header = read_header(path)
    return Predictor(path, _digest(path), device, precision, header)


@dataclass(frozen=True, slots=True)
class Predictor:
    """A checkpoint as a function of arrays that states its own needs.

    Pickles as path and digest: unpickled on a worker it reads the description again and refuses a file that has
    changed. The network is opened once per process, on first use.
    """

    path: str
    """Absolute path of the checkpoint, or its URL."""
    digest: str
    """SHA-256 of the file, hexadecimal."""
    device: str
    """As asked for: auto is decided where it computes."""
    precision: Precision
    """Of weights and activations; normalisation and softmax are float32."""
    header: Header = field(repr=False)
    """What the checkpoint says of itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.digest, self.device, self.precision)

    @property
    def network(self) -> Network:
        """The opened torch module (eval mode, batch norm folded): float (b, c, y, x), normalised -> logits."""
        return self._opened().network

    @property
    def halo(self) -> Halo:
        """Pixels (y, x) to give before and after a core."""
        reach = _reach(self.header.config)
        return Halo((reach.before, reach.before), (reach.after, reach.after))

    @property
    def stride(self) -> tuple[int, int]:
        """Cores start at, and are, multiples of this many pixels (y, x)."""
        reach = _reach(self.header.config)
        return reach.stride, reach.stride

    @property
    def in_channels(self) -> int:
        return self.header.config.in_channels

    @property
    def n_classes(self) -> int:
        """Class ids it can give: at least 2, also from one sigmoid channel."""
        return self.header.n_classes

    @property
    def class_names(self) -> list[str]:
        """By class id."""
        return list(self.header.class_names)

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Micrometres (y, x) of the images it was trained on."""
        return self.header.pixel_size

    def doubt(self, means: Sequence[float]) -> str | None:
        """One line where an image with these means per channel is in other units than training's."""
        return self.header.normalization.doubt(means)

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """Of the image's channels, in its order; None where the checkpoint does not say."""
        return self.header.channel_names

    @property
    def exact(self) -> bool:
        """True where tiles give what one pass over the whole image gives."""
        return self.inexact_reason is None

    @property
    def inexact_reason(self) -> str | None:
        """Why tiles cannot be exact, None where they are."""
        kinds = receptive.whole_tile_layers(self.header.config.layers)
        return f"{kinds[0].replace('_', ' ')} looks at the whole tile" if kinds else None

    @property
    def multiply_adds_per_pixel(self) -> float:
        """Multiply-adds per core pixel in the limit of one endless tile."""
        return receptive.multiply_adds_per_pixel(self.header.config.layers)

    def multiply_adds(self, y: int, x: int) -> int:
        """Multiply-adds of the forward pass for a core of y by x pixels, its halo included."""
        return receptive.multiply_adds(self.header.config.layers, self._input_size(y, x))

    def activation_bytes(self, y: int, x: int) -> int:
        """Most bytes that one call needs for a core of y by x pixels (batch 1), probabilities included.

        Tensors alive at once, beside the weights and the caller's arrays; the heap that holds them is larger
        (tilekit.allocator.heap_bytes).
        """
        size = self._input_size(y, x)
        elements = receptive.peak_elements(self.header.config.layers, size)
        forward = elements * _ELEMENT_BYTES[self.precision] + 8 * self.in_channels * size[0] * size[1]
        results = (3 * 4 * self.n_classes + 12) * size[0] * size[1]
        return max(forward, results)

    def probabilities(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(b, c, before+y+after, before+x+after) raw values -> (b, k, y, x) float32; y, x multiples of the stride.

        ValueError shows a size that does not fit and the nearest that do; MemoryError where the device has no room.
        """
        return self._run(x, "probabilities")["probabilities"]

    def classes(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """As `probabilities`, but the class ids (b, y, x) uint8: the likeliest class, or by threshold (sigmoid)."""
        return self._run(x, "classes")["classes"]

    def logits(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """As `probabilities`, but the network's raw scores (b, channels, y, x) float32."""
        return self._run(x, "logits")["logits"]

    def predict(
        self, x: NDArray[Any], probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Class ids and, asked for, probabilities, from one forward pass; see `probabilities`."""
        found = self._run(x, "classes", *(["probabilities"] if probabilities else []))
        return found["classes"], found.get("probabilities")

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Class ids (b, y, x) of probabilities (b, k, y, x), by the checkpoint's head and thresholds."""
        return decide(probabilities, self.header.head, self.header.thresholds)

    def _run(self, x: NDArray[Any], *outputs: str) -> dict[str, NDArray[Any]]:
        from models.compute import run

        core = self._core(x)
        return run(self._opened(), self.header, x, core, outputs=outputs)

    def _opened(self) -> Opened:
        from models.compute import opened

        return opened(self.path, self.digest, self.device, self.precision, self.header)

    def _core(self, x: NDArray[Any]) -> tuple[slice, slice]:
        """Where the core lies in the network's output for an input x."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x has shape {x.shape}, must be (b, {self.in_channels}, y, x)")
        if x.dtype.kind not in "buif":
            raise ValueError(f"x is of {x.dtype}, must be integers or floats")
        reach = _reach(self.header.config)
        needs = reach.before + reach.after
        for side in x.shape[2:]:
            if side <= needs or (side - needs) % reach.stride:
                cores = max(side - needs, 0) // reach.stride
                near = " or ".join(str(n * reach.stride + needs) for n in (cores, cores + 1) if n)
                raise ValueError(f"x has a side of {side} pixels, not {needs} + {reach.stride} times n; use {near}")
        start = reach.skipped
        return slice(start, start + x.shape[2] - needs), slice(start, start + x.shape[3] - needs)

    def _input_size(self, y: int, x: int) -> tuple[int, int]:
        reach = _reach(self.header.config)
        for side in (y, x):
            if side < 1 or side % reach.stride:
                low = side // reach.stride * reach.stride
                near = " or ".join(str(n) for n in (low, low + reach.stride) if n > 0)
                raise ValueError(f"a core of {side} pixels is not a multiple of the stride {reach.stride}; use {near}")
        return y + reach.before + reach.after, x + reach.before + reach.after


def _reopen(path: str, digest: str, device: str, precision: Precision) -> Predictor:
    """What a pickled predictor becomes on a worker."""
    predictor = _load_own(path, device, precision)
    if predictor.digest != digest:
        raise InputError(f"{path}: has changed since the run was planned (digest {digest[:12]}); start again")
    return predictor


@lru_cache(maxsize=64)
def _reach(config: Architecture) -> receptive.Reach:
    return receptive.reach(config.layers)


def _digest(path: str) -> str:
    path = str(fetched(as_path(path)))
    stat = os.stat(path)
    return _digest_of_state(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=16)
def _digest_of_state(path: str, size: int, mtime_ns: int, inode: int) -> str:
    """Hashed once per state of the file: a predictor travels with every task."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
