"""Pieces that several tabs show: forms, charts, bilingual components, HTML."""
