"""What the texts of a clip say: the prompt of a frame, and the captions of the earlier frames that it looks at.

Training and drawing both take them from here, so that what was learned of a place in time is what is asked for.

Source: WO2024072749A1 [0007], [0056]: the text asks for the next image of a known sequence.
"""

from __future__ import annotations


def frame_prompt(prompt: str, number: int, total: int) -> str:
    """The text that asks for a frame of a clip.

    Args:
        prompt: what the clip shows, its motion among it.
        number: of the frame, from 1.
        total: frames of the clip.

    Returns:
        The prompt with the frame's place.

    Raises:
        ValueError: there is no such frame.

    Examples:
        >>> from rag_diffusion.sampling.frame_text import frame_prompt
        >>> frame_prompt("a cat waves its paw", 3, 16)
        'a cat waves its paw, frame 3 of 16'
    """
    if not 1 <= number <= total:
        raise ValueError(f"frame: expected a number from 1 to {total}, got {number}")
    return f"{_bare(prompt)}, frame {number} of {total}"


def frame_caption(prompt: str, number: int, shown: int) -> str:
    """The caption of an earlier frame that a frame looks at.

    Args:
        prompt: what the clip shows.
        number: of the frame that is drawn, from 1.
        shown: of the earlier one.

    Returns:
        The prompt with how long before it was; of the very first frame, that it is.

    Raises:
        ValueError: the frame that is shown is no earlier one.

    Examples:
        >>> from rag_diffusion.sampling.frame_text import frame_caption
        >>> [frame_caption("a cat", 9, shown) for shown in (8, 5, 1)]
        ['a cat, the frame before', 'a cat, 4 frames before', 'a cat, the first frame']
    """
    if not 1 <= shown < number:
        raise ValueError(f"frame: expected one before frame {number}, got {shown}")
    if shown == number - 1:
        when = "the frame before"
    else:
        when = "the first frame" if shown == 1 else f"{number - shown} frames before"
    return f"{_bare(prompt)}, {when}"


def _bare(prompt: str) -> str:
    """The prompt without the full stop that it may end with."""
    return prompt.strip().rstrip(".,;: ")
