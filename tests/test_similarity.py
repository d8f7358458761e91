import numpy as np
import pytest
import torch

from astrogan_emu.errors import GridError
from astrogan_emu.similarity import diversity, nearest_neighbour_distance


def fields(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def slow_distance(one, other):
    """Smallest distance over every shift and flip, one by one."""
    one, other = one - one.mean(), other - other.mean()
    axes = range(one.ndim)
    best = np.inf
    for mirror in np.ndindex((2,) * one.ndim):
        image = np.flip(other, [axis for axis in axes if mirror[axis]])
        for shift in np.ndindex(one.shape):
            moved = np.roll(image, shift, tuple(axes))
            best = min(best, np.sum((one - moved) ** 2))
    return np.sqrt(best / (np.sum(one**2) + np.sum(other**2)))


@pytest.mark.parametrize("shape", [(6, 6), (5, 5), (4, 4, 4)])
def test_distance_equals_a_search_over_all_shifts_and_flips(shape):
    """Distances and nearest references agree with an explicit search."""
    samples, references = fields((2, *shape)), fields((3, *shape), seed=1) * 2 + 5
    slow = np.array([[slow_distance(s, r) for r in references] for s in samples])
    found = nearest_neighbour_distance(samples, references, n_dim=len(shape))
    np.testing.assert_allclose(found.distance, slow.min(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(found.reference, slow.argmin(axis=1))


def test_a_copy_is_found_however_it_was_moved_and_mirrored():
    """A shifted, flipped copy with another mean is at distance zero, to rounding."""
    references = fields((4, 8, 8, 8))
    copy = np.roll(references[2][:, ::-1, ::-1], (3, 1, 5), (0, 1, 2)) + 7.0
    found = nearest_neighbour_distance(copy, references)
    assert found.reference == [2]
    # The root of a rounding error of 1e-15.
    np.testing.assert_allclose(found.distance, 0, atol=1e-7)


def test_a_transposed_copy_is_found_only_when_asked_for():
    """Axes in another order are other fields, unless transposed is True."""
    references = fields((2, 8, 8, 8))
    copy = references[1].transpose(2, 0, 1)
    assert nearest_neighbour_distance(copy, references).distance[0] > 0.5
    found = nearest_neighbour_distance(copy, references, transposed=True)
    np.testing.assert_allclose(found.distance, 0, atol=1e-7)


def test_unrelated_fields_are_at_distance_one():
    """White noise is alike by chance only: a few sigma over all shifts and flips.

    The largest of 8 n^3 overlaps of scatter n^-1.5 is about 4.6 of them at n = 16.
    """
    found = nearest_neighbour_distance(
        fields((1, 16, 16, 16)), fields((1, 16, 16, 16), 1)
    )
    expected = np.sqrt(1 - 4.6 / 16**1.5)
    np.testing.assert_allclose(found.distance, expected, atol=0.02)


def test_float32_tensors_agree_with_arrays():
    """The precision of emulated fields is enough."""
    samples, references = fields((2, 8, 8, 8)), fields((3, 8, 8, 8), seed=1)
    exact = nearest_neighbour_distance(samples, references)
    tensors = (torch.tensor(x, dtype=torch.float32) for x in (samples, references))
    measured = nearest_neighbour_distance(*tensors)
    np.testing.assert_allclose(measured.distance, exact.distance, rtol=1e-5)


def test_diversity_looks_at_every_pair_and_finds_a_repetition():
    """Pairs come in order; a repeated sample makes the minimum vanish."""
    samples = fields((4, 6, 6))
    result = diversity(samples)
    expected = [
        slow_distance(samples[i], samples[j]) for i in range(4) for j in range(i + 1, 4)
    ]
    np.testing.assert_allclose(result.pairs, expected, rtol=1e-9)
    assert result.mean == pytest.approx(np.mean(expected))
    assert result.minimum == pytest.approx(np.min(expected))
    samples[3] = np.roll(samples[0], 2, 1)[::-1]
    assert diversity(samples).minimum == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("samples", "references", "match"),
    [
        (fields((2, 6, 6)), fields((2, 8, 8)), "cannot be compared"),
        (fields((2, 2, 6, 6)), fields((2, 6, 6)), "2 leading axes"),
        (np.ones((1, 6, 6)), fields((2, 6, 6)), "constant field"),
    ],
)
def test_fields_that_cannot_be_compared_are_refused(samples, references, match):
    """Other sizes, too many axes and constant fields are errors."""
    with pytest.raises(GridError, match=match):
        nearest_neighbour_distance(samples, references)


def test_one_sample_has_no_diversity():
    """At least two are needed."""
    with pytest.raises(GridError, match="at least two samples"):
        diversity(fields((1, 8, 8)))
