"""RoI features on disk, as a data set.

Shape letters: N RoIs, C channels, h and w size of the RoI features, H and W of the mask targets.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

ARRAYS = ('features', 'targets', 'labels')


@DATASETS.register_module()
class RoIFeatureDataset(Dataset):
    """Inputs and targets of a mask head, written by :func:`save_roi_features`: one item for each RoI.

    Args:
        data_root (str): Folder with features.npy, (N, C, h, w), float16; targets.npy, (N, H, W), bool; labels.npy,
            (N,).

    Raises:
        FileNotFoundError: If one of the files is missing.
    """

    def __init__(self, data_root: str) -> None:
        for name in ARRAYS:
            if not Path(data_root, f'{name}.npy').is_file():
                raise FileNotFoundError(f'RoIFeatureDataset: {data_root} has no {name}.npy')
        # Mapped, not read: concurrent runs share the pages.
        self.features, self.targets, self.labels = (
            np.load(Path(data_root, f'{name}.npy'), mmap_mode='r') for name in ARRAYS
        )
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of RoIs."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``features`` (C, h, w) and ``targets`` (H, W), float32, and ``labels``, a number."""
        return dict(
            features=torch.from_numpy(self.features[index].astype(np.float32)),
            targets=torch.from_numpy(self.targets[index].astype(np.float32)),
            labels=torch.tensor(int(self.labels[index])),
        )


def save_roi_features(folder: str | Path, features: Tensor, targets: Tensor, labels: Tensor) -> None:
    """Write RoI features to a folder.

    Args:
        folder (str | Path): Created if it does not exist.
        features (Tensor): Shape (N, C, h, w).
        targets (Tensor): Shape (N, H, W), 0 or 1.
        labels (Tensor): Shape (N,), integer.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(Path(folder, 'features.npy'), features.half().cpu().numpy())
    np.save(Path(folder, 'targets.npy'), targets.bool().cpu().numpy())
    np.save(Path(folder, 'labels.npy'), labels.cpu().numpy())
