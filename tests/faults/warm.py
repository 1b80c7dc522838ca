"""What every child needs, imported once in the process that they are forked from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import distributed
import imagecodecs
import numba
import pyarrow.parquet
import safetensors.torch
import skimage.measure
import tifffile
import torch
import zarr

import flows.main
import models
import tilekit.api

__all__ = [
    "distributed",
    "flows",
    "imagecodecs",
    "models",
    "numba",
    "pyarrow",
    "safetensors",
    "skimage",
    "tifffile",
    "tilekit",
    "torch",
    "zarr",
]
