"""Draws the views as HTML, SVG, plain text and Graphviz source. All functions are pure."""
