"""Reading parts of a config in each way that mmengine allows to write them."""

from collections.abc import Iterator
from typing import Any


def type_of(cfg: Any) -> tuple[str, str]:
    """Return the scope prefix for a type of ours in the place of a part of a config, and the name of the part's type.

    The prefix is '' where the config writes bare names, such as 'CocoMetric', and else 'mmdet.': a type with another
    scope or a class (in mmengine's pure Python configs) may be in a place where mmdet's are not looked up. The name
    comes without scope or module; 'None' if there is no type.
    """
    given = cfg.get('type')
    if isinstance(given, str):
        scope, _, name = given.rpartition('.')
        return 'mmdet.' if scope else '', name
    return 'mmdet.' if given else '', getattr(given, '__name__', 'None')


def as_list(value: Any) -> list:
    """Return as a list what a config may write as a list or as a single item; empty for None or an empty item."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def walk(part: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Yield a part of a config and everything inside it, each with its place, such as 'model.backbone.init_cfg'."""
    yield place, part
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for key, item in items:
        yield from walk(item, f'{place}.{key}')
