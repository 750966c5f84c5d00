import json

import numpy as np
import pytest
from mmcv import imread
from mmdet.datasets import CocoDataset

from mmdet_edge.analysis.prediction_figures import (
    ADDED_COLOR,
    MISSED_COLOR,
    ImageComparison,
    Instances,
    best_ious,
    choose_images,
    describe,
    draw_predictions,
    error_maps,
    load_truth,
    mask_ious,
    paint_errors,
)


def instances(*objects, size=(6, 10)):
    """Objects from (label, rows, columns)."""
    masks = np.zeros((len(objects), *size), bool)
    for mask, (_, rows, columns) in zip(masks, objects):
        mask[slice(*rows), slice(*columns)] = True
    return Instances(masks, np.array([label for label, *_ in objects], dtype=int))


def comparison(image_id, ious_a, ious_b, index=0):
    return ImageComparison(image_id, index, np.array(ious_a, float), np.array(ious_b, float))


TRUTH = instances((0, (0, 4), (0, 4)), (1, (0, 4), (6, 10)))
SHIFTED = instances((0, (0, 4), (1, 5)))
WRONG_CLASS = instances((2, (0, 4), (6, 10)))
NOTHING = instances()


def test_mask_ious():
    # 12 of 20 pixels; the second prediction has another class than the object that it covers.
    prediction = instances((0, (0, 4), (1, 5)), (0, (0, 4), (6, 10)), (1, (0, 2), (6, 10)))
    assert mask_ious(TRUTH, prediction).tolist() == [[12 / 20, 0, 0], [0, 0, 0.5]]
    assert mask_ious(TRUTH, NOTHING).shape == (2, 0)
    assert mask_ious(NOTHING, TRUTH).shape == (0, 2)


def test_masks_of_two_sizes():
    with pytest.raises(
        ValueError, match=r'must have one size, got \(6, 10\) in the ground truth and \(6, 12\) predicted'
    ):
        mask_ious(TRUTH, instances((0, (0, 1), (0, 1)), size=(6, 12)))


def test_best_ious_takes_the_best_of_the_same_class():
    prediction = instances((0, (0, 4), (1, 5)), (0, (0, 4), (0, 3)), (0, (0, 4), (6, 10)))
    assert best_ious(TRUTH, prediction).tolist() == [0.75, 0]
    assert best_ious(TRUTH, TRUTH).tolist() == [1, 1]
    assert best_ious(TRUTH, NOTHING).tolist() == [0, 0]
    assert best_ious(NOTHING, TRUTH).tolist() == []


def test_errors_at_the_boundary():
    missed, added, agreeing = error_maps(instances((0, (0, 4), (0, 4))), SHIFTED)
    assert np.argwhere(missed).tolist() == [[row, 0] for row in range(4)]
    assert np.argwhere(added).tolist() == [[row, 4] for row in range(4)]
    assert agreeing.sum() == 12 and agreeing[:4, 1:4].all()


def test_what_matches_nothing_is_an_error_as_a_whole():
    missed, added, agreeing = error_maps(TRUTH, NOTHING)
    assert missed.sum() == 32 and not added.any() and not agreeing.any()
    missed, added, agreeing = error_maps(NOTHING, TRUTH)
    assert added.sum() == 32 and not missed.any() and not agreeing.any()
    # The wrong class: missed is what one sees.
    missed, added, _ = error_maps(TRUTH, WRONG_CLASS)
    assert missed.sum() == 32 and not added.any()
    assert not any(m.any() for m in error_maps(NOTHING, NOTHING))


def test_errors_between_touching_objects_show():
    # The union of both objects is right, the line between them is not.
    truth = instances((0, (0, 4), (0, 4)), (0, (0, 4), (4, 8)))
    prediction = instances((0, (0, 4), (0, 5)), (0, (0, 4), (5, 8)))
    missed, added, agreeing = error_maps(truth, prediction)
    assert np.argwhere(missed).tolist() == [[row, 4] for row in range(4)]
    assert not added.any() and agreeing.sum() == 28
    # A second prediction of the same object adds only what sticks out.
    twice = instances((0, (0, 4), (0, 4)), (0, (0, 5), (0, 3)))
    missed, added, agreeing = error_maps(instances((0, (0, 4), (0, 4))), twice)
    assert not missed.any() and np.argwhere(added).tolist() == [[4, 0], [4, 1], [4, 2]]


def test_colors():
    image = np.full((6, 10, 3), (200, 100, 30), np.uint8)
    painted = paint_errors(image, instances((0, (0, 4), (0, 4))), SHIFTED)
    assert painted.dtype == np.uint8 and (image == (200, 100, 30)).all()
    assert (painted[:4, 0] == MISSED_COLOR).all()
    assert (painted[:4, 4] == ADDED_COLOR).all()
    background, agreeing = painted[5, 9].astype(int), painted[1, 2].astype(int)
    assert background.max() == background.min()
    # A light tint: towards yellow, and still near the gray.
    assert agreeing[0] > agreeing[2] + 20 and np.abs(agreeing - background).max() < 80


def test_scores_of_an_image():
    image = comparison(7, [0.5, 1.0], [0.75, 0.25])
    assert (image.mean_a, image.mean_b, image.difference, image.better) == (0.75, 0.5, 0.5, 'A')
    # The mean over objects of the difference, not the difference of the means.
    swapped = comparison(8, [0.25, 0.75], [0.75, 0.25])
    assert (swapped.difference, swapped.better) == (0.5, None)
    empty = comparison(9, [], [])
    assert (empty.mean_a, empty.mean_b, empty.difference, empty.better) == (None, None, 0, None)
    assert json.loads(json.dumps(describe(image))) == dict(
        image_id=7, num_objects=2, mean_iou_a=0.75, mean_iou_b=0.5, difference=0.5, better='A'
    )
    assert json.loads(json.dumps(describe(empty)))['mean_iou_a'] is None


def ids(images):
    return [image.image_id for image in images]


def test_most_different_images():
    differences = {5: 0.1, 3: 0.4, 9: 0.4, 1: 0.0, 7: -0.6, 2: 0.4}
    images = [comparison(i, [0.6], [0.6 - d]) for i, d in differences.items()]
    # Ties by id, whatever the order of the data set; equal images are not different.
    for order in (images, images[::-1]):
        assert ids(choose_images(order, 3)[0]) == [7, 2, 3]
        assert ids(choose_images(order, 100)[0]) == [7, 2, 3, 9, 5]
    assert choose_images([comparison(1, [], [])], 3)[0] == []


def test_random_images_depend_on_the_seed_only():
    images = [comparison(i, [0.5], [0.5]) for i in range(100)]
    chosen = ids(choose_images(images, 5, seed=1)[1])
    assert chosen == sorted(set(chosen)) and len(chosen) == 5
    np.random.seed(4)
    assert ids(choose_images(images[::-1], 5, seed=1)[1]) == chosen
    assert ids(choose_images(images, 5, seed=2)[1]) != chosen
    assert ids(choose_images(images[:3], 5)[1]) == [0, 1, 2]


def test_truth_is_read_at_the_size_of_the_image_without_crowds(tmp_path):
    square = dict(image_id=1, category_id=1, bbox=[2, 1, 4, 3], area=12, segmentation=[[2, 1, 6, 1, 6, 4, 2, 4]])
    crowd = dict(square, iscrowd=1, segmentation=dict(size=[6, 10], counts=[0, 60]))
    annotations = [dict(square, id=1, iscrowd=0), dict(crowd, id=2)]
    images = [dict(id=i, file_name=f'{i}.png', height=6, width=10) for i in (1, 2)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='a')])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'a.json'),
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('a',)),
        pipeline=[],
        test_mode=True,
    )
    truth = load_truth(dataset, 0)
    assert truth.labels.tolist() == [0] and truth.masks.shape == (1, 6, 10)
    assert truth.masks[0, 1:4, 2:6].all() and truth.masks.sum() == 12
    assert load_truth(dataset, 1).masks.shape == (0, 6, 10)


@pytest.mark.parametrize('truth', [TRUTH, NOTHING], ids=['objects', 'no objects'])
def test_figure(truth, tmp_path):
    image = np.full((6, 10, 3), 90, np.uint8)
    ious = [best_ious(truth, SHIFTED), best_ious(truth, NOTHING)]
    path = tmp_path / 'new' / 'figure.png'
    draw_predictions(image, truth, [SHIFTED, NOTHING], ['one', 'two'], ImageComparison(1, 0, *ious), path, 'title')
    figure = imread(str(path), channel_order='rgb')
    assert 1400 < figure.shape[1] < 1700
    left, _, right = np.array_split(figure[: int(figure.shape[0] * 0.8)], 3, axis=1)

    def has(part, color):
        return (np.abs(part.astype(int) - color).max(-1) < 5).sum() > 1000

    # A has shifted the object, or invented it; B has missed it.
    assert has(left, ADDED_COLOR) and not has(right, ADDED_COLOR)
    assert has(left, MISSED_COLOR) == has(right, MISSED_COLOR) == bool(len(truth.masks))
