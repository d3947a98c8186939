"""The page of `guid-xmage serve`: photos in, the viewer out, on this machine alone."""
