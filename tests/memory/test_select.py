import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from remembering import TEXT, keys, query, row, similarity

from pixelis.memory.remembered import Keys
from pixelis.memory.select import Hit, Part, RecallSettings, alike, diverse, merge, topic

LOOSE = RecallSettings(least=-9, diversity=0.0)


def hit(number, asked, settings=LOOSE, **given):
    item, made = row(number, **given)
    return Hit(item, similarity(asked, made, settings), 0.0, 0.0, made.joined)


def test_late_fusion_weighs_each_cosine_apart():
    """Golden: cos 0.6 of text at 0.4 and cos 0.8 of pixels at 0.6; the length of a raw key changes nothing."""
    asked = Keys(np.array([1, 0]), np.array([1, 0]), "v", "r")
    theirs = Keys(np.array([600, 800]), np.array([0.008, 0.006]), "v", "r")
    assert RecallSettings().weighed(asked) @ theirs.joined == pytest.approx(0.4 * 0.6 + 0.6 * 0.8)


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(1, 4), st.integers(1, 8))
def test_how_rows_are_spread_over_shards_is_no_matter(numbers, shards, count):
    asked, settings = keys(99), RecallSettings(least=-9, count=count)
    hits = [hit(n, asked, settings) for n in dict.fromkeys(numbers)]
    spread = [Part(tuple(hits[n::shards]), own=1) for n in range(shards)]
    whole = merge([Part(tuple(hits))], query(asked), settings, {})
    assert [one.item for one in merge(spread, query(asked), settings, {}).hits] == [one.item for one in whole.hits]
    assert len(whole.hits) == min(count, len(hits))


def test_without_diversity_the_most_similar_come_in_their_order():
    asked = keys(99)
    hits = [hit(n, asked) for n in range(30)]
    found = merge([Part(tuple(hits))], query(asked), LOOSE, {}).hits
    assert [one.similarity for one in found] == sorted((one.similarity for one in hits), reverse=True)[:8]


def test_diversity_takes_what_is_unlike_those_chosen():
    """Three much alike and a fourth less similar: at 0.3 the fourth comes second; the first is always the most similar."""
    asked = Keys(np.array([1.0, 0, 0]), np.array([1.0, 0, 0]), "v", "r")

    def at(angle, side):
        vector = np.array([np.cos(angle), np.sin(angle) * (side == 1), np.sin(angle) * (side == 2)])
        made = Keys(vector, vector, "v", "r")
        return Hit(row(int(100 * angle) + 1000 * side)[0], float(np.cos(angle)), 0.0, 0.0, made.joined)

    close, other = [at(0.50, 1), at(0.52, 1), at(0.54, 1)], at(0.6, 2)
    plain = diverse([*close, other], query(asked), LOOSE)
    mixed = diverse([*close, other], query(asked), RecallSettings(diversity=0.3))
    assert plain == [*close, other] and mixed == [close[0], other, close[1], close[2]]


def test_near_duplicates_must_be_alike_in_both_parts():
    one = keys(1)
    others = [one, Keys(one.text, keys(2).pixels, "v", "r"), Keys(keys(2).text, one.pixels, "v", "r")]
    assert alike(one.joined, np.array([k.joined for k in others]), TEXT, 0.995).tolist() == [True, False, False]


def test_the_same_episode_from_two_shards_comes_back_once():
    asked = keys(99)
    twice = [Part((hit(1, asked), hit(2, asked))), Part((hit(3, asked), hit(1, asked)))]
    assert sorted(one.item.id for one in merge(twice, query(asked), LOOSE, {}).hits) == ["episode1", "episode2", "episode3"]


def test_what_is_away_makes_it_partial():
    found = merge([Part(own=2, foreign=3)], query(keys(1)), LOOSE, {"1": "dead"})
    assert found.partial and found.own == 2 and found.foreign == 3 and found.hits == ()
    assert not merge([], query(keys(1)), LOOSE, {}).partial


def test_a_choice_is_compared_with_its_own_question_only():
    assert topic("choice", "A or B?") == topic("choice", " a or  b?") != topic("choice", "B or A?")
    assert topic("text", "one") == topic("text", "other") != topic("number", "one")


@pytest.mark.parametrize("wrong", [{"text": -1}, {"text": 0, "pixels": 0}, {"count": 0}, {"seconds": 0}, {"diversity": 2}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"must|between"):
        RecallSettings(**wrong)
