import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelis.tools.frame import View
from pixelis.tools.media import MediaError, MediaStore
from tests.fakes_media import avi, blank, jpeg, moving_square, mp4, plate, png


def test_bytes_are_stored_once_by_content(tmp_path: Path) -> None:
    for store in (MediaStore(), MediaStore(tmp_path)):
        sha = store.put(b"some bytes")
        assert store.put(b"some bytes") == sha and store.get(sha) == b"some bytes" and sha in store
        assert "0" * 64 not in store
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [sha]
    assert MediaStore(tmp_path).get(sha) == b"some bytes"


def test_an_unknown_hash_is_named() -> None:
    with pytest.raises(MediaError, match="000000000000: no such medium"):
        MediaStore().get("0" * 64)


def test_pixels_come_back(tmp_path: Path) -> None:
    pixels = plate("K7P")
    store = MediaStore()
    sha = store.put(png(pixels))
    info = store.info(sha)
    assert (info.kind, info.width, info.height, info.frames) == ("image", 320, 240, 1)
    assert np.array_equal(store.pixels(View(sha, (10, 20, 200, 220))), pixels[20:220, 10:200])


def test_pixels_cannot_be_changed() -> None:
    store = MediaStore()
    sha = store.put(png(blank()))
    with pytest.raises(ValueError, match="read-only"):
        store.pixels(View(sha, (0, 0, 9, 9)))[0, 0] = 1


def test_exif_turns_the_picture_upright() -> None:
    image = Image.fromarray(blank(30, 20))
    exif = image.getexif()
    exif[274] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    store = MediaStore()
    info = store.info(store.put(out.getvalue()))
    assert (info.width, info.height) == (20, 30)


def test_transparency_becomes_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(out, "PNG")
    store = MediaStore()
    assert store.pixels(View(store.put(out.getvalue()), (0, 0, 4, 4))).min() == 255


@pytest.mark.parametrize("encode", [avi, mp4])
def test_any_frame_in_any_order_equals_reading_forward(encode) -> None:
    frames, _ = moving_square(30, 4)
    data = encode(frames)
    store, other = MediaStore(), MediaStore(cache_bytes=1)
    sha = store.put(data)
    other.put(data)
    info = store.info(sha)
    assert (info.kind, info.frames, info.width, info.height) == ("clip", 30, 320, 240) and info.seconds > 2
    whole = (0, 0, 320, 240)
    forward = [store.pixels(View(sha, whole, n)).copy() for n in range(30)]
    for n in [29, 0, 13, 12, 14, 25, 3, 28, 29]:
        assert np.array_equal(other.pixels(View(sha, whole, n)), forward[n])
    for n, pixels in enumerate(forward):
        assert np.abs(pixels.astype(int) - frames[n]).mean() < 6


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (jpeg(plate("K7P"))[:2000], "broken image"),
        (png(plate("K7P"))[:500], "broken image"),
        (mp4(moving_square(12)[0])[:3000], "neither an image nor a clip|truncated"),
        (b"just some text that is nothing at all", "neither an image nor a clip"),
        (bytes(range(256)) * 20, "neither an image nor a clip"),
    ],
)
def test_bad_bytes_get_one_clear_line(data: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    store = MediaStore()
    sha = store.add_file(path)
    with pytest.raises(MediaError, match=what) as caught:
        store.info(sha)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_clip_cut_short_is_noticed() -> None:
    data = avi(moving_square(16)[0])
    store = MediaStore()
    with pytest.raises(MediaError):
        sha = store.put(data[: len(data) // 2])
        for n in range(store.info(sha).frames + 1):
            store.pixels(View(sha, (0, 0, 320, 240), n))
            assert n < 15


def test_the_cache_stays_within_its_bytes() -> None:
    store = MediaStore(cache_bytes=3 * 320 * 240 * 3)
    sha = store.put(avi(moving_square(12)[0]))
    for n in range(12):
        store.pixels(View(sha, (0, 0, 320, 240), n))
    assert store._cached <= store.cache_bytes and len(store._cache) == 3
