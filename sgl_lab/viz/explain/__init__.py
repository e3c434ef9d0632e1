"""What recorded runs say about each other: pure functions of records, which know no picture."""
