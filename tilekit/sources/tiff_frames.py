"""How many pixels a JPEG or JPEG 2000 stream says that it holds: decoders make room for all of them at once."""

from __future__ import annotations

import struct

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame, with its height and width."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream, with the size of its grid."""


def claimed_pixels(data: bytes) -> int:
    """Pixels by the stream's header; 0 where it has none that can be read.

    >>> claimed_pixels(bytes.fromhex("ffd8 ffdb 0003 00 ffc0 000b 08 ffff ffff 01 000000"))
    4294836225
    """
    at = data.find(CODESTREAM)
    if at >= 0 and len(data) >= at + 16:
        width, height = struct.unpack_from(">II", data, at + 8)
        return int(width * height)
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return int(width * height)
        at += 1 if marker == 0xFF else 2 + length
    return 0
