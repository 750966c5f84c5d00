"""Reading parts of a config in each way that mmengine allows to write them."""

from typing import Any


def type_of(cfg: Any) -> tuple[str, str]:
    """Return the scope prefix for a type of ours in the same place, and the name of the type.

    Args:
        cfg (ConfigDict): Part of a config.

    Returns:
        tuple[str, str]: '' where the config writes bare names, such as 'CocoMetric', and else 'mmdet.': a type with
            another scope or a class (in mmengine's pure Python configs) may be in a place where mmdet's are not looked
            up. The name comes without scope or module; 'None' if there is no type.
    """
    given = cfg.get('type')
    if isinstance(given, str):
        scope, _, name = given.rpartition('.')
        return 'mmdet.' if scope else '', name
    return 'mmdet.' if given else '', getattr(given, '__name__', 'None')


def as_list(value: Any) -> list:
    """Return as a list what a config may write as a list or as a single item; empty for None or an empty item."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []
