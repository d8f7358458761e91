"""Many fields at once, as a lazy dask array that any scheduler can compute.

Sample i depends on the seed and i alone: not on chunks, scheduler, workers, order, or
how many samples there are. To write many samples to disk, and go on after an
interruption, use `generate`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, overload

import dask
import dask.array as da
import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from .checkpoints import ModelCard, load_model, model_names
from .errors import GridError
from .expected_errors import expected_meta
from .fields import GalaxyField
from .grids import GridSpec
from .sample_plan import SamplePlan, SampleRecipe, plan_samples
from .torch_threads import shared_cores

__all__ = ["FieldBatch", "emulate_batch"]

Chunks = Literal["auto"] | int | Sequence[int]
"""Samples per chunk; see `emulate_batch`."""

# Beyond this many tasks, handling them takes dask seconds.
_MOST_TASKS = 10_000


class FieldBatch:
    """Samples of some fields, and what each of them is.

    ``batch[i]`` is sample i, a `GalaxyField` by name; ``batch[2:5]`` and
    ``batch[batch.table["redshift"] == 0]`` are smaller batches; ``np.asarray(batch)``
    gives all values.

    Parameters
    ----------
    data
        Dask or NumPy array, float32, shape ``(n_samples, n_fields, n, n, n)``, or
        ``(n_samples, n_fields, n, n)`` for models of maps.
    table
        One row per sample: the parameters, ``redshift``, ``seed``, ``realization``,
        and ``flipped`` where samples are pairs.
    fields
        Names of the fields.
    units
        Unit of each field.
    grid
        Cells and box of every sample.
    model
        Name and SHA-256 of the model.
    parameter_names
        Which columns of the table are parameters.
    card
        Of the model, for the error to expect of a field. Samples from disk know it if
        the package ships their model.
    """

    def __init__(
        self,
        data: Any,
        table: QTable,
        *,
        fields: Sequence[str],
        units: Mapping[str, u.UnitBase],
        grid: GridSpec,
        model: Mapping[str, str],
        parameter_names: Sequence[str],
        card: ModelCard | None = None,
    ) -> None:
        self.data = data
        self.table = table
        self.fields = tuple(fields)
        self.units = dict(units)
        self.grid = grid
        self.model = dict(model)
        self.parameter_names = tuple(parameter_names)
        self.card = card

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(self.data.shape)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> dict[str, GalaxyField]: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Self: ...

    def __getitem__(self, index: Any) -> dict[str, GalaxyField] | Self:
        """One sample, computed; or a smaller batch, as lazy as this one."""
        if not isinstance(index, int | np.integer):
            chosen = np.arange(len(self))[index]
            return self._replaced(self.data[chosen], self.table[chosen])
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"there is no sample {index}; the batch has {len(self)} samples"
            )
        # All fields of a sample are made together, so they are computed together.
        values = np.asarray(self.data[int(index)])
        row = self.table[int(index)]
        parameters = {key: float(row[key]) for key in self.parameter_names}
        redshift = float(row["redshift"])
        return {
            name: GalaxyField(
                one,
                name=name,
                grid=self.grid,
                parameters=parameters,
                redshift=redshift,
                seed=int(row["seed"]),
                model=self.model,
                meta=self._expected(name, parameters, redshift),
                unit=self.units[name],
            )
            for name, one in zip(self.fields, values, strict=True)
        }

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """The values as a plain array; computes a dask array."""
        values = np.asarray(self.data, dtype=dtype)
        return values.copy() if copy and values is self.data else values

    def __repr__(self) -> str:
        lazy = ", lazy" if isinstance(self.data, da.Array) else ""
        return (
            f"<FieldBatch: {len(self)} samples of {', '.join(self.fields)}; "
            f"shape {self.shape}, box {self.grid.box_size:g} Mpc/h, model "
            f"{self.model.get('name', '?')!r}{lazy}>"
        )

    def compute(
        self, scheduler: Any = None, num_workers: int | None = None, **keywords: Any
    ) -> Self:
        """Emulate all samples into memory.

        Parameters
        ----------
        scheduler
            As for `dask.compute`; a `distributed.Client`, if there is one, by default.
        num_workers
            Threads or processes of a local scheduler.
        **keywords
            As for `dask.compute`.

        Returns
        -------
        FieldBatch
            The same batch, with a NumPy array as its data.
        """
        # Set here, and not passed on, so that tasks know how many run at once.
        settings = {} if num_workers is None else {"num_workers": num_workers}
        if scheduler is not None:
            keywords["scheduler"] = scheduler
        with dask.config.set(settings):
            (values,) = dask.compute(self.data, **keywords)
        return self._replaced(values, self.table)

    def to_zarr(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Emulate all samples into a zarr group, one chunk per sample.

        Only the samples being made are in memory. With a `distributed.Client` its
        workers write, on a file system that all of them see.

        Parameters
        ----------
        path
            A folder that is made, whole or not at all.
        overwrite
            Replace what is there, if that is a store of samples too.

        Raises
        ------
        FieldFileError
            If something is there and `overwrite` is false, or writing fails.
        MissingDependencyError
            If zarr is not installed.
        """
        from .sample_store import write_zarr

        write_zarr(self, path, overwrite=overwrite)

    @classmethod
    def from_zarr(cls, path: str | os.PathLike[str]) -> Self:
        """Open what `to_zarr` or `generate` wrote; its data stay on disk.

        Parameters
        ----------
        path
            The zarr group.

        Returns
        -------
        FieldBatch
            One chunk per sample.

        Raises
        ------
        FieldFileError
            If it is no finished store of fields.
        MissingDependencyError
            If zarr is not installed.
        """
        from .sample_store import read_zarr

        known = read_zarr(path)
        return cls(**known, card=_card(known["model"]))

    def _expected(
        self, name: str, parameters: Mapping[str, float], redshift: float
    ) -> dict[str, Any]:
        """What is known of the error of a field."""
        if self.card is None:
            return {}
        return expected_meta(self.card, name, parameters, redshift)

    def _replaced(self, data: Any, table: QTable) -> Self:
        return type(self)(
            data,
            table,
            fields=self.fields,
            units=self.units,
            grid=self.grid,
            model=self.model,
            parameter_names=self.parameter_names,
            card=self.card,
        )


def emulate_batch(
    parameters: Any,
    *,
    fields: Sequence[str] | None = None,
    n_realizations: int = 1,
    seed: int,
    redshift: Any = None,
    n_cells: int = 64,
    chunks: Chunks = "auto",
    initial_conditions: Any = None,
    model: str | os.PathLike[str] | None = None,
    extrapolate: bool = False,
    fixed: bool = False,
    paired: bool = False,
    same_phases: bool = False,
    names: Sequence[str] | None = None,
    device: str = "cpu",
) -> FieldBatch:
    """Many realisations of fields, as a lazy dask array.

    Everything is checked at once; nothing is emulated before the array is computed,
    with whatever scheduler the user has. The graph names the model's file, and each
    process reads it once.

    Parameters
    ----------
    parameters
        Sets of parameters: a table or structured array (a draw of a
        `ParameterSpace`, say), whose further columns are ignored; an array of shape
        ``(n_sets, n_parameters)``, in the order of `names`; a list of mappings,
        cosmologies or rows; or a single set.
    fields
        Which fields; all that the network makes if not given.
    n_realizations
        Realisations of each set.
    seed
        Whole number, not negative. Sample i has the seed
        ``SeedSequence(seed, spawn_key=(i,))``.
    redshift
        One, or one for each set. If not given, the column (or key) ``redshift`` of
        `parameters`, or 0.
    n_cells
        Cells per side; the box is `n_cells` times the model's cell size.
    chunks
        Samples per chunk, or the size of each chunk. ``"auto"`` is one sample, or as
        many as keep the graph to 10,000 tasks.
    initial_conditions
        As for `Emulator.emulate`, the same for all samples, which then differ in
        their parameters and in the generator's noise.
    model
        Name or file of the model; as for `emulate_galaxy_field` if not given, with
        the keys of mappings as the parameters that are named.
    extrapolate
        Go beyond the trained range with a warning.
    fixed
        Fix the amplitudes of the initial conditions (Angulo & Pontzen 2016).
    paired
        Make each realisation twice, the second time with all phases flipped; the two
        follow each other, share their seed, and count as one i for it.
    same_phases
        Give realisation j the seed of sample j for every set of parameters.
    names
        Names of the columns of a plain array; the model's own parameters, the five
        cosmological ones first, if not given.
    device
        ``"cpu"``, or ``"cuda"``: each process uses the first device that it sees.

    Returns
    -------
    FieldBatch
        Samples in the order realisation, set of parameters, member of the pair, the
        last running fastest: ``i = realisation * n_sets + set`` without pairs.

    Raises
    ------
    ParameterError
        If a parameter, redshift, seed or count is missing, unknown, or outside its
        range.
    UnknownFieldError, UnknownModelError, CheckpointError
        If the model does not make a field, or is not there.
    GridError
        If `n_cells`, `chunks` or the initial conditions do not fit.

    Notes
    -----
    Realisations can be added without a change to those before, and so can sets at the
    end of a design of one realisation. Sets added to a design of several realisations
    move the later realisations to other numbers, and so to other seeds; make them a
    batch of their own.

    Numbers agree to the rounding of float32 between chunks, schedulers and machines,
    not bit by bit: how sums are split depends on the number of threads.

    Examples
    --------
    >>> from astropy.cosmology import Planck18
    >>> batch = emulate_batch(Planck18, fields=["galaxies"], n_realizations=100, seed=1)
    >>> batch.data.mean(axis=0).compute()  # doctest: +SKIP
    """
    plan = plan_samples(
        parameters,
        fields=fields,
        n_realizations=n_realizations,
        seed=seed,
        redshift=redshift,
        n_cells=n_cells,
        initial_conditions=initial_conditions,
        model=model,
        extrapolate=extrapolate,
        fixed=fixed,
        paired=paired,
        same_phases=same_phases,
        names=names,
        device=device,
    )
    return FieldBatch(
        _lazy(plan, _chunks(chunks, len(plan))),
        plan.table,
        fields=plan.recipe.fields,
        units=plan.units,
        grid=plan.recipe.grid,
        model={"name": plan.settings["model"], "sha256": plan.recipe.sha256},
        parameter_names=plan.recipe.names,
        card=plan.card,
    )


def _card(model: Mapping[str, str]) -> ModelCard | None:
    """Card of a model that the package ships."""
    if model.get("name") not in model_names():
        return None
    found = load_model(model["name"])
    return found.card if found.sha256 == model.get("sha256") else None


def _lazy(plan: SamplePlan, chunks: tuple[int, ...]) -> da.Array:
    keywords: dict[str, Any] = {"recipe": plan.recipe}
    if plan.initial_conditions is not None:
        # One node of the graph for all chunks, instead of a copy in each.
        keywords["initial_conditions"] = dask.delayed(
            plan.initial_conditions, pure=True
        )
    shape = plan.sample_shape
    return da.map_blocks(
        _emulate_rows,
        da.from_array(plan.rows, chunks=(chunks,)),
        new_axis=list(range(1, 1 + len(shape))),
        chunks=(chunks, *((size,) for size in shape)),
        dtype=np.float32,
        # Without it, dask would ask the model for a sample of no size.
        meta=np.empty((0,) * (1 + len(shape)), dtype=np.float32),
        **keywords,
    )


def _emulate_rows(
    rows: NDArray[Any],
    *,
    recipe: SampleRecipe,
    initial_conditions: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """One chunk of the array; runs on the workers."""
    with shared_cores():
        return np.stack([recipe.emulate(row, initial_conditions) for row in rows])


def _chunks(chunks: Chunks, n_samples: int) -> tuple[int, ...]:
    """Size of each chunk along the samples."""
    sizes: Sequence[Any]
    if isinstance(chunks, str) and chunks == "auto":
        sizes = [-(-n_samples // _MOST_TASKS)]
    elif isinstance(chunks, int | np.integer):
        sizes = [chunks]
    elif isinstance(chunks, Sequence) and not isinstance(chunks, str):
        sizes = chunks
    else:
        sizes = []
    whole = all(isinstance(s, int | np.integer) and s > 0 for s in sizes)
    if not sizes or not whole or isinstance(chunks, bool):
        raise GridError(
            "chunks must be 'auto', a number of samples, or the number of samples in "
            f"each chunk, got {chunks!r}"
        )
    if len(sizes) > 1 and sum(sizes) != n_samples:
        raise GridError(
            f"chunks = {chunks!r} hold {sum(sizes)} samples, and there are {n_samples}"
        )
    if len(sizes) > 1:
        return tuple(int(size) for size in sizes)
    size = int(sizes[0])
    full, rest = divmod(n_samples, size)
    return (size,) * full + ((rest,) if rest else ())
