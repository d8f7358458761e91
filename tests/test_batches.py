"""Batches of a training step: what the number of the step decides, and no more."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astrogan_emu.batches import SampleReader, draw_batch
from astrogan_emu.conditioning import conditions
from astrogan_emu.errors import TrainingError
from astrogan_emu.parameters import Parameter, ParameterSpace

SPACE = ParameterSpace((Parameter("omega_m", 0.1, 0.5),))
N = 8


class Samples:
    """Boxes whose target is a known function of their base."""

    n_dim, paired, space = 3, True, SPACE
    parameters = np.linspace(0.15, 0.45, 4)[:, None]
    redshifts = np.array([0.0, 0.5, 1.0, 2.0])

    def __init__(self):
        self.reads = 0

    def sample(self, index):
        """As of a training set."""
        self.reads += 1
        base = np.random.default_rng(index).random((1, N, N, N), np.float32)
        target = np.concatenate([2 * base, base**2])
        return base, target, self.parameters[index], self.redshifts[index]


def batch_of(step, size=3):
    reader = SampleReader(Samples(), torch.device("cpu"))
    return draw_batch(reader, np.arange(4), (0, step), size)


def test_the_number_decides():
    """The same number gives the same batch, another one another."""
    one, same, other = batch_of(5), batch_of(5), batch_of(6)
    assert torch.equal(one.base, same.base)
    assert torch.equal(one.target, same.target)
    assert torch.equal(one.conditions, same.conditions)
    assert not torch.equal(one.base, other.base)


def test_base_and_target_are_turned_alike():
    """In all fields, and no cell is lost."""
    batch = batch_of(7)
    torch.testing.assert_close(batch.target[:, 0], 2 * batch.base[:, 0])
    torch.testing.assert_close(batch.target[:, 1], batch.base[:, 0] ** 2)
    known = [np.sort(Samples().sample(i)[0].ravel()) for i in range(4)]
    for box in batch.base.numpy():
        assert any(np.array_equal(np.sort(box.ravel()), one) for one in known)


def test_orientations_differ():
    """The same box comes turned, mirrored and moved."""
    reader = SampleReader(Samples(), torch.device("cpu"))
    seen = [draw_batch(reader, [2], (1, step), 1).base for step in range(12)]
    assert len({box.numpy().tobytes() for box in seen}) == 12


def test_conditions_are_those_of_the_boxes():
    """Each box is told with its own parameters and redshift."""
    batch = batch_of(8, size=4)
    known = {float(Samples().sample(i)[0].max()): i for i in range(4)}
    for box, told in zip(batch.base, batch.conditions, strict=True):
        index = known[float(box.max())]
        own = conditions(SPACE, Samples.parameters[[index]], Samples.redshifts[index])
        torch.testing.assert_close(told, own[0])


def test_what_a_gpu_has_read_stays_there(monkeypatch):
    """Up to half of its free memory; the rest is read again."""
    size = 4 * 3 * N**3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * size, 0))
    data = Samples()
    device = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    reader = SampleReader(data, device)
    for _ in range(3):
        for index in range(4):
            base, _ = reader.read(index)
            np.testing.assert_array_equal(base, data.sample(index)[0])
            data.reads -= 1
    # Two of the four fit.
    assert data.reads == 2 + 3 * 2


def test_a_sample_without_base_is_refused():
    """It cannot be trained on."""
    data = Samples()
    monkey = data.sample
    data.sample = lambda index: (None, *monkey(index)[1:])
    reader = SampleReader(data, torch.device("cpu"))
    with pytest.raises(TrainingError, match="this training set has no bases"):
        draw_batch(reader, [0], (0,), 1)
