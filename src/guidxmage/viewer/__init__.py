"""One photo's explanation to look at and to touch: in a page, a report and a notebook."""
