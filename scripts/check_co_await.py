#!/usr/bin/env python3
"""Flags statements with co_await that GCC 12 miscompiles.

GCC 12 may copy a temporary of such a statement bitwise into the coroutine's frame and destroy it twice, silently. So a
statement that contains co_await must not contain a braced temporary, a lambda that captures by value, or the conditional
operator: name a local first. This reads text, not C++; where it flags a harmless brace, name a local all the same.

Usage: check_co_await.py FILE...     exit status 1 when anything is flagged
"""
import re
import sys

NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#[^\n]*', re.S | re.M)
OPEN, CLOSE = {")": "(", "]": "[", "}": "{"}, {"(": ")", "[": "]", "{": "}"}


def blanked(source):
    return NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)


def matching_open(text, close):
    """The index of the bracket that `text[close]` closes."""
    depth = 0
    for i in range(close, -1, -1):
        if text[i] in OPEN:
            depth += 1
        elif text[i] in CLOSE:
            depth -= 1
            if depth == 0:
                return i
    return -1


def before(text, index):
    """The index of the last character before `index` that is not white space, or -1."""
    index -= 1
    while index >= 0 and text[index].isspace():
        index -= 1
    return index


def lambda_captures(text, brace):
    """The captures of the lambda whose body `text[brace]` opens; None when it opens no lambda's body."""
    head = re.sub(r"(->[\w:<>,&*\s]+|\b(mutable|noexcept)\s*)+$", "", text[:brace].rstrip()).rstrip()
    if head.endswith(")"):
        head = head[: matching_open(head, len(head) - 1)].rstrip()
    if not head.endswith("]"):
        return None
    start = matching_open(head, len(head) - 1)
    previous = before(head, start)
    is_subscript = previous >= 0 and (head[previous].isalnum() or head[previous] in "_)]") and not re.search(
        r"\breturn$", head[: previous + 1])
    return None if is_subscript else head[start + 1 : -1]


def is_block(text, brace):
    """Whether `text[brace]` opens a block of statements, rather than a list of initialisers."""
    previous = before(text, brace)
    if previous < 0 or text[previous] in ";{}:)":
        return True
    return re.search(r"\b(else|do|try|const|override|final|noexcept|mutable)$", text[: previous + 1]) is not None or \
        re.search(r"\b(namespace|struct|class|enum|union)\b[^;{}()=]*$", text[: previous + 1]) is not None


def statement_around(text, at):
    """The statement that holds the co_await at `at`, without bodies of lambdas in it, and what is wrong with its braces."""
    problems, pieces = set(), []

    def note_captures(captures):
        if any(item.strip() and not item.strip().startswith("&") and item.strip() != "this" for item in captures.split(",")):
            problems.add("a lambda that captures by value")

    i = at - 1
    end_of_piece = at
    while i >= 0 and text[i] != ";":
        if text[i] == "{":
            if lambda_captures(text, i) is not None or is_block(text, i):
                break
            problems.add("a braced temporary")
        elif text[i] == "}":
            start = matching_open(text, i)
            captures = lambda_captures(text, start)
            if captures is not None:
                note_captures(captures)
            elif is_block(text, start):
                break
            else:
                problems.add("a braced temporary")
            pieces.insert(0, text[i + 1 : end_of_piece])
            end_of_piece = i = start
        i -= 1
    pieces.insert(0, text[i + 1 : end_of_piece])

    depth, i, piece = 0, at, at
    while i < len(text) and not (text[i] == ";" and depth <= 0):
        if text[i] in "([":
            depth += 1
        elif text[i] in ")]":
            depth -= 1
        elif text[i] == "{":
            captures = lambda_captures(text, i)
            if captures is None and depth <= 0 and is_block(text, i):
                break
            if captures is None:
                problems.add("a braced temporary")
            else:
                note_captures(captures)
            pieces.append(text[piece:i])
            nested = 1
            while nested and i + 1 < len(text):
                i += 1
                nested += {"{": 1, "}": -1}.get(text[i], 0)
            piece = i + 1
        elif text[i] == "}":
            break
        i += 1
    pieces.append(text[piece:i])
    if "?" in "".join(pieces):
        problems.add("the conditional operator")
    return problems


def check(source):
    """[(line, problem)] of a source text."""
    text = blanked(source)
    return sorted({(text.count("\n", 0, found.start()) + 1, problem)
                   for found in re.finditer(r"\bco_await\b", text)
                   for problem in statement_around(text, found.start())})


def main(paths):
    flagged = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line, problem in check(file.read()):
                print(f"{path}:{line}: {problem} in a statement with co_await: name a local first")
                flagged += 1
    if not flagged:
        print(f"co_await: {len(paths)} files are clean")
    return 1 if flagged else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
