"""A YAML reader for mmengine that never calls a function named in a file."""

from typing import Any

import yaml.constructor
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import YamlHandler

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    # PyYAML was built without libyaml: the same loader, slower.
    from yaml import SafeLoader

PYTHON_TAG = 'tag:yaml.org,2002:python/'


class _YamlLoader(SafeLoader):
    """Reads values, and the tuples that ``Config.dump`` writes; refuses all other Python objects."""

    def tuple_of(self, node: Any) -> tuple:
        """Read a tuple."""
        return tuple(self.construct_sequence(node, deep=True))

    def refuse(self, tag: str, node: Any) -> Any:
        """Refuse to make a Python object."""
        raise yaml.constructor.ConstructorError(
            problem=f'a YAML file may hold values only, nothing that runs: {node.tag.replace(PYTHON_TAG, "!!python/")}',
            problem_mark=node.start_mark,
        )


_YamlLoader.add_constructor(f'{PYTHON_TAG}tuple', _YamlLoader.tuple_of)
_YamlLoader.add_multi_constructor(PYTHON_TAG, _YamlLoader.refuse)


class _YamlHandler(YamlHandler):
    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        return super().load_from_fileobj(file, **{'Loader': _YamlLoader, **kwargs})


def use_safe_yaml() -> None:
    """Replace mmengine's handler of YAML files, configs included.

    mmengine's own handler uses the loader that calls the functions named in a file.
    """
    register_handler(['yaml', 'yml'])(_YamlHandler)
