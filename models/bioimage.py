"""BioImage.IO packages (rdf.yaml, formats 0.4 and 0.5): what they say, in the words of a TOML description.

Only ONNX weights are taken, and only steps of processing that are the same for every tile: a step that reads statistics
of its sample would make each tile its own image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.pickles import WAY_OUT
from tilekit.errors import InputError

MAX_BYTES, MAX_ENTRIES = 1 << 20, 10**5
"""Of a description: it is parsed at about 1 MB in 5 s."""
FREE = ("ensure_dtype",)
"""Steps that change nothing here."""


def read_package(path: Path, text: bytes) -> dict[str, Any]:
    """The keys of a description (models.described), from the text of rdf.yaml; InputError names what is not taken."""
    import yaml

    if len(text) > MAX_BYTES:
        raise InputError(f"{path}: its YAML has {len(text)} bytes, at most {MAX_BYTES} are read; shorten it")
    try:
        rdf = yaml.safe_load(text)
        _check_size(rdf)
        return _read(path, rdf)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{path}: its YAML is damaged ({' '.join(str(error).split())[:120]}); copy it again") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path}: is no BioImage.IO model of format 0.4 or 0.5 ({error!r}); check it") from None


def _check_size(document: Any) -> None:
    """Refuse what references make endless: ten lines of them stand for 10^9 entries."""
    left, todo = MAX_ENTRIES, [document]
    while todo:
        value = todo.pop()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
        left -= len(inside)
        if left < 0:
            raise ValueError(f"it has more than {MAX_ENTRIES} entries")
        todo += inside


def _read(path: Path, rdf: dict[str, Any]) -> dict[str, Any]:
    if rdf.get("type", "model") != "model":
        raise InputError(f"{path}: describes a {rdf['type']}, not a model")
    if len(rdf["inputs"]) != 1 or len(rdf["outputs"]) != 1:
        n, m = len(rdf["inputs"]), len(rdf["outputs"])
        raise InputError(f"{path}: has {n} inputs and {m} outputs, must have one image and one map")
    image, out = rdf["inputs"][0], rdf["outputs"][0]
    for tensor in (image, out):
        if (axes := _axes(tensor)) != "bcyx":
            raise InputError(f"{path}: axes are {axes}, must be bcyx; export it with batch and channels first")
    stored: dict[str, Any] = {"onnx": _weights(path, rdf["weights"])}
    stored["normalization"] = _normalization(path, image.get("preprocessing", []))
    stored |= _ending(path, out)
    if (halo := _halo(out)) is not None and (step := _step(image)) is not None:
        stored |= {"halo": halo, "stride": step}
    names = _channel_names(image)
    return stored if names is None else {**stored, "channel_names": names}


def _weights(path: Path, weights: dict[str, Any]) -> str:
    if "onnx" in weights:
        return str(weights["onnx"]["source"])
    held = ", ".join(weights)
    raise InputError(f"{path}: has weights as {held}, none as ONNX; nothing is unpickled: {WAY_OUT}")


def _axes(tensor: dict[str, Any]) -> str:
    """Axes as letters, of both formats."""
    if isinstance(tensor["axes"], str):
        return tensor["axes"]
    kinds = {"batch": "b", "channel": "c"}
    return "".join(kinds.get(a["type"], a.get("id", "?")) for a in tensor["axes"])


def _channel_names(image: dict[str, Any]) -> list[str] | None:
    if isinstance(image["axes"], str):
        return None
    names = next((a.get("channel_names") for a in image["axes"] if a["type"] == "channel"), None)
    generic = names and all(str(n).lower().startswith("channel") for n in names)
    return None if not names or generic else [str(n) for n in names]


def _steps(path: Path, steps: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments, of both formats, less those that change nothing."""
    found = [(str(s.get("id", s.get("name"))), s.get("kwargs") or {}) for s in steps or []]
    return [(name, kwargs) for name, kwargs in found if name not in FREE]


def _normalization(path: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """All steps as one shift and scale per channel: input = (raw - mean) / std."""
    mean, std = [0.0], [1.0]
    for name, kwargs in _steps(path, steps):
        shift, scale = _linear(path, name, kwargs)
        n = max(len(mean), len(shift), len(scale))
        mean, std, shift, scale = ([*a] * (n // len(a)) for a in (mean, std, shift, scale))
        mean = [m + s * h for m, s, h in zip(mean, std, shift, strict=True)]
        std = [s * c for s, c in zip(std, scale, strict=True)]
    if mean == [0.0] and std == [1.0]:
        return {"kind": "none"}
    return {"kind": "mean_std", "mean": mean, "std": std}


def _linear(path: Path, name: str, kwargs: dict[str, Any]) -> tuple[list[float], list[float]]:
    """A step as (value - shift) / scale."""
    if name == "scale_linear":
        gain, offset = _numbers(kwargs.get("gain", 1.0)), _numbers(kwargs.get("offset", 0.0))
        n = max(len(gain), len(offset))
        gain, offset = gain * (n // len(gain)), offset * (n // len(offset))
        return [-o / g for o, g in zip(offset, gain, strict=True)], [1 / g for g in gain]
    fixed = name == "zero_mean_unit_variance" and kwargs.get("mode") == "fixed"
    if fixed or name == "fixed_zero_mean_unit_variance":
        eps = float(kwargs.get("eps", 1e-6)) if fixed else 0.0
        return _numbers(kwargs["mean"]), [s + eps for s in _numbers(kwargs["std"])]
    if name in ("zero_mean_unit_variance", "scale_range"):
        raise InputError(
            f"{path}: preprocessing {name} reads statistics of each sample, so that tiles would differ from the whole; "
            "write its values down as fixed_zero_mean_unit_variance or scale_linear"
        )
    raise InputError(
        f"{path}: preprocessing {name} is not known; known are scale_linear and fixed means and deviations"
    )


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]


def _ending(path: Path, out: dict[str, Any]) -> dict[str, Any]:
    """Head, thresholds and outputs, from the steps that come after the network."""
    found: dict[str, Any] = {}
    for name, kwargs in _steps(path, out.get("postprocessing", [])):
        if name in ("sigmoid", "softmax") and not found:
            found = {"head": name, "outputs": "logits"}
        elif name == "binarize" and "threshold" in kwargs:
            found = {
                "head": "sigmoid",
                "outputs": "probabilities",
                **found,
                "thresholds": _numbers(kwargs["threshold"]),
            }
        else:
            raise InputError(f"{path}: postprocessing {name} is not known; known are sigmoid, softmax and binarize")
    if not found and (_range(out) or (None, None)) == (0.0, 1.0):
        return {"outputs": "probabilities"}
    return found


def _range(out: dict[str, Any]) -> tuple[float, float] | None:
    """The range of values that the output is said to have."""
    given = (
        out.get("data_range") or (out.get("data") or {}).get("range") if not isinstance(out.get("data"), list) else None
    )
    if not isinstance(given, (list, tuple)) or None in given:
        return None
    return float(given[0]), float(given[1])


def _halo(out: dict[str, Any]) -> int | None:
    """Pixels around what the output says is right, the largest of both axes; None where it does not say."""
    if isinstance(out["axes"], str):
        given = out.get("halo")
        return None if not given else max(int(given[2]), int(given[3])) or None
    return max((int(a.get("halo", 0)) for a in out["axes"]), default=0) or None


def _step(image: dict[str, Any]) -> int | None:
    """Pixels by which its input's sides may grow."""
    if isinstance(image["axes"], str):
        shape = image.get("shape")
        return int(shape["step"][2]) or None if isinstance(shape, dict) else None
    sizes = [a.get("size") for a in image["axes"] if a["type"] == "space"]
    steps = {s["step"] for s in sizes if isinstance(s, dict) and "step" in s}
    return int(steps.pop()) if len(steps) == 1 else None
