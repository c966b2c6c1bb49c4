"""Odd media come out right; what is no medium, too much of one, or made to harm gets one clear line and little memory."""

import os
import re
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelis.tools.clip import Clip
from pixelis.tools.frame import View
from pixelis.tools.limits import MediaLimits
from pixelis.tools.media import MediaError, MediaInfo, MediaStore
from tests.fakes_media import (
    BLUE,
    GREEN,
    RED,
    avi,
    blank,
    gif,
    h264,
    jpeg,
    moving_square,
    mp4,
    plate,
    png,
    saved,
    sound,
    turned,
)  # fmt: skip


def shown(data: bytes, frame: int | None = None) -> np.ndarray:
    store = MediaStore()
    sha = store.put(data)
    info = store.info(sha)
    return store.pixels(View(sha, (0, 0, info.width, info.height), frame))


def info_of(data: bytes, limits: MediaLimits | None = None) -> MediaInfo:
    store = MediaStore(limits=limits)
    return store.info(store.put(data))


def refused(data: bytes, limits: MediaLimits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        info_of(data, limits)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line


# Odd pictures


QUARTERS = np.concatenate([np.concatenate([blank(8, 6, RED), blank(8, 6, GREEN)], 1), blank(16, 6, BLUE)])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation: int) -> None:
    stored = {  # how the camera held it: what the tag undoes
        1: QUARTERS, 2: QUARTERS[:, ::-1], 3: QUARTERS[::-1, ::-1], 4: QUARTERS[::-1], 5: QUARTERS.transpose(1, 0, 2),
        6: np.rot90(QUARTERS, 1), 7: np.rot90(QUARTERS, 2).transpose(1, 0, 2), 8: np.rot90(QUARTERS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(shown(saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)), QUARTERS)


def test_sixteen_bits_become_eight() -> None:
    grey = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    for form in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(shown(saved(Image.fromarray(grey), form))[:, :, 1], grey >> 8), form
    dark = np.full((4, 4), 200, np.uint16)
    assert shown(saved(Image.fromarray(dark), "PNG")).max() == 0


def test_pixels_without_an_agreed_white_are_refused() -> None:
    assert "floating-point" in refused(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    assert "32-bit grey" in refused(saved(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"))


def test_print_colours_become_screen_colours() -> None:
    cmyk = Image.fromarray(np.full((16, 16, 4), (0, 255, 255, 0), np.uint8), "CMYK")
    for form in ("JPEG", "TIFF"):
        assert np.abs(shown(saved(cmyk, form)).astype(int) - (255, 0, 0)).max() < 8


def test_a_palette_with_transparency_lies_over_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    seen = shown(saved(image, "PNG", transparency=bytes([255, 128, 0])))
    assert seen[0, 0].tolist() == [10, 20, 30] and seen[0, 2].tolist() == [255, 255, 255]
    assert np.abs(seen[0, 1].astype(int) - (227, 177, 127)).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_picture_of_one_pixel_is_a_picture(form: str) -> None:
    assert shown(saved(Image.new("RGB", (1, 1), (250, 250, 250)), form)).shape == (1, 1, 3)


def test_an_animated_gif_is_a_clip_and_one_picture_a_picture() -> None:
    frames = [blank(40, 30, color) for color in (RED, GREEN, BLUE, RED)]
    info = info_of(gif(frames, [100, 200, 300, 400]))
    assert (info.kind, info.width, info.height, info.frames, info.seconds) == ("clip", 40, 30, 4, 1.0)
    for number in (3, 0, 2, 1):
        assert np.abs(shown(gif(frames), number).astype(int) - frames[number]).max() < 8
    assert info_of(gif(frames[:1])).kind == "image"
    first, second = Image.new("RGBA", (20, 10), (255, 0, 0, 0)), Image.new("RGBA", (20, 10), (0, 0, 255, 255))
    clear = saved(first, "GIF", save_all=True, append_images=[second], disposal=2)
    assert shown(clear, 0).min() == 255 and shown(clear, 1)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_animations_show_their_first_picture(form: str) -> None:
    first, second = Image.new("RGB", (20, 10), RED), Image.new("RGB", (20, 10), BLUE)
    data = saved(first, form, save_all=True, append_images=[second], **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(shown(data), np.array(first))


# Odd clips


def test_a_variable_frame_rate_keeps_order_and_seconds() -> None:
    stamps = [0, 400, 800, 2_000, 2_400, 9_000, 9_400, 9_800, 15_000, 15_400, 20_000, 29_600]
    frames, _ = moving_square(12, 14)
    data = h264(frames, stamps)
    store = MediaStore()
    sha = store.put(data)
    info = store.info(sha)
    assert info.frames == 12 and 2.96 <= info.seconds < 3.5
    for number in (11, 4, 5, 0, 7, 1):
        seen = store.pixels(View(sha, (0, 0, 320, 240), number)).astype(int)
        assert np.argmin([np.abs(seen - f).mean() for f in frames]) == number
        assert store.moment(sha, number) == pytest.approx(stamps[number] / 10_000, abs=0.002)


@pytest.mark.parametrize("quarter", range(4))
def test_a_phone_clip_is_upright(quarter: int) -> None:
    frames = [plate("K7P")] * 3
    seen = shown(turned(mp4(frames), quarter), 1)
    assert np.abs(seen.astype(int) - np.rot90(frames[1], -quarter)).mean() < 4


def broken_in_the_middle(data: bytes, number: int, each_frame: bytes) -> bytes:
    """The clip with the body of one frame overwritten."""
    at = [m.start() for m in re.finditer(re.escape(each_frame), data)][number]
    return data[: at + 4] + bytes(400) + data[at + 404 :]


def test_a_broken_frame_in_the_middle_spoils_no_other() -> None:
    frames, _ = moving_square(9)
    data = broken_in_the_middle(avi(frames), 4, b"\xff\xd8\xff\xe0")
    store = MediaStore()
    sha = store.put(data)
    assert store.info(sha).frames == 9
    for number in (0, 8, 4, 5, 3, 4):
        view = View(sha, (0, 0, 320, 240), number)
        if number == 4:
            with pytest.raises(MediaError, match="frame 4"):
                store.pixels(view)
        else:
            assert np.abs(store.pixels(view).astype(int) - frames[number]).mean() < 6


def test_frames_behind_a_broken_one_wait_for_the_next_key_frame() -> None:
    frames, _ = moving_square(36, 3)
    data = broken_in_the_middle(mp4(frames), 15, b"\x00\x00\x01\xb6")
    store = MediaStore()
    sha = store.put(data)
    good = []
    for number in range(store.info(sha).frames):
        try:
            seen = store.pixels(View(sha, (0, 0, 320, 240), number)).astype(int)
        except MediaError:
            continue
        assert np.abs(seen - frames[number]).mean() < 6
        good.append(number)
    assert set(range(15)) | set(range(24, 36)) <= set(good) and 15 not in good


def test_a_clip_without_pictures_is_named() -> None:
    assert "no video stream, only audio" in refused(sound())


def test_a_frame_of_another_size_is_no_crash() -> None:
    frames: list[np.ndarray] = [*[plate("K7P")] * 3, blank(100, 80), *[plate("K7P")] * 2]
    store = MediaStore()
    sha = store.put(avi(frames))
    assert store.info(sha).frames == 6
    with pytest.raises(MediaError, match="frame 3"):
        store.pixels(View(sha, (0, 0, 320, 240), 3))
    assert store.pixels(View(sha, (0, 0, 320, 240), 4)).shape == (240, 320, 3)


def test_a_very_long_clip_is_refused_by_its_frames_and_by_its_seconds() -> None:
    data = avi([blank(16, 16)] * 50)
    assert info_of(data, MediaLimits(frames=50)).frames == 50
    assert "at most 49 frames" in refused(data, MediaLimits(frames=49))
    assert "at most 5 seconds" in refused(data, MediaLimits(seconds=5))


def test_work_on_one_frame_ends_at_its_limit() -> None:
    frames, _ = moving_square(24)
    store = MediaStore(limits=MediaLimits(patience=-1.0))
    with pytest.raises(MediaError, match=r"no end found in -1 s"):
        store.info(store.put(mp4(frames)))


def test_a_frame_that_is_not_reached_in_time_is_given_up() -> None:
    clip = Clip(mp4(moving_square(24)[0]), "x.mp4", MediaLimits())
    clip._limits = MediaLimits(patience=-1.0)
    with pytest.raises(MediaError, match=r"x.mp4: frame 11 was not reached in -1 s, only frame 0"):
        clip.frame(11)
    clip._limits = MediaLimits()
    assert clip.frame(11).shape == (240, 320, 3)


def test_random_access_in_many_frames_is_quick() -> None:
    data = avi([blank(16, 16, (n % 250, 0, 0)) for n in range(3000)])
    store = MediaStore()
    sha = store.put(data)
    start = time.process_time()
    for number in (2999, 0, 1500, 7):
        assert abs(int(store.pixels(View(sha, (0, 0, 16, 16), number))[0, 0, 0]) - number % 250) < 8
    assert time.process_time() - start < 5


# Bombs


def sized(data: bytes, width: int, height: int) -> bytes:
    """A picture that declares another size."""
    if data.startswith(b"\x89PNG"):
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if data.startswith(b"GIF"):
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    at = data.index(b"VP8L") + 9  # 14 bits each, less one
    return data[:at] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[at + 4 :]


def wide_gif(side: int) -> bytes:
    """A GIF whose frame is larger than its screen says."""
    data = gif([blank(8, 8)])
    at = data.index(b",", 13 + (3 << (data[10] % 8 + 1))) + 5
    return data[:at] + struct.pack("<HH", side, side) + data[at + 4 :]


def true_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, one bit each, in a few kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_declared_size_above_the_limit_is_refused(form: str) -> None:
    data = saved(Image.fromarray(blank(8, 8)), form, **({"lossless": True} if form == "WEBP" else {}))
    side = 12_000 if form == "WEBP" else 20_000
    line = refused(sized(data, side, side))
    assert f"{side}x{side}" in line and "at most 64000000 pixels" in line and "tools.limits.pixels" in line


def test_a_legal_large_picture_passes_and_a_long_strip_does_not() -> None:
    assert info_of(saved(Image.new("L", (8000, 6000), 200), "PNG", compress_level=1)).width == 8000
    assert "at most 32767 side" in refused(saved(Image.new("L", (40_000, 2)), "PNG"))


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = saved(Image.fromarray(plate("K7P")), "JPEG", progressive=True)
    assert info_of(data).kind == "image"
    at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    assert "scans" in refused(data[:end] + data[at:end] * 120 + data[end:])
    assert info_of(data + data[at:end] * 120).kind == "image"  # behind the end: phones put a clip there


MEASURE = """
import resource, sys
from pathlib import Path
from pixelis.tools.media import MediaError, MediaStore
store = MediaStore()
store.info(store.put(Path(sys.argv[1]).read_bytes()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[2:]:
    try:
        store.info(store.put(Path(name).read_bytes()))
        print("passed", name)
    except MediaError as error:
        print("refused", error)
print("grown by kB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_refusing_bombs_takes_no_memory_and_says_nothing_on_stderr(tmp_path: Path) -> None:
    small = saved(Image.fromarray(blank(8, 8)), "WEBP", lossless=True)
    bombs = {
        "true.png": true_bomb(20_000),
        "wide.jpg": sized(jpeg(blank(8, 8)), 60_000, 60_000),
        "screen.gif": sized(gif([blank(8, 8)]), 65_535, 65_535),
        "canvas.webp": sized(small, 16_384, 16_384),
        "clip.avi": avi([blank(64, 64)] * 3).replace(jpeg(blank(64, 64)), sized(jpeg(blank(64, 64)), 16_000, 16_000)),
        "true.mp4": mp4([blank(6000, 4000)]),
    }
    for name, data in {"first.avi": avi([blank()] * 2), **bombs}.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / n) for n in ("first.avi", *bombs))],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["refused"] * len(bombs), done.stdout
    assert int(lines[-1].split()[-1]) < 64_000, done.stdout  # the pixels of each are 250 MB at least
    assert done.stderr == ""


def test_frames_above_the_limit_are_refused() -> None:
    for data in (mp4([blank(64, 48)] * 3), avi([blank(64, 48)] * 3), gif([blank(64, 48), blank(64, 48, RED)])):
        assert info_of(data, MediaLimits(frame_pixels=64 * 48)).width == 64
        assert "tools.limits.frame_pixels" in refused(data, MediaLimits(frame_pixels=64 * 48 - 1))


def test_no_warning_of_pil_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(true_bomb(10_000))
        refused(wide_gif(10_000))
        info_of(true_bomb(10_000), MediaLimits(pixels=100_000_000))


# What is no medium


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><image href="http://x/y.png"/></svg>', "an SVG"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", "a web page"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF"),
        (b"a plain text that someone named photo.jpg", "text"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "text"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "text"),
        (b"PK\x03\x04" + bytes(60), "an archive"),
        (os.urandom(4000), "no known kind"),
    ],
)
def test_what_only_claims_to_be_a_picture_is_named(data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(data)
    store = MediaStore()
    with pytest.raises(MediaError, match=what) as caught:
        store.info(store.add_file(tmp_path / "photo.jpg"))
    assert "photo.jpg: neither an image nor a clip" in str(caught.value) and "reads JPEG" in str(caught.value)


def test_a_phone_photo_in_heic_is_not_taken_for_a_clip() -> None:
    assert "a HEIC picture: save it as JPEG" in refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


# What is no file


def cannot_add(path: Path | str, what: str, limits: MediaLimits | None = None) -> None:
    with pytest.raises(MediaError, match=what) as caught:
        MediaStore(limits=limits).add_file(path)
    assert "\n" not in str(caught.value)


def test_a_link_is_not_followed_and_the_message_says_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(png(blank(4, 4)))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    told = f"link.png: a link, which is not followed: name the file itself, {tmp_path}/real.png"
    cannot_add(tmp_path / "link.png", re.escape(told))
    (tmp_path / "folder").symlink_to(tmp_path)
    assert MediaStore().add_file(tmp_path / "folder" / "real.png")


def test_pipes_devices_folders_and_sockets_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cannot_add(tmp_path / "pipe.png", "a pipe, not a file")  # opening it would wait for a writer, for ever
    cannot_add("/dev/zero", "a device, not a file")
    cannot_add(tmp_path, "a folder, not a file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        cannot_add(tmp_path / "s", "a socket, not a file")


def test_an_address_is_not_fetched() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for path in (f"http://127.0.0.1:{port}/a.png", Path(f"http://127.0.0.1:{port}/a.png"), "file:///etc/hosts"):
            cannot_add(path, "an address, and nothing is fetched")
        with pytest.raises(TimeoutError):
            server.accept()
    cannot_add("data:image/png;base64," + "A" * 9000, "an address")


def test_names_that_no_file_can_have_and_files_that_are_not_there() -> None:
    cannot_add("a\0b.png", "not the name of a file")
    cannot_add("x" * 5000, "not the name of a file")
    with pytest.raises(FileNotFoundError):
        MediaStore().add_file("/nowhere/at/all.png")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk
    cannot_add(path, r"1099511627776 bytes, but at most 536870912 bytes are allowed")
    data = png(plate("K7P"))
    assert "bytes" in refused(data, MediaLimits(bytes=len(data) - 1))
    assert info_of(data, MediaLimits(bytes=len(data))).width == 320


def test_a_file_that_says_it_is_empty_but_has_no_end_is_not_read() -> None:
    store = MediaStore()
    with pytest.raises(MediaError, match="empty"):
        store.info(store.add_file("/proc/self/status"))


def test_broken_bytes_of_every_format_are_a_picture_or_one_line() -> None:
    rng = np.random.default_rng(0)
    whole = [saved(Image.fromarray(plate("K7P")[::3, ::3]), f) for f in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")]
    whole += [avi(moving_square(4)[0]), mp4(moving_square(4)[0]), gif(moving_square(3)[0])]
    for data in whole:
        for _ in range(12):
            broken = bytearray(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.4 else data)
            for at in rng.integers(0, len(broken), 5).tolist():
                broken[at] = int(rng.integers(256))
            try:
                store = MediaStore()
                sha = store.put(bytes(broken))
                info = store.info(sha)
                for number in range(info.frames) if info.kind == "clip" else [None]:
                    store.pixels(View(sha, (0, 0, info.width, info.height), number))
            except MediaError as error:
                assert "\n" not in str(error)


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for data in (mp4(moving_square(4)[0])[:3000], sound(), b"x" * 100, sized(png(blank(4, 4)), 20_000, 20_000)):
        refused(data)
    assert len(os.listdir("/proc/self/fd")) == before
