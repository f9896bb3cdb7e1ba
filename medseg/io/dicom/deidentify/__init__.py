"""De-identification by PS3.15 Annex E: files.py does one file, profile.py says what becomes of what."""
