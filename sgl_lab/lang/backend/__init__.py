"""Where programs and backends written for the original look for what a backend is."""
