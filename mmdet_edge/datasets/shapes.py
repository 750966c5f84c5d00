"""A synthetic data set with detailed boundaries.

Six classes: 'star' (corners), 'gear' (fine teeth), 'cross' (thin arms), 'ring' (a hole), 'crescent' (thin tips) and
'flower' (a smooth wave). Objects are textured and occlude each other, on a textured background with unlabelled
clutter. Each class has its own hue, so that a short training run learns the classes, and results depend on the
boundaries; the clutter has any hue. shapely makes and rasterises the outlines, scipy makes the textures.

Shape letters: H and W image height and width in pixels.
"""

import colorsys
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import shapely
from rich.progress import Progress
from scipy.ndimage import gaussian_filter
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon

SUPERSAMPLING = 4
"""Sub-pixels per pixel and direction; a pixel is part of the mask if at least half of it is covered."""

MIN_VISIBLE = 0.5
"""Fraction of an object that later objects may not cover."""


def _wave(depth: float, count: int, sharpness: float) -> Polygon:
    """Return a disc whose radius varies ``count`` times between 1 and 1 - depth."""
    angles = np.linspace(0, 2 * math.pi, 40 * count, endpoint=False)
    swing = np.tanh(sharpness * np.cos(count * angles)) / math.tanh(sharpness)
    radius = 1 - depth * (0.5 + 0.5 * swing)
    return Polygon(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1))


def _star(rng: np.random.Generator) -> Polygon:
    points = int(rng.integers(5, 8))
    angles = np.linspace(0, 2 * math.pi, 2 * points, endpoint=False)
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.4, 0.55))
    return Polygon(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1))


def _cross(rng: np.random.Generator) -> Polygon:
    half_width = rng.uniform(0.12, 0.2)
    arms = shapely.MultiLineString([[(-1, 0), (1, 0)], [(0, -1), (0, 1)]])
    return arms.buffer(half_width, cap_style='square')


_DISC = Point(0, 0).buffer(1)

SHAPES: dict[str, Callable[[np.random.Generator], Polygon]] = {
    'star': _star,
    'gear': lambda rng: _wave(depth=0.28, count=int(rng.integers(8, 11)), sharpness=8.0),
    'cross': _cross,
    'ring': lambda rng: _DISC.difference(Point(0, 0).buffer(rng.uniform(0.45, 0.65))),
    'crescent': lambda rng: _DISC.difference(Point(rng.uniform(0.45, 0.6), 0).buffer(0.85)),
    'flower': lambda rng: _wave(depth=0.4, count=int(rng.integers(4, 7)), sharpness=0.1),
}
"""Class name -> outline of radius 1 around the origin."""


def rasterise(shape: Polygon, size: int) -> np.ndarray:
    """Return how much of each pixel of an image, ``size`` high and wide, a shape covers, in [0, 1], (H, W), float32.

    The shape is an outline in pixels and may have holes.
    """
    centers = (np.arange(size * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    left, top, right, bottom = shape.bounds
    columns = (centers > left) & (centers < right)
    rows = (centers > top) & (centers < bottom)
    canvas = np.zeros((size, SUPERSAMPLING, size, SUPERSAMPLING), np.float32)
    shapely.prepare(shape)
    inside = shapely.contains_xy(shape, *np.meshgrid(centers[columns], centers[rows]))
    canvas.reshape(len(centers), len(centers))[np.ix_(rows, columns)] = inside
    return canvas.mean(axis=(1, 3))


def _texture(rng: np.random.Generator, size: int, color: tuple[float, float, float]) -> np.ndarray:
    """Return a color (hue, saturation, value in [0, 1]) with coarse and fine variation, (H, W, 3), float32."""
    coarse = gaussian_filter(rng.standard_normal((size, size)), rng.uniform(4, 12))
    fine = gaussian_filter(rng.standard_normal((size, size)), rng.uniform(0.5, 1.5))
    y, x = np.mgrid[:size, :size]
    angle, wavelength = rng.uniform(0, math.pi), rng.uniform(5, 14)
    stripes = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / wavelength)
    pattern = (
        rng.uniform(5, 15) * coarse / coarse.std()
        + rng.uniform(5, 15) * fine / fine.std()
        + rng.uniform(0, 15) * stripes
    )
    rgb = 255 * np.array(colorsys.hsv_to_rgb(*color))
    return (rgb[::-1] + pattern[..., None]).astype(np.float32)


def _paint(image: np.ndarray, coverage: np.ndarray, texture: np.ndarray) -> np.ndarray:
    return image + coverage[..., None] * (texture - image)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a texture with clutter: bars and specks that belong to no class."""
    image = _texture(rng, size, (rng.uniform(), rng.uniform(0, 0.3), rng.uniform(0.2, 0.55)))
    for _ in range(rng.integers(4, 10)):
        start = rng.uniform(0, size, 2)
        end = start + rng.normal(0, size / 6, 2)
        clutter = LineString([start, end]).buffer(rng.uniform(0.7, size / 60))
        color = (rng.uniform(), rng.uniform(0, 0.9), rng.uniform(0.2, 0.9))
        image = _paint(image, rasterise(clutter, size), _texture(rng, size, color))
    return image


def draw_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Draw one image, ``size`` pixels high and wide.

    Returns:
        tuple[np.ndarray, list[int], np.ndarray]: The image, (H, W, 3), BGR, uint8; the class index of each of its K
        objects; their visible masks, (K, H, W), bool. K is 3 to 7, less if there is no room.
    """
    image = _background(rng, size)
    labels: list[int] = []
    masks = np.zeros((0, size, size), bool)
    areas = np.zeros(0)
    makers = list(SHAPES.values())
    # Twice as many tries as objects: an object may not fit.
    wanted = int(rng.integers(3, 8))
    for _ in range(2 * wanted):
        label = int(rng.integers(len(makers)))
        radius = rng.uniform(0.11, 0.25) * size
        shape = affinity.scale(makers[label](rng), radius, radius * rng.uniform(0.75, 1))
        shape = affinity.rotate(shape, rng.uniform(0, 360), origin=(0, 0))
        shape = affinity.translate(shape, *rng.uniform(0.08 * size, 0.92 * size, 2))
        coverage = rasterise(shape, size)
        mask = coverage >= 0.5
        remaining = masks & ~mask
        in_image = mask.sum() / shape.area
        if in_image < MIN_VISIBLE or (remaining.sum(axis=(1, 2)) < MIN_VISIBLE * areas).any():
            continue
        hue = label / len(makers) + rng.normal(0, 0.03)
        color = (hue % 1, rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95))
        image = _paint(image, coverage, _texture(rng, size, color))
        masks = np.concatenate([remaining, mask[None]])
        areas = np.append(areas, mask.sum())
        labels.append(label)
        if len(labels) == wanted:
            break
    image = gaussian_filter(image, (0.4, 0.4, 0)) + rng.normal(0, 4, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), labels, masks


def _make_split(folder: Path, split: str, number: int, size: int, seed: int, info: dict) -> None:
    """Write the images and the annotation file of one split."""
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with Progress() as progress:
        for index in progress.track(range(number), description=f'drawing {split}'):
            # A generator per image: the first images do not depend on the number of images.
            rng = np.random.default_rng([seed, split == 'val', index])
            image, labels, masks = draw_image(rng, size)
            name = f'{index:06d}.png'
            cv2.imwrite(str(folder / split / name), image)
            images.append(dict(id=index, file_name=name, height=size, width=size))
            for label, mask in zip(labels, masks):
                rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotation = dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=label + 1,
                    bbox=mask_utils.toBbox(rle).tolist(),
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                )
                annotations.append(annotation)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(SHAPES)]
    content = dict(info=info, images=images, annotations=annotations, categories=categories)
    (folder / f'{split}.json').write_text(json.dumps(content))


def make_shapes_dataset(out_dir: str, num_train: int = 400, num_val: int = 60, size: int = 160, seed: int = 0) -> bool:
    """Make the data set: train/, val/, train.json and val.json (COCO format, masks as RLE).

    The same arguments give the same images and masks. If interrupted, it leaves no files.

    Args:
        out_dir (str): Folder to make; it must not exist, unless it already has the same data set.
        num_train (int): Number of training images, at least 1. Defaults to 400.
        num_val (int): Number of validation images, at least 1. Defaults to 60.
        size (int): Height and width of the images in pixels, at least 64. Defaults to 160.
        seed (int): Seed, at least 0. Defaults to 0.

    Returns:
        bool: True if the data set was made, False if it existed.

    Raises:
        ValueError: If a number is too small.
        FileExistsError: If ``out_dir`` exists and has other content.
    """
    minima = dict(num_train=1, num_val=1, size=64, seed=0)
    settings = dict(num_train=num_train, num_val=num_val, size=size, seed=seed)
    for name, value in settings.items():
        if value < minima[name]:
            raise ValueError(f'{name} must be at least {minima[name]}, got {value}')
    info = dict(description='mmdet_edge shapes', version=1, **settings)
    target = Path(out_dir)
    if target.exists():
        annotations = target / 'val.json'
        if annotations.is_file() and json.loads(annotations.read_text()).get('info') == info:
            return False
        raise FileExistsError(
            f'{target} exists and is not the data set asked for ({settings}); remove it or name another folder'
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f'.{target.name}-', dir=target.parent))
    try:
        _make_split(part, 'train', num_train, size, seed, info)
        _make_split(part, 'val', num_val, size, seed, info)
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return True
