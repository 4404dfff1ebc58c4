import numpy as np

from lafp.data.randomness import (
    derive_seed,
    keyed_normal,
    keyed_permutation,
    keyed_uint64,
    keyed_uniform,
)


def test_draws_are_uniform():
    draws = keyed_uniform(7, np.arange(200_000))
    assert draws.min() >= 0 and draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 43.8  # 19 degrees of freedom, p = 0.001


def test_neighbouring_keys_are_uncorrelated():
    draws = keyed_uniform(np.arange(300)[:, None], np.arange(300)) - 0.5
    for other in (np.roll(draws, 1, 0), np.roll(draws, 1, 1), draws.T):
        off_diagonal = ~np.eye(300, dtype=bool)
        assert abs((draws * other)[off_diagonal].mean()) * 12 < 0.02


def test_every_bit_is_used():
    bits = np.unpackbits(keyed_uint64(1, np.arange(4096)).view(np.uint8)).reshape(4096, 64)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.05)


def test_order_and_number_of_keys_matter():
    assert keyed_uint64(1, 2) != keyed_uint64(2, 1)
    assert keyed_uint64(1) != keyed_uint64(1, 0)


def test_large_and_negative_keys_are_allowed():
    assert keyed_uint64((1 << 63) - 1) != keyed_uint64(0)
    assert keyed_uint64(np.array([-1])) != keyed_uint64(np.array([1]))


def test_a_permutation_holds_every_index_and_favours_none():
    firsts = [keyed_permutation(10, 0, i)[0] for i in range(5000)]
    assert sorted(keyed_permutation(1000, 3)) == list(range(1000))
    np.testing.assert_allclose(np.bincount(firsts) / 5000, 0.1, atol=0.02)


def test_draws_never_change():
    """Runs are resumed by later versions: these numbers are a file format."""
    assert keyed_uint64(1, 2, 3) == np.uint64(15020427595393229491)
    assert derive_seed("decoder", 7) == 1383241437782287550


def test_keyed_normal_is_a_standard_normal_that_depends_on_its_keys_alone():
    draws = keyed_normal(3, np.arange(40_000))
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02
    assert abs((draws < -1.645).mean() - 0.05) < 0.005
    np.testing.assert_array_equal(draws[100:110], keyed_normal(3, np.arange(100, 110)))
    assert abs(np.corrcoef(draws, keyed_normal(4, np.arange(40_000)))[0, 1]) < 0.02
