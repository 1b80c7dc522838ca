"""Patches: where they lie, read with all that the network and the warp see around them, by threads ahead of time.

Everything that is drawn comes from (seed, step, item) alone, so that training continues at any step as if it had never
stopped, and the number of threads changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.augment import Augmentation, Warp, draw
from models.normalization import Normalization
from models.recipe import Recipe
from models.sample import Sample
from tilekit.box import Box
from tilekit.errors import InputError

LISTS = {"uniform": "known", "class": "class:", "weight": "weight"}
"""Which lists of centers a recipe's `choose` draws from; of several, from each equally often."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One annotated cutting as it was read, for the warp to make the network's input of."""

    name: str
    center: tuple[int, int]
    warp: Warp
    image: Tensor
    """(c, y, x) float32, normalized: what the warp takes for the whole input."""
    truth: Tensor
    """(y, x) uint8: what it takes for the core."""
    weights: Tensor
    """(y, x) float32, likewise."""

    def __str__(self) -> str:
        return f"{self.name} at {self.center[0]}, {self.center[1]}"


@dataclass(frozen=True, slots=True)
class Reader:
    """All that decides a patch beside step and item."""

    samples: Sequence[Sample]
    recipe: Recipe
    augmentation: Augmentation
    normalization: Normalization
    input_side: int
    """Side in pixels of what the network sees: core and halo."""
    core: Box
    """The core in it."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError("training has no images; give some")

    def read(self, step: int, item: int) -> Patch:
        """The patch `item` of the step's update."""
        generator = np.random.default_rng([self.recipe.seed, step, item])
        sample, center = self._choose(generator)
        warp = draw(self.augmentation, generator, self.input_side)
        # the core's middle, not the input's, lies on the chosen center
        to_core = self.core.start[0] + self.recipe.side // 2 - self.input_side // 2
        place = (center[0] - to_core, center[1] - to_core)
        box = warp.source_box(place, self.input_side, self.core)
        weights = sample.weights(box)
        if self.recipe.drop:
            weights = weights * (generator.random(weights.shape, np.float32) >= self.recipe.drop)
        truth = np.ascontiguousarray(sample.truth(box))
        image = self.normalization.apply(sample.read(warp.source_box(place, self.input_side)), axis=0)
        return Patch(sample.name, center, warp, *map(torch.from_numpy, (image, truth, weights)))

    def _choose(self, generator: np.random.Generator) -> tuple[Sample, tuple[int, int]]:
        """A sample and a center in it, drawn evenly from one of the lists of centers that all samples share."""
        known = {kind for sample in self.samples for kind, places in sample.centers.items() if len(places)}
        kinds = sorted(kind for kind in known if kind.startswith(LISTS[self.recipe.choose]))
        if not kinds:
            raise InputError(f"no image has a known pixel to choose by {self.recipe.choose}; choose otherwise")
        kind = kinds[int(generator.integers(len(kinds)))]
        starts = np.cumsum([0, *(len(sample.centers.get(kind, ())) for sample in self.samples)])
        number = int(generator.integers(starts[-1]))
        which = int(np.searchsorted(starts, number, side="right")) - 1
        sample = self.samples[which]
        y, x = (int(v) for v in sample.centers[kind][number - starts[which]])
        return sample, (y, x)


def batches(reader: Reader, first_step: int, items: range, threads: int, ahead: int = 2) -> Generator[list[Patch]]:
    """The patches `items` of each step from `first_step` on, read by threads, `ahead` steps before they are asked for.

    The threads end with the generator.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="patches")
    waiting: deque[list[Future[Patch]]] = deque()
    try:
        for step in range(first_step, reader.recipe.steps):
            while len(waiting) <= ahead and step + len(waiting) < reader.recipe.steps:
                later = step + len(waiting)
                waiting.append([pool.submit(reader.read, later, item) for item in items])
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moved without waiting for it, where the device has a queue of its own."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
