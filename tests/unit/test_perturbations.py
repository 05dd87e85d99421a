"""Perturbations as layers: the pixel node is the perturbed image, and everything said about it is true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import verifier
from verifier.encodings.perturbations import (
    PIXELS,
    Blend,
    Blur,
    Brightness,
    Contrast,
    Linear,
    Patch,
    Perturbation,
    Rotation,
    Shear,
    Translation,
    Zoom,
    box_mean,
    perturbed,
    shifted,
    warped,
)
from verifier.errors import InputError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import relu
from verifier.properties.query import Query, larger_output_disjuncts

SIZE = 7


def small_network(rng: np.random.Generator, shape: tuple[int, ...] = (1, SIZE, SIZE)) -> Network:
    builder = NetworkBuilder(shape)
    if len(shape) == 3:
        builder.add(Conv(rng.normal(size=(2, shape[0], 3, 3)), rng.normal(size=2), stride=(2, 2)))
        builder.add(relu())
        last = builder.add(Reshape((2 * 3 * 3,)))
        builder.add(Dense(rng.normal(size=(3, 18)), rng.normal(size=3)), last)
    else:
        builder.add(Dense(rng.normal(size=(3, shape[0])), rng.normal(size=3)))
    return builder.build()


def some_perturbations(rng: np.random.Generator) -> list[Perturbation]:
    return [
        Brightness(low=-0.4, high=0.5),
        Patch(top=1, left=2, height=2, width=3, low=-0.5, high=1.0),
        Patch(top=4, left=4, height=3, width=3, value=0.7, high=1.0),
        Contrast(low=-1.0, high=1.0),
        Contrast(pivot=None, low=-1.0, high=1.0),
        Blend(mask=rng.random((SIZE, SIZE)), other=rng.random((1, SIZE, SIZE)), high=1.0),
        Blend(mask=np.eye(SIZE), high=1.0),
        Blur(high=1.0),
        Linear(direction=rng.normal(size=SIZE * SIZE), low=-1.0, high=1.0),
        Translation(low=-2.5, high=2.0),
        Translation(down=1, right=-1, low=-1.0, high=1.5),
        Rotation(low=-20.0, high=15.0, poses=6),
        Zoom(low=-0.3, high=0.4, poses=5),
        Shear(low=-0.3, high=0.4, poses=4),
    ]


@given(seed=st.integers(0, 10_000), clip=st.booleans())
def test_the_pixel_node_is_the_perturbed_image_and_the_rest_the_network(seed: int, clip: bool) -> None:
    rng = np.random.default_rng(seed)
    known = some_perturbations(rng)
    picks = [known[i] for i in rng.choice(len(known), size=rng.integers(1, 4), replace=False)]
    network, image = small_network(rng), rng.random((SIZE, SIZE))
    layer = perturbed(network, image, picks, clip=clip)
    theta = layer.box.sample(8, rng)
    total = image[None] + sum(p.image_path(image[None])(theta[:, i]) for i, p in enumerate(picks))
    images = np.clip(total, 0, 1) if clip else total
    np.testing.assert_allclose(layer.network.values(theta)[PIXELS], images, atol=1e-12)
    np.testing.assert_allclose(layer.images(theta), images, atol=1e-12)
    np.testing.assert_allclose(layer.network.forward(theta), network.forward(images), atol=1e-10)
    np.testing.assert_allclose(layer.to_pixels(theta[0]), images[0].reshape(-1), atol=1e-12)
    gradient = layer.network.gradient(theta, 1, wrt=PIXELS)
    np.testing.assert_allclose(gradient, network.gradient(images, 1), atol=1e-10)
    np.testing.assert_allclose(layer.images(np.zeros((1, len(picks))))[0], image[None], atol=1e-12)


def test_whole_pixels_of_translation_move_the_image_exactly() -> None:
    image = np.random.default_rng(0).random((1, SIZE, SIZE))
    path = Translation(down=1, right=-1, low=-2.0, high=3.0).image_path(image)
    for k in (-2, -1, 0, 1, 2, 3):
        np.testing.assert_allclose(image + path(np.array([float(k)]))[0], shifted(image, k, -k), atol=1e-14)
    half = image + path(np.array([0.5]))[0]
    np.testing.assert_allclose(half, (image + shifted(image, 1, -1)) / 2, atol=1e-14)
    assert shifted(image, SIZE, 0).max() == 0.0


def test_blur_and_mean_filter_against_loops() -> None:
    image = np.random.default_rng(1).random((1, 4, 5))
    for edge in (False, True):
        expected = np.zeros_like(image)
        for i in range(4):
            for j in range(5):
                for a in (-1, 0, 1):
                    for b in (-1, 0, 1):
                        y, x = i + a, j + b
                        inside = 0 <= y < 4 and 0 <= x < 5
                        if edge or inside:
                            expected[0, i, j] += image[0, min(max(y, 0), 3), min(max(x, 0), 4)] / 9
        np.testing.assert_allclose(box_mean(image, 3, edge=edge), expected, atol=1e-14)


@pytest.mark.parametrize("warp", [Rotation(low=-12.0, high=12.0, poses=5), Zoom(high=0.5, poses=3), Shear(poses=3)])
def test_the_stated_error_of_sampled_poses_holds(warp: Rotation | Zoom | Shear) -> None:
    rng = np.random.default_rng(2)
    for image in (rng.random((1, 9, 9)), np.kron(np.eye(3), np.ones((3, 3)))[None]):
        bound = warp.approximation(image)
        path, worst = warp.image_path(image), 0.0
        for theta in np.linspace(warp.low, warp.high, 101):
            exact = warped(image, warp.matrix(theta))
            worst = max(worst, float(np.abs(exact - image - path(np.array([theta]))[0]).max()))
        assert 0.0 < worst <= bound
    np.testing.assert_allclose(
        image + path(np.array([warp.high]))[0], warped(image, warp.matrix(warp.high)), atol=1e-14
    )


def test_rotation_by_a_quarter_turns_the_image() -> None:
    image = np.random.default_rng(3).random((1, 5, 5))
    np.testing.assert_allclose(
        warped(image, Rotation(high=90.0).matrix(90.0)), np.rot90(image, axes=(1, 2)), atol=1e-12
    )


def test_interaction_bounds_what_applying_one_after_the_other_adds() -> None:
    rng = np.random.default_rng(4)
    network, image = small_network(rng), rng.random((SIZE, SIZE))
    first, second = Brightness(low=-0.3, high=0.4), Translation(low=-1.0, high=2.0)
    layer = perturbed(network, image, [first, second], clip=False)
    bound = layer.interaction()
    for theta in layer.box.sample(50, rng):
        brighter = image[None] + theta[0]
        moved = brighter + second.image_path(brighter)(theta[1:])[0]
        assert np.abs(moved - layer.images(theta)[0]).max() <= bound + 1e-12
    assert perturbed(network, image, [second, first], clip=False).interaction() == 0.0


def test_any_engine_takes_the_perturbed_network() -> None:
    rng = np.random.default_rng(5)
    network, image = small_network(rng), rng.random((SIZE, SIZE))
    layer = perturbed(network, image, [Brightness(high=0.3), Patch(top=0, left=0, high=0.3)])
    label = int(network.forward(image[None, None])[0].argmax())
    query = Query(network=layer.network, box=layer.box, disjuncts=larger_output_disjuncts(3, label))
    verdict = verifier.verify(query, timeout=30)
    sampled = layer.network.forward(layer.box.sample(2000, rng)).argmax(axis=1)
    assert verdict.status is (verifier.Status.HOLDS if (sampled == label).all() else verifier.Status.VIOLATED)
    if verdict.witness is not None:
        pixels = layer.to_pixels(verdict.witness.input)
        y = network.forward(pixels)
        assert np.delete(y, label).max() >= y[label] - 1e-12


def test_flat_networks_and_colour_images() -> None:
    rng = np.random.default_rng(6)
    flat = small_network(rng, (16,))
    layer = perturbed(flat, rng.random((4, 4)), [Brightness()])
    assert layer.network.values(np.zeros(1))[PIXELS].shape == (1, 16)
    colour = small_network(rng, (3, SIZE, SIZE))
    assert perturbed(colour, rng.random(3 * SIZE * SIZE), [Translation()]).image.shape == (3, SIZE, SIZE)


def test_bad_input_is_named() -> None:
    rng = np.random.default_rng(7)
    network, image = small_network(rng), rng.random((SIZE, SIZE))
    with pytest.raises(InputError, match=r"patch .*rows 5 to 7.* not inside the image of 7 × 7"):
        perturbed(network, image, [Patch(top=5, left=0)])
    with pytest.raises(InputError, match=r"brightness: the parameter range \[0.3, 0.3\] is empty"):
        Brightness(low=0.3, high=0.3)
    with pytest.raises(InputError, match="empty"):
        Brightness(low=float("nan"))
    with pytest.raises(InputError, match=r"not in \[0, 1\]: its values are .*divide by 255"):
        perturbed(network, 255 * image, [Brightness()])
    with pytest.raises(InputError, match="image of 4 entries for a network with 49"):
        perturbed(network, np.zeros((2, 2)), [Brightness()])
    with pytest.raises(InputError, match="no perturbation"):
        perturbed(network, image, [])
    with pytest.raises(InputError, match="no rows and columns"):
        perturbed(small_network(rng, (16,)), np.zeros(16), [Brightness()])
    with pytest.raises(InputError, match="linear: the direction"):
        perturbed(network, image, [Linear(direction=np.ones(3))])
    with pytest.raises(InputError, match="mask has entries outside"):
        perturbed(network, image, [Blend(mask=2.0)])
    with pytest.raises(InputError, match="odd"):
        perturbed(network, image, [Blur(size=4)])
    with pytest.raises(InputError, match="at least 2 poses"):
        perturbed(network, image, [Rotation(poses=1)])
