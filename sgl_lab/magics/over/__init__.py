"""`%%sgl --over`: a cell's body for each row of data, as one batch whose results are kept."""
