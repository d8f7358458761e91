"""Fields as files: HDF5 that plain ``yt.load`` opens, and FITS that astropy opens.

Both hold the values bit by bit and everything else a `GalaxyField` knows, so that
reading gives back an equal field. HDF5 follows the Grid Data Format (GDF), for which
yt needs no plug-in, and holds one or many fields; FITS holds one. Files are written
whole or not at all. Nothing here knows of yt itself.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import h5py
import numpy as np
from astropy.io import fits, registry
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from ._files import atomic_path
from .errors import AstroganError, FieldFileError, UnknownFieldError
from .field_arithmetic import is_dask
from .field_description import arrays_of, describe, restore
from .field_specs import yt_unit
from .fields import GalaxyField
from .yt_bridge import CODE_UNITS, YtDomain, domain_of

__all__ = [
    "field_names",
    "read_fits",
    "read_hdf5",
    "register_formats",
    "write_fits",
    "write_hdf5",
]

_PathLike = str | os.PathLike[str]
_OURS = "astrogan_emu"
_GRID = "grid_0000000000"

# What the libraries raise for damaged input, beside our own refusals.
_DAMAGE = (
    AstroganError,
    AstropyUserWarning,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    fits.VerifyError,
)

_registered = False


def register_formats() -> None:
    """Make ``GalaxyField.read`` and ``.write`` know our formats, ``hdf5`` and ``fits``.

    `GalaxyField` calls it; calling it again changes nothing.
    """
    global _registered
    if _registered:
        return
    # First, as astropy looks at GalaxyField.read while it registers.
    _registered = True
    for name, read, write, suffixes, magic in (
        ("hdf5", read_hdf5, write_hdf5, (".h5", ".hdf5", ".gdf"), b"\x89HDF\r\n\x1a\n"),
        ("fits", read_fits, write_fits, (".fits", ".fit", ".fits.gz"), b"SIMPLE  ="),
    ):
        registry.register_reader(name, GalaxyField, read)
        registry.register_writer(name, GalaxyField, write)
        registry.register_identifier(name, GalaxyField, _identifier(suffixes, magic))


def write_hdf5(
    fields: GalaxyField | Sequence[GalaxyField],
    path: _PathLike,
    *,
    overwrite: bool = False,
) -> None:
    """Write one or many fields to an HDF5 file that ``yt.load`` opens as it is.

    Dask arrays are computed block by block.

    Parameters
    ----------
    fields
        A field with two or three axes, or several on the same cells.
    path
        The file to make.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    FileError
        The file exists and `overwrite` is false, or its folder does not exist.
    FieldFileError
        The meta data hold something that no file can keep.
    GridError, MissingParameterError
        The fields cannot share a box, as in `yt_bridge.domain_of`.
    """
    fields = [fields] if isinstance(fields, GalaxyField) else list(fields)
    domain = domain_of(fields)
    descriptions = [json.dumps(describe(field)) for field in fields]
    with atomic_path(path, overwrite) as temporary, h5py.File(temporary, "x") as file:
        identity = hashlib.sha256("".join(descriptions).encode()).hexdigest()
        _write_gdf_frame(file, domain, identity)
        ours = file.create_group(_OURS)
        for field, description in zip(fields, descriptions, strict=True):
            key = field.spec.yt_name[1]
            about = file.create_group(f"field_types/{key}")
            # Bytes, as yt decodes it; and never a field_to_cgs, which yt takes for
            # the unit.
            about.attrs["field_units"] = np.bytes_(yt_unit(field.unit))
            about.attrs["field_name"] = np.bytes_(field.spec.label)
            about.attrs["staggering"] = 0
            _store(file, f"data/{_GRID}/{key}", field.data, domain.shape)
            ours.create_group(key).attrs["description"] = description
            for name, array in arrays_of(field).items():
                _store(ours[key], name, array, array.shape)


def read_hdf5(path: Any, name: str | None = None) -> GalaxyField:
    """Read a field from an HDF5 file of `write_hdf5`.

    Parameters
    ----------
    path
        The file.
    name
        Which field, where there are several; `field_names` lists them.

    Raises
    ------
    FieldFileError
        The file is damaged, is of another kind, or does not have that field.
    """
    with _opened(path, "HDF5") as label, h5py.File(path, "r") as file:
        stored = _stored_names(file)
        key = _chosen(stored, name, label)
        ours = file[_OURS][key]
        description = json.loads(ours.attrs["description"])
        values = _load(file[f"data/{_GRID}/{key}"])
        arrays = {one: _load(ours[one]) for one in ours}
        return restore(description, values, arrays)


def field_names(path: Any) -> list[str]:
    """Names of the fields in an HDF5 file of `write_hdf5`.

    Raises
    ------
    FieldFileError
        The file is damaged or of another kind.
    """
    with _opened(path, "HDF5"), h5py.File(path, "r") as file:
        return list(_stored_names(file).values())


def write_fits(field: GalaxyField, path: _PathLike, *, overwrite: bool = False) -> None:
    """Write a field to a FITS file: an image, and a table with everything else.

    The image is ``field.data`` as it is, with the first FITS axis the last of the
    field; the world coordinates name them. The header repeats the parameters.

    Parameters
    ----------
    field
        A field with at least one axis.
    path
        The file to make.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    FileError
        The file exists and `overwrite` is false, or its folder does not exist.
    FieldFileError
        The unit contains ``littleh``, which FITS does not know, or the meta data hold
        something that no file can keep.
    """
    if field.ndim == 0:
        raise FieldFileError("a single value is no image; write a field with axes")
    try:
        unit = field.unit.to_string("fits")
    except ValueError as error:
        raise FieldFileError(
            f"FITS does not know the unit {field.unit}; convert first, such as with "
            f"field.to({str(field.spec.unit)!r})"
        ) from error
    image = fits.PrimaryHDU(np.asarray(field), field.wcs.to_header())
    image.header["BUNIT"] = (unit, "lengths are comoving")
    image.header["FIELD"] = (field.name, field.spec.label)
    for key, value in _header_values(field).items():
        # Long names become HIERARCH cards, without astropy's warning about it.
        image.header[key if len(key) <= 8 else f"HIERARCH {key}"] = value
    rows = describe(field)
    table = Table(
        {"name": list(rows), "json": [json.dumps(value) for value in rows.values()]}
    )
    extensions = [fits.BinTableHDU(table, name="ABOUT")]
    for name, array in arrays_of(field).items():
        extensions.append(fits.ImageHDU(array, name=name))
        if name == "uncert":
            # Where CCDData looks for it.
            extensions[-1].header["UTYPE"] = type(field.uncertainty).__name__
    hdus = fits.HDUList([image, *extensions])
    hdus.verify("exception")
    with atomic_path(path, overwrite) as temporary:
        hdus.writeto(temporary, checksum=True)


def read_fits(path: Any) -> GalaxyField:
    """Read a field from a FITS file of `write_fits`.

    Raises
    ------
    FieldFileError
        The file is damaged or of another kind.
    """
    with _opened(path, "FITS"), warnings.catch_warnings():
        # astropy only warns about truncated files and wrong checksums.
        warnings.simplefilter("error", AstropyUserWarning)
        with fits.open(path, checksum=True, memmap=False) as hdus:
            about = hdus["ABOUT"].data
            pairs = zip(about["name"], about["json"], strict=True)
            description = {str(key): json.loads(str(text)) for key, text in pairs}
            arrays = {
                hdu.name.lower(): _native(hdu.data)
                for hdu in hdus[1:]
                if isinstance(hdu, fits.ImageHDU)
            }
            return restore(description, _native(hdus[0].data), arrays)


def _identifier(suffixes: tuple[str, ...], magic: bytes) -> Callable[..., bool]:
    """What astropy asks whether a file is ours: by name, or by how it begins."""

    def identify(origin: str, path: Any, fileobj: Any, *args: Any, **kw: Any) -> bool:
        if path is not None and os.fspath(path).lower().endswith(suffixes):
            return True
        if origin == "read" and fileobj is not None:
            start = fileobj.tell()
            begins = fileobj.read(len(magic)) == magic
            fileobj.seek(start)
            return bool(begins)
        return False

    return identify


@contextmanager
def _opened(path: Any, kind: str) -> Iterator[str]:
    """Turn whatever a damaged file raises into one error of ours."""
    label = str(getattr(path, "name", path))
    try:
        yield label
    except UnknownFieldError:
        raise
    except FileNotFoundError as error:
        raise FieldFileError(f"{label} does not exist") from error
    except FieldFileError as error:
        raise FieldFileError(f"{label}: {error}") from error
    except _DAMAGE as error:
        raise FieldFileError(
            f"{label} is damaged, or no {kind} file of fields: {error}"
        ) from error


def _write_gdf_frame(file: h5py.File, domain: YtDomain, identity: str) -> None:
    """Write what GDF wants beside the values (gridded data format, version 1)."""
    about = file.create_group("gridded_data_format")
    about.attrs["data_software"] = _OURS
    about.attrs["data_software_version"] = version("astrogan-emu")
    parameters = file.create_group("simulation_parameters").attrs
    # Ours first, so that a parameter cannot take the place of one that yt reads.
    for name, value in domain.parameters.items():
        parameters[name] = value
    parameters["refine_by"] = 2
    parameters["dimensionality"] = domain.dimensionality
    parameters["domain_dimensions"] = np.array(domain.shape, dtype=np.int64)
    parameters["domain_left_edge"] = np.array(domain.left)
    parameters["domain_right_edge"] = np.array(domain.right)
    parameters["current_time"] = domain.age
    parameters["unique_identifier"] = identity
    parameters["field_ordering"] = 0
    # Zero means periodic, for both faces of each axis.
    parameters["boundary_conditions"] = np.repeat(
        [0 if periodic else 2 for periodic in domain.periodic], 2
    )
    parameters["num_ghost_zones"] = 0
    parameters["cosmological_simulation"] = 1
    parameters["current_redshift"] = domain.redshift
    parameters["omega_matter"] = domain.omega_m
    parameters["omega_lambda"] = 1 - domain.omega_m
    parameters["hubble_constant"] = domain.h
    units = file.create_group("dataset_units")
    for name, unit in CODE_UNITS.items():
        units[name] = 1.0
        units[name].attrs["unit"] = unit
    file.create_group("particle_types")
    file["grid_left_index"] = np.zeros((1, 3), dtype=np.int64)
    file["grid_dimensions"] = np.array([domain.shape], dtype=np.int64)
    # One axis, or yt fails on it.
    file["grid_level"] = np.zeros(1, dtype=np.int64)
    file["grid_particle_count"] = np.zeros((1, 1), dtype=np.int64)
    file["grid_parent_id"] = np.full(1, -1, dtype=np.int64)


def _store(group: h5py.Group, name: str, values: Any, shape: tuple[int, ...]) -> None:
    dataset = group.create_dataset(
        name, shape, values.dtype, chunks=True, fletcher32=True
    )
    if is_dask(values):
        import dask.array as da

        da.store(values.reshape(shape), dataset)
    else:
        dataset[...] = values.reshape(shape)


def _load(dataset: Any) -> NDArray[Any]:
    """The values of a dataset that really holds as much as it says."""
    if not isinstance(dataset, h5py.Dataset):
        raise FieldFileError("a group stands where values should be")
    claimed, stored = dataset.nbytes, dataset.id.get_storage_size()
    # Even zeros do not compress better; more is a file that would fill the memory.
    if claimed > 2000 * stored + 4096:
        raise FieldFileError(
            f"{dataset.name} claims {claimed} bytes of values and holds {stored}"
        )
    return np.asarray(dataset[()])


def _stored_names(file: h5py.File) -> dict[str, str]:
    """Our fields in a file: the key of each dataset and the name of the field."""
    if "gridded_data_format" not in file:
        raise FieldFileError("it has no group gridded_data_format")
    if _OURS not in file:
        raise FieldFileError(
            "it was written by another program; open it with yt.load and use "
            "GalaxyField.from_yt"
        )
    return {
        key: json.loads(group.attrs["description"])["spec"]["name"]
        for key, group in file[_OURS].items()
    }


def _chosen(stored: dict[str, str], name: str | None, label: str) -> str:
    keys = [key for key in stored if name is None or name in (key, stored[key])]
    if len(keys) == 1:
        return keys[0]
    raise UnknownFieldError(
        f"{label} holds the fields {', '.join(stored.values())}; "
        + ("give one as name" if name is None else f"there is no {name!r}")
    )


def _header_values(field: GalaxyField) -> dict[str, Any]:
    """What people look for in a FITS header; the table has it all."""
    model = field.model or {}
    values = {
        "REDSHIFT": field.redshift,
        "BOXSIZE": (field.grid.box_size / field.parameters["h"], "[Mpc] comoving"),
        "NCELLS": field.grid.n_cells,
        "SEED": field.seed,
        "MODEL": model.get("name"),
        "MODELSHA": model.get("sha256"),
    }
    for name, value in field.parameters.items():
        # A plain H would look like a Hubble constant in some unit.
        values["LITTLEH" if name == "h" else name.upper()] = value
    return {key: value for key, value in values.items() if value is not None}


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """FITS is big-endian, numpy's friends are not."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)
