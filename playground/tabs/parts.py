"""The parts of a tab by name, so that what a handler returns names what it changes and leaves the rest alone."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

Values = dict[str, Any]  # name of a part → its new value
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class Parts(dict[str, Any]):
    """name → component."""

    def on(self, event: Any, act: Callable[..., Any], inputs: list[str], outputs: list[str], **options: Any) -> Any:
        """Wires `event` to a function that takes the values of these parts and returns Values, or yields them."""
        given, shown = [self[name] for name in inputs], [self[name] for name in outputs]
        return event(self.by_name(act), given, shown, **PRIVATE, **options)

    def by_name(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same function for Gradio, which knows components and no names; it reads the signature, which stays."""

        @functools.wraps(act)
        def once(*values: Any, **named: Any) -> Any:
            return self._translated(act(*values, **named))

        @functools.wraps(act)
        def often(*values: Any, **named: Any) -> Iterator[Any]:
            for found in act(*values, **named):
                yield self._translated(found)

        return often if inspect.isgeneratorfunction(act) else once

    def _translated(self, values: Values) -> dict[Any, Any]:
        return {self[name]: value for name, value in values.items()}
