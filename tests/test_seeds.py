from video_dit.seeds import derive_seed


def test_seeds_are_the_same_for_ever() -> None:
    """Runs that are resumed years later, and clips that are made again, rest on these values (blake2b-64, halved)."""
    assert derive_seed(0, 1, "train/a.mp4#0") == 6725647409078992782
    assert derive_seed() == 6510301506637419378


def test_every_part_counts_and_so_does_where_it_ends() -> None:
    seeds = [derive_seed(*parts) for parts in [(1, 23), (12, 3), (123,), (1, 2, 3), ("1", "23", ""), (23, 1)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
