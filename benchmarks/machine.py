"""What this machine can do: rates of convolutions and times of Fourier transforms."""

import contextlib
import os
import platform
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "counted_transforms",
    "describe",
    "flops",
    "generate",
    "network_rate",
    "seconds",
    "shortest",
]


def describe(device="cpu"):
    """The machine and the software, in words."""
    cpu = platform.processor() or "unknown"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line for line in file if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "vector": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def seconds(function):
    """How long a call takes, with all that it left a GPU to do [s]."""
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait():
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def shortest(function, repeats=5, warm=1):
    """Shortest of several times [s], after a few calls to warm up."""
    for _ in range(warm):
        function()
    return min(seconds(function) for _ in range(repeats))


def flops(function):
    """Multiplications and additions of the convolutions and products of a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def network_rate(generator, n_cells):
    """Rate of the generator's own convolutions alone [flop/s].

    Every convolution of one call is repeated on random numbers of its shape, without
    anything around it: the floor of the generator's time.
    """
    shapes = []

    def record(original):
        def convolve(x, weight, *rest, **keywords):
            shapes.append((original, x.detach(), weight.detach(), rest, keywords))
            return original(x, weight, *rest, **keywords)

        return convolve

    functional = torch.nn.functional
    names = [f"conv{d}" for d in ("2d", "3d", "_transpose2d", "_transpose3d")]
    originals = {name: getattr(functional, name) for name in names}
    try:
        for name, original in originals.items():
            setattr(functional, name, record(original))
        generate(generator, n_cells)()
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)

    def again():
        with torch.no_grad():
            for original, x, weight, rest, keywords in shapes:
                original(x, weight, *rest, **keywords)

    return flops(again) / shortest(again), len(shapes)


def generate(generator, n_cells):
    """A call of the generator on random numbers, to be timed."""
    network = generator.config.network
    device = next(generator.parameters()).device
    base = torch.rand(1, network.in_channels, *(n_cells,) * network.n_dim).to(device)
    noise = generator.draw_noise(1, n_cells, torch.Generator(device).manual_seed(1))
    told = torch.rand(1, network.n_conditions).to(device)

    def call():
        with torch.no_grad():
            return generator(base, told, noise)

    return call


def counted_transforms(function):
    """Fourier transforms that a call makes: how many, and their time alone [s]."""
    calls = []
    module = torch.fft
    originals = {name: getattr(module, name) for name in ("rfftn", "irfftn")}

    def record(original):
        def transform(x, *rest, **keywords):
            calls.append((original, x.shape, x.dtype, x.device, rest, keywords))
            return original(x, *rest, **keywords)

        return transform

    try:
        for name, original in originals.items():
            setattr(module, name, record(original))
        function()
    finally:
        for name, original in originals.items():
            setattr(module, name, original)
    total = 0.0
    times = {}
    for original, shape, dtype, device, rest, keywords in calls:
        key = (original.__name__, shape, dtype)
        if key not in times:
            x = torch.rand(shape, device=device).to(dtype)

            def again(original=original, x=x, rest=rest, keywords=keywords):
                return original(x, *rest, **keywords)

            times[key] = shortest(again)
        total += times[key]
    return len(calls), total
