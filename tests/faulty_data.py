"""Datasets with planted faults, and clean ones of the same kind.

`PICTURES` and `TABLES` list the faults: each is put into a clean dataset by a function, and says the kind of finding
that must name it and the places that must be in it.
"""

from __future__ import annotations

import csv
import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

CLASSES = ("ant", "bee", "wasp")
EACH = 12


def finding_of(report, kind: str):
    """The finding of a kind in a report, or None."""
    return next((finding for finding in report.findings if finding.kind == kind), None)


def picture(seed: int, size: tuple[int, int] = (72, 56)) -> Image.Image:
    """Coloured clouds, no two alike."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def clean_pictures(root: pathlib.Path, parts: tuple[str, ...] = ("",)) -> pathlib.Path:
    """Writes a folder with nothing wrong in it."""
    seed = 0
    for part in parts:
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(EACH):
                (folder / f"{i:02d}.jpg").write_bytes(encoded(picture(seed), quality=90))
                seed += 1
    return root


def _bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(901), exif=exif)


def _deep() -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(2).integers(0, 65535, (40, 50), np.uint16)), "PNG")


def _palette() -> bytes:
    made = picture(903).quantize(32)
    return encoded(made, "PNG", transparency=3)


def _see_through() -> bytes:
    made = picture(904).convert("RGBA")
    made.putalpha(120)
    return encoded(made, "PNG")


def _moving(kind: str) -> bytes:
    return encoded(picture(905), kind, save_all=True, append_images=[picture(906), picture(907)])


def _file(name: str, data: bytes | Callable[[], bytes]) -> Callable[[pathlib.Path], None]:
    def put(root: pathlib.Path) -> None:
        (root / "bee" / name).write_bytes(data() if callable(data) else data)

    return put


def _change(change: Callable[[Image.Image], Image.Image], name: str, place: str = "bee") -> Callable:
    def put(root: pathlib.Path) -> None:
        made = change(Image.open(root / "bee" / "03.jpg").convert("RGB"))
        (root / place / name).write_bytes(encoded(made, "PNG" if name.endswith("png") else "JPEG", quality=85)
                                          if not name.endswith("png") else encoded(made, "PNG"))  # fmt: skip

    return put


def _link(name: str, target: str) -> Callable[[pathlib.Path], None]:
    return lambda root: os.symlink(target, root / "bee" / name)


def _folder(name: str) -> Callable[[pathlib.Path], None]:
    return lambda root: (root / name).mkdir()


def _twin(root: pathlib.Path) -> None:
    (root / "Bee ").mkdir()
    for i in range(EACH):
        (root / "Bee " / f"{i}.jpg").write_bytes(encoded(picture(2000 + i)))


def _few(root: pathlib.Path) -> None:
    for i in range(3, EACH):
        (root / "wasp" / f"{i:02d}.jpg").unlink()


def _many(root: pathlib.Path) -> None:
    for i in range(60):
        (root / "ant" / f"more{i}.jpg").write_bytes(encoded(picture(3000 + i)))


def _formats(root: pathlib.Path) -> None:
    for i in range(EACH):
        path = root / "wasp" / f"{i:02d}.jpg"
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()


def _crop(image: Image.Image) -> Image.Image:
    return image.crop((2, 1, image.width - 2, image.height - 2))


# name -> (puts the fault into a clean folder, kind of the finding, what its items must name)
PICTURES: dict[str, tuple[Callable[[pathlib.Path], None], str, str]] = {
    "zero bytes": (_file("x.jpg", b""), "unusable", "x.jpg is empty"),
    "cut JPEG": (_file("x.jpg", lambda: encoded(picture(900))[:-90]), "unusable", "x.jpg is damaged or cut off"),
    "cut PNG": (_file("x.png", lambda: encoded(picture(900), "PNG")[:-90]), "unusable", "x.png is damaged"),
    "cut GIF": (_file("x.gif", lambda: encoded(picture(900), "GIF")[:60]), "unusable", "x.gif is damaged"),
    "cut WebP": (_file("x.webp", lambda: encoded(picture(900), "WEBP")[:-90]), "unusable", "x.webp is damaged"),
    "text": (_file("x.jpg", b"not a picture at all"), "unusable", "x.jpg is text"),
    "web page": (_file("x.jpg", b"<!DOCTYPE html><html>404</html>"), "unusable", "is a web page"),
    "noise": (_file("x.jpg", bytes(range(128, 256)) * 9), "unusable", "of an unknown format"),
    "PDF": (_file("x.jpg", b"%PDF-1.7 ..."), "unusable", "is a PDF"),
    "zip": (_file("x.png", b"PK\x03\x04....."), "unusable", "is a zip archive"),
    "TIFF": (_file("x.jpg", lambda: encoded(picture(900), "TIFF")), "unusable", "is a TIFF"),
    "HEIC": (_file("x.jpg", b"\x00\x00\x00\x18ftypheic" + bytes(40)), "unusable", "is a HEIC photo"),
    "LFS pointer": (_file("x.jpg", b"version https://git-lfs.github.com/spec/v1\n"), "unusable", "git lfs pull"),
    "bomb": (_file("x.png", _bomb), "unusable", "x.png is larger than 100 megapixels"),
    "animated WebP": (_file("x.webp", lambda: _moving("WEBP")), "unusable", "x.webp"),
    "broken link": (_link("x.jpg", "nowhere.jpg"), "unusable", "is a link to 'nowhere.jpg', which is missing"),
    "link to itself": (_link("x.jpg", "x.jpg"), "unusable", "cannot be read"),
    "link loop": (_link("loop", "."), "unusable", "is a link back to a folder above it"),
    "picture of no class": (lambda root: (root / "x.jpg").write_bytes(encoded(picture(900))), "unusable",
                            "x.jpg is not inside a class folder"),
    "notes": (_file("notes.txt", b"to do"), "stray", "notes.txt"),
    "wrong extension": (_file("x.jpg", lambda: encoded(picture(900), "PNG")), "misnamed", "x.jpg is a PNG"),
    "CMYK": (_file("x.jpg", lambda: encoded(picture(900).convert("CMYK"))), "cmyk", "x.jpg"),
    "16 bit": (_file("x.png", _deep), "16-bit", "x.png"),
    "palette": (_file("x.png", _palette), "palette", "x.png"),
    "transparent": (_file("x.png", _see_through), "transparent", "x.png"),
    "grey": (_file("x.jpg", lambda: encoded(picture(900).convert("L"))), "grey", "x.jpg"),
    "animated GIF": (_file("x.gif", lambda: _moving("GIF")), "animated", "x.gif"),
    "turned": (_file("x.jpg", _rotated), "rotated", "x.jpg"),
    "one colour": (_file("x.png", lambda: encoded(Image.new("RGB", (64, 64), "red"), "PNG")), "flat", "x.png"),
    "tiny": (_file("x.png", lambda: encoded(picture(900, (12, 9)), "PNG")), "small", "x.png is 12 x 9 pixels"),
    "long and thin": (_file("x.jpg", lambda: encoded(picture(900, (400, 40)))), "thin", "x.jpg is 400 x 40"),
    "very long name": (_file("y" * 240 + ".jpg", lambda: encoded(picture(900))), "long-name", "yyyyyy.jpg"),
    "decomposed name": (_file("ka\u0308fer.jpg", lambda: encoded(picture(900))), "decomposed-name", "fer.jpg"),
    "empty class": (_folder("fly"), "empty-class", "fly"),
    "class names alike": (_twin, "class-twins", "'Bee ', 'bee'"),
    "few": (_few, "few", "wasp has 3"),
    "uneven": (_many, "imbalance", "ant has 72"),
    "format tells": (_formats, "telling-format", "wasp is stored as PNG"),
    "same file": (lambda root: (root / "bee" / "x.jpg").write_bytes((root / "bee" / "03.jpg").read_bytes()), "copy",
                  "x.jpg is the same file as"),
    "same pixels": (_change(lambda image: image, "x.png"), "copy", "has the same pixels as"),
    "compressed": (_change(lambda image: image, "x.jpg"), "near-copy", "03.jpg"),
    "mirrored": (_change(ImageOps.mirror, "x.jpg"), "near-copy", "x.jpg"),
    "cropped": (_change(_crop, "x.jpg"), "near-copy", "x.jpg"),
    "brighter": (_change(lambda image: ImageEnhance.Brightness(image).enhance(1.1), "x.jpg"), "near-copy", "x.jpg"),
    "two classes": (_change(lambda image: image, "x.jpg", "ant"), "conflict", "x.jpg"),
}  # fmt: skip

# The same in a folder that is split into train and val.
SPLIT: dict[str, tuple[Callable[[pathlib.Path], None], str, str]] = {
    "leak": (lambda root: (root / "val/bee/x.jpg").write_bytes((root / "train/bee/03.jpg").read_bytes()), "leak",
             "x.jpg is the same file as"),
    "class in one part": (lambda root: (root / "val/ant").rename(root / "val/Ant"), "unmatched-class", "Ant is in"),
    "darker": (lambda root: [_darken(path) for path in (root / "val").rglob("*.jpg")], "drift", "brightness has"),
}  # fmt: skip


def _darken(path: pathlib.Path) -> None:
    ImageEnhance.Brightness(Image.open(path)).enhance(0.3).save(path, quality=95)


WORDS = "film plot cast scene story music light sound ending start actor humour drama colour pace tone".split()


def clean_rows() -> list[tuple[str, str]]:
    random = np.random.default_rng(5)
    rows: dict[str, str] = {}
    while len(rows) < 60:
        text = " ".join(random.choice(WORDS, 5, replace=False))
        rows[f"{text} {'fine' if len(rows) % 2 else 'poor'}"] = ("good", "bad")[len(rows) % 2 == 0]
    return list(rows.items())


def write_rows(path: pathlib.Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def _rows(change: Callable[[list], object]) -> Callable[[pathlib.Path], None]:
    def put(path: pathlib.Path) -> None:
        rows = [list(row) for row in clean_rows()]
        changed = change(rows)
        write_rows(path, rows if changed is None else changed)

    return put


def _set(at: int, column: int, value: str) -> Callable[[pathlib.Path], None]:
    def change(rows: list) -> None:
        rows[at][column] = value

    return _rows(change)


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
    def put(path: pathlib.Path) -> None:
        write_rows(path, clean_rows())
        path.write_bytes(change(path.read_bytes()))

    return put


# name -> (writes the table, kind of the finding, what it must name)
TABLES: dict[str, tuple[Callable[[pathlib.Path], None], str, str]] = {
    "empty text": (_set(3, 0, ""), "empty-text", ":5"),
    "no label": (_set(3, 1, ""), "unusable", ":5"),
    "repeated": (_rows(lambda rows: rows.append(rows[4])), "copy", ":62"),
    "repeated otherwise": (_rows(lambda rows: rows.append([rows[4][0].upper() + " ", rows[4][1]])), "copy", ":62"),
    "two labels": (_rows(lambda rows: rows.append([rows[4][0], rows[5][1]])), "conflict", ":62"),
    "label in capitals": (_rows(lambda rows: rows.extend([["a b c", "Good"], ["c d", "Good"]])), "class-twins", "Good"),
    "open quote": (_bytes(lambda data: data + b'"never closed,good\n'), "unreadable", "quote"),
    "too many fields": (_bytes(lambda data: data + b"a,b,good\n"), "unreadable", "has 3 fields. Expected 2"),
    "no such column": (_bytes(lambda data: data.replace(b"text,", b"txt,", 1)), "unreadable", "no column 'text'"),
    "one class": (_rows(lambda rows: [[t, "good"] for t, _ in rows]), "unreadable", "Expected at least two classes"),
    "ids as labels": (_rows(lambda rows: [[t, f"r{i}"] for i, (t, _) in enumerate(rows)]), "unreadable", "too few: r0"),
    "twice a column": (_bytes(lambda data: data.replace(b"text,label", b"text,text")), "unreadable", "more than once"),
    "nothing": (lambda path: path.write_bytes(b""), "unreadable", "is empty"),
    "mojibake": (_set(6, 0, "a cafÃ© in the rain"), "mojibake", ":8"),
    "lost characters": (_set(6, 0, "a caf\ufffd in the rain"), "replaced", ":8"),
    "markup": (_set(6, 0, "fine<br />but &amp; long"), "markup", ":8"),
    "control characters": (_set(6, 0, "a bell \x07 rings"), "control", ":8"),
    "very long": (_set(6, 0, "word " * 5000), "long-text", ":8"),
    "few of a class": (_rows(lambda rows: rows.extend([["odd one", "none"], ["odd two", "none"]])), "few", "none"),
    "uneven": (_rows(lambda rows: [r for i, r in enumerate(rows) if r[1] == "good" or i < 9]), "imbalance", "bad"),
}  # fmt: skip
