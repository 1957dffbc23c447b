"""Folders in which a trained model travels: for this package and for others."""
