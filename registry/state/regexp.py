r"""Regular expressions that take linear time, whoever wrote them: the syntax of RE2.

Patterns come with requests, so a backtracking engine would let one request occupy the server for
as long as it likes. Here a pattern becomes a program for a machine that is in many places at once
and reads each character once (Thompson 1968; Cox, "Regular Expression Matching: the Virtual
Machine Approach", 2009):

    a(b|c)*d    0 a    1 split 2,7    2 split 3,5    3 b    4 jump 6    5 c    6 jump 1    7 d

`Pattern.found_in` only asks whether there is a match. It remembers which set of places follows
which, per character, so that it soon runs as a plain automaton. `Pattern.groups_in` also keeps,
for every place, where its groups began and ended, preferring what a backtracking engine would have
found first. What RE2 refuses (references, looking around) is refused here too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

#: Bounds that keep one pattern's cost in check: its text, its program, nesting, and a repetition.
LENGTH_MAX, PROGRAM_MAX, DEPTH_MAX, REPEAT_MAX = 4096, 20_000, 200, 1000

#: Sets of places remembered per pattern before starting to remember anew.
_STATES_MAX = 2000

Test = Callable[[str], bool]

# Operations of the program: (kind, argument, other argument).
_CHAR, _SPLIT, _JUMP, _SAVE, _ASSERT, _MATCH = range(6)
_Op = tuple[int, object, int]


class PatternError(ValueError):
    """The text is no pattern that is supported."""


@dataclass(slots=True)
class _Flags:
    """What `(?ims)` switch; in force until the group that they stand in ends."""

    ignore_case: bool = False
    multi_line: bool = False
    dot_all: bool = False
    ungreedy: bool = False

    def copy(self) -> _Flags:
        return _Flags(self.ignore_case, self.multi_line, self.dot_all, self.ungreedy)


def _is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


_CLASSES: dict[str, Test] = {
    "d": lambda char: "0" <= char <= "9",
    "w": _is_word,
    "s": lambda char: char in "\t\n\f\r ",
}
_POSIX: dict[str, Test] = {
    "alnum": lambda char: char.isascii() and char.isalnum(),
    "alpha": lambda char: char.isascii() and char.isalpha(),
    "ascii": str.isascii,
    "blank": lambda char: char in "\t ",
    "cntrl": lambda char: char < " " or char == "\x7f",
    "digit": _CLASSES["d"],
    "graph": lambda char: "!" <= char <= "~",
    "lower": lambda char: "a" <= char <= "z",
    "print": lambda char: " " <= char <= "~",
    "punct": lambda char: "!" <= char <= "~" and not char.isalnum(),
    "space": lambda char: char in "\t\n\v\f\r ",
    "upper": lambda char: "A" <= char <= "Z",
    "word": _is_word,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}
_ESCAPES = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}


def _not(test: Test) -> Test:
    return lambda char: not test(char)


def _literal(char: str, flags: _Flags) -> Test:
    if flags.ignore_case and char.lower() != char.upper():
        return frozenset((char.lower(), char.upper(), char)).__contains__
    return char.__eq__


def _category(name: str) -> Test:
    if name == "Any":
        return lambda char: True
    if not name or name[0] not in "LMNPSZC" or len(name) > 2:
        raise PatternError(f"invalid character class range: `\\p{{{name}}}`")
    return lambda char: unicodedata.category(char).startswith(name)


class _Compiler:
    """Reads a pattern once, from left to right, and writes its program."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._flags = _Flags()
        self.groups = 0
        self.program: list[_Op] = []

    def compile(self) -> list[_Op]:
        self._emit(_SAVE, 0)
        self._alternatives()
        if self._at < len(self._text):
            raise PatternError(f"unexpected ): `{self._text}`")
        self._emit(_SAVE, 1)
        self._emit(_MATCH)
        return self.program

    # Reading.

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self, expected: str = "") -> str:
        char = self._peek()
        if not char or (expected and char != expected):
            raise PatternError(f"missing {expected or 'argument'}: `{self._text}`")
        self._at += 1
        return char

    def _skip(self, prefix: str) -> bool:
        if self._text.startswith(prefix, self._at):
            self._at += len(prefix)
            return True
        return False

    # Writing. A fragment always starts where the program ended when its reading began.

    def _emit(self, kind: int, argument: object = None, other: int = 0) -> int:
        if len(self.program) >= PROGRAM_MAX:
            raise PatternError("expression is too large")
        self.program.append((kind, argument, other))
        return len(self.program) - 1

    def _insert(self, at: int, op: _Op) -> None:
        """Put an operation before a fragment, whose own jumps move along."""
        if len(self.program) >= PROGRAM_MAX:
            raise PatternError("expression is too large")
        moved = [_moved(each, at, 1) for each in self.program[at:]]
        self.program[at:] = [op, *moved]

    def _alternatives(self) -> None:
        start = len(self.program)
        ends: list[int] = []
        self._sequence()
        while self._peek() == "|":
            self._at += 1
            self._insert(start, (_SPLIT, start + 1, 0))
            ends.append(self._emit(_JUMP))
            here = len(self.program)
            self.program[start] = (_SPLIT, start + 1, here)
            self._sequence()
            start = here
        for end in ends:
            self.program[end] = (_JUMP, len(self.program), 0)

    def _sequence(self) -> None:
        while (char := self._peek()) and char not in "|)":
            start, groups = len(self.program), self.groups
            self._atom()
            if self._peek() and self._peek() in "*+?{":
                self._repeated(start, groups)

    def _atom(self) -> None:
        char = self._take()
        if char == "(":
            self._group()
        elif char == "[":
            self._emit(_CHAR, self._char_class())
        elif char == ".":
            self._emit(_CHAR, (lambda _: True) if self._flags.dot_all else "\n".__ne__)
        elif char == "^":
            self._emit(_ASSERT, "line-start" if self._flags.multi_line else "start")
        elif char == "$":
            self._emit(_ASSERT, "line-end" if self._flags.multi_line else "end")
        elif char == "\\":
            self._escape()
        elif char in "*+?":
            raise PatternError(f"missing argument to repetition operator: `{char}`")
        else:
            self._emit(_CHAR, _literal(char, self._flags))

    def _group(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise PatternError("expression nests too deeply")
        outer = self._flags.copy()
        number = 0
        if self._skip("?P<"):
            self._group_name()
            number = self._next_group()
        elif self._skip("?"):
            if self._flag_letters():
                self._depth -= 1
                return
        else:
            number = self._next_group()
        if number:
            self._emit(_SAVE, 2 * number)
        self._alternatives()
        if self._peek() != ")":
            raise PatternError(f"missing closing ): `{self._text}`")
        self._at += 1
        if number:
            self._emit(_SAVE, 2 * number + 1)
        self._flags = outer
        self._depth -= 1

    def _next_group(self) -> int:
        self.groups += 1
        return self.groups

    def _group_name(self) -> None:
        end = self._text.find(">", self._at)
        name = self._text[self._at : end] if end >= 0 else ""
        if not name or not all(map(_is_word, name)):
            raise PatternError(f"invalid named capture: `(?P<{name}`")
        self._at = end + 1

    def _flag_letters(self) -> bool:
        """Flags after `(?`; whether they stand alone, for the rest of the group around them."""
        on = True
        while (char := self._take()) not in ":)":
            if char == "-":
                on = False
            elif char in _FLAG_NAMES:
                setattr(self._flags, _FLAG_NAMES[char], on)
            else:
                raise PatternError(f"invalid or unsupported Perl syntax: `(?{char}`")
        return char == ")"

    def _escape(self) -> None:
        char = self._take()
        if char in _ASSERTS:
            self._emit(_ASSERT, _ASSERTS[char])
        elif char == "Q":
            end = self._text.find("\\E", self._at)
            end = len(self._text) if end < 0 else end
            for each in self._text[self._at : end]:
                self._emit(_CHAR, _literal(each, self._flags))
            self._at = min(end + 2, len(self._text))
        else:
            self._emit(_CHAR, self._escaped(char))

    def _escaped(self, char: str) -> Test:
        """The test for what follows a backslash, in a class or outside."""
        if char.lower() in _CLASSES:
            test = _CLASSES[char.lower()]
            return test if char.islower() else _not(test)
        if char in "pP":
            name = self._braced() if self._peek() == "{" else self._take()
            inverted = name.startswith("^") != (char == "P")
            test = _category(name.removeprefix("^"))
            return _not(test) if inverted else test
        return _literal(self._escaped_char(char), self._flags)

    def _escaped_char(self, char: str) -> str:
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char == "x":
            digits = self._braced() if self._peek() == "{" else self._take() + self._take()
            try:
                return chr(int(digits, 16))
            except (ValueError, OverflowError):
                raise PatternError(f"invalid escape sequence: `\\x{digits}`") from None
        if char == "0":
            return "\0"
        if char.isascii() and char.isalnum():
            raise PatternError(f"invalid escape sequence: `\\{char}`")
        return char

    def _braced(self) -> str:
        self._take("{")
        end = self._text.find("}", self._at)
        if end < 0:
            raise PatternError(f"missing closing }}: `{self._text}`")
        inside = self._text[self._at : end]
        self._at = end + 1
        return inside

    def _char_class(self) -> Test:
        inverted = self._skip("^")
        tests: list[Test] = []
        first = True
        while self._peek() != "]" or first:
            first = False
            if not self._peek():
                raise PatternError(f"missing closing ]: `{self._text}`")
            tests.append(self._class_item())
        self._at += 1
        return lambda char: any(test(char) for test in tests) != inverted

    def _class_item(self) -> Test:
        if self._skip("[:"):
            return self._posix_class()
        char = self._take()
        if char == "\\":
            char = self._take()
            if char.lower() in _CLASSES or char in "pP":
                return self._escaped(char)
            char = self._escaped_char(char)
        if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
            self._at += 1
            last = self._take()
            last = self._escaped_char(self._take()) if last == "\\" else last
            return self._range(char, last)
        return _literal(char, self._flags)

    def _range(self, first: str, last: str) -> Test:
        if last < first:
            raise PatternError(f"invalid character class range: `{first}-{last}`")
        if self._flags.ignore_case:
            return lambda char: any(
                first <= each <= last for each in (char, char.lower(), char.upper())
            )
        return lambda char: first <= char <= last

    def _posix_class(self) -> Test:
        end = self._text.find(":]", self._at)
        name = self._text[self._at : end] if end >= 0 else ""
        test = _POSIX.get(name.removeprefix("^"))
        if test is None:
            raise PatternError(f"invalid character class range: `[:{name}:]`")
        self._at = end + 2
        return _not(test) if name.startswith("^") else test

    # Repetition: x* x+ x? x{2} x{2,} x{2,5}, each with a ? after it for "as few as possible".

    def _repeated(self, start: int, groups: int) -> None:
        while (char := self._peek()) and char in "*+?{":
            bounds = self._bounds(char)
            if bounds is None:
                return  # a "{" that begins no repetition stands for itself
            greedy = self._skip("?") == self._flags.ungreedy
            if self._peek() and self._peek() in "*+?":
                raise PatternError(f"invalid nested repetition operator: `{char}{self._peek()}`")
            self._repeat(start, *bounds, greedy=greedy)

    def _bounds(self, char: str) -> tuple[int, int | None] | None:
        if char != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : max(end, 0)].partition(",")
        if end < 0 or not low.isdecimal() or (high and not high.isdecimal()):
            self._at += 1
            self._emit(_CHAR, "{".__eq__)
            return None
        self._at = end + 1
        least = int(low) if len(low) < 6 else REPEAT_MAX + 1
        most = (int(high) if len(high) < 6 else REPEAT_MAX + 1) if high else None
        most = least if not comma else most
        if max(least, most or 0) > REPEAT_MAX or (most is not None and most < least):
            raise PatternError(f"invalid repeat count: `{{{low}{comma}{high}}}`")
        return least, most

    def _repeat(self, start: int, least: int, most: int | None, *, greedy: bool) -> None:
        body = self.program[start:]
        del self.program[start:]
        for _ in range(least):
            self._copy(body, start)
        if most is None:
            self._star(body, start, greedy=greedy)
            return
        splits: list[int] = []
        for _ in range(most - least):
            splits.append(self._emit(_SPLIT))
            self._copy(body, start)
        for split in splits:
            self.program[split] = _split(split + 1, len(self.program), greedy=greedy)

    def _star(self, body: list[_Op], start: int, *, greedy: bool) -> None:
        split = self._emit(_SPLIT)
        self._copy(body, start)
        self._emit(_JUMP, split)
        self.program[split] = _split(split + 1, len(self.program), greedy=greedy)

    def _copy(self, body: list[_Op], start: int) -> None:
        offset = len(self.program) - start
        for op in body:
            self._emit(*_moved(op, start, offset))


_FLAG_NAMES = {"i": "ignore_case", "m": "multi_line", "s": "dot_all", "U": "ungreedy"}
_ASSERTS = {"A": "start", "z": "end", "b": "boundary", "B": "no-boundary"}


def _split(preferred: int, other: int, *, greedy: bool) -> _Op:
    return (_SPLIT, preferred, other) if greedy else (_SPLIT, other, preferred)


def _moved(op: _Op, at: int, offset: int) -> _Op:
    """The operation with its targets at or after `at` moved by `offset`."""
    kind, argument, other = op
    if kind not in (_SPLIT, _JUMP):
        return op
    assert isinstance(argument, int)
    argument += offset if argument >= at else 0
    other += offset if kind == _SPLIT and other >= at else 0
    return kind, argument, other


class Pattern:
    """A compiled pattern; see the module."""

    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_MAX:
            raise PatternError("expression is too long")
        compiler = _Compiler(text)
        self._program = compiler.compile()
        self._groups = compiler.groups
        self._next: dict[tuple[frozenset[int], str, str], frozenset[int]] = {}

    def found_in(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text."""
        final = len(self._program) - 1
        places: frozenset[int] = frozenset()
        before = ""
        for after in text:
            reached = self._closed(places, before, after)
            if final in reached:
                return True
            places = self._stepped(reached, after)
            before = after
        return final in self._closed(places, before, "")

    def _stepped(self, reached: frozenset[int], char: str) -> frozenset[int]:
        key = (reached, char, "step")
        found = self._next.get(key)
        if found is None:
            program = self._program
            found = frozenset(
                place + 1
                for place in reached
                if program[place][0] == _CHAR and program[place][1](char)  # type: ignore[operator]
            )
            self._remember(key, found)
        return found

    def _closed(self, places: frozenset[int], before: str, after: str) -> frozenset[int]:
        """All places that can be reached without reading, with a fresh start added."""
        situation = _situation(before, after)
        key = (places, situation, "close")
        found = self._next.get(key)
        if found is None:
            seen: set[int] = set()
            for place in (*places, 0):
                for _ in self._reach(place, before, after, seen):
                    pass
            found = frozenset(seen)
            self._remember(key, found)
        return found

    def _remember(self, key: tuple[frozenset[int], str, str], found: frozenset[int]) -> None:
        if len(self._next) >= _STATES_MAX:
            self._next.clear()
        self._next[key] = found

    def _reach(
        self, start: int, before: str, after: str, seen: set[int]
    ) -> Iterator[tuple[int, int]]:
        """Places reached from `start` in order of preference; with each a group edge or -1."""
        stack = [start]
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            kind, argument, other = self._program[place]
            yield place, -1
            if kind == _JUMP:
                stack.append(argument)  # type: ignore[arg-type]
            elif kind == _SPLIT:
                stack += (other, argument)  # type: ignore[arg-type]
            elif kind == _SAVE or (kind == _ASSERT and _holds(argument, before, after)):
                stack.append(place + 1)

    def groups_in(self, text: str) -> list[str] | None:
        """The first match and its groups ("" for one that took no part); None without a match."""
        best: tuple[int, ...] | None = None
        threads: list[tuple[int, tuple[int, ...]]] = []
        empty = (-1,) * (2 * self._groups + 2)
        for at in range(len(text) + 1):
            before = text[at - 1] if at else ""
            after = text[at] if at < len(text) else ""
            seeds = threads if best is not None else [*threads, (0, empty)]
            threads = []
            seen: set[int] = set()
            for place, saved in self._threads(seeds, at, before, after, seen):
                kind, test, _ = self._program[place]
                if kind == _MATCH:
                    best = saved
                    break  # what follows is less preferred
                if after and test(after):  # type: ignore[operator]
                    threads.append((place + 1, saved))
            if not threads and best is not None:
                break
        if best is None:
            return None
        edges = zip(best[::2], best[1::2], strict=True)
        return [text[low:high] if low >= 0 <= high else "" for low, high in edges]

    def _threads(
        self,
        seeds: list[tuple[int, tuple[int, ...]]],
        at: int,
        before: str,
        after: str,
        seen: set[int],
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The reading and final places reached from the seeds, the most preferred first."""
        stack = list(reversed(seeds))
        while stack:
            place, saved = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            kind, argument, other = self._program[place]
            if kind == _JUMP:
                stack.append((argument, saved))  # type: ignore[arg-type]
            elif kind == _SPLIT:
                stack += ((other, saved), (argument, saved))  # type: ignore[arg-type]
            elif kind == _SAVE:
                assert isinstance(argument, int)
                stack.append((place + 1, (*saved[:argument], at, *saved[argument + 1 :])))
            elif kind == _ASSERT:
                if _holds(argument, before, after):
                    stack.append((place + 1, saved))
            else:
                yield place, saved


def _holds(name: object, before: str, after: str) -> bool:
    if name == "start":
        return not before
    if name == "end":
        return not after
    if name == "line-start":
        return not before or before == "\n"
    if name == "line-end":
        return not after or after == "\n"
    at_boundary = (bool(before) and _is_word(before)) != (bool(after) and _is_word(after))
    return at_boundary == (name == "boundary")


def _situation(before: str, after: str) -> str:
    """All that assertions can tell of a position: few of them, so that closures are shared."""
    return _edge(before) + _edge(after)


def _edge(char: str) -> str:
    if not char:
        return "-"
    return "n" if char == "\n" else "w" if _is_word(char) else "o"


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern, compiled once per text. Raises `PatternError`."""
    return Pattern(text)
