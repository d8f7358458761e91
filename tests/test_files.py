"""Files are whole or absent."""

import hashlib
import stat

import pytest

from astrogan_emu._files import atomic_path, sha256_of
from astrogan_emu.errors import FileError


def test_a_finished_file_takes_its_place_alone(tmp_path):
    """After success the target holds what was written, and nothing else is left."""
    target = tmp_path / "field.h5"
    with atomic_path(target) as path:
        path.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_appears_only_at_the_end(tmp_path):
    """While the body writes, no one can open half a file under the real name."""
    target = tmp_path / "field.h5"
    with atomic_path(target) as path:
        path.write_text("half")
        assert not target.exists()


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path):
    """An exception in the body keeps the old file and removes the new one."""
    target = tmp_path / "field.h5"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError("interrupted")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_is_beside_the_target_with_its_suffix(tmp_path):
    """Replacing stays within one file system, and writers see the right suffix."""
    with atomic_path(tmp_path / "snapshot.0.hdf5") as path:
        assert path.parent == tmp_path
        assert path.name.endswith("snapshot.0.hdf5")
        assert not path.exists()
        path.touch()


def test_permissions_are_those_of_any_new_file(tmp_path):
    """The result is as readable as a file written the ordinary way."""
    (tmp_path / "ordinary").touch()
    with atomic_path(tmp_path / "atomic") as path:
        path.touch()
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert len(modes) == 1


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    """With overwrite=False an existing file is refused before anything is written."""
    target = tmp_path / "field.h5"
    target.write_text("old")
    with (
        pytest.raises(FileError, match=r"field\.h5 exists; pass overwrite=True"),
        atomic_path(target, overwrite=False),
    ):
        pytest.fail("the body must not run")
    assert target.read_text() == "old"


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path):
    """With overwrite=False a file made by someone else during the writing stays."""
    target = tmp_path / "field.h5"
    with (
        pytest.raises(FileError, match="exists"),
        atomic_path(target, overwrite=False) as path,
    ):
        path.write_text("ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_no_target(tmp_path):
    """A folder is never replaced by a file."""
    with pytest.raises(FileError, match="is a folder"), atomic_path(tmp_path):
        pytest.fail("the body must not run")


def test_a_missing_folder_is_named(tmp_path):
    """A target in a folder that does not exist is refused with a clear message."""
    target = tmp_path / "missing" / "field.h5"
    with pytest.raises(FileError, match="make it first"), atomic_path(target):
        pytest.fail("the body must not run")


def test_a_body_that_writes_nothing_is_a_mistake(tmp_path):
    """A writer that changed the name is noticed instead of losing its output."""
    with (
        pytest.raises(FileError, match="nothing was written"),
        atomic_path(tmp_path / "field.npy"),
    ):
        pass


def test_sha256_is_that_of_the_bytes(tmp_path):
    """The fingerprint is the standard one."""
    path = tmp_path / "data"
    path.write_bytes(b"galaxies" * 100_000)
    expected = hashlib.sha256(b"galaxies" * 100_000).hexdigest()
    assert sha256_of(path) == expected


def test_sha256_of_a_missing_file_names_it(tmp_path):
    """A file that cannot be read is named in an error of ours."""
    with pytest.raises(FileError, match=r"cannot read .*absent"):
        sha256_of(tmp_path / "absent")
