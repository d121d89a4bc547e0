"""Pictures of every troublesome kind become RGBA or one clear sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.formats import images
from backend.formats.images import decode_image, decode_mask, encode_png, on_white, photo_on_white

GRADIENT = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (30, 1, 3))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def refused(data: bytes) -> MaquetteError:
    with pytest.raises(MaquetteError) as caught:
        decode_image(data)
    error = caught.value
    assert error.code == "bad_input" and error.failure.next_step
    assert str(error).endswith(".") and str(error)[0].isupper()
    return error


def test_plain_rgb_has_no_alpha():
    picture = decode_image(encode(Image.fromarray(GRADIENT)))
    assert picture.size == (40, 30) == picture.original_size
    assert not picture.has_alpha and (picture.rgba[..., 3] == 255).all()
    assert (picture.rgba[..., :3] == GRADIENT).all()


def test_empty_unknown_and_truncated():
    assert "empty" in str(refused(b""))
    assert "not a picture" in str(refused(b"hello, this is text"))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert "cut short" in str(refused(encode(noise)[:900]))
    assert "cut short" in str(refused(encode(noise, "JPEG")[:900]))


def test_fully_transparent_and_tiny():
    assert "transparent" in str(refused(encode(Image.new("RGBA", (32, 32), (255, 0, 0, 0)))))
    assert "larger" in str(refused(encode(Image.new("RGB", (3, 3)))))


def test_opaque_alpha_counts_as_no_cut_out():
    assert not decode_image(encode(Image.new("RGBA", (32, 32), (255, 0, 0, 255)))).has_alpha
    half = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 16, 32))
    assert decode_image(encode(half)).has_alpha


def test_sixteen_bit_grey_keeps_its_range():
    values = np.linspace(0, 65535, 40).astype(np.uint16)[None].repeat(30, 0)
    picture = decode_image(encode(Image.fromarray(values)))
    assert np.abs(picture.rgba[..., 0].astype(int) - GRADIENT[..., 0]).max() <= 1


def test_cmyk_palette_and_one_bit():
    cmyk = decode_image(encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.rgba[10, 10, 0] > 200 and cmyk.rgba[10, 10, 1] < 60
    palette = Image.new("RGB", (20, 20), (200, 30, 60)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(decode_image(encode(palette)).rgba[5, 5, :3].astype(int) - [200, 30, 60]).max() <= 8
    assert decode_image(encode(Image.new("1", (20, 20), 1))).rgba[0, 0].tolist() == [255] * 4


def test_palette_with_transparency_is_a_cut_out():
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    palette.paste(1, (5, 5, 15, 15))
    picture = decode_image(encode(palette, transparency=0))
    assert picture.has_alpha and picture.rgba[0, 0, 3] == 0 and picture.rgba[10, 10].tolist() == [255, 0, 0, 255]


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    picture = decode_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert picture.rgba[10, 10, 0] > 200 and picture.rgba[10, 10, 1] < 50


def test_exif_rotation_is_undone():
    sideways = Image.fromarray(GRADIENT)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    picture = decode_image(encode(sideways, "JPEG", exif=exif, quality=95))
    assert picture.size == (30, 40) == picture.original_size
    assert picture.rgba[0, 15, 0] < 40 < 200 < picture.rgba[39, 15, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_stands_upright(orientation):
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[:15, :20] = 255  # white above to the left, nothing elsewhere
    # How a camera stores it (EXIF 2.3, tag 0x0112): turned, mirrored or both.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    assert picture.size == (40, 30)
    assert (picture.rgba[..., :3] == upright).all()


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_twenty_thousand_pixels_are_shrunk_while_loading(mode):
    picture = decode_image(encode(Image.new(mode, (20000, 400), 1)))
    assert picture.original_size == (20000, 400) and max(picture.size) == images.LONGEST_SIDE


def test_a_turned_huge_jpeg_is_still_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode_image(encode(Image.new("RGB", (6000, 200), (9, 99, 199)), "JPEG", exif=exif))
    assert picture.original_size == (200, 6000) and picture.size[1] == images.LONGEST_SIDE


def test_decompression_bomb_is_refused_before_decoding():
    header = bytearray(encode(Image.new("L", (64, 64))))
    header[16:24] = (60000).to_bytes(4, "big") * 2  # IHDR claims 3.6 billion pixels; its checksum follows
    import zlib

    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    assert "450 million" in str(refused(bytes(header)))


def test_masks():
    mask = Image.new("L", (20, 10), 0)
    mask.paste(255, (5, 2, 15, 8))
    decoded = decode_mask(encode(mask), (40, 20))
    assert decoded.shape == (20, 40) and decoded[10, 20] == 255 and decoded[0, 0] == 0
    with pytest.raises(MaquetteError, match="marks no pixel") as caught:
        decode_mask(encode(Image.new("L", (20, 10), 0)), (40, 20))
    assert caught.value.failure.next_step == "give_mask"
    with pytest.raises(MaquetteError, match="The mask cannot be used"):
        decode_mask(b"", (40, 20))


def test_png_round_trip():
    image = np.random.default_rng(0).random((12, 9, 4)).astype(np.float32)
    image[..., 3] = 1.0
    decoded = decode_image(encode_png(image))
    assert np.abs(decoded.rgba / 255.0 - image).max() < 0.003


def test_a_cut_out_photo_on_white_is_mixed_by_its_alpha_and_shrinks_without_a_dark_rim():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (200, 0, 0, 255)
    rgba[0, 0, 3] = 51
    shown = on_white(rgba)
    assert shown.dtype == np.float32 and np.allclose(shown[0, 0], [0.2 * 200 / 255 + 0.8, 0.8, 0.8], atol=1e-6)
    assert np.array_equal(shown[:, 4:], np.ones((8, 4, 3)))  # the black under no alpha is not seen
    color, alpha = photo_on_white(rgba, (2, 4))
    assert color.shape == (4, 2, 3) and np.array_equal(alpha[1:], [[1, 0]] * 3)
    assert np.allclose(color[1:, 0], [200 / 255, 0, 0], atol=1e-6) and np.array_equal(color[:, 1], np.ones((4, 3)))
    assert abs(alpha[0, 0] - 0.9) < 0.003 and np.allclose(color[0, 0], [0.9 * 200 / 255 + 0.1, 0.1, 0.1], atol=0.006)
