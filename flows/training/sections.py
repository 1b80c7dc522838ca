"""The sections of a training's TOML, with units and limits; the text below each key is its comment in `--init`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from flows.params import Parameters
from tilekit.evaluation import parse_map
from tilekit.place import is_url
from tilekit.predictor import MAX_CLASSES, VOID

Share = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
"""A list of TOML becomes a tuple; all else must have its type."""
Part = Share | Names
"""A share of all, or a list of those that belong to it."""
Percent = Annotated[float, Field(ge=0, le=100)]


class Section(Parameters):
    """One section: its keys are described by the text below them."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False, strict=True)


class Data(Section):
    """Images and their truth."""

    images: str = "images"
    """A folder, a file, a glob, or a CSV with the columns image, truth and, if wanted, group and part."""
    truth: str = "truth"
    """Likewise, paired by the names without their endings, of two globs by what their * stand for; of a CSV unused."""
    kind: Literal["ids", "classes"] = "ids"
    """What the truth holds: ids of objects (0 is background), or classes."""
    map: str | None = Field(default=None, examples=["0=0,255=1,-1=void"])
    """What the truth's values mean; unset: themselves. Classes take an entry for each."""
    void: int | None = Field(default=None, examples=[255])
    """Value of the (mapped) truth that means unknown; unset: 255 for classes, none for ids."""
    class_names: Names | None = Field(default=None, examples=[["background", "cell"]], max_length=MAX_CLASSES)
    """Names, in the order of the classes; unset: background, and class 1, class 2 or object."""
    class_property: str | None = Field(default=None, examples=["class"])
    """Of vector truth (GeoJSON, GeoPackage): the property that holds the class, its number or name; unset: QuPath's
    classification or a property class where there is one, else 1 inside."""
    outside: Literal["background", "void"] = "background"
    """Of vector truth: what is outside all polygons."""
    channels: Annotated[tuple[int | str, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, examples=[[0, "DAPI"]]
    )
    """Channels of the images by number or name, in the network's order; unset: all but alpha."""
    level: Annotated[int, Field(ge=0)] = 0
    """Level of the images' pyramids to train on."""
    pixel_size: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[0.5])
    """Micrometres per pixel of level 0, where the files do not say or are wrong."""
    nodata: Annotated[float, Field(allow_inf_nan=True)] | None = Field(default=None, examples=[0])
    """Value that means: nothing measured here; also nan."""
    axes: str | None = Field(default=None, examples=["tyx"])
    """Names of the images' axes in the file's order, where the file does not say or is wrong."""
    connectivity: Literal[4, 8] = 8
    """Neighbors of a pixel, where the objects of class maps are labelled for the weight of borders."""

    @field_validator("map")
    @classmethod
    def _is_map(cls, text: str | None) -> str | None:
        parse_map(text)
        return text

    @model_validator(mode="after")
    def _has_names_for_all(self) -> Data:
        names = self.class_names or ()
        if names and self.kind == "ids" and len(names) != 2:
            raise ValueError(f"class_names has {len(names)}, ids have two classes: background and object; name these")
        targets = [target for target in (self.mapping or {}).values() if target not in (None, self.void_value)]
        if names and self.kind == "classes" and max(targets, default=0) >= len(names):
            raise ValueError(f"map = {self.map!r} means class {max(targets)}, class_names has {len(names)}; name all")
        return self

    @property
    def mapping(self) -> dict[int, int | None] | None:
        """`map`, read."""
        return parse_map(self.map)

    @property
    def void_value(self) -> int | None:
        """`void`, with what is taken where it is unset."""
        return VOID if self.void is None and self.kind == "classes" else self.void


class Split(Section):
    """Which images, or parts of them, are for training, validation and test."""

    by: Literal["group", "order", "region", "column"] = "group"
    """group: no group (slide, patient, ...) is in two parts. order: runs of a stack's or sequence's numbers. region:
    boxes of each image. column: as the CSV's column part says (train, validation, test)."""
    group: str | None = Field(default=None, examples=["(patient\\d+)"])
    """Regular expression whose one (...) finds the group in the image's path; unset: the CSV's column, else the name
    without the last number in it, so that frames of a sequence stay together."""
    train: Names | None = Field(default=None, examples=[["36-83"]])
    """What to train on, listed as below; unset: all that is left."""
    validation: Part = 0.15
    """A share, or a list: of groups, of ranges of numbers "19-23", or of boxes "y0:y1,x0:x1"."""
    test: Part = 0.0
    """Likewise."""
    gap: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[128])
    """Left out between parts: numbers of a sequence, or pixels between regions; unset: 0, or the network's halo."""

    @field_validator("group")
    @classmethod
    def _has_one_group(cls, text: str | None) -> str | None:
        try:
            n = 1 if text is None else re.compile(text).groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}); correct it") from None
        if n != 1:
            raise ValueError(f"has {n} (...), must have one, around what names the group")
        return text

    @model_validator(mode="after")
    def _leaves_something(self) -> Split:
        shares = [share for share in (self.validation, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError(f"validation and test are {sum(shares):g} of all together; leave some for training")
        return self


class Normalization(Section):
    """How raw values become the network's input; statistics are those of the training part alone."""

    kind: Literal["mean_std", "percentile", "range", "none"] = "mean_std"
    """range: integers divided by their type's maximum."""
    percentiles: Annotated[tuple[Percent, Percent], Field(strict=False)] = (1.0, 99.0)
    """Of kind percentile: what becomes 0 and 1."""

    @field_validator("percentiles")
    @classmethod
    def _rise(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] >= pair[1]:
            raise ValueError("the first must be below the second")
        return pair


class Weights(Section):
    """How much a pixel counts in the loss."""

    kind: Literal["unet", "class", "none"] = "unet"
    """class: all pixels over those of its class, by the number of classes. unet: more between objects, besides."""
    w0: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Most that is added between two objects."""
    sigma: Annotated[float, Field(gt=0, le=100)] = 5.0
    """How fast it falls with the distances to the two nearest objects, in pixels."""
    ridge: bool = True
    """Of ids: pixels with another object's id among their 8 neighbors become background."""


class Network(Section):
    """The network; see docs/networks.md for the families."""

    family: Literal["unet", "fcn32s", "fcn16s", "fcn8s", "segnet", "deeplab"] = "unet"
    """All but unet pad their convolutions."""
    base: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels of the first level; each level below has twice as many (of the encoders, at most 8 times). The papers:
    64."""
    batch_norm: bool = True
    """A batch norm after each convolution. The papers of unet and fcn: false."""
    dropout: Share = 0.5
    """Probability of dropping an element on the deepest levels."""
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    """Of unet: poolings by two."""
    padding: Literal["valid", "same"] = "valid"
    """Of unet: valid: unpadded convolutions; same: zero-padded ones."""
    upsampling: Literal["learned", "bilinear", "nearest"] = "learned"
    """Of unet: learned: up-convolutions; else interpolation."""
    hidden: Annotated[int, Field(ge=1, le=65536)] = 2048
    """Of fcn: channels of the layers that were fully connected. The paper: 4096."""
    encoder: Literal["vgg16", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Of deeplab; fcn and segnet have vgg16."""
    output_stride: Literal[8, 16] = 16
    """Of deeplab: of its encoder; strides beyond are dilations."""
    rates: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(strict=False, min_length=1, max_length=8)
    ] = (6, 12, 18)
    """Of deeplab: dilations of the pyramid's branches. Its halo grows with the largest, times the stride."""
    width: Annotated[int, Field(ge=1, le=4096)] = 256
    """Of deeplab: channels of the pyramid's branches."""
    image_pool: bool = False
    """Of deeplab: a branch that sees the mean of the whole tile; such a network cannot predict exactly."""
    decoder: bool = False
    """Of deeplab: that of v3+, with features of stride 4."""

    @model_validator(mode="after")
    def _has_keys_of_its_family(self) -> Network:
        own = (*COMMON_KEYS, *FAMILY_KEYS[self.family])
        for key, field in type(self).model_fields.items():
            if key not in ("family", *own) and getattr(self, key) != field.default:
                raise ValueError(f"{key} is no setting of {self.family}, which has {', '.join(own)}")
        return self


COMMON_KEYS = ("base", "batch_norm", "dropout")
FAMILY_KEYS: dict[str, tuple[str, ...]] = {
    "unet": ("depth", "padding", "upsampling"),
    "fcn32s": ("hidden",),
    "fcn16s": ("hidden",),
    "fcn8s": ("hidden",),
    "segnet": (),
    "deeplab": ("encoder", "output_stride", "rates", "width", "image_pool", "decoder"),
}
"""What each family has besides."""


class Patches(Section):
    """What of the images makes a batch."""

    side: Annotated[int, Field(ge=1, le=16384)] | None = Field(default=None, examples=[128])
    """Of the square in which the loss is computed, in pixels, a multiple of the network's stride; the network sees its
    halo around it, too. Unset, here and below: the preset's."""
    batch: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, examples=[4])
    """Patches of a batch."""
    choose: Literal["uniform", "class", "weight"] = "uniform"
    """Where their centers are: anywhere, in each class equally often, or in proportion to the weight."""
    drop: Share = 0.0
    """Share of the pixels left out of the loss at random."""


class Augment(Section):
    """How far patches are varied, each by its own draw; 0 and false: not at all. Grey values are normalized ones."""

    flip: bool = True
    """One of the eight flips and quarter turns."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 180.0
    """Degrees, either way."""
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """0.1: magnified by 0.9 to 1.1."""
    shift: Annotated[float, Field(ge=0, le=4096)] = 0.0
    """Pixels, either way along y and x."""
    elastic: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Standard deviation of the displacement at the points of a coarse grid, in pixels."""
    grid: Annotated[int, Field(ge=2, le=64)] = 3
    """Points of that grid along each side of the patch."""
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """0.2: distances from the mean times 0.8 to 1.2."""
    brightness: Annotated[float, Field(ge=0, le=100)] = 0.2
    """Added, either way."""
    gamma: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """0.2: to the power of 0.8 to 1.2, between the patch's least and largest value."""
    noise: Annotated[float, Field(ge=0, le=100)] = 0.05
    """Largest standard deviation of the noise."""


class Training(Section):
    """The recipe: a preset, and what is to be different."""

    preset: Literal["modern", "paper"] = "modern"
    """modern: AdamW, warm-up and cosine. paper: SGD of momentum 0.99, as Ronneberger et al. 2015."""
    steps: Annotated[int, Field(ge=1, le=10**8)] = 5000
    """Updates of the network."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of all that is drawn."""
    init: str | None = Field(default=None, examples=["nuclei"])
    """A trained model to start from."""
    encoder: str | None = Field(default=None, examples=["vgg16_bn.safetensors"])
    """Weights of the network's encoder, named as torchvision and timm name them (fcn, segnet, deeplab)."""
    freeze: Literal["none", "encoder"] = "none"
    """What of it is not trained."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] | None = Field(default=None, examples=[0.001])
    """At its highest; unset, here and below: the preset's."""
    optimizer: Literal["adamw", "sgd"] | None = Field(default=None, examples=["adamw"])
    """adamw or sgd."""
    momentum: Share | None = Field(default=None, examples=[0.9])
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] | None = Field(default=None, examples=[0.0001])
    """Per update, times the learning rate."""
    warm_up: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[100])
    """Steps in which the learning rate rises; unset: the preset's, but a tenth of the steps at most."""
    schedule: Literal["cosine", "constant"] | None = Field(default=None, examples=["cosine"])
    """Of the learning rate afterwards."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, examples=[1])
    """Batches whose gradients make one update."""
    ema: Share | None = Field(default=None, examples=[0.999])
    """Decay of the exponential moving average of the weights, which is what is validated and kept; 0: none."""
    precision: Literal["float32", "bfloat16"] | None = Field(default=None, examples=["float32"])
    """bfloat16: mixed precision, on GPUs."""
    loss: Literal["cross_entropy", "dice", "focal", "cross_entropy+dice"] | None = Field(
        default=None, examples=["cross_entropy"]
    )
    """Cross entropy is weighted, over the sum of weights."""
    patience: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[10])
    """Validations without a better score after which training stops; unset: it goes on to the last step."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    """Devices of this machine to train on together."""


class Validation(Section):
    """How the network is scored on whole validation images, as `tilekit evaluate` does."""

    every: Annotated[int, Field(ge=1)] = 500
    """Steps from one validation to the next."""
    score: Literal["miou", "seg", "ap", "rand_isbi2012"] = "miou"
    """By which the best network is chosen: miou of classes, seg or ap of objects (truth of ids), rand_isbi2012 of
    membranes."""
    tune: bool = True
    """Choose decision thresholds on the validation images, and store them with the model."""
    connectivity: Literal[4, 8] = 8
    """Of the objects, for scores of objects."""
    min_size: Annotated[int, Field(ge=0)] = 0
    """Objects of fewer pixels are left out."""
    fill_holes: Annotated[int, Field(ge=0)] = 0
    """Holes of fewer pixels are filled first."""
    overlays: Annotated[int, Field(ge=0, le=100)] = 4
    """Pictures of the prediction to draw each time."""


class Output(Section):
    """What training writes."""

    folder: str = "model"
    """Where the model, its card, curves and checkpoints go, on a local disk."""

    @field_validator("folder")
    @classmethod
    def _is_local(cls, folder: str) -> str:
        if is_url(folder):
            raise ValueError("training writes to a local disk; copy the model from there")
        return folder
