"""The forms of rows, a module for each family: what fields they have, and what example they mean."""
