"""What the routes call: the list, the queue, and the work that goes into it."""

from __future__ import annotations

from typing import Any

from guidxmage.serving.gallery import Entry, Gallery
from guidxmage.serving.held import Held
from guidxmage.serving.making import Maker, Photo
from guidxmage.serving.replies import RefusedError
from guidxmage.serving.work_queue import DONE, FullError, Job, Outcome, Say, Stop, WorkQueue


class Desk:
    """One server's results and work."""

    def __init__(self, maker: Maker, gallery: Gallery, queue: WorkQueue) -> None:
        self.maker, self.gallery, self.queue = maker, gallery, queue

    def explain_upload(self, photo: Photo) -> Job:
        """Put an upload into the queue; the list has it when it is explained."""

        def work(say: Say, stop: Stop) -> Outcome:
            held = self.maker.explain(photo, say, stop)
            stop()
            return Outcome(self.gallery.add(Entry(photo.name, held=held, summary=held.summary)).id)

        return self._submit(f"explaining {photo.name}", work, len(photo.content))

    def explain_listed(self, identity: str) -> Job:
        """Put a photo of the command line into the queue, unless it is there."""
        entry = self.gallery.find(identity)
        if entry.photo is None:
            raise RefusedError(409, f"{entry.name} is explained already")
        going = None if entry.job is None else self.queue.find(entry.job)
        if going is not None and not going.ended:
            return going

        def work(say: Say, stop: Stop) -> Outcome:
            self.gallery.put(entry, self.maker.explain(Photo(entry.name, entry.photo), say, stop))
            return Outcome(entry.id)

        entry.error = None
        job = self._submit(f"explaining {entry.name}", work)
        entry.job = job.id
        return job

    def ask(self, held: Held, question: Any, nbytes: int) -> Job:
        """Put a question about a result into the queue."""

        def work(say: Say, stop: Stop) -> Outcome:
            return self.maker.answer(held, question, say, stop)

        return self._submit("the answer", work, nbytes)

    def job(self, identity: str) -> Job:
        """Work by its id. Raises RefusedError where there is none."""
        found = self.queue.find(identity)
        if found is None:
            raise RefusedError(404, "there is no such work here, or it was forgotten")
        return found

    def told(self, job: Job) -> dict[str, Any]:
        """What the page is told of work."""
        found: dict[str, Any] = {
            "job": job.id,
            "title": job.title,
            "state": job.state,
            "place": self.queue.place(job),
            "text": job.text,
            "fraction": job.fraction,
        }
        if job.error is not None:
            found["error"] = job.error
        if job.state == DONE and job.outcome is not None:
            if job.outcome.result is not None:
                found["result"] = job.outcome.result
            if job.outcome.answer is not None:
                found["answer"] = job.outcome.answer
        return found

    def listed(self, entry: Entry) -> dict[str, Any]:
        """What the page is told of an entry."""
        job = None if entry.job is None else self.queue.find(entry.job)
        if entry.job is not None and (job is None or job.ended):
            entry.job = None
            entry.error = None if job is None or entry.held is not None else job.error
        return entry.to_json()

    def _submit(self, title: str, work: Any, nbytes: int = 0) -> Job:
        try:
            return self.queue.submit(title, work, nbytes)
        except FullError as error:
            raise RefusedError(503, str(error)) from None
