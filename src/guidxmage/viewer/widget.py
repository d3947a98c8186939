"""The viewer as a notebook's widget, by anywidget: the kernel gives arrays and answers.

An array is sent when the viewer asks for it, as the raw bytes behind a message. A question is
answered in a thread of its own, one at a time, so that cells can be run meanwhile and the question
be cancelled.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from guidxmage.errors import GuidXmageError, MissingExtraError
from guidxmage.viewer.answers import Answer, Answers, StoppedError
from guidxmage.viewer.page_files import module_of, viewer_css
from guidxmage.viewer.scene import Scene

if TYPE_CHECKING:
    from anywidget import AnyWidget

Send = Callable[[dict[str, Any], Sequence[bytes]], None]
# Questions of all widgets: each takes all cores, and runs the user's own network.
_ONE_AT_A_TIME = threading.Lock()
_WORDS = 300


class Conversation:
    """What one widget and its views say to each other. send: a message with its buffers.

    Messages from a view have an `id`, which is unique among all views, and a `kind`: "array" asks
    for the bytes of an array by its `name`, "ask" asks a `question`, "cancel" takes it back. They
    are answered under their id by "array", "progress" and "answer", or "failed" with a sentence.
    """

    def __init__(self, scene: Scene, answers: Answers | None, send: Send) -> None:
        self._scene = scene
        self._answers = answers
        self._send = send
        self._stopped: dict[str, threading.Event] = {}

    @property
    def scene(self) -> Scene:
        """What is shown, with the targets that were asked for since."""
        return self._scene if self._answers is None else self._answers.scene

    def hear(self, message: Any) -> None:
        """Answer a message from a view; what is none is passed over."""
        if not isinstance(message, Mapping) or not isinstance(message.get("id"), str):
            return
        kind, id_ = message.get("kind"), message["id"]
        if kind == "array":
            self._give(id_, str(message.get("name")))
        elif kind == "ask":
            stopped = self._stopped[id_] = threading.Event()
            _in_background(lambda: self._answer(id_, message.get("question"), stopped))
        elif kind == "cancel" and id_ in self._stopped:
            self._stopped[id_].set()

    def close(self) -> None:
        """Take all questions back."""
        for stopped in list(self._stopped.values()):
            stopped.set()

    def _give(self, id_: str, name: str) -> None:
        try:
            content = self.scene.bytes_of(name)
        except GuidXmageError as error:
            self._send({"id": id_, "kind": "failed", "error": str(error)}, [])
        else:
            self._send({"id": id_, "kind": "array"}, [content])

    def _answer(self, id_: str, question: Any, stopped: threading.Event) -> None:
        def say(text: str, fraction: float | None) -> None:
            self._send({"id": id_, "kind": "progress", "text": text, "fraction": fraction}, [])

        def stop() -> None:
            if stopped.is_set():
                raise StoppedError

        try:
            if not _ONE_AT_A_TIME.acquire(blocking=False):
                say("waiting for another question to be answered", None)
                while not _ONE_AT_A_TIME.acquire(timeout=0.2):
                    stop()
            try:
                stop()
                found = self._asked(question, say, stop)
                stop()
            finally:
                _ONE_AT_A_TIME.release()
            described = {
                name: {"dtype": values.dtype.name, "shape": list(values.shape)}
                for name, values in found.arrays.items()
            }
            message = {"id": id_, "kind": "answer", "answer": found.json, "arrays": described}
            self._send(message, [_raw(values) for values in found.arrays.values()])
        except BaseException as error:  # whatever a network raises
            with suppress(Exception):  # nobody may be there any more
                self._send({"id": id_, "kind": "failed", "error": _sentence(error)}, [])
        finally:
            self._stopped.pop(id_, None)

    def _asked(self, question: Any, say: Any, stop: Any) -> Answer:
        if self._answers is None:
            raise GuidXmageError("nobody answers questions here; import guidxmage as a whole")
        return self._answers(question, say, stop)


def _raw(values: Any) -> bytes:
    plain = np.ascontiguousarray(values)
    content: bytes = plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()
    return content


def _sentence(error: BaseException) -> str:
    if isinstance(error, (StoppedError, KeyboardInterrupt)):
        return "Cancelled."
    if isinstance(error, GuidXmageError):
        return str(error)
    first = (str(error).splitlines() or [""])[0][:_WORDS]
    return f"The question failed with {type(error).__name__}: {first}"


def _in_background(work: Callable[[], None]) -> None:
    """In a thread that knows the message it answers, as kernels keep it in context variables.

    marimo's threads cannot send messages unless they are its own: there, at once.
    """
    if _in_marimo():
        work()
        return
    context = copy_context()
    threading.Thread(target=context.run, args=(work,), name="guid-xmage", daemon=True).start()


def _in_marimo() -> bool:
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


@cache
def notebook_module() -> str:
    """The viewer and its way to the kernel as one ES module, as anywidget takes it."""
    return f"{module_of('notebook')}export default {{ render }};\n"


@cache
def _widget_class() -> type[AnyWidget]:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtraError("anywidget", "notebook") from error

    class ExplanationWidget(anywidget.AnyWidget):
        """An explanation to be touched. manifest: the scene's, as docs/viewer.md describes it."""

        _esm = notebook_module()
        _css = viewer_css()
        manifest = traitlets.Dict().tag(sync=True)
        asks = traitlets.Bool().tag(sync=True)

        def __init__(self, scene: Scene, answers: Answers | None) -> None:
            super().__init__(manifest=scene.manifest, asks=answers is not None)
            self._conversation = Conversation(scene, answers, self._say)
            self.on_msg(lambda _, message, __: self._conversation.hear(message))

        def _say(self, message: dict[str, Any], buffers: Sequence[bytes]) -> None:
            shown = self._conversation.scene.manifest
            if len(shown["targets"]) != len(self.manifest["targets"]):
                self.manifest = shown  # a view that is opened later knows the new targets
            self.send(message, buffers=list(buffers))

        def close(self) -> None:
            """Take the widget away from all of its views."""
            if conversation := getattr(self, "_conversation", None):
                conversation.close()
            super().close()

    return ExplanationWidget


def widget_of(scene: Scene, answers: Answers | None = None) -> AnyWidget:
    """A widget that shows a scene. Raises MissingExtraError without anywidget."""
    return _widget_class()(scene, answers)
