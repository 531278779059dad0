"""Warns about words that the style guide in CONTRIBUTING.md avoids, in Markdown and in the strings of Python files.

Usage: ``python docs/check_words.py [--strict] [FILE ...]``; without files, all of the project. Code is left out: fenced
blocks, backticks, doctests, identifiers. With ``--strict`` the exit status is 1 if anything is found.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    "told": "reported, given, or an active verb",
    "tells": "says, shows, reports",
    "heard": "the clip, the audio that is used",
    "gathered": "loaded, collected",
    "nobody": "an active verb with its subject",
    "lies? in": "is in, is stored in",
    "so much as": "even, or nothing",
    "what is frozen": "frozen layers, frozen blocks",
    "what is known": "a noun, such as statistics",
    "wishes": "settings, config",
    "commonest": "majority class, most common",
}
PATTERN = re.compile(r"\b(" + "|".join(WORDS).replace(" ", r"\s+") + r")\b", re.IGNORECASE)
CODE = re.compile(r"^```.*?^```|``.+?``|`[^`\n]+`|^\s*(?:>>>|\.\.\.) .*?$", re.DOTALL | re.MULTILINE)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a file to check, each with the number of its first line."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield 1, text
    for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def main(arguments: list[str]) -> int:
    """Prints ``file:line: word: what to write`` for each place."""
    root = Path(__file__).parent.parent
    files = [Path(each) for each in arguments if each != "--strict"]
    found = 0
    for path in files or [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("tfft/**/*.py")]:
        for line, text in prose(path):
            text = CODE.sub(lambda match: "\n" * match[0].count("\n"), text)
            for match in PATTERN.finditer(text):
                word = " ".join(match[0].split())
                better = next(value for key, value in WORDS.items() if re.fullmatch(key, word, re.IGNORECASE))
                print(f"{path}:{line + text.count(chr(10), 0, match.start())}: {word!r}: write {better}")
                found += 1
    print(f"{found} places with words that the style guide avoids")
    return int("--strict" in arguments and found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
