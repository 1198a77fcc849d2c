"""Preference pairs as a search gives them."""

from psr_ray.training.examples import PreferenceExample

VOCAB = 50


def search_pairs(num_steps, rng, name="s", prompt=9, step=5, shared=2):
    """Pairs as a search gives them: chosen and rejected begin alike; the chosen one continues."""
    prefix = [rng.randrange(VOCAB) for _ in range(prompt)]
    pairs = []
    for number in range(num_steps):
        chosen = [rng.randrange(VOCAB) for _ in range(step)]
        rejected = chosen[:shared] + [rng.randrange(VOCAB) for _ in range(step - shared)]
        pair = PreferenceExample(
            f"{name}#{number}", name, tuple(prefix), tuple(chosen), tuple(rejected)
        )
        pairs.append(pair)
        prefix = prefix + chosen
    return pairs
