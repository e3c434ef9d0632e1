"""Where programs written for the original look for what comes with its server; what of it needs no server is here."""
