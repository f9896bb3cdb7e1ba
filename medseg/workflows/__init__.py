"""One file per verb; the layout of output folders lives here."""
