"""The run's log: one JSON object per line, cut back to the checkpoint when a run resumes, and drawn at its end."""

import json
from pathlib import Path
from typing import Any

from dpmambair.files import replacing


class Journal:
    """A JSON-lines file of records that carry their `step`.

    Args:
        path: the file; made when the first record is written.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it is on its way to the disk when this returns.

        Args:
            record: ready for JSON, with a `step`.
        """
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Read the records, up to a line that a kill left unfinished."""
        records: list[dict[str, Any]] = []
        if not self.path.exists():
            return records
        for line in self.path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def cut(self, step: int) -> None:
        """Drop the records after a step, since a resumed run writes them again.

        Args:
            step: the checkpoint's.
        """
        kept = [record for record in self.read() if record["step"] <= step]
        with replacing(self.path) as unfinished:
            unfinished.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def plot(self, path: Path) -> None:
        """Draw loss and learning rate over the steps.

        Args:
            path: PNG file to write.
        """
        # Imported here because drawing needs a second to import and happens once, after training.
        from matplotlib.figure import Figure

        records = self.read()
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        losses = figure.subplots()
        rates = losses.twinx()
        curves = ((losses, "loss", "tab:blue"), (losses, "validation_loss", "tab:green"), (rates, "lr", "tab:orange"))
        for axes, name, colour in curves:
            drawn = [record for record in records if name in record]
            axes.plot([r["step"] for r in drawn], [r[name] for r in drawn], color=colour, label=name)
        figure.legend(loc="outside upper center", ncols=len(curves))
        # The logarithm of an error, which a loss may hold, is negative.
        known = [record.get(name) for record in records for name in ("loss", "validation_loss")]
        is_positive = all(loss > 0 for loss in known if loss is not None)
        losses.set(xlabel="step", yscale="log" if is_positive else "linear")
        with replacing(path) as unfinished:
            figure.savefig(unfinished, format="png", dpi=120)
