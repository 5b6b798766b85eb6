"""Data sets that other machines hold: asked over HTTP, what they answer checked, their images kept here."""
