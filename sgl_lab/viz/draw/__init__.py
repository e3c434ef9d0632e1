"""Drawing what the views tell: HTML, SVG, plain text, Graphviz. Pure functions of their pictures."""
