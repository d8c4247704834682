"""Charts of comparisons: plotly, and SVG where a file must stand alone."""
