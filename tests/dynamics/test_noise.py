"""Random numbers: known answers, one stream per system, and what happens to it."""

import numpy as np
import pytest
import torch

from nvdyn_ase.dynamics import ConvergenceHook, Langevin
from nvdyn_ase.dynamics.noise import Noise
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.philox import (
    Rows,
    normal,
    normal_torch,
    uniform,
    uniform_torch,
    words,
    words_torch,
)
from tests.wells import Well, wells

# From the tests of Random123, the authors' own library.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def streams(sizes=(2, 3, 1, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-(2**62), 2**62, (len(sizes), 1), generator=generator)
    positions = torch.randint(0, 2**40, (len(sizes), 1), generator=generator)
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    return keys, positions, Rows(ptr, torch.device("cpu"))


def of(noise, batch, steps=1, count=2):
    """Return normal numbers of some steps, (steps, V, 3 count)."""
    state = batch.like(system=noise.fields(batch, Places.of(batch)))
    frames = []
    for _ in range(steps):
        frames.append(torch.cat(noise.normals(batch, state, count), dim=1))
        noise.advance(state)
    return torch.stack(frames)


def batch_of(count, size=2, ids=None):
    batch = wells(*[1.0] * count, sizes=[size] * count)
    if ids is not None:
        batch["system_id"] = torch.tensor(ids).view(-1, 1)
    return batch


# -------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_words_are_those_of_its_authors(counter, key, expected):
    assert [int(w) for w in words(*map(np.uint64, counter + key))] == expected
    found = words_torch(*([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key]))
    assert [w.item() for w in found] == expected


@pytest.mark.parametrize("columns", [1, 2, 3, 6])
def test_the_loop_and_the_torch_operations_agree(columns):
    arguments = (*streams(), columns, 5)
    assert torch.equal(uniform(*arguments), uniform_torch(*arguments))
    torch.testing.assert_close(normal(*arguments), normal_torch(*arguments), rtol=0, atol=1e-14)


def test_numbers_have_the_moments_of_their_distribution():
    keys, positions, rows = streams([1000] * 20)
    x = normal(keys, positions, rows, 10, 0).flatten().numpy()
    u = uniform(keys, positions, rows, 10, 100).flatten().numpy()
    error = 4.5 / np.sqrt(len(x))  # of the mean of numbers with variance 1
    assert abs(x.mean()) < error
    assert abs((x**2).mean() - 1.0) < error * np.sqrt(2.0)
    assert abs((x**3).mean()) < error * np.sqrt(15.0)
    assert abs((x**4).mean() - 3.0) < error * np.sqrt(96.0)
    assert abs(u.mean() - 0.5) < error / np.sqrt(12.0)
    assert 0.0 <= u.min() < u.max() < 1.0
    counts = np.histogram(u, 100, (0.0, 1.0))[0]
    assert ((counts - len(u) / 100) ** 2).sum() / (len(u) / 100) < 99 + 4.5 * np.sqrt(2 * 99)


# -------------------------------------------------------------------------------- streams


def correlation(a, b):
    a, b = a.flatten(), b.flatten()
    return abs(float((a * b).mean())) * len(a) ** 0.5  # in units of its spread


def test_systems_steps_atoms_and_components_are_unrelated():
    x = of(Noise("test", 0), batch_of(6, size=5), steps=400).view(400, 6, 5, 6)
    for i in range(6):
        for j in range(i):
            assert correlation(x[:, i], x[:, j]) < 4.5
            assert correlation(x[..., i], x[..., j]) < 4.5
    for lag in (1, 2, 3, 10):
        assert correlation(x[lag:], x[:-lag]) < 4.5
    for i in range(5):
        for j in range(i):
            assert correlation(x[:, :, i], x[:, :, j]) < 4.5


@pytest.mark.parametrize("other", [43, 41, 2**32 + 42, 0])
def test_seeds_are_unrelated_also_shifted(other):
    batch = batch_of(2, size=5)
    a, b = of(Noise("test", 42), batch, 200), of(Noise("test", other), batch, 200)
    for lag in (0, 1, 2, 7):
        assert correlation(a[lag:], b[: len(b) - lag]) < 4.5
        assert correlation(b[lag:], a[: len(a) - lag]) < 4.5
    assert not torch.isin(a, b).any()
    swapped = b.view(200, 2, 5, 6).flip(1)
    assert correlation(a.view(200, 2, 5, 6), swapped) < 4.5


def test_purposes_are_unrelated():
    batch = batch_of(2)
    a, b = of(Noise("here", 1), batch, 100), of(Noise("there", 1), batch, 100)
    assert correlation(a, b) < 4.5
    assert not torch.isin(a, b).any()


def test_the_same_numbers_whatever_the_batch():
    everyone = of(Noise("test", 3), batch_of(8), 5).view(5, 8, 2, 6)
    order = [5, 0, 7]
    some = of(Noise("test", 3), batch_of(3, ids=order), 5).view(5, 3, 2, 6)
    assert torch.equal(everyone[:, order], some)
    larger = of(Noise("test", 3), batch_of(3, size=9, ids=order), 5).view(5, 3, 9, 6)
    assert torch.equal(larger[:, :, :2], some)


def test_one_seed_per_system():
    a = of(Noise("test", [5, 6, 5]), batch_of(3)).view(3, 2, 6)
    assert torch.equal(a[1], of(Noise("test", 6), batch_of(3)).view(3, 2, 6)[1])
    assert not torch.isin(a[0], a[2]).any()  # the same seed, and another system_id


def test_without_a_seed_it_is_drawn_from_numpy():
    drawn = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        drawn.append(of(Noise("test"), batch_of(2)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.isin(drawn[0], drawn[2]).any()
    noise = Noise("test", rng=np.random.default_rng(4))
    first = of(noise, batch_of(2))
    assert torch.equal(first, of(Noise("test", noise.seed), batch_of(2)))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seed": -1}, ValueError),
        ({"seed": 0.5}, TypeError),
        ({"seed": [1, 2, 3]}, ValueError),
        ({"rng": [np.random.default_rng()]}, ValueError),
        ({"seed": 1, "rng": np.random}, TypeError),
    ],
)
def test_what_cannot_be_is_refused(options, error):
    with pytest.raises(error, match=r"seed|rng"):
        of(Noise("test", **options), batch_of(2))


def test_draws_from_generators_are_ases_in_ases_order():
    generators = [np.random.default_rng(1), np.random.RandomState(2)]
    found = of(Noise("test", rng=generators), batch_of(2, size=4), steps=3).view(3, 2, 4, 6)
    for row, rng in enumerate([np.random.default_rng(1), np.random.RandomState(2)]):
        for step in range(3):
            xi, eta = rng.standard_normal(size=(4, 3)), rng.standard_normal(size=(4, 3))
            assert np.array_equal(found[step, row], np.concatenate([xi, eta], axis=1))


# -------------------------------------------------------------------------------- in an engine


def test_a_restart_goes_on_with_the_next_numbers():
    whole, first = wells(1.0, 2.0), wells(1.0, 2.0)
    Langevin(Well(), 0.3, 300.0, 0.1, seed=5).run(whole, n_steps=9)
    engine = Langevin(Well(), 0.3, 300.0, 0.1, seed=5)
    engine.run(first, n_steps=4)
    saved = {key: tensor.clone() for key, tensor in engine.state}
    second = wells(1.0, 2.0)
    for key in ("positions", "velocities"):
        second[key] = first[key].clone()
    other = Langevin(Well(), 0.3, 300.0, 0.1, seed=99)
    other.adopt(second)
    for key, tensor in saved.items():
        other.state[key] = tensor
    other.run(second, n_steps=5)
    assert torch.equal(whole["positions"], second["positions"])
    assert torch.equal(whole["velocities"], second["velocities"])


def test_generators_are_drawn_from_once_a_step_for_those_that_move():
    def generators():
        return [np.random.default_rng(i) for i in range(10)]

    distances = [0.01, 4.0, 0.5, 2.0, 0.02, 3.0, 1.0, 0.04, 0.9, 6.0]
    rngs, together = generators(), wells(*distances)
    hook = ConvergenceHook.from_fmax(0.3)
    Langevin(Well(), 1.0, 5.0, 0.2, rng=rngs, convergence_hook=hook).run(together, n_steps=60)
    assert len(set(together["steps"].view(-1).tolist())) > 3
    for row, rng in enumerate(generators()):
        alone = wells(*distances)[[row]]
        Langevin(Well(), 1.0, 5.0, 0.2, rng=[rng], convergence_hook=hook).run(alone, n_steps=60)
        assert torch.equal(together[[row]]["positions"], alone["positions"])
        assert torch.equal(together["steps"][row], alone["steps"][0])


def test_a_step_that_was_undone_uses_no_numbers_up():
    def interrupt(model):
        if model.forwards == 3:
            model.before = None
            raise KeyboardInterrupt

    for source in ({"seed": 1}, {"rng": [np.random.default_rng(i) for i in range(2)]}):
        model, batch = Well(), wells(1.0, 2.0)
        engine = Langevin(model, 0.3, 300.0, 0.1, **source)
        model.before = interrupt
        with pytest.raises(KeyboardInterrupt):
            engine.run(batch, n_steps=6)
        engine.run(batch, n_steps=6 - int(batch["steps"][0]))
        if "rng" in source:
            source = {"rng": [np.random.default_rng(i) for i in range(2)]}
        reference = wells(1.0, 2.0)
        Langevin(Well(), 0.3, 300.0, 0.1, **source).run(reference, n_steps=6)
        assert torch.equal(batch["positions"], reference["positions"])
