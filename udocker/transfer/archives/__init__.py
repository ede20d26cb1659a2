"""Images out of archives and layouts, and into them."""
