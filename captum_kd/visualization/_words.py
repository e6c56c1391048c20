"""Words from the tokens of a tokenizer: pieces joined, special tokens recognized."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple, Sequence

from captum_kd._utils.text import encodable, printable

WORD_PIECE, BYTE_LEVEL, SENTENCE_PIECE = "##", "\u0120", "\u2581"
"""Marks of tokenizers. "##" marks pieces that continue a word, the other two ("\u0120", "\u2581") mark a space before a word."""

_SPECIAL = re.compile(r"\[(CLS|SEP|PAD|BOS|EOS)\]|</?(s|pad|bos|eos|cls|sep)>|<[|\uff5c].+[|\uff5c]>")
_PADDING = re.compile(r"\[PAD\]|<pad>|<\|pad(ding)?\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLOSING = re.compile(r"[.,;:!?)\]}%\u2019\u201d]+")

# Scripts that do not separate words by spaces. Their pieces stay apart, or a sentence would be one word.
_WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}

_PLAIN_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHER_BYTES = [value for value in range(256) if value not in _PLAIN_BYTES]
# GPT-2's letters for bytes: those that cannot be printed are moved behind the first 256.
_BYTE_OF_LETTER = {chr(value): value for value in _PLAIN_BYTES}
_BYTE_OF_LETTER.update({chr(256 + i): value for i, value in enumerate(_OTHER_BYTES)})


class Word(NamedTuple):
    """A word as it is drawn, and the positions of its tokens."""

    text: str
    positions: tuple[int, ...]
    is_glued: bool
    """There is no space before the word."""
    is_special: bool


def is_padding(token: str) -> bool:
    return _PADDING.fullmatch(token) is not None


def find_mark(sentences: Sequence[Sequence[str]]) -> str:
    """The most frequent mark among all tokens, or "" without any: then each token is a word."""
    tokens = [token for sentence in sentences for token in sentence]
    counts = {mark: sum(token.startswith(mark) for token in tokens) for mark in (BYTE_LEVEL, SENTENCE_PIECE)}
    counts[WORD_PIECE] = sum(token.startswith(WORD_PIECE) and token[2:3].isalnum() for token in tokens)
    mark = max(counts, key=lambda each: counts[each])
    return mark if counts[mark] else ""


def join_pieces(tokens: Sequence[str], positions: Sequence[int], mark: str) -> list[Word]:
    """The words of a sentence.

    Args:
        tokens (sequence of str): all tokens of the sentence.
        positions (sequence of int): which of them are drawn, ascending.
        mark (str): the tokenizer's mark, as :func:`find_mark` returns it.
    """
    words: list[_Part] = []
    for part in _whole_characters(tokens, positions, mark):
        if words and words[-1].is_followed_by(part) and _is_one_word(words[-1].content, part.content):
            words[-1] = words[-1].with_next(part)
        else:
            words.append(part)
    joined: list[Word] = []
    for word in words:
        text = _shown(word.content)
        is_free = not joined or joined[-1].is_special or word.is_special
        joined.append(Word(text, word.positions, not is_free and (not word.starts or _closes(text, mark)), word.is_special))
    return joined


class _Part(NamedTuple):
    content: bytes
    positions: tuple[int, ...]
    starts: bool
    is_special: bool

    def is_followed_by(self, part: _Part) -> bool:
        is_next = self.positions[-1] + 1 == part.positions[0]
        return is_next and not (part.starts or part.is_special or self.is_special)

    def with_next(self, part: _Part) -> _Part:
        return self._replace(content=self.content + part.content, positions=self.positions + part.positions)


def _whole_characters(tokens: Sequence[str], positions: Sequence[int], mark: str) -> list[_Part]:
    """The tokens as UTF-8; those that hold only a part of a character are joined to it."""
    parts: list[_Part] = []
    for position in positions:
        token = tokens[position]
        is_special = _SPECIAL.fullmatch(token) is not None
        starts, content = (True, _encoded(token)) if is_special else _read(token, mark)
        part = _Part(content, (position,), starts, is_special)
        if parts and parts[-1].is_followed_by(part) and not _is_complete(parts[-1].content):
            parts[-1] = parts[-1].with_next(part)
        else:
            parts.append(part)
    return parts


def _read(token: str, mark: str) -> tuple[bool, bytes]:
    """Whether a token starts a new word, and its text in UTF-8."""
    if mark == BYTE_LEVEL:
        letters = [_BYTE_OF_LETTER.get(letter) for letter in token]
        content = _encoded(token) if None in letters else bytes(value for value in letters if value is not None)
        return content[:1].isspace(), content
    if mark == SENTENCE_PIECE:
        byte = _BYTE.fullmatch(token)
        content = bytes.fromhex(byte[1]) if byte else _encoded(token.replace(mark, " "))
        return content[:1].isspace(), content
    continues = mark == WORD_PIECE and token.startswith(mark) and token != mark
    return not continues, _encoded(token[2:] if continues else token)


def _encoded(token: str) -> bytes:
    return encodable(token).encode()


def _is_complete(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_one_word(before: bytes, after: bytes) -> bool:
    """Whether two pieces without a space between them belong to one word; punctuation is a word of its own."""
    if before == b" ":
        return True
    last, first = before.decode("utf-8", "replace")[-1:], after.decode("utf-8", "replace")[:1]
    return _is_mark(first) or all(
        (letter.isalnum() or letter in "'\u2019" or _is_mark(letter))
        and unicodedata.name(letter, "").partition(" ")[0] not in _WITHOUT_SPACES
        for letter in last + first
    )


def _is_mark(letter: str) -> bool:
    """An accent or vowel sign that combines with the letter before it."""
    return unicodedata.category(letter or " ").startswith("M")


def _closes(text: str, mark: str) -> bool:
    """Whether the text is punctuation that follows a word without a space, where the tokenizer does not tell."""
    return mark in (WORD_PIECE, "") and _CLOSING.fullmatch(text) is not None


def _shown(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    # A word of spaces alone has a value too, so it needs a visible sign.
    return printable(text.strip(" ") or "\u2423").replace("\n", "\\n")
