"""DOOR pyarrow: tables as Parquet, written a part at a time, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tilekit.copies import fetched, staged
from tilekit.errors import InputError
from tilekit.store import Shard, shard_record

MAX_ROWS = 1 << 24
"""Of a row group, which is in memory at once."""


class TableWriter:
    """A Parquet file below an output that appears once all its parts are written; none without a part."""

    def __init__(self, root: Path, key: str, metadata: dict[str, str] | None = None) -> None:
        self._root, self._key, self._metadata = root, key, metadata
        self._staging = staged(root / key)
        self._writer: Any = None

    def __enter__(self) -> TableWriter:
        (self._root / self._key).parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._staging.__enter__()
        return self

    def write(self, columns: dict[str, Any]) -> None:
        """Append rows, given as arrays of one length by column."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = pa.table(columns, metadata=self._metadata)
        if self._writer is None:
            # differences of ids, areas and boxes are small: two thirds of the time of plain numbers, and fewer bytes
            small = {f.name: "DELTA_BINARY_PACKED" for f in part.schema if pa.types.is_integer(f.type)}
            options = {"compression": "zstd", "use_dictionary": False, "column_encoding": small}
            self._writer = pq.ParquetWriter(self._partial, part.schema, **options)
        self._writer.write_table(part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._staging.__exit__(kind, error, trace)

    @property
    def record(self) -> Shard:
        """Length and digest of the finished file."""
        return shard_record(self._root, self._key)


def read_rows(path: Path, where: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """Columns of the rows that meet all conditions, (column, "==" or ">=" ..., value) each, as arrays."""
    import pyarrow.parquet as pq

    with _told(path):
        found = pq.read_table(fetched(path), filters=list(where))
        return {name: found[name].to_numpy() for name in found.column_names}


def read_parts(path: Path) -> Iterator[dict[str, Any]]:
    """Columns of one row group after another."""
    import pyarrow.parquet as pq

    with _told(path), pq.ParquetFile(fetched(path)) as file:
        for i in range(file.num_row_groups):
            if (n := file.metadata.row_group(i).num_rows) > MAX_ROWS:  # which a file of 1 kB may claim
                raise InputError(f"{path}: has {n} rows in one group, at most {MAX_ROWS} are read; write it again")
            part = file.read_row_group(i)
            yield {name: part[name] for name in part.column_names}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file as one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # the disk's own
        raise InputError(f"{path}: is no whole table ({error!s:.200}); make it again with tilekit label") from None
