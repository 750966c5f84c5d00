"""Make the generated data set of the demo, in COCO format."""

import argparse
import sys

from mmdet_edge.datasets import make_shapes_dataset


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out_dir', nargs='?', default='data/shapes', help='folder to make')
    parser.add_argument('--num-train', type=int, default=400, help='number of training images')
    parser.add_argument('--num-val', type=int, default=60, help='number of validation images')
    parser.add_argument('--size', type=int, default=160, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of all that is random')
    return parser.parse_args()


def main() -> None:
    """Make the data set, or say that it is there."""
    args = parse_args()
    try:
        made = make_shapes_dataset(**vars(args))
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.out_dir}: {"made" if made else "is there already"}')


if __name__ == '__main__':
    main()
