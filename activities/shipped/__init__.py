"""The activities of the shipped orchestrations: real work on files and a SQLite database."""
