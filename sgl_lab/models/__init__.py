"""Models that the project trains itself, each with the data and the program that make it."""
