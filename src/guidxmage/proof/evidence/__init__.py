"""An explanation made again, and every statement of it judged."""
