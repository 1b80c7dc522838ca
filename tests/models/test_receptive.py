"""Receptive-field arithmetic against the paper, against tables worked by hand, and against its own laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.architecture import UNetConfig
from models.receptive import (
    Layer,
    admits,
    multiply_adds,
    multiply_adds_per_pixel,
    nearest_inputs,
    peak_elements,
    reach,
    spans,
    stride,
    whole_tile_layers,
)

configs = st.builds(
    UNetConfig,
    base=st.just(2),
    depth=st.integers(1, 5),
    padding=st.sampled_from(["valid", "same"]),
    upsampling=st.sampled_from(["learned", "bilinear", "nearest"]),
)


@pytest.mark.parametrize(
    ("settings", "before", "after", "step"),
    [
        ({}, 92, 96, 16),  # 16 k + 188, the paper's 572 with a core of 384
        ({"upsampling": "bilinear"}, 108, 112, 16),  # 15 more pixels contaminated on each side
        ({"upsampling": "nearest"}, 92, 96, 16),  # repeats pixels, sees no neighbour
        ({"depth": 3}, 44, 48, 8),
        ({"depth": 1}, 8, 8, 2),
        ({"padding": "same"}, 96, 96, 16),  # rim of 92 before, rounded up
        ({"padding": "same", "upsampling": "bilinear"}, 112, 112, 16),
        ({"padding": "same", "depth": 2}, 24, 24, 4),
        ({"batch_norm": True}, 92, 96, 16),
    ],
)
def test_halo_and_stride(settings, before, after, step):
    found = reach(UNetConfig(**settings).layers)
    assert (found.before, found.after, found.stride) == (before, after, step)


@given(configs, st.integers(1, 6))
def test_every_core_gets_an_admissible_input_and_clean_pixels(config, cores):
    needs, core = reach(config.layers), cores * stride(config.layers)
    *_, last = spans(config.layers, needs.before + core + needs.after)
    assert last.start <= needs.skipped
    assert needs.skipped + core <= last.stop
    assert last.offset + needs.skipped == needs.before


@given(configs)
def test_halo_is_the_least_that_is_admissible_and_clean(config):
    needs = reach(config.layers)
    core = 40 * needs.stride
    for before, after in ((needs.before - needs.stride, needs.after), (needs.before, needs.after - needs.stride)):
        size, skipped = before + core + after, needs.skipped + before - needs.before
        *_, last = spans(config.layers, size)
        assert skipped < last.start or skipped + core > last.stop
    assert not any(admits(config.layers, needs.before + core + needs.after - n) for n in range(1, needs.stride))


def test_costs_are_those_counted_by_torch():
    layers = UNetConfig().layers
    assert 2 * multiply_adds(layers, (1196, 1196)) / 1012**2 == pytest.approx(1.6532e6, rel=1e-4)
    assert 2 * multiply_adds(layers, (572, 572)) / 388**2 == pytest.approx(1.9985e6, rel=1e-4)
    assert 2 * multiply_adds_per_pixel(layers) == pytest.approx(1.4679e6, rel=1e-4)
    assert 2 * multiply_adds_per_pixel(UNetConfig(base=16, depth=3).layers) == pytest.approx(70.2e3, rel=1e-3)


def test_cost_per_pixel_is_the_limit_of_the_cost():
    layers = UNetConfig(base=8, depth=3).layers
    assert multiply_adds(layers, (2**20 + 92, 2**20 + 92)) / 2**40 == pytest.approx(
        multiply_adds_per_pixel(layers), rel=1e-3
    )


def test_peak_counts_what_two_convolutions_keep_alive():
    layers = [Layer("conv", "a", 1, 4, 3), Layer("relu"), Layer("conv", "b", 4, 8, 3)]
    assert peak_elements(layers, (10, 10)) == 100 + 4 * 64 + 8 * 36 + 4 * 8 * 9


def test_nearest_inputs_pass_and_lie_on_both_sides():
    assert nearest_inputs(UNetConfig().layers, 512) == [508, 524]
    assert nearest_inputs(UNetConfig().layers, 10) == [188]
    assert nearest_inputs(UNetConfig(padding="same").layers, 500) == [496, 512]


def test_instance_norm_is_recognised():
    assert whole_tile_layers(UNetConfig(instance_norm=True).layers) == ["instance_norm"]
    assert whole_tile_layers(UNetConfig(batch_norm=True).layers) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": 10**9}, "base is 1000000000, must be a whole number from 1 to 4096"),
        ({"depth": 40}, "depth is 40"),
        ({"n_classes": 255}, "n_classes is 255, must be a whole number from 1 to 254"),
        ({"in_channels": True}, "in_channels is True"),
        ({"padding": "reflect"}, "padding is 'reflect', must be one of valid, same"),
        ({"upsampling": "cubic"}, "must be one of learned, bilinear, nearest"),
        ({"batch_norm": 1}, "batch_norm is 1, must be one of False, True"),
        ({"dropout": 1.0}, "dropout is 1.0, must be at least 0 and below 1"),
        ({"batch_norm": True, "instance_norm": True}, "choose one"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**settings)
