"""Parts of `scripts.draw_diagrams`: import graphs, a layered layout, and SVG."""
