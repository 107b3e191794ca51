"""Runs the measurements and shows them: terminal, HTML, JSON."""
