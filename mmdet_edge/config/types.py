"""What the ``type`` of a part of a config names, in each way that mmengine allows to write it."""

from typing import Any


def type_of(cfg: Any) -> tuple[str, str]:
    """Return what to put before a type of ours in the same place, and the name of a type.

    Args:
        cfg (ConfigDict): Part of a config.

    Returns:
        tuple[str, str]: '' where the config writes bare names, such as 'CocoMetric', and else 'mmdet.': a type with
            another scope or a class (in mmengine's pure Python configs) need not stand where mmdet's are looked up. The
            name comes without scope or module; 'None' if there is no type.
    """
    given = cfg.get('type')
    if isinstance(given, str):
        scope, _, name = given.rpartition('.')
        return 'mmdet.' if scope else '', name
    return 'mmdet.' if given else '', getattr(given, '__name__', 'None')
