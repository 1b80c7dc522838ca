"""Networks from elsewhere as predictors: torch modules by import path, ONNX files, BioImage.IO packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.described import DAMAGED, Described, describe
from models.geometry import Costs, Geometry, store_geometry, stored_geometry
from models.meaning import Meaning
from models.receptive import Reach
from tilekit.errors import InputError
from tilekit.predictor import decide
from tilekit.tiling import Halo

if TYPE_CHECKING:
    from models.probe import Function, Look, Measured

SIDE = 256
"""Side of a core in pixels, about, on which the costs of a network are counted."""


@dataclass(frozen=True, slots=True)
class ForeignPredictor:
    """As models.Predictor: states its needs, array in, class ids out.

    Pickles as path and digest, with what was measured; opens its network on the worker that first computes with it,
    and refuses a file that has changed.
    """

    path: str
    """Absolute path of what the user named."""
    digest: str
    """SHA-256 of all its files."""
    device: str
    precision: str
    """float32; bfloat16 for torch modules alone."""
    geometry: Geometry = field(repr=False)
    meaning: Meaning = field(repr=False)

    @property
    def halo(self) -> Halo:
        """Pixels (y, x) to give before and after a core."""
        y, x = self.geometry.reach
        return Halo((y.before, x.before), (y.after, x.after))

    @property
    def stride(self) -> tuple[int, int]:
        """Cores start at, and are, multiples of this many pixels (y, x)."""
        y, x = self.geometry.reach
        return y.stride, x.stride

    @property
    def in_channels(self) -> int:
        return self.meaning.in_channels

    @property
    def n_classes(self) -> int:
        return self.meaning.n_classes

    @property
    def class_names(self) -> list[str]:
        return list(self.meaning.class_names)

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        return self.meaning.pixel_size

    def doubt(self, means: Sequence[float]) -> str | None:
        """One line where an image with these means per channel is in other units than training's."""
        return self.meaning.normalization.doubt(means)

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        return self.meaning.channel_names

    @property
    def window(self) -> int | None:
        """Side in pixels of what it was trained to see at once, for blending; None where unknown."""
        return self.meaning.window

    @property
    def exact(self) -> bool:
        return self.inexact_reason is None

    @property
    def inexact_reason(self) -> str | None:
        return self.geometry.reason

    @property
    def multiply_adds_per_pixel(self) -> float:
        """Of convolutions, per core pixel in the limit of one endless tile."""
        return self.geometry.costs.multiply_adds

    def multiply_adds(self, y: int, x: int) -> float:
        return self.geometry.costs.multiply_adds * self._input_pixels(y, x)

    def activation_bytes(self, y: int, x: int) -> int:
        """Most bytes that one call needs for a core of y by x pixels, as counted on a smaller one."""
        pixels = self._input_pixels(y, x)
        forward = self.geometry.costs.activation_bytes * pixels + 8 * self.in_channels * pixels
        return int(max(forward, (4 * 4 * self.n_classes + 12) * pixels))

    def _input_pixels(self, y: int, x: int) -> int:
        (by, bx), (ay, ax) = self.halo.before, self.halo.after
        return (by + y + ay) * (bx + x + ax)

    def logits(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(b, c, before+y+after, before+x+after) raw values -> (b, channels, y, x) float32 scores."""
        self._check(x)
        function = opened(self.path, self.digest, self.device, self.precision)
        parts = [function(self.meaning.normalization.apply(part[None], axis=1)) for part in x]
        core = tuple(
            slice(r.skipped, r.skipped + n - r.before - r.after)
            for r, n in zip(self.geometry.reach, x.shape[2:], strict=True)
        )
        out = np.concatenate(parts)[:, :, core[0], core[1]].astype(np.float32, copy=False)
        return out if self.meaning.outputs == "logits" else _as_logits(out, self.meaning.head)

    def probabilities(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """As `logits`, but probabilities (b, k, y, x)."""
        found = self.predict(x, probabilities=True)[1]
        assert found is not None
        return found

    def classes(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """As `logits`, but class ids (b, y, x)."""
        return self.predict(x)[0]

    def predict(
        self, x: NDArray[Any], probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Class ids and, asked for, probabilities, from one forward pass."""
        import torch

        from models import compute

        logits = torch.from_numpy(np.ascontiguousarray(self.logits(x)))
        ids = compute.classes(logits, self.meaning).numpy()
        return ids, compute.probabilities(logits, self.meaning).numpy() if probabilities else None

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Class ids (b, y, x) of probabilities (b, k, y, x), by head and thresholds."""
        return decide(probabilities, self.meaning.head, self.meaning.thresholds)

    def _check(self, x: NDArray[Any]) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x has shape {x.shape}, must be (b, {self.in_channels}, y, x)")
        for side, r in zip(x.shape[2:], self.geometry.reach, strict=True):
            core = side - r.before - r.after
            if core < r.stride or core % r.stride:
                raise ValueError(f"x has a side of {side} pixels, not {r.before + r.after} + {r.stride} times n")


def _as_logits(p: NDArray[np.float32], head: str) -> NDArray[np.float32]:
    """Scores whose soft-max or sigmoid are these probabilities."""
    tiny = np.float32(1e-7)
    p = np.clip(p, tiny, 1 - tiny if head == "sigmoid" else 1)
    return np.log(p) - np.log1p(-p) if head == "sigmoid" else np.log(p)


def load_foreign(path: Path, device: str, precision: str) -> ForeignPredictor | None:
    """A predictor for a network from elsewhere, measured where it has not been; None where it is none."""
    described = describe(path)
    if described is None:
        return None
    if precision == "bfloat16" and described.kind != "torch":
        raise InputError(f"{path}: an ONNX network computes as it was exported; leave out --precision bfloat16")
    digest = described.digest()
    geometry = stored_geometry(path, digest)
    if geometry is None:
        geometry = measure_foreign(described)
        store_geometry(path, digest, geometry)
    return ForeignPredictor(str(path), digest, device, precision, geometry, _meaning(described, geometry))


def _meaning(described: Described, geometry: Geometry) -> Meaning:
    stored, n = dict(described.stored), geometry.in_channels
    rule = stored.get("normalization")
    if isinstance(rule, dict):  # one number stands for all channels
        lists = {k: v * n if isinstance(v, list) and len(v) == 1 else v for k, v in rule.items()}
        stored["normalization"] = lists
    thresholds = stored.get("thresholds")
    if isinstance(thresholds, list) and len(thresholds) == 1:
        stored["thresholds"] = thresholds * geometry.out_channels
    try:
        return Meaning.of(stored, n, geometry.out_channels)
    except (ValueError, TypeError) as error:
        raise InputError(f"{described.path}: {error}") from None


def measure_foreign(described: Described) -> Geometry:
    """Halo, stride and costs of a network, by running it on this machine; InputError where it cannot be tiled."""
    network = open_for_probe(described)
    found, source = taken(described, network)
    costs = network.costs(found.reach)
    return Geometry(found.reach, network.channels, found.n_channels, found.reason, source, costs)


def taken(described: Described, network: Probed) -> tuple[Measured, str]:
    """What its description states, where tiles of that equal one pass, else what is measured; and which of the two."""
    from models.probe import ProbeError, stated

    halo, stride = described.stored.get("halo"), described.stored.get("stride")
    if halo is not None and stride is not None:
        pair = (halo, halo) if isinstance(halo, int) else tuple(halo)
        try:
            return stated(network.function, network.channels, network.dtype, (pair[0], pair[1]), stride), "stated"
        except ProbeError as error:
            if described.kind != "bioimage":  # what the user wrote himself is not passed over
                raise InputError(f"{described.path}: {error}") from None
    return measured(described, network), "measured"


def measured(described: Described, network: Probed) -> Measured:
    """Halo and stride of a network, whatever its description says of them."""
    from models.probe import ProbeError, measure

    try:
        found = measure(network.function, network.channels, network.dtype, look=network.look)
    except ProbeError as error:
        raise InputError(f"{described.path}: {error}") from None
    if found.reason is not None and network.suspect:
        return replace(found, reason=network.suspect)
    return found


@dataclass(frozen=True, slots=True)
class Probed:
    """What measuring needs of a network."""

    function: Function
    look: Look | None
    dtype: str
    channels: int
    suspect: str | None
    """Of an ONNX file: the node that is to blame, if one is."""
    cost: Callable[[int, int, int], Costs]
    """Of channels and the sides of an input."""

    def costs(self, reach: tuple[Reach, Reach]) -> Costs:
        """Counted on a core of about `SIDE` pixels."""
        y, x = (r.before + max(SIDE // r.stride, 1) * r.stride + r.after for r in reach)
        return self.cost(self.channels, y, x)


def open_for_probe(described: Described) -> Probed:
    """The network on this machine's CPU, in the arithmetic in which it is probed."""
    stored, path = described.stored, str(described.path)
    if described.kind == "torch":
        from models import torch_network

        network = torch_network.build(path, stored, described.folder)
        function, look, dtype = torch_network.probed(network)
        return Probed(function, look, dtype, stored["in_channels"], None, partial(torch_network.costs, network))
    from models import onnx_network

    data = _onnx_bytes(described)
    model = onnx_network.parse(path, data)
    channels = onnx_network.channels(path, model) or stored.get("in_channels", 1)
    suspect = onnx_network.whole_tile_node(model)
    function = onnx_network.as_function(path, data)
    return Probed(function, None, "float32", channels, suspect, partial(onnx_network.costs, path, model))


def _onnx_bytes(described: Described) -> bytes:
    try:
        return described.onnx_bytes()
    except DAMAGED as error:
        raise InputError(f"{described.path}: its weights {described.stored['onnx']} are not there ({error})") from None


_opened: dict[tuple[str, str, str], tuple[str, Any]] = {}
"""By path, device and precision: digest and network, the last state of each alone."""
_lock = Lock()


def opened(path: str, digest: str, device: str, precision: str) -> Function:
    """The network on its device, opened once per process; InputError where its files have changed."""
    key = (path, device, precision)
    with _lock:
        if key not in _opened or _opened[key][0] != digest:
            _opened[key] = digest, _open(path, digest, device, precision)
        return _opened[key][1]  # type: ignore[no-any-return]


def _open(path: str, digest: str, device: str, precision: str) -> Function:
    import torch

    from models.compute import choose_device, settle

    described = describe(Path(path))
    if described is None or described.digest() != digest:
        raise InputError(f"{path}: has changed since the run was planned (digest {digest[:12]}); start again")
    place = choose_device(device)
    settle(place)
    if described.kind == "torch":
        from models import torch_network

        network = torch_network.build(path, described.stored, described.folder)
        return torch_network.as_function(network, place, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    from models import onnx_network

    return onnx_network.as_function(path, _onnx_bytes(described), place.type)
