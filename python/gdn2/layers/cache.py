"""What layers keep between calls, by layer."""

from __future__ import annotations

from typing import Any

__all__ = ["Cache"]


class Cache:
    """States of a model's layers between calls: prefill, then a token or a few at a time.

    A layer finds its own by its `layer_idx`. `tokens` counts what was seen.
    """

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Any]] = {}
        self.tokens = 0

    def get(self, layer: int) -> dict[str, Any]:
        """What a layer kept; nothing before its first call."""
        return self._states.get(layer, {})

    def put(self, layer: int, tokens: int, **state: Any) -> None:
        """Keeps a layer's state after as many more tokens."""
        self._states[layer] = state
        if layer == min(self._states):
            self.tokens += tokens

    def __len__(self) -> int:
        return len(self._states)
