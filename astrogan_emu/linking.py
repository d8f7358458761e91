"""Friends of friends: which particles hang together, exactly and quickly.

A grid of cells no smaller than the linking length holds every friend of a particle in
the 27 cells around it, and an eighth of such a cell, a subcell, is so small that all
particles in it are friends. So subcells are the nodes that are linked, and most links
are found with one particle of each; particle by particle is needed only between
subcells that are not yet in one group. Nothing here knows about halos.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .errors import GridError

__all__ = ["link_particles"]

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Pairs = tuple[Ints, Ints]

# Elements handled at once, so that temporary arrays stay in the processor's cache.
_BLOCK = 1 << 14
# Particle pairs between two subcells above which a tree is quicker than all of them.
_CROWDED = 1 << 12


def link_particles(
    positions: Floats, *, box_size: float, length: float, min_members: int
) -> tuple[Ints, Ints]:
    """Group particles that are connected by steps of at most the linking length.

    Parameters
    ----------
    positions
        Shape ``(n, 3)`` [Mpc/h], finite; wrapped into the box.
    box_size
        Side of the periodic box [Mpc/h].
    length
        Linking length [Mpc/h].
    min_members
        Particles that cannot be in a group of this many may be left out.

    Returns
    -------
    particles
        Indices of the particles in groups, and possibly some others.
    labels
        Group number of each of these particles, from 0 without gaps.

    Raises
    ------
    GridError
        If the linking length exceeds a seventh of the box.
    """
    n_side = int(box_size / length)
    if n_side < 7:
        # With fewer cells a subcell could be too large for all in it to be friends.
        raise GridError(
            f"a linking length of {length:g} Mpc/h is more than a seventh of the box "
            f"of {box_size:g} Mpc/h; give a smaller linking_length"
        )
    key, order = _sorted(_subcell_keys(positions, box_size, n_side))

    first = _starts(key >> 3)
    pairs = _neighbouring_cells(key[first] >> 3, n_side)
    order, key, pairs = _drop_sparse(order, key, first, pairs, min_members)
    if not len(order):
        return order, order

    found = _Linker(np.take(positions.T, order, axis=1), key, n_side, box_size, length)
    found.link_nearest_subcells()
    found.link_cells_by_one_pair(*pairs)
    found.link_the_rest(*pairs)
    return order, np.repeat(found.labels, found.n_particles)


def _subcell_keys(positions: Floats, box_size: float, n_side: int) -> Ints:
    """Key of each particle's subcell: 8 times that of its cell, plus 0 to 7."""
    keys = np.empty(len(positions), dtype=np.int64)
    for block in _blocks(len(positions)):
        # The same numbers as the distances are made of, whatever the positions' type.
        own = positions[block].astype(np.float64)
        sub = np.floor(own * (2 * n_side / box_size)).astype(np.int64)
        sub %= 2 * n_side
        x, y, z = (sub >> 1).T
        i, j, k = (sub & 1).T
        keys[block] = ((x * n_side + y) * n_side + z) * 8 + (4 * i + 2 * j + k)
    return keys


def _sorted(keys: Ints) -> tuple[Ints, Ints]:
    """Keys in rising order, and the place that each had."""
    # In a quarter of numpy's time.
    rising, order = torch.sort(torch.from_numpy(keys), stable=True)
    return rising.numpy(), _compact(order.numpy())


def _neighbouring_cells(cells: Ints, n_side: int) -> Pairs:
    """Every pair of touching occupied cells once; `cells` are their rising keys."""
    # One ghost cell beyond either end of each row makes z periodic, so that the
    # three neighbours in a row are always neighbours in the list of keys.
    width = n_side + 2
    row, z = np.divmod(cells, n_side)
    padded = row * width + z + 1
    number = _compact(np.arange(len(cells)))
    low, high = np.flatnonzero(z == 0), np.flatnonzero(z == n_side - 1)
    keys = np.concatenate([padded, padded[low] + n_side, padded[high] - n_side])
    owner = _compact(np.concatenate([number, low, high]))
    keys, rising = _sorted(keys)
    keys = np.append(keys, [np.iinfo(np.int64).max] * 3)
    owner = owner[rising]

    first: list[Ints] = []
    second: list[Ints] = []
    for block in _blocks(len(cells)):
        x, y = np.divmod(row[block], n_side)
        for dx, dy in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
            same_row = dx == dy == 0
            here = number[block]
            start = ((x + dx) % n_side * n_side + (y + dy) % n_side) * width
            end = start + z[block] + 2
            start += z[block] + (2 if same_row else 0)
            at = np.searchsorted(keys, start)
            for _ in range(1 if same_row else 3):
                near = np.flatnonzero(keys[at] <= end)
                here, at, end = here[near], at[near], end[near]
                first.append(here)
                second.append(owner[at])
                at = at + 1
    return np.concatenate(first), np.concatenate(second)


def _drop_sparse(
    order: Ints, key: Ints, first: Ints, pairs: Pairs, min_members: int
) -> tuple[Ints, Ints, Pairs]:
    """Leave out clumps of touching cells with too few particles for any group."""
    labels = _components(len(first), [pairs])
    count = np.diff(first, append=len(key))
    rich = np.bincount(labels, weights=count)[labels] >= min_members
    kept = np.repeat(rich, count)
    renumbered = _compact(np.cumsum(rich) - 1)
    # Both cells of a pair are in one clump.
    both = rich[pairs[0]]
    return (
        order[kept],
        key[kept],
        (renumbered[pairs[0][both]], renumbered[pairs[1][both]]),
    )


class _Linker:
    """Subcells, in the order of their keys, being linked into groups."""

    def __init__(
        self, positions: Floats, key: Ints, n_side: int, box_size: float, length: float
    ) -> None:
        self.n_side, self.box_size, self.length = n_side, box_size, length
        # Coordinate by coordinate: gathering is much quicker than from rows. So is this
        # than the remainder of a division.
        wide = positions.astype(np.float64)
        self.coordinates = list(wide - box_size * np.floor(wide / box_size))
        self.first_particle = _starts(key)
        self.key = key[self.first_particle]
        self.n_particles = np.diff(self.first_particle, append=len(key))
        cell = self.key >> 3
        self.first_subcell = _starts(cell)
        self.n_subcells = np.diff(self.first_subcell, append=len(cell))
        row, z = np.divmod(cell, n_side)
        x, y = np.divmod(row, n_side)
        self.place = [
            (2 * c + (self.key >> s & 1)).astype(np.int32)
            for c, s in ((x, 2), (y, 1), (z, 0))
        ]
        self.labels = _compact(np.arange(len(self.key)))

    def link_nearest_subcells(self) -> None:
        """Try one particle of each subcell against one of its neighbours'."""
        edges = []
        n, n_sub = self.n_side, 2 * self.n_side
        number = self.labels.dtype
        for block in _blocks(len(self.key)):
            key = self.key[block]
            here = np.arange(block.start, block.start + len(key), dtype=number)
            after = np.minimum(here + 1, len(self.key) - 1)
            same_cell = self.key[after] >> 3 == key >> 3
            edges.append(self._friends(here[same_cell], after[same_cell]))
            steps = ((4, 8 * n * n), (2, 8 * n), (1, 8))
            for place, (sub, cell) in zip(self.place, steps, strict=True):
                at = place[block]
                beyond = key + np.where(at & 1, cell - sub, sub)
                beyond -= np.where(at == n_sub - 1, cell * n, 0)
                there = np.searchsorted(self.key, beyond)
                there = np.minimum(there, len(self.key) - 1)
                found = np.flatnonzero(self.key[there] == beyond)
                edges.append(self._friends(here[found], there[found]))
        self._merge(edges)

    def link_cells_by_one_pair(self, first: Ints, second: Ints) -> None:
        """Try one particle of each cell against one of each touching cell."""
        edges = []
        for block in _blocks(len(first)):
            i = self.first_subcell[first[block]] + self.n_subcells[first[block]] - 1
            j = self.first_subcell[second[block]]
            apart = np.flatnonzero(self.labels[i] != self.labels[j])
            edges.append(self._friends(i[apart], j[apart]))
        self._merge(edges)

    def link_the_rest(self, first: Ints, second: Ints) -> None:
        """Try every particle against every other that is near but not in its group."""
        low = np.minimum.reduceat(self.labels, self.first_subcell)
        high = np.maximum.reduceat(self.labels, self.first_subcell)
        mixed = np.flatnonzero(low != high)
        open_pairs = (low[first] != high[second]) | (high[first] != low[second])
        first = np.concatenate([mixed, first[open_pairs]])
        second = np.concatenate([mixed, second[open_pairs]])
        edges = []
        for block in _blocks(len(first)):
            i, j = first[block], second[block]
            _, a, b = _all_pairs(
                self.first_subcell[i],
                self.n_subcells[i],
                self.first_subcell[j],
                self.n_subcells[j],
            )
            near = self.labels[a] != self.labels[b]
            for place in self.place:
                apart = np.abs(place[a] - place[b])
                # Three subcells further there is no friend any more.
                near &= (apart <= 2) | (apart >= 2 * self.n_side - 2)
            a, b = a[near], b[near]
            crowded = self.n_particles[a] * self.n_particles[b] > _CROWDED
            edges.append(self._friends_in_crowds(a[crowded], b[crowded]))
            a, b = a[~crowded], b[~crowded]
            pair, p, q = _all_pairs(
                self.first_particle[a],
                self.n_particles[a],
                self.first_particle[b],
                self.n_particles[b],
            )
            pair = pair[self._close(p, q)]
            edges.append((a[pair], b[pair]))
        self._merge(edges)

    def _close(self, p: Ints, q: Ints) -> NDArray[np.bool_]:
        """Whether the particles of each pair are friends."""
        squared = np.zeros(len(p))
        for x in self.coordinates:
            apart = np.abs(x[p] - x[q])
            np.minimum(apart, self.box_size - apart, out=apart)
            squared += apart * apart
        return squared <= self.length**2

    def _friends(self, a: Ints, b: Ints) -> Pairs:
        """The pairs of subcells whose first particles are friends."""
        close = self._close(self.first_particle[a], self.first_particle[b])
        number = self.labels.dtype
        return a[close].astype(number), b[close].astype(number)

    def _friends_in_crowds(self, a: Ints, b: Ints) -> Pairs:
        """The pairs of subcells, both of any number of particles, with any friends."""
        linked = []
        for i, j in zip(a, b, strict=True):
            one, other = (
                np.stack([x[start : start + count] for x in self.coordinates], axis=-1)
                for start, count in (
                    (self.first_particle[i], self.n_particles[i]),
                    (self.first_particle[j], self.n_particles[j]),
                )
            )
            # Bring the second subcell to the side of the first.
            shift = self.box_size * np.round((one[0] - other[0]) / self.box_size)
            closest, nearest = cKDTree(one).query(other + shift)
            best = int(np.argmin(closest))
            p = self.first_particle[i] + nearest[best]
            linked.append(bool(self._close(p[None], self.first_particle[j] + best)[0]))
        keep = np.array(linked, dtype=bool)
        return a[keep], b[keep]

    def _merge(self, edges: Sequence[Pairs]) -> None:
        """Join the groups that the given pairs of subcells connect."""
        joined = [(self.labels[a], self.labels[b]) for a, b in edges]
        n_groups = int(self.labels.max()) + 1
        self.labels = _components(n_groups, joined)[self.labels]


def _components(n_nodes: int, edges: Sequence[Pairs]) -> Ints:
    """Number of the connected component of each node."""
    if not edges:
        return np.arange(n_nodes)
    first = np.concatenate([pair[0] for pair in edges])
    second = np.concatenate([pair[1] for pair in edges])
    ones = np.ones(len(first), dtype=np.int8)
    graph = coo_array((ones, (first, second)), shape=(n_nodes, n_nodes))
    labels: Ints = connected_components(graph, directed=False)[1]
    return labels


def _all_pairs(start_a: Ints, n_a: Ints, start_b: Ints, n_b: Ints) -> tuple[Ints, ...]:
    """Every element of range a[i] with every one of range b[i], and i."""
    size = n_a * n_b
    pair = np.repeat(np.arange(len(size)), size)
    within = np.arange(len(pair)) - (np.cumsum(size) - size)[pair]
    row, column = np.divmod(within, n_b[pair])
    return pair, start_a[pair] + row, start_b[pair] + column


def _compact(numbers: Ints) -> Ints:
    """The same in half the memory, where they are not too large."""
    small = len(numbers) < np.iinfo(np.int32).max
    return numbers.astype(np.int32) if small else numbers


def _starts(rising: Ints) -> Ints:
    """Where each new value starts in a rising list."""
    return np.flatnonzero(np.diff(rising, prepend=rising[:1] - 1))


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _BLOCK):
        yield slice(start, min(start + _BLOCK, n))
