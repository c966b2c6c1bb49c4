"""Coherence: what the cosine of neighbouring steps pays for, and what it must not."""

import torch

from pixelis.learners.coherence import Coherence
from pixelis.learners.running import Running


def test_raw_states_are_alike_and_centred_ones_tell_them_apart() -> None:
    """Every state shares one large direction, as a language model's do: without centring all chains would earn 1."""
    torch.manual_seed(0)
    common, a, b = torch.full((64,), 10.0), torch.randn(64), torch.randn(64)
    smooth, erratic = torch.stack([common + a, common + a + 0.1 * b]), torch.stack([common + a, common - a])
    assert torch.cosine_similarity(*erratic, dim=0) > 0.9
    coherence = Coherence(64)
    told = [raw for raw, _ in coherence.earned([smooth, erratic] * 20, [[False] * 2] * 40)]
    assert told[0] > 0.5 and told[1] < 0


def test_a_repeated_step_earns_nothing_and_short_chains_neither() -> None:
    steps = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    coherence = Coherence(2)
    coherence.earned([-steps], [[False] * 2])  # so that the centre lies between
    again, fresh, one, none = coherence.earned(
        [steps, steps, steps[:1], steps[:0]], [[False, True], [False, False], [False], []]
    )
    assert again == (0.0, 0.0) and one == (0.0, 0.0) and none == (0.0, 0.0)
    assert fresh[0] > 0.9


def test_the_scale_is_that_of_all_chains_so_far_and_bounded() -> None:
    torch.manual_seed(0)
    coherence = Coherence(8)
    for _ in range(50):
        coherence.earned([torch.randn(4, 8)], [[False] * 4])
    steps = torch.randn(1, 8).expand(4, 8)
    [(raw, scaled)] = coherence.earned([steps], [[False] * 4])
    assert raw > 0.9 and 2 < scaled <= 3.0


def test_statistics_go_on_where_they_were_saved() -> None:
    torch.manual_seed(0)
    chains = [torch.randn(3, 8) for _ in range(6)]
    whole, cut = Coherence(8), Coherence(8)
    expected = [whole.earned([c], [[False] * 3]) for c in chains]
    for c in chains[:3]:
        cut.earned([c], [[False] * 3])
    resumed = Coherence(8)
    resumed.restore(*cut.state())
    assert [resumed.earned([c], [[False] * 3]) for c in chains[3:]] == expected[3:]


def test_running_statistics_are_those_of_all_numbers() -> None:
    values = torch.randn(500, dtype=torch.float64) * 3 + 7
    running = Running()
    for some in values.split(37):
        running.add(some.tolist())
    assert abs(running.mean - float(values.mean())) < 1e-9
    assert abs(running.std - float(values.std(correction=0))) < 1e-9
    assert Running().scale(5.0) == 0.0
