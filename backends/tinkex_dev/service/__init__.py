"""The server's live state: sessions, loaded models with their operations in order, and promised results."""
