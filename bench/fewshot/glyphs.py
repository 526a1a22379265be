"""Letters of many scripts, rendered from the installed fonts: a class is a letter of a script, its
images are the letter in different fonts."""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from akm_triton.files import replace_bytes

FOLDERS = (Path("/usr/share/fonts/truetype/noto"), Path("/usr/share/fonts/opentype/noto"))
SIZE = 28  # pixels
POINTS = 20  # of the font; larger letters are made to fit
FONTS = 4  # that a class needs at least
LETTERS = 20  # that a script needs at least
MOST_FONTS = 20  # of a class
TWINS = 0.995  # cosine of mean images above which two letters are one
# what Unicode's names put between a script and the word LETTER
KINDS = (" CAPITAL", " SMALL", " MODIFIER", "MODIFIER", " INDEPENDENT", " MTAVRULI")
REVISION = 2  # of the rendering: a cache of another is not read


def load(folder: Path | None = None, cache: Path | None = None) -> dict[str, Any]:
    """``images`` (n, 28, 28) of 0 … 255, ink high; ``letters`` (n,) and, of each letter,
    ``scripts``, names. Rendered once, then read from the cache.

    Raises:
        FileNotFoundError: too few fonts, with the package to install.
    """
    folders = (folder,) if folder else FOLDERS
    fonts = sorted(path for folder in folders for path in folder.glob("*.[to]tf"))
    text = repr((REVISION, [(path.name, path.stat().st_size) for path in fonts]))
    cache = cache or cache_folder()
    path = cache / f"glyphs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        made = render(fonts)
        cache.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.savez_compressed(file, **made)
        replace_bytes(path, file.getvalue())
    with np.load(path) as stored:
        return dict(stored)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "akm_triton" / "fewshot"


def render(fonts: list[Path]) -> dict[str, Any]:
    images: list[np.ndarray[Any, Any]] = []
    letters: list[int] = []
    scripts: list[str] = []
    found = _letters(fonts)
    for script, characters in tqdm(sorted(found.items()), desc="rendering", unit="script"):
        kept: list[np.ndarray[Any, Any]] = []
        drawn = []
        for character, paths in sorted(characters.items()):
            each = [image for path in paths if (image := draw(character, path)) is not None]
            if len(each) < FONTS:
                continue
            mean = np.mean(each, axis=0).ravel()
            mean /= np.linalg.norm(mean)
            if not kept or np.max(np.stack(kept) @ mean) <= TWINS:
                kept.append(mean)
                drawn.append(each)
        if len(drawn) < LETTERS:
            continue
        for each in drawn:
            letters += [len(scripts)] * len(each)
            scripts.append(script)
            images += each
    if len(set(scripts)) < 10:
        raise FileNotFoundError(
            "glyphs need the Noto fonts in four cuts each; apt-get install fonts-noto-core "
            "(fonts-noto-extra for more)"
        )
    return {
        "images": np.stack(images).round().astype(np.uint8),
        "letters": np.array(letters),
        "scripts": np.array(scripts),
    }


def _letters(fonts: list[Path]) -> dict[str, dict[str, list[Path]]]:
    """Script to letter to fonts, as far as there are enough."""
    from fontTools.ttLib import TTFont

    holders: dict[int, list[Path]] = defaultdict(list)
    for path in fonts:
        with TTFont(path, lazy=True) as font:
            for code in font.getBestCmap() or {}:
                holders[code].append(path)
    found: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for code, paths in holders.items():
        script = script_of(chr(code))
        if script and len(paths) >= FONTS:
            found[script][chr(code)] = paths[:: -(-len(paths) // MOST_FONTS)]
    return {script: each for script, each in found.items() if len(each) >= LETTERS}


def script_of(character: str) -> str | None:
    """The script of a letter by its name, None for anything else: Unicode's own table is not in
    Python."""
    if not unicodedata.category(character).startswith("L"):
        return None
    name = unicodedata.name(character, "")
    for word in (" LETTER ", " SYLLABLE ", " SYLLABICS "):
        if word in name:
            script = name.split(word)[0]
            for kind in KINDS:
                script = script.replace(kind, "")
            return script.strip() or None
    return None


def draw(character: str, path: Path) -> np.ndarray[Any, Any] | None:
    """The letter in the middle of the image, or None where it has no ink."""
    from PIL import Image, ImageDraw

    for font in _sizes(path):
        left, top, right, bottom = font.getbbox(character)
        if right <= left or bottom <= top:
            return None
        if right - left <= SIZE - 2 and bottom - top <= SIZE - 2:
            image = Image.new("L", (SIZE, SIZE))
            where = (SIZE - left - right) / 2, (SIZE - top - bottom) / 2
            ImageDraw.Draw(image).text(where, character, font=font, fill=255)
            return np.asarray(image, dtype=np.float64)
    return None


_FONTS: dict[tuple[Path, int], Any] = {}


def _sizes(path: Path) -> Iterator[Any]:
    from PIL import ImageFont

    for points in (POINTS, 15, 11):
        if (path, points) not in _FONTS:
            _FONTS[path, points] = ImageFont.truetype(str(path), points)
        yield _FONTS[path, points]
