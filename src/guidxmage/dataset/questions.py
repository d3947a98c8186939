"""Questions that are ready to be asked of a data set, in SQL."""

from __future__ import annotations

from dataclasses import dataclass

from guidxmage.errors import InputError
from guidxmage.files.schema import unknown_name


@dataclass(frozen=True)
class Question:
    """A question: what it asks, its SQL, and whether it is about two data sets."""

    title: str
    sql: str
    two: bool = False


# The share of what adds to the score: of signed sums a share may be anything.
SHARE = "background_whole_positive / nullif(whole_positive, 0)"
# Where a mask covers all or nothing, neither side can be ahead of the other.
BOTH = "object_area > 0 AND background_area > 0"

QUESTIONS = {
    "background": Question(
        "Which classes lean on the background? Of what adds to the score, the share that lies on "
        "the background, its mean over photos with a 95 % interval, beside its share of the area. "
        "Photos of which nothing adds to the score have no share and are not counted",
        f"""SELECT coalesce(label, target_name) AS class, count(*) AS photos,
  avg({SHARE}) AS background,
  avg({SHARE}) - 1.96 * stddev_samp({SHARE}) / sqrt(count(*)) AS "from",
  avg({SHARE}) + 1.96 * stddev_samp({SHARE}) / sqrt(count(*)) AS "to",
  avg(background_area / (object_area + background_area)) AS area,
  avg(background_whole) AS background_sum, avg(object_whole) AS object_sum
FROM explained WHERE {SHARE} IS NOT NULL AND rank = 0
GROUP BY ALL ORDER BY background DESC, class""",
    ),
    "decides": Question(
        "In which photos does the background decide? Of those with objects and a background, those "
        "whose objects have less of the whole map than the background",
        f"""SELECT path, label, target_name, score, object_whole, background_whole, unplaced
FROM explained WHERE object_whole < background_whole AND {BOTH} AND rank = 0
ORDER BY object_whole - background_whole, path""",
    ),
    "ambiguity": Question(
        "Which photos have the most ambiguous decisions? (needs --ambiguous when explaining)",
        """SELECT path, target_name, ambiguous, decisions, ambiguous / decisions AS share
FROM explained WHERE ambiguous IS NOT NULL AND rank = 0 ORDER BY ambiguous DESC, path""",
    ),
    "exactness": Question(
        "How exact are the explanations? By kind, the largest residual and its share of the bound",
        """SELECT exactness, count(*) AS rows, max(abs(residual)) AS residual,
  max(abs(residual) / nullif(bound, 0)) AS of_bound,
  max(abs(whole_residual)) AS whole_residual
FROM explained GROUP BY ALL ORDER BY exactness""",
    ),
    "errors": Question(
        "Which photos could not be explained, and why?",
        "SELECT path, id, error FROM rows WHERE error IS NOT NULL ORDER BY item",
    ),
    "copies": Question(
        "Which photos are there more than once, byte for byte? With several labels?",
        """SELECT id, count(DISTINCT item) AS photos, count(DISTINCT label) AS labels,
  list(DISTINCT path ORDER BY path) AS paths
FROM rows WHERE id IS NOT NULL GROUP BY id HAVING count(DISTINCT item) > 1
ORDER BY photos DESC, id""",
    ),
    "labels": Question(
        "How often is the true label predicted? By class",
        """SELECT label, count(*) AS photos, avg((label_class = predicted)::INT) AS correct
FROM explained WHERE label_class IS NOT NULL AND predicted IS NOT NULL AND rank = 0
GROUP BY ALL ORDER BY correct, label""",
    ),
    "drift": Question(
        "Where do two networks differ? The photos of both data sets whose prediction is another "
        "one, or whose background has another share by more than 0.1; joined by the photos' bytes",
        f"""WITH a AS (SELECT *, {SHARE} AS share FROM explained),
  b AS (SELECT *, {SHARE} AS share FROM other)
SELECT a.path, a.predicted_name AS before, b.predicted_name AS after,
  a.score AS score_before, b.score AS score_after,
  a.share AS background_before, b.share AS background_after
FROM a JOIN b ON a.id = b.id AND a.rank = 0 AND b.rank = 0
WHERE a.predicted_name != b.predicted_name OR abs(a.share - b.share) > 0.1
ORDER BY a.predicted_name = b.predicted_name, abs(a.share - b.share) DESC, a.path""",
        two=True,
    ),
}


def question_of(text: str) -> Question:
    """The ready question of that name, or the SQL as one. Raises InputError for a word."""
    if text in QUESTIONS:
        return QUESTIONS[text]
    if len(text.split()) < 2:
        raise InputError(f"the query {unknown_name(text, QUESTIONS, 'question')}; or give SQL")
    return Question("", text)
