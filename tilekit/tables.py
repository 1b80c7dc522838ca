"""DOOR pyarrow: tables as Parquet, written a part at a time, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from tilekit.store import Shard, shard_record


class TableWriter:
    """A Parquet file below an output that appears once all its parts are written."""

    def __init__(self, root: Path, key: str) -> None:
        self._root, self._key = root, key
        self._partial = (root / key).with_suffix(".partial")
        self._writer: Any = None

    def __enter__(self) -> TableWriter:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, columns: dict[str, Any]) -> None:
        """Append rows, given as arrays of one length by column."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, part.schema, compression="zstd")
        self._writer.write_table(part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if error is None:
            self._partial.replace(self._root / self._key)
        else:
            self._partial.unlink(missing_ok=True)

    @property
    def record(self) -> Shard:
        """Length and digest of the finished file."""
        return shard_record(self._root, self._key)
