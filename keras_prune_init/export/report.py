"""The report of an export: sizes, kernels, differences, and use on a phone."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import NamedTuple

from keras_prune_init.export.mobile import MobileReport
from keras_prune_init.export.sparse import KernelTensor
from keras_prune_init.reports.table import aligned


class Size(NamedTuple):
    """Bytes of a file as it is, and compressed by gzip."""

    plain: int
    gzip: int


class Comparison(NamedTuple):
    """The outputs of a file compared with those of its Keras model.

    Attributes:
        samples: Number of samples.
        real: Whether the samples were data; otherwise they were random numbers.
        difference: Largest difference between two outputs.
        largest: Largest absolute output.
        agreement: Fraction of samples whose largest output is the same one; `None` if
            there is a single output.
    """

    samples: int
    real: bool
    difference: float
    largest: float
    agreement: float | None

    def __str__(self) -> str:
        kind = "samples" if self.real else "random samples"
        text = (
            f"largest difference to Keras {self.difference:.2g}, of outputs up to "
            f"{self.largest:.2g}, over {self.samples} {kind}"
        )
        if self.agreement is None:
            return text
        return f"{text}; the arg max agrees on {self.agreement:.1%}"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` wrote; `str()` gives tables.

    Attributes:
        path: The file.
        precision: Precision of its kernels.
        dense: Size of the file with all tensors dense.
        sparse: Size of the file with sparse tensors; `None` if no tensor would be
            sparse.
        is_sparse: Whether the file with sparse tensors was written.
        kernels: One `KernelTensor` for each kernel, as the file stores it.
        comparison: Differences from the Keras model; `None` if not asked for.
        mobile: A `MobileReport`: whether a phone's runtime will use sparse kernels.
        notes: What was decided, and why.
    """

    path: pathlib.Path
    precision: str
    dense: Size
    sparse: Size | None
    is_sparse: bool
    kernels: list[KernelTensor]
    comparison: Comparison | None
    mobile: MobileReport
    notes: list[str]

    @property
    def size(self) -> Size:
        """Size of the file that was written."""
        return self.sparse if self.is_sparse and self.sparse else self.dense

    @property
    def density(self) -> float:
        """Fraction of values in kernels that are not 0."""
        total = sum(k.values for k in self.kernels)
        return sum(k.density * k.values for k in self.kernels) / total if total else 1.0

    def __str__(self) -> str:
        lines = [*aligned(self._kernel_rows(), left=2), ""]
        lines += [*aligned(self._size_rows()), "", *self.notes]
        lines.append(str(self.comparison or "not compared with Keras"))
        return "\n".join([*lines, str(self.mobile)])

    def _kernel_rows(self):
        rows = [("kernel", "shape", "density", "dense bytes", "sparse bytes", "stored")]
        for k in self.kernels:
            shape = "x".join(map(str, k.shape))
            stored = "sparse" if k.encoded else "dense"
            sizes = f"{k.dense:,}", f"{k.sparse:,}"
            rows.append((k.layer, shape, f"{k.density:.2%}", *sizes, stored))
        return rows

    def _size_rows(self):
        rows = [(f"{self.precision} file", "bytes", "gzip", "")]
        for name, size in (("dense", self.dense), ("sparse", self.sparse)):
            if size:
                written = "written" if (name == "sparse") == self.is_sparse else ""
                rows.append((name, f"{size.plain:,}", f"{size.gzip:,}", written))
        return rows

    def to_json(self) -> str:
        """Return all numbers of the report as JSON text."""
        content = dataclasses.asdict(self) | {
            "path": self.path.name,
            "dense": self.dense._asdict(),
            "sparse": self.sparse and self.sparse._asdict(),
            "kernels": [k._asdict() for k in self.kernels],
            "comparison": self.comparison and self.comparison._asdict(),
        }
        return json.dumps(content, indent=2)
