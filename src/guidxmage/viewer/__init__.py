"""An explanation that can be touched: in a page, in a report from disk, in a notebook."""
