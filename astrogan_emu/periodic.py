"""What every statistic starts from: a periodic field as a tensor of known geometry.

Arrays, tensors and fields that carry their grid come in through `PeriodicField.of`.
Nothing here measures anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import GridError
from .grids import GridSpec

__all__ = ["Field", "FieldOnGrid", "PeriodicField", "Values", "squared_wavenumbers"]


class FieldOnGrid(Protocol):
    """Anything that carries its values and its grid, such as a `GalaxyField`."""

    @property
    def data(self) -> Any:
        """Values, shape ``(n, n[, n])``."""

    @property
    def grid(self) -> GridSpec:
        """The periodic grid they live on."""


Field = NDArray[Any] | Tensor | FieldOnGrid
"""What statistics are measured on."""

Values = Any
"""A tensor if the field came as one, otherwise a float64 array."""


@dataclass(frozen=True)
class PeriodicField:
    """A field of any accepted kind, as the tensor that statistics are measured on.

    Parameters
    ----------
    values
        Shape ``(..., n, n)`` or ``(..., n, n, n)``, float32 or float64.
    box_size
        Comoving side length [Mpc/h].
    n_dim
        Two or three; the axes before the last `n_dim` are independent fields.
    as_tensor
        Whether results are given as tensors.
    """

    values: Tensor
    box_size: float
    n_dim: int
    as_tensor: bool

    @classmethod
    def of(
        cls, field: Any, box_size: float | None = None, n_dim: int | None = None
    ) -> PeriodicField:
        """Accept an array, a tensor or a field that carries its grid.

        Parameters
        ----------
        field
            Shape ``(..., n, n)`` or ``(..., n, n, n)``.
        box_size
            Comoving side length [Mpc/h]; not needed if `field` carries its grid.
        n_dim
            Two or three. If not given, the last three axes are space when they are
            equal, and the last two otherwise; a stack of n maps of n x n cells needs
            ``n_dim=2``.

        Raises
        ------
        GridError
            If the box size is unknown or contradicts the field's grid, or the cells
            do not fill a periodic square or cube.
        """
        values = field
        if not isinstance(field, Tensor) and hasattr(field, "grid"):
            values, grid = field.data, field.grid
            if box_size is not None and not np.isclose(box_size, grid.box_size):
                raise GridError(
                    f"box_size = {box_size:g} Mpc/h contradicts the field's own "
                    f"{grid.box_size:g} Mpc/h; leave box_size out"
                )
            box_size = grid.box_size
            if any(side != grid.n_cells for side in values.shape):
                raise GridError(
                    f"the field has shape {values.shape}, only part of its grid of "
                    f"{grid.n_cells} cells a side; give the whole periodic box"
                )
            n_dim = values.ndim
        if box_size is None or not (np.isfinite(box_size) and box_size > 0):
            raise GridError(
                f"box_size must be positive and finite [Mpc/h], got {box_size}"
            )
        tensor = values if isinstance(values, Tensor) else _to_tensor(values)
        if not tensor.is_floating_point() or tensor.element_size() < 4:
            tensor = tensor.float()
        shape = tuple(tensor.shape)
        if n_dim is None:
            n_dim = 3 if len(shape) > 2 and len(set(shape[-3:])) == 1 else 2
        sides = shape[-n_dim:]
        if n_dim not in (2, 3) or len(sides) != n_dim or len(set(sides)) > 1:
            raise GridError(
                f"shape {shape} does not end in the equal sides of a periodic "
                f"{'square' if n_dim == 2 else 'cube'}; give (..., n, n) or "
                "(..., n, n, n)"
            )
        if sides[0] < 4:
            raise GridError(f"a field needs at least 4 cells a side, got {sides[0]}")
        return cls(tensor, float(box_size), n_dim, isinstance(values, Tensor))

    @property
    def n_cells(self) -> int:
        """Cells along one side."""
        return int(self.values.shape[-1])

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of space, counted from the end."""
        return tuple(range(-self.n_dim, 0))

    @property
    def fundamental(self) -> float:
        """Fundamental wavenumber [h/Mpc]."""
        return 2 * np.pi / self.box_size

    @property
    def volume(self) -> float:
        """Volume of the box [(Mpc/h)^n_dim]."""
        return self.box_size**self.n_dim

    def contrast(self, relative: bool) -> Tensor:
        """The field less its mean; divided by the mean if `relative`.

        Raises
        ------
        GridError
            If `relative` and the mean is not positive, as of an overdensity.
        """
        mean = self.values.mean(self.axes, keepdim=True)
        difference = self.values - mean
        if not relative:
            return difference
        scatter = difference.detach().square().mean(self.axes, keepdim=True).sqrt()
        if bool((mean.detach() <= 1e-4 * scatter).any()):
            raise GridError(
                f"the mean of the field is {float(mean.min()):.3g}, not that of a "
                "density; pass relative=False for an overdensity or any field that "
                "should not be divided by its mean"
            )
        return difference / mean

    def modes(self, relative: bool) -> Tensor:
        """Fourier transform of the contrast, shape ``(..., n[, n], n // 2 + 1)``."""
        transform: Tensor = torch.fft.rfftn(self.contrast(relative), dim=self.axes)
        return transform

    def result(self, tensor: Tensor) -> Any:
        """`tensor` in the kind that the field came in."""
        return tensor if self.as_tensor else tensor.numpy()


def _to_tensor(values: Any) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise GridError(f"a field must hold real numbers, got {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def squared_wavenumbers(n_cells: int, n_dim: int, device: torch.device) -> Tensor:
    """k^2 of the half-space modes in squared units of the fundamental.

    Returns
    -------
    Tensor
        Shape ``(n[, n], n // 2 + 1)``, int64.
    """
    full = torch.fft.fftfreq(n_cells, 1 / n_cells, dtype=torch.float64, device=device)
    half = torch.arange(n_cells // 2 + 1, device=device)
    total = half.square()
    for _ in range(n_dim - 1):
        total = full.round().long().square().reshape(-1, *[1] * total.ndim) + total
    return total
