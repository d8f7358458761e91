"""Transforms: each undoes itself, on arrays and tensors, and survives JSON."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from astrogan_emu.errors import ParameterError
from astrogan_emu.transforms import (
    TRANSFORMS,
    Affine,
    Asinh,
    Compose,
    Log1p,
    Log10,
    from_dict,
)

# One of each kind, with the values it is for.
EXAMPLES = {
    "Affine": (Affine(shift=-2.5, scale=3.0), -1e4, 1e4),
    "Asinh": (Asinh(scale=0.5), -1e6, 1e6),
    "Compose": (Compose((Log1p(0.1), Affine(1.0, 2.0))), 0.0, 1e6),
    "Log10": (Log10(scale=1e4), 1e-3, 1e9),
    "Log1p": (Log1p(scale=0.2), 0.0, 1e6),
}


def values_between(low, high):
    """Small float32 grids; no denormal numbers, which processors may flush to 0."""
    numbers = st.floats(float(low), float(high), width=32, allow_subnormal=False)
    return arrays(np.float32, (2, 3, 2), elements=numbers)


def test_every_transform_has_an_example_here():
    """A new transform is put under test, or this fails."""
    assert set(EXAMPLES) == set(TRANSFORMS)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("kind", ["array", "tensor"])
@given(data=st.data())
def test_inverse_undoes_forward(name, kind, data):
    """Round trips return the values to a few roundings of float32."""
    transform, low, high = EXAMPLES[name]
    low, high = np.float32(low), np.float32(high)
    values = data.draw(values_between(np.nextafter(low, high), np.nextafter(high, low)))
    given_values = torch.from_numpy(values) if kind == "tensor" else values
    back = np.asarray(transform.inverse(transform.forward(given_values)))
    assert back.dtype == np.float32
    # A logarithm of about 20 holds its argument to 20 times the rounding of 6e-8; a
    # value near 0 is held to the rounding of the shift or scale.
    np.testing.assert_allclose(back, values, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", EXAMPLES)
def test_forward_undoes_inverse(name):
    """The other way round as well, in float64."""
    transform, _, _ = EXAMPLES[name]
    latent = np.linspace(0.01, 5, 40)
    np.testing.assert_allclose(
        transform.forward(transform.inverse(latent)), latent, rtol=1e-12
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_forward_rises(name):
    """More stays more, so peaks stay peaks."""
    transform, low, high = EXAMPLES[name]
    seen = transform.forward(np.linspace(low, high, 100))
    assert (np.diff(seen) > 0).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_arrays_and_tensors_agree(name):
    """NumPy and torch give the same numbers."""
    transform, low, high = EXAMPLES[name]
    values = np.linspace(low, high, 50)
    tensor = transform.forward(torch.from_numpy(values))
    assert isinstance(tensor, torch.Tensor)
    # Both in float64; their libraries may round differently.
    np.testing.assert_allclose(tensor.numpy(), transform.forward(values), rtol=1e-13)


@pytest.mark.parametrize("transform", [e[0] for e in EXAMPLES.values()] + [Compose(())])
def test_results_are_new(transform):
    """Nothing is changed in place, and no result shares memory with its input."""
    values = np.linspace(1, 2, 8)
    before = values.copy()
    for result in (transform.forward(values), transform.inverse(values)):
        assert not np.shares_memory(result, values)
    tensor = torch.from_numpy(values)
    for result in (transform.forward(tensor), transform.inverse(tensor)):
        assert result.data_ptr() != tensor.data_ptr()
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients_pass_through_the_round_trip(name):
    """The derivative of the round trip is 1."""
    transform, low, high = EXAMPLES[name]
    values = torch.linspace(low + 1, high / 10, 9, dtype=torch.float64)
    values.requires_grad_()
    transform.inverse(transform.forward(values)).sum().backward()
    # To rounding of float64 after division by derivatives of up to 1e8.
    torch.testing.assert_close(values.grad, torch.ones_like(values), rtol=1e-7, atol=0)


def test_log1p_is_never_below_its_domain():
    """Whatever the network says, a density stays above -scale."""
    assert Log1p(scale=0.5).inverse(np.array([-1e3])) == pytest.approx(-0.5)


def test_an_empty_composition_is_the_identity():
    """Fields that need no scaling get a transform all the same."""
    values = np.array([1.5, -2.0])
    np.testing.assert_array_equal(Compose(()).forward(values), values)
    np.testing.assert_array_equal(Compose(()).inverse(values), values)


def test_a_composition_applies_its_steps_in_order():
    """The first step sees the physical values."""
    both = Compose((Log10(), Affine(shift=1.0, scale=2.0)))
    assert both.forward(np.array([1e5])) == pytest.approx(2.0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_json_returns_an_equal_transform(name):
    """What a file holds is the transform itself, to the last digit."""
    transform, _, _ = EXAMPLES[name]
    description = json.loads(json.dumps(transform.to_dict()))
    assert from_dict(description) == transform


@pytest.mark.parametrize(
    "description",
    [
        None,
        {},
        {"name": "Exec", "scale": 1.0},
        {"name": ["Log1p"]},
        {"name": "Log1p", "size": 1.0},
        {"name": "Log1p", "scale": "1"},
        {"name": "Log1p", "scale": None},
        {"name": "Compose"},
        {"name": "Compose", "steps": 3},
        {"name": "Compose", "steps": ["Log1p"]},
    ],
)
def test_a_wrong_description_is_refused(description):
    """Whatever a file holds in place of a transform, the error is ours."""
    with pytest.raises(ParameterError, match=r"transform|finite number"):
        from_dict(description)


@pytest.mark.parametrize("kind", [Log1p, Log10, Asinh, Affine])
@pytest.mark.parametrize("scale", [0.0, np.inf, np.nan])
def test_a_scale_must_scale(kind, scale):
    """Zero and infinite scales have no inverse."""
    with pytest.raises(ParameterError, match="scale of"):
        kind(scale=scale)


def test_negative_scales_are_refused_where_they_flip_the_domain():
    """A density with a negative scale would have no logarithm."""
    with pytest.raises(ParameterError, match="must be positive, got -1"):
        Log1p(scale=-1.0)
