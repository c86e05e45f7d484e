"""Words to numbers. The vocabulary is part of the checkpoint; a word it lacks is read as <unk>, not refused."""

import re

import torch
from torch import Tensor

PAD, UNKNOWN = 0, 1


class WordTokenizer:
    def __init__(self, vocabulary: list[str], max_words: int) -> None:
        """`vocabulary` starts with the two special words <pad> and <unk>."""
        self._ids = {word: i for i, word in enumerate(vocabulary)}
        self._max_words = max_words

    def __call__(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        """Ids (b, max_words) and mask (b, max_words), True on words. Longer instructions are cut."""
        ids = torch.full((len(instructions), self._max_words), PAD)
        for row, instruction in enumerate(instructions):
            words = re.findall(r"[a-z]+", instruction.lower())[: self._max_words]
            ids[row, : len(words)] = torch.tensor([self._ids.get(word, UNKNOWN) for word in words], dtype=torch.long)
        return ids, ids != PAD


def build_vocabulary(instructions: list[str]) -> list[str]:
    """All words that occur, sorted, after the special ones."""
    words = {word for instruction in instructions for word in re.findall(r"[a-z]+", instruction.lower())}
    return ["<pad>", "<unk>", *sorted(words)]
