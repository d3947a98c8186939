"""Reports in Markdown, from templates and tables, and as a page that stands alone."""
