"""Inputs that broke something once, by what they broke: group, door, bytes."""

from __future__ import annotations

FOUND: dict[str, tuple[str, str, bytes]] = {}
