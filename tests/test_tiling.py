"""Tiles give what the whole gives, and memory is known before it is used."""

from types import SimpleNamespace

import pytest
import torch

from astrogan_emu import machine_memory
from astrogan_emu.bases import BaseSettings
from astrogan_emu.box_memory import plan_memory
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import NotEnoughMemoryError, ParameterError
from astrogan_emu.generated_fields import generated_fields
from astrogan_emu.generators import FieldGenerator, FieldHead, GeneratorConfig
from astrogan_emu.machine_memory import available_memory, memory_limit
from astrogan_emu.networks import NetworkConfig
from astrogan_emu.tiling import (
    Tiling,
    bytes_per_cell,
    choose_tiling,
    corrections,
    margin,
)

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}


def toy(n_dim, widths=(2, 3, 4)):
    """A generator with living weights, told as much as the shipped one."""
    torch.manual_seed(1)
    heads = (FieldHead("matter", 0.2, True), FieldHead("galaxies", 0.1, False))
    network = NetworkConfig(n_dim, 1, 2, n_conditions=8, widths=widths, style=4)
    generator = FieldGenerator(GeneratorConfig(network, heads)).eval()
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return generator.requires_grad_(False)


def base_of(n_dim, n):
    generator = torch.Generator().manual_seed(2)
    return torch.rand((1, *(n,) * n_dim), generator=generator) * 3 + 0.01


@pytest.mark.parametrize("widths", [(3,), (2, 3), (2, 3, 4), (2, 2, 2, 2)])
def test_the_margin_is_what_the_network_can_see(widths):
    """A change beyond it changes nothing; a change just inside its last block does."""
    generator = toy(2, widths)
    wide, multiple = margin(generator.config.network), generator.network.config.multiple
    n = 2 * wide + 2 * multiple
    base = base_of(2, n)[None]
    # Seen from the first block of cells; on a torus, distances go both ways.
    far, inside = base.clone(), base.clone()
    far[0, 0, multiple + wide : n - wide] += 5
    inside[0, 0, n - wide : n - wide + multiple] += 5
    made = [
        generator.correction(one, torch.zeros(1, 8), None)[:, :, :multiple]
        for one in (base, far, inside)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


TILINGS = [
    (2, 96, (44, 96), "rows"),
    (2, 96, (32, 40), "uneven"),
    (3, 24, (12, 24, 24), "slabs"),
    (3, 24, (8, 16, 24), "bars"),
    (3, 24, (12, 12, 20), "cubes"),
]


@pytest.mark.parametrize(
    ("n_dim", "n", "tile"), [t[:3] for t in TILINGS], ids=[t[3] for t in TILINGS]
)
def test_tiles_give_what_the_whole_gives(n_dim, n, tile):
    """Fields, large scales and the mean are the same to the rounding of float32."""
    # A short reach in three dimensions, where margins are most of the work.
    generator = toy(n_dim, (2, 3, 4) if n_dim == 2 else (2, 3))
    model = SimpleNamespace(generator=generator, card=Emulator.load("nbody").card)
    wide = margin(generator.config.network)
    made = [
        generated_fields(model, base_of(n_dim, n), CENTRE, 0.5, 7, Tiling(n, cut, wide))
        for cut in ((n,) * n_dim, tile)
    ]
    assert Tiling(n, tile, wide).n_tiles > 1
    torch.testing.assert_close(made[1], made[0], rtol=2e-5, atol=1e-6)
    assert float(made[0].std()) > 0.01


def test_too_narrow_a_margin_shows():
    """The comparison above can fail."""
    generator = toy(2)
    base = base_of(2, 96)[None]
    whole, cut = (
        corrections(generator, base, torch.zeros(1, 8), lambda *_: None, tiling)
        for tiling in (Tiling(96, (96, 96), 0), Tiling(96, (48, 96), 8))
    )
    assert float((whole - cut).abs().max()) > 1e-3


def test_the_shipped_model_works_in_tiles():
    """It gives the same box."""
    emulator = Emulator.load("nbody")
    n = 32
    tiling = Tiling(n, (16, n, n), margin(emulator._model.generator.config.network))
    base = torch.cat([base_of(3, n), 0.01 * base_of(3, n).flip(1)])
    one, two = (
        generated_fields(emulator._model, base, CENTRE, 0.0, 1, cut)
        for cut in (emulator.memory_plan(n).tiling, tiling)
    )
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def test_every_cell_is_made_once():
    """Also by tiles that do not divide the grid."""
    count = torch.zeros(20, 20, 20)
    tiling = Tiling(20, (8, 12, 20), 4)
    for window in tiling.windows():
        count[window.place] += 1
        assert torch.zeros(window.shape)[window.inner].numel() > 0
    assert bool((count == 1).all())
    assert tiling.computed_cells > 20**3


NETWORK = NetworkConfig(3, 1, 2, n_conditions=8)


@pytest.mark.parametrize("n_cells", [64, 256, 512])
def test_less_memory_means_smaller_tiles_and_more_work(n_cells):
    """The chosen tiles fit, and more room never costs more work."""
    whole = n_cells**3 * bytes_per_cell(NETWORK)
    assert choose_tiling(n_cells, NETWORK, whole).tile == (n_cells,) * 3
    work = []
    for share in (1, 0.7, 0.4, 0.2):
        tiling = choose_tiling(n_cells, NETWORK, share * whole)
        if tiling is not None:
            assert tiling.window_cells * bytes_per_cell(NETWORK) <= share * whole
            work.append(tiling.n_tiles * tiling.window_cells)
    assert work == sorted(work)
    assert choose_tiling(n_cells, NETWORK, 1e6) is None


def test_the_goals_for_memory_are_within_the_plan():
    """256^3 cells under 6 GB, 512^3 under 20 GB."""
    assert plan_memory(256, NETWORK, available=6e9).needed < 6e9
    plan = plan_memory(512, NETWORK, available=20e9)
    assert plan.needed < 20e9
    assert f"in {plan.tiling.n_tiles} tiles" in str(plan)
    # The work done twice is less than the work itself.
    assert plan.tiling.computed_cells < 2 * 512**3


def test_a_box_that_cannot_fit_is_refused_at_once():
    """With what it needs, what there is, and what to do."""
    emulator = Emulator.load("nbody")
    with pytest.raises(NotEnoughMemoryError, match=r"n_cells = 4096 needs .* GB") as no:
        emulator.emulate(CENTRE, n_cells=4096, seed=1)
    assert isinstance(no.value, MemoryError)
    with pytest.raises(NotEnoughMemoryError, match="choose about 64 cells"):
        emulator.memory_plan(128, emulator.memory_plan(64).base / 1e9)
    with pytest.raises(ParameterError, match="max_memory must be positive"):
        emulator.emulate(CENTRE, n_cells=16, seed=1, max_memory=-1)


def test_a_larger_mesh_needs_more_memory():
    """The force mesh of a model may be finer than its cells."""
    assert BaseSettings().mesh_factor == 1
    one, two = (
        plan_memory(64, NETWORK, mesh_factor=f, available=1e12).base for f in (1, 2)
    )
    assert two > one


def test_a_large_box_says_what_it_needs(caplog):
    """In the log, before it starts."""
    with caplog.at_level("INFO", logger="astrogan_emu"):
        plan_memory(256, NETWORK, available=14e9)
    assert "256^3 cells needs" in caplog.text
    assert "14 available" in caplog.text


def test_available_memory_is_that_of_the_tightest_limit(monkeypatch):
    """Machine, container or worker; shared among tasks of one process."""
    monkeypatch.setattr(machine_memory, "_free", lambda: 10_000)
    monkeypatch.setattr(machine_memory, "_group_leaves", lambda: [8_000])
    monkeypatch.setattr(machine_memory, "_worker_leaves", lambda: [])
    alone = available_memory()
    assert 0.8 * 8_000 < alone < 8_000
    monkeypatch.setattr(machine_memory, "concurrent_tasks", lambda: 4)
    assert available_memory() == alone // 4
    monkeypatch.setattr(machine_memory, "_worker_leaves", lambda: [-5])
    assert available_memory() == 0
    assert memory_limit(2, "cpu") == 2e9


def test_free_memory_is_known():
    """More than nothing, less than a planet's."""
    assert 1e6 < available_memory() < 1e15


def test_halos_need_memory_of_their_own():
    """They are found when the particles have arrived, so the larger need counts."""
    without, with_halos = (
        plan_memory(64, NETWORK, halos=halos, available=1e12).base
        for halos in (False, True)
    )
    assert without < with_halos < 2 * without
    # Where the mesh is fine, the particle mesh needs most.
    fine = [
        plan_memory(64, NETWORK, mesh_factor=2, halos=halos, available=1e12).base
        for halos in (False, True)
    ]
    assert fine[0] == fine[1]
