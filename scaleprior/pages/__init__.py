"""Pages for a browser: one style, charts as SVG, and documents that need nothing but themselves."""
