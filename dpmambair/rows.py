"""A restorer of rows, which engines for data sets copy to their processes: `datasets.map`, Ray Data and the like."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dpmambair.console import describe
from dpmambair.memory import keep_freed_memory
from dpmambair.pictures import encode, restore_pictures, share_devices
from dpmambair.request import MEMORY
from dpmambair.settings import Settings
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer, read_picture


@dataclass(frozen=True)
class RowRestorer:
    """Restores the picture in a row. It can be pickled; each process loads the model once, at its first row.

    Attributes:
        column: holds the picture: a file's content, its path, both as `datasets` stores them (`bytes` and `path`), or
            whatever else `read_picture` reads.
        settings: what decides how the restored file looks.
        report: whether to tell what had spoiled the picture.
        model: folder of the model, there where the row is restored; None for the shipped one.
        device: where it computes; `auto` shares the GPUs of a machine among the ranks.
        dtype: in which it computes.
        memory: GiB that restoring one picture may take.
    """

    column: str = "image"
    settings: Settings = field(default_factory=Settings)
    report: bool = False
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    memory: float = MEMORY

    def __call__(self, row: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Restore the picture in a row; a failure is told in the row and ends nothing.

        Args:
            row: values by column.
            rank: number of this process, from 0, if the engine tells it.

        Returns:
            The row with `restored`, the content of the restored file, and `error`, the reason for a failure; the other
            of the two is empty. With a report also `detected`, as JSON.
        """
        device = share_devices(self.device, rank)
        restorer = self.settings.control(_load(self.model or str(SHIPPED), device, self.dtype, self.memory))
        source, results = row[self.column], {"restored": b"", "error": ""}
        if self.report:
            results["detected"] = ""
        try:
            results |= self._restore(source, restorer)
        except Exception as error:
            results["error"] = describe(error, "")
        return {**row, **results}

    def _restore(self, source: Any, restorer: Restorer) -> dict[str, Any]:
        if isinstance(source, Mapping):
            source = source["bytes"] or source["path"]
        picture = read_picture(source)
        (restored,) = restore_pictures([picture], restorer, self.settings.strength, self.report)
        results = {"restored": encode(restored.picture, self.settings.choose_format(picture.format), self.settings)}
        return results | ({"detected": json.dumps(restored.detected)} if self.report else {})


@cache
def _load(model: str, device: str, dtype: str, memory: float) -> Restorer:
    keep_freed_memory(returns_large=True)
    return Restorer.from_pretrained(model, device, dtype, int(memory * 2**30))
