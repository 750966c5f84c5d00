#!/usr/bin/env python3
"""Find the words that the glossary of CONTRIBUTING.md retires, in every text file of the repository.

Prints each place as ``file:line: 'found' -> what to write`` and exits with 1 if there is one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {'.cfg', '.cff', '.ipynb', '.md', '.py', '.sh', '.toml', '.txt', '.yml'}

RETIRED = {
    r'\ba training(?! (run|loop|iter|image|set|data|loss|pipeline|config|schedule|batch|script|job|log|box|curve))': (
        'a training run'
    ),
    r'\btrainings\b': 'training runs',
    r'\bgo(es)? on\b|\bgoing on\b': 'resumes, continues',
    r'\btells?\b|\btold\b': 'reports, prints, says',
    r'\bstands?\b(?! out|-in)': 'is',
    r'\b[\d,]*\d steps?\b(?! ?:)|\btraining steps?\b': 'iterations',
    r'\btrue box(es)?\b': 'ground-truth boxes',
    r'\bwhole checkpoints?\b': 'intact',
    r'\bfirst process\b': 'rank 0',
    r'\bprocesses that load\b|\bloader processes\b': 'dataloader workers',
    r'\b(file|path)s? (or|and) (an )?address(es)?\b|\bbehind an address\b': 'URL',
    r"\b(the|paper's) survey\b": 'ablation',
    r'\btwins?\b': 'counterpart config',
    r"\b(authors'|recommended) (own )?setting\b|\bsetting that (we|this package)\b": 'variant',
    r'\b(the|other) measures\b': 'metrics',
    r'\bshare (of|above|is)\b': 'fraction',
    r'\bgradients? by hand\b': 'custom backward',
    r'(?<![/_])\bhostile\b(?![_.])|\bdisarm': 'untrusted, sanitise',
    r'\btimes fewer\b': 'speed-up',
    r'\bpictures?\b': 'figures',
    r'\bmade-up\b': 'synthetic',
    r'\bcolours?\w* ?=|\w_colours?\b': 'color, in identifiers',
    r'\bwhoever\b': 'who, if somebody',
}
"""Pattern, in which a space is any white space -> what to write. Case does not matter."""

ALLOWED = {
    # The glossary itself.
    'CONTRIBUTING.md': '.*',
    '.ci/check_words.py': '.*',
    'tests/test_docs.py': '.*',
}
"""File -> pattern of what it may say all the same."""


def find_retired(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, the words found and what to write instead.

    Args:
        text (str): Content of a file; comments may be wrapped anywhere.

    Yields:
        tuple[int, str, str]: One for each place.
    """
    for pattern, instead in RETIRED.items():
        for match in re.finditer(pattern.replace(' ', r'(?:\s+(?:#\s+)?)'), text, re.IGNORECASE):
            yield text.count('\n', 0, match.start()) + 1, ' '.join(match[0].split()), instead


def main() -> None:
    """Check all files that git knows."""
    names = subprocess.check_output(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, text=True).splitlines()
    places = 0
    for name in names:
        path = ROOT / name
        if not path.is_file() or path.is_symlink() or not (path.suffix in SUFFIXES or path.name == 'Makefile'):
            continue
        for line, found, instead in find_retired(path.read_text()):
            if not re.fullmatch(ALLOWED.get(name, '(?!)'), found, re.IGNORECASE):
                places += 1
                print(f'{name}:{line}: {found!r} -> {instead}')
    if places:
        sys.exit(f'{places} places with words that the glossary of CONTRIBUTING.md retires')


if __name__ == '__main__':
    main()
